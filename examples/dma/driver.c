/* A driver in user space for the DMA engine of dma.py: it scatters a text over the memory and has it gathered by a chain of
 * descriptors; then it sends the engine beyond the memory.
 *
 *     driver /dev/uio0
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CTRL = 0x00 / 4, STATUS = 0x04 / 4, EVENTS = 0x08 / 4, HEAD = 0x0c / 4, COPIED = 0x10 / 4 };
enum { START = 1, INT_ENABLE = 2, DONE = 1, ERROR = 2, RAM = 0x80000000u, RAM_BYTES = 1 << 20, PIECES = 16, BYTES = 4096 };

struct descriptor { uint32_t from, to, length, next; };

static volatile uint32_t *regs;
static int fd;

static uint32_t go(uint32_t head)
{
    uint32_t interrupts;
    regs[HEAD] = head;
    regs[CTRL] = START | INT_ENABLE;
    if (regs[CTRL] & START)
        errx(1, "START stays");
    if (read(fd, &interrupts, sizeof interrupts) != sizeof interrupts)
        err(2, "waiting for the interrupt");
    uint32_t events = regs[EVENTS];
    regs[EVENTS] = events;
    if (regs[EVENTS] || regs[STATUS])
        errx(1, "EVENTS %#x, STATUS %#x afterwards", regs[EVENTS], regs[STATUS]);
    return events;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(2, "usage: driver /dev/uio0");
    fd = open(argv[1], O_RDWR);
    if (fd < 0)
        err(2, "%s", argv[1]);
    regs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    if (regs == MAP_FAILED || ram == MAP_FAILED)
        err(2, "mmap");

    struct descriptor *chain = (struct descriptor *)ram;
    for (int n = 0; n < PIECES; n++) {
        uint32_t from = 0x10000 + (PIECES - n) * 2 * BYTES, to = 0x80000 + n * BYTES;
        memset(ram + from, 'A' + n, BYTES);
        chain[n] = (struct descriptor){ RAM + from, RAM + to, BYTES, n + 1 < PIECES ? RAM + (n + 1) * sizeof *chain : 0 };
    }
    if (msync(ram, RAM_BYTES, MS_SYNC))
        err(2, "msync");
    if (go(RAM) != DONE)
        errx(1, "the chain is not done");
    for (int n = 0; n < PIECES * BYTES; n++)
        if (ram[0x80000 + n] != 'A' + n / BYTES)
            errx(1, "byte %d is %#x", n, ram[0x80000 + n]);
    uint32_t copied = regs[COPIED];
    if (copied != PIECES * BYTES || regs[COPIED])
        errx(1, "COPIED is %u", copied);
    if (go(RAM + RAM_BYTES - 4) != ERROR)
        errx(1, "beyond the memory there is no error");
    printf("%u bytes gathered\n", copied);
    return 0;
}
