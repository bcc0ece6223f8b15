/*
 * Let each allocation of an open and an mmap fail, one at a time:  fail_nth PATH
 *
 * The kernel needs fault injection. In round N the N-th allocation that the kernel makes for these calls fails, until a
 * round has none left to fail. Each round has to end with ENOMEM or with success, and the last one with success.
 * Source: Linux, Documentation/fault-injection/fault-injection.rst, about /proc/PID/fail-nth.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROUNDS = 1000 };

static int fail_nth;

static void arm(int round)
{
	char text[16];
	int size = snprintf(text, sizeof(text), "%d", round);

	if (pwrite(fail_nth, text, size, 0) != size) {
		printf("fail fail-nth: %s\n", strerror(errno));
		exit(1);
	}
}

/* How many allocations are left until the one that fails; 0 if it has failed. */
static int left(void)
{
	char text[16] = "";

	if (pread(fail_nth, text, sizeof(text) - 1, 0) <= 0) {
		printf("fail fail-nth: %s\n", strerror(errno));
		exit(1);
	}
	return atoi(text);
}

/* 0, or the errno of the call that failed. */
static int open_and_map(const char *path)
{
	void *area;
	int fd = open(path, O_RDWR), error = 0;

	if (fd < 0)
		return errno;
	area = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (area == MAP_FAILED)
		error = errno;
	else
		munmap(area, 4096);
	close(fd);
	return error;
}

int main(int argc, char **argv)
{
	int failed = 0, round;

	if (argc != 2) {
		fprintf(stderr, "usage: fail_nth PATH\n");
		return 2;
	}
	fail_nth = open("/proc/self/fail-nth", O_RDWR);
	if (fail_nth < 0) {
		printf("fail /proc/self/fail-nth: %s\n", strerror(errno));
		return 1;
	}
	for (round = 1; round < ROUNDS; round++) {
		int error, injected;

		arm(round);
		error = open_and_map(argv[1]);
		injected = left() == 0;
		arm(0);
		if (error && error != ENOMEM) {
			printf("fail allocation %d that fails is ENOMEM: %s\n", round, strerror(error));
			return 1;
		}
		failed += error == ENOMEM;
		if (!injected)
			break;
	}
	if (failed == 0 || round == ROUNDS) {
		printf("fail allocations fail one at a time: %d of %d rounds failed\n", failed, round);
		return 1;
	}
	printf("ok each of %d allocations failed once: %d times ENOMEM, else it went without\n", round - 1, failed);
	return 0;
}
