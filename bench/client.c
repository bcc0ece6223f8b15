// client JOB PATH [N...]: what programs do with a device, timed. Each line printed is one batch: nanoseconds per operation.
//
//   touch-sequential PATH BYTES [PAGES]   map BYTES, load a byte of each page in order (of PAGES, evenly spread)
//   touch-random PATH BYTES [PAGES]       the same in random order, with MADV_RANDOM: no fault is for two pages
//   read PATH BYTES COUNT                 pread(2) of BYTES, at changing positions in the first MiB
//   write PATH BYTES COUNT                pwrite(2)
//   open PATH COUNT                       open(2) and close(2)
//   ioctl PATH COUNT                      an ioctl(2) that copies 8 bytes out
//   poll PATH COUNT                       from a write(2) of one process until poll(2) of another one returns
//   clients PATH BYTES COUNT PROCESSES    pread(2) by several processes at once, each on one of the CPUs that are
//                                         allowed, in turn: time from start to end over all calls
//   stat DIRECTORY COUNT                  the first stat(2) of DIRECTORY/d0, d1, ...
//   hold PATH COUNT                       no times: opens COUNT files, prints "held", waits for a line, closes them,
//                                         prints "closed", waits for the end of the input
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GET_COUNT _IOR('b', 1, uint64_t)
enum { PAGE = 4096, BATCHES = 15, WINDOW = 1 << 20 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void print(uint64_t took, uint64_t operations)
{
    printf("%.1f\n", (double)took / operations);
}

static uint64_t random_number(void)
{
    static uint64_t x = 88172645463325252ULL; // xorshift64; the same order in every run
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

static int open_device(const char *path, int flags)
{
    int fd = open(path, flags);
    if (fd < 0)
        fail(path);
    return fd;
}

// A virtual machine may give free pages back to its host, and to get one again takes longer than all that is measured
// here. So the kernel is to have `bytes` of them at hand, whoever needs them next.
static void have_free_pages(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED || munmap(pages, bytes))
        fail("mmap of memory");
}

static void touch(const char *path, size_t bytes, size_t count, int in_order)
{
    size_t pages = bytes / PAGE;
    if (!count || count > pages)
        count = pages;
    uint64_t *order = malloc(count * sizeof *order);
    if (!order)
        fail("malloc");
    for (size_t i = 0; i < count; i++)
        order[i] = i * (pages / count);
    for (size_t i = count - 1; !in_order && i > 0; i--) {
        size_t j = random_number() % (i + 1);
        uint64_t other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
    int fd = open_device(path, O_RDONLY);
    volatile char *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    if (!in_order && madvise((void *)memory, bytes, MADV_RANDOM))
        fail("madvise");
    have_free_pages(count * PAGE);
    uint64_t began = now();
    for (size_t i = 0; i < count; i++)
        (void)memory[order[i] * PAGE];
    print(now() - began, count);
}

static int fd;
static const char *device;
static size_t length;
static char *buffer;

static off_t next_position(void)
{
    static off_t at;
    at += length;
    return at + length > WINDOW ? at = 0 : at;
}

static void call_read(void)
{
    if (pread(fd, buffer, length, next_position()) != (ssize_t)length)
        fail("pread");
}

static void call_write(void)
{
    if (pwrite(fd, buffer, length, next_position()) != (ssize_t)length)
        fail("pwrite");
}

static void call_open(void)
{
    close(open_device(device, O_RDWR));
}

static void call_ioctl(void)
{
    uint64_t value;
    if (ioctl(fd, GET_COUNT, &value))
        fail("ioctl");
}

static void repeat(void (*call)(void), size_t count)
{
    size_t each = count / BATCHES ? count / BATCHES : 1;
    call(); // what is done once is not counted
    for (int batch = 0; batch < BATCHES; batch++) {
        uint64_t began = now();
        for (size_t i = 0; i < each; i++)
            call();
        print(now() - began, each);
    }
}

// The parent polls; the child, told that it will, waits until it sleeps there, and writes.
static void poll_wake(const char *path, size_t count)
{
    int go[2];
    volatile uint64_t *began = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (began == MAP_FAILED || pipe(go))
        fail("pipe");
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    char byte = 0;
    if (!child) {
        int writer = open_device(path, O_WRONLY);
        close(go[1]);
        while (read(go[0], &byte, 1) == 1) {
            usleep(300);
            *began = now();
            if (pwrite(writer, "x", 1, 0) != 1)
                fail("pwrite");
        }
        _exit(0);
    }
    close(go[0]);
    int reader = open_device(path, O_RDWR);
    for (size_t i = 0; i < count; i++) {
        struct pollfd wanted = {.fd = reader, .events = POLLIN};
        *began = 0;
        if (pread(reader, &byte, 1, 0) != 1) // what was ready is not any more
            fail("pread");
        if (write(go[1], "", 1) != 1)
            fail("pipe");
        int ready = poll(&wanted, 1, 10000);
        uint64_t woke = now();
        if (ready != 1 || !(wanted.revents & POLLIN) || !*began) {
            fprintf(stderr, "poll: %s\n", ready ? "always ready" : "nobody woke it within 10 s");
            exit(1);
        }
        if (i)
            print(woke - *began, 1);
    }
    close(go[1]);
    waitpid(child, NULL, 0);
}

// The child NUMBER goes to one CPU of those allowed, in turn.
static void spread_out(int number)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        fail("sched_getaffinity");
    int left = number % CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && !left--) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

static void clients(size_t count, int processes)
{
    int start[2];
    if (pipe(start))
        fail("pipe");
    for (int i = 0; i < processes; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (!child) {
            char byte;
            spread_out(i);
            close(start[1]);
            fd = open_device(device, O_RDONLY);
            call_read();
            if (read(start[0], &byte, 1)) // the end of the pipe is the start of all
                _exit(1);
            for (size_t n = 0; n < count; n++)
                call_read();
            _exit(0);
        }
    }
    usleep(50000 + 2000 * processes); // for all to be there
    uint64_t began = now();
    close(start[1]);
    int status, bad = 0;
    while (wait(&status) > 0)
        bad |= status;
    if (bad)
        exit(1);
    print(now() - began, count * processes);
}

static void stat_all(const char *directory, size_t count)
{
    char path[PATH_MAX];
    struct stat found;
    uint64_t began = now();
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/d%zu", directory, i);
        if (stat(path, &found))
            fail(path);
    }
    print(now() - began, count);
}

// One process may not have so many files: several do.
static void hold(const char *path, size_t count)
{
    struct rlimit limit;
    int told[2], go[2];
    if (getrlimit(RLIMIT_NOFILE, &limit) || pipe(told) || pipe(go))
        fail("pipe");
    size_t most = limit.rlim_cur - 64, children = (count + most - 1) / most;
    for (size_t i = 0; i < children; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (!child) {
            char byte;
            size_t first = i * most, last = first + most < count ? first + most : count;
            close(told[0]);
            close(go[1]);
            for (size_t n = first; n < last; n++)
                open_device(path, O_RDWR);
            if (write(told[1], "", 1) != 1)
                fail("pipe");
            _exit((int)read(go[0], &byte, 1)); // the end of the pipe; and with this process all its files are closed
        }
    }
    close(told[1]);
    char byte;
    for (size_t i = 0; i < children; i++)
        if (read(told[0], &byte, 1) != 1)
            exit(1);
    puts("held");
    fflush(stdout);
    if (getchar() == EOF)
        exit(1);
    close(go[1]);
    while (wait(NULL) > 0)
        ;
    puts("closed");
    fflush(stdout);
    while (getchar() != EOF)
        ;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: client JOB PATH N [N...]\n");
        return 2;
    }
    const char *job = argv[1];
    size_t n[3] = {0};
    for (int i = 3; i < argc && i < 6; i++)
        n[i - 3] = strtoull(argv[i], NULL, 10);
    device = argv[2];
    length = n[0];
    if (!strcmp(job, "read") || !strcmp(job, "write") || !strcmp(job, "clients")) {
        buffer = aligned_alloc(PAGE, length + PAGE);
        if (!buffer)
            fail("malloc");
        memset(buffer, 0, length);
    }
    if (!strcmp(job, "touch-sequential") || !strcmp(job, "touch-random")) {
        touch(device, n[0], n[1], job[6] == 's');
    } else if (!strcmp(job, "read")) {
        fd = open_device(device, O_RDONLY);
        repeat(call_read, n[1]);
    } else if (!strcmp(job, "write")) {
        fd = open_device(device, O_WRONLY);
        repeat(call_write, n[1]);
    } else if (!strcmp(job, "open")) {
        repeat(call_open, n[0]);
    } else if (!strcmp(job, "ioctl")) {
        fd = open_device(device, O_RDWR);
        repeat(call_ioctl, n[0]);
    } else if (!strcmp(job, "poll")) {
        poll_wake(device, n[0]);
    } else if (!strcmp(job, "clients")) {
        clients(n[1], n[2]);
    } else if (!strcmp(job, "stat")) {
        stat_all(device, n[0]);
    } else if (!strcmp(job, "hold")) {
        hold(device, n[0]);
    } else {
        fprintf(stderr, "client: there is no job %s\n", job);
        return 2;
    }
    return 0;
}
