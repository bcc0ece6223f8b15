/* What compilers and libraries make of accesses: vectors, copies, atomics, threads and processes at one FIFO.
   trap_clients DEVICE WHAT; prints what it has seen. The device is `Board` of test_trap_clients.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIFO (*(volatile uint32_t *)(area + 0x10))
#define TOTAL (*(uint32_t *)(area + 0x20))
#define PAGE 4096

static char *area;

/* Each loop is one that -O3 makes vectors of. */
static void vectors(void)
{
	uint32_t *in = (uint32_t *)(area + PAGE), *out = (uint32_t *)(area + 2 * PAGE), sum = 0;
	for (int i = 0; i < 1024; i++)
		in[i] = i;
	for (int i = 0; i < 1024; i++)
		out[i] = in[i] ^ 3;
	for (int i = 0; i < 1024; i++)
		sum += out[i];
	printf("sum %u\n", sum);
}

static void copies(void)
{
	static unsigned char a[PAGE], b[PAGE];
	for (int i = 0; i < PAGE; i++)
		a[i] = i * 7 + i / 256;
	memcpy(area + PAGE, a, PAGE);
	memcpy(b, area + PAGE, PAGE);
	int first = memcmp(a, b, PAGE);
	memmove(area + PAGE + 100, area + PAGE, PAGE - 100);
	memmove(a + 100, a, PAGE - 100);
	memmove(b, area + PAGE, PAGE);
	int second = memcmp(a, b, PAGE);
	for (int n = 1; n < 300; n += 13) {
		memcpy(area + 3 * PAGE + n, a + n, n);
		second |= memcmp(area + 3 * PAGE + n, a + n, n);
	}
	printf("copied %d, moved %d\n", first, second);
}

/* Structures and bit-fields, as headers of drivers have them. */
static void structures(void)
{
	volatile struct {
		uint32_t ready : 1, mode : 3, count : 12, rest : 16;
		uint8_t bytes[4];
		uint16_t halves[2];
		float f;
		uint64_t wide;
		double d;
	} *regs = (void *)(area + 0x100);
	regs->mode = 5;
	regs->count = 0xabc;
	regs->bytes[1]++;
	regs->bytes[1] += 2;
	regs->halves[1] = 0x1234;
	regs->wide |= 1ull << 40;
	regs->wide ^= 3;
	regs->f = 1.5f;
	regs->d = regs->f * 2;
	regs->d += 0.25;
	printf("%#x %u %#x %#llx %g\n", regs->mode << 12 | regs->count, regs->bytes[1], regs->halves[1],
	       (unsigned long long)regs->wide, regs->d);
}

static unsigned char seen[1 << 16];

static void openmp(void)
{
	int twice = 0, got = 0;
#pragma omp parallel for num_threads(4) schedule(dynamic) reduction(+ : twice, got)
	for (int i = 0; i < 400; i++) {
		uint32_t value = FIFO;
		got += value != 0;
		twice += __atomic_exchange_n(&seen[value], 1, __ATOMIC_SEQ_CST);
#pragma omp atomic
		TOTAL += 2;
	}
	printf("got %d, twice %d, total %u\n", got, twice, TOTAL);
}

/* Processes that all take from one FIFO: a value to each, and each once. */
static void workers(void)
{
	unsigned char *all = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 5; i++)
		if (!fork()) {
			int twice = 0;
			for (uint32_t value; (value = FIFO) != 0;)
				twice |= __atomic_exchange_n(&all[value], 1, __ATOMIC_SEQ_CST);
			_exit(twice);
		}
	int status, bad = 0, count = 0;
	while (wait(&status) > 0)
		bad |= status;
	for (int i = 0; i < 1 << 16; i++)
		count += all[i];
	printf("taken %d, wrong %d\n", count, bad);
}

static void take(int count)
{
	while (count--)
		printf("%u\n", FIFO);
}

int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR);
	area = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (argc < 3 || area == MAP_FAILED) {
		perror("trap_clients");
		return 1;
	}
	if (!strcmp(argv[2], "vectors"))
		vectors();
	else if (!strcmp(argv[2], "copies"))
		copies();
	else if (!strcmp(argv[2], "structures"))
		structures();
	else if (!strcmp(argv[2], "openmp"))
		openmp();
	else if (!strcmp(argv[2], "workers"))
		workers();
	else
		take(atoi(argv[2]));
	return 0;
}
