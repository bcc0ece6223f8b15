// A 32-bit program without a C library: hands /dev/compat a structure with a pointer in it, and looks what became of
// the text there. Exit code 0, or how far it came.
struct text {
    char *at; // 4 bytes here
    unsigned length;
};

enum { EXIT = 1, OPEN = 5, IOCTL = 54, O_RDWR = 2 };
#define UPPER 0xC0084301u /* _IOWR('C', 1, struct text) */

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static int run(void)
{
    char letters[] = "a 32-bit program";
    struct text text = {letters, sizeof letters - 1};
    long fd = call(OPEN, (long)"/dev/compat", O_RDWR, 0);
    if (fd < 0)
        return 1;
    if (call(IOCTL, fd, (long)UPPER, (long)&text) != 16)
        return 2;
    if (text.at != letters || text.length != 0)
        return 3;
    const char *wanted = "A 32-BIT PROGRAM";
    for (unsigned i = 0; i < sizeof letters; i++)
        if (letters[i] != wanted[i])
            return 4;
    return 0;
}

void _start(void)
{
    call(EXIT, run(), 0, 0);
}
