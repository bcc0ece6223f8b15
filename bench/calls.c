// calls DEVICE: nanoseconds for each of a few system calls, the best of several rounds, as "name value" lines.
// DEVICE: a file of at least 4096 bytes that can be read.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 15, CALLS = 400 };

static const char *device;
static int fd;
static char buffer[4096];

static int call_getppid(void) { return syscall(SYS_getppid) < 0; }
static int call_stat_null(void) { struct stat s; return stat("/dev/null", &s); }
static int call_stat_device(void) { struct stat s; return stat(device, &s); }
static int call_fstat_device(void) { struct stat s; return fstat(fd, &s); }
static int call_open_null(void) { int f = open("/dev/null", O_RDONLY); return f < 0 || close(f); }
static int call_open_device(void) { int f = open(device, O_RDONLY); return f < 0 || close(f); }
static int call_pread_device(void) { return pread(fd, buffer, sizeof buffer, 0) != sizeof buffer; }

static const struct { const char *name; int (*call)(void); } calls[] = {
    {"getppid", call_getppid},           {"stat_null", call_stat_null},     {"stat_device", call_stat_device},
    {"fstat_device", call_fstat_device}, {"open_close_null", call_open_null}, {"open_close_device", call_open_device},
    {"pread_4k_device", call_pread_device},
};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: calls DEVICE\n");
        return 2;
    }
    device = argv[1];
    fd = open(device, O_RDONLY);
    if (fd < 0) {
        perror(device);
        return 1;
    }
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        uint64_t best = UINT64_MAX;
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t began = now();
            for (int n = 0; n < CALLS; n++)
                if (calls[i].call()) {
                    perror(calls[i].name);
                    return 1;
                }
            uint64_t took = (now() - began) / CALLS;
            if (took < best)
                best = took;
        }
        printf("%s %llu\n", calls[i].name, (unsigned long long)best);
    }
    return 0;
}
