/* A driver in user space for the timer of sp804.py, as it would be for the real one: TICKS periods of PERIOD
 * microseconds, each told by an interrupt; then one shot, waited for by reading the counter.
 *
 *     driver /dev/uio0 TICKS PERIOD
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LOAD = 0x00 / 4, VALUE = 0x04 / 4, CONTROL = 0x08 / 4, INTCLR = 0x0c / 4, RIS = 0x10 / 4, MIS = 0x14 / 4 };
enum { ONE_SHOT = 1 << 0, SIZE32 = 1 << 1, INT_ENABLE = 1 << 5, PERIODIC = 1 << 6, ENABLE = 1 << 7 };

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: driver /dev/uio0 TICKS PERIOD");
    unsigned ticks = strtoul(argv[2], NULL, 0), period = strtoul(argv[3], NULL, 0);
    int fd = open(argv[1], O_RDWR);
    if (fd < 0)
        err(2, "%s", argv[1]);
    volatile uint32_t *regs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (regs == MAP_FAILED)
        err(2, "mmap");

    regs[CONTROL] = 0;
    regs[LOAD] = period;
    if (regs[VALUE] != period)
        errx(1, "LOAD is not taken over at once: VALUE is %u", regs[VALUE]);
    regs[CONTROL] = ENABLE | PERIODIC | INT_ENABLE | SIZE32;
    for (unsigned tick = 0; tick < ticks; tick++) {
        uint32_t interrupts;
        if (read(fd, &interrupts, sizeof interrupts) != sizeof interrupts)
            err(2, "waiting for the interrupt");
        if (!(regs[MIS] & 1))
            errx(1, "an interrupt that is not the timer's");
        regs[INTCLR] = 1;
        if (regs[RIS] & 1 && regs[VALUE] > period)
            errx(1, "the interrupt stays");
    }

    regs[CONTROL] = ONE_SHOT | SIZE32;
    regs[INTCLR] = 1;
    regs[LOAD] = period;
    regs[CONTROL] = ENABLE | ONE_SHOT | SIZE32;
    uint32_t last = period;
    while (!(regs[RIS] & 1)) {
        uint32_t now = regs[VALUE];
        if (now > last)
            errx(1, "the counter goes up");
        last = now;
    }
    if (regs[VALUE] != 0 || regs[MIS] & 1)
        errx(1, "after one shot: VALUE %u, MIS %u", regs[VALUE], regs[MIS]);
    regs[CONTROL] = 0;
    printf("%u ticks of %u us, and one shot\n", ticks, period);
    return 0;
}
