/* A driver in user space for the timer of timer.py: it counts TICKS periods of PERIOD microseconds.
 *
 *     driver /dev/uio0 TICKS PERIOD
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LOAD = 0x00 / 4, CONTROL = 0x08 / 4, INT_CLR = 0x0c / 4, RIS = 0x10 / 4 };
enum { INT_ENABLE = 1 << 5, ENABLE = 1 << 7, EXPIRED = 1 << 0 };

/* A number from /sys/class/uio/NAME/maps/map0. */
static size_t map0(const char *name, const char *attribute)
{
    char path[256];
    unsigned long number;
    snprintf(path, sizeof path, "/sys/class/uio/%s/maps/map0/%s", name, attribute);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lx", &number) != 1)
        err(2, "%s", path);
    fclose(file);
    return number;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: driver /dev/uio0 TICKS PERIOD");
    unsigned ticks = strtoul(argv[2], NULL, 0), period = strtoul(argv[3], NULL, 0);
    const char *name = strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argv[1];

    int fd = open(argv[1], O_RDWR);
    if (fd < 0)
        err(2, "%s", argv[1]);
    size_t size = map0(name, "size");
    volatile uint32_t *regs = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (regs == MAP_FAILED)
        err(2, "mmap of %zu bytes", size);

    regs[LOAD] = period;
    regs[CONTROL] = ENABLE | INT_ENABLE;

    unsigned ticked = 0, spurious = 0;
    uint32_t before = 0;
    while (ticked < ticks) {
        int32_t on = 1;
        uint32_t interrupts;
        if (write(fd, &on, sizeof on) != sizeof on)
            err(2, "unmasking the interrupt");
        if (read(fd, &interrupts, sizeof interrupts) != sizeof interrupts)
            err(2, "waiting for the interrupt");
        if (before && interrupts != before + 1)
            errx(1, "interrupts that were lost: %u", interrupts - before - 1);
        before = interrupts;
        if (regs[RIS] & EXPIRED) {
            regs[INT_CLR] = 1;
            ticked++;
        } else {
            spurious++;
        }
    }

    regs[CONTROL] = 0;
    int32_t off = 0;
    if (write(fd, &off, sizeof off) != sizeof off)
        err(2, "masking the interrupt");
    printf("%u ticks of %u us, spurious interrupts: %u\n", ticked, period, spurious);
    return 0;
}
