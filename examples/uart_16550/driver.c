/* A driver in user space for a 16550: finds it, sets it up, sends a line, and reads the answer by interrupts.
 *
 *     driver /dev/uio0 TEXT
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RBR = 0, THR = 0, DLL = 0, IER = 1, DLM = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, SCR = 7 };

static volatile uint8_t *uart;

/* As drivers find out what is there. */
static void probe(void)
{
    for (int n = 0; n < 256; n += 85) {
        uart[SCR] = n;
        if (uart[SCR] != n)
            errx(1, "no UART: the scratch register holds %#x", uart[SCR]);
    }
    uart[FCR] = 0x01;
    if ((uart[IIR] & 0xc0) != 0xc0)
        errx(1, "no FIFO: IIR is %#x", uart[IIR]);
    uart[LCR] = 0x80 | 0x03;
    uart[DLL] = 0x0c;
    uart[DLM] = 0x01;
    if (uart[DLL] != 0x0c || uart[DLM] != 0x01)
        errx(1, "no divisor latch");
    uart[LCR] = 0x03;
    if (uart[IER] != 0)
        errx(1, "IER is not 0 but %#x", uart[IER]);

    uart[MCR] = 0x10;
    for (int n = 0; n < 20; n++)
        uart[THR] = 'a' + n;
    if (!(uart[LSR] & 0x02) || uart[LSR] & 0x02)
        errx(1, "an overrun is not told, or not once");
    for (int n = 0; n < 16; n++) {
        int got = uart[RBR];
        if (got != 'a' + n)
            errx(1, "character %d of the loop is %#x", n, got);
    }
    if (uart[LSR] & 0x01)
        errx(1, "the FIFO is not empty");
    uart[MCR] = 0x08;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: driver /dev/uio0 TEXT");
    int fd = open(argv[1], O_RDWR);
    if (fd < 0)
        err(2, "%s", argv[1]);
    uart = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (uart == MAP_FAILED)
        err(2, "mmap");
    probe();

    size_t want = strlen(argv[2]), have = 0;
    char *answer = calloc(want + 1, 1);
    uart[IER] = 0x01;
    for (const char *c = argv[2]; *c; c++) {
        uint32_t interrupts;
        while (!(uart[LSR] & 0x20))
            ;
        uart[THR] = *c;
        if (read(fd, &interrupts, sizeof interrupts) != sizeof interrupts)
            err(2, "waiting for the interrupt");
        if ((uart[IIR] & 0x0f) != 0x04)
            errx(1, "an interrupt without a character: IIR is %#x", uart[IIR]);
        while (uart[LSR] & 0x01 && have < want)
            answer[have++] = uart[RBR];
    }
    uart[IER] = 0;
    printf("%s\n", answer);
    return 0;
}
