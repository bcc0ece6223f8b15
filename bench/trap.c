/* What single accesses and other work cost: one line each of "name nanoseconds". trap FILE COUNT */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* the least of ten: the machine does other things, too */
#define LEAST(name, count, statement)                                                                              \
	do {                                                                                                       \
		double least = 1e18;                                                                               \
		for (int round = 0; round < 10; round++) {                                                         \
			double began = now();                                                                      \
			for (long i = 0; i < (count); i++) {                                                       \
				statement;                                                                         \
			}                                                                                          \
			double took = (now() - began) / (count);                                                   \
			least = took < least ? took : least;                                                       \
		}                                                                                                  \
		printf("%s %.2f\n", name, least);                                                                  \
	} while (0)

int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR);
	long count = argc > 2 ? atol(argv[2]) : 1000;
	volatile uint32_t *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t number = 1;
	char other[64];
	if (area == MAP_FAILED) {
		perror(argv[1]);
		return 1;
	}
	LEAST("load", count, (void)area[64]);
	LEAST("store", count, area[64] = (uint32_t)i);
	LEAST("add-to-memory", count, area[64] += 3);
	LEAST("sse-load", count, __asm__ volatile("movups (%0), %%xmm1" : : "r"(area + 64) : "xmm1"));
	LEAST("rep-movsb-of-64", count / 10, {
		volatile void *from = area + 64;
		void *to = other;
		long rest = 64;
		__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(rest) : : "memory");
	});
	LEAST("computing", 3000000L, __asm__ volatile("imul $13, %0" : "+r"(number)));
	LEAST("getppid", 30000L, getppid());
	LEAST("map-anonymous", 300L, { /* what malloc does for large pieces */
		volatile char *piece = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		piece[0] = 1;
		munmap((void *)piece, 1 << 20);
	});
	LEAST("open-map-close", 100L, { /* of another file: what a dynamic linker does */
		int file = open("/proc/self/exe", O_RDONLY);
		void *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
		munmap(mapped, 4096);
		close(file);
	});
	return 0;
}
