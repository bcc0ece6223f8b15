// SPDX-License-Identifier: GPL-2.0-only
/*
 * Allocations that fail, one at a time: in round N the N-th that the kernel makes for these calls,
 * until a round has none left to fail. Every call then succeeds or is ENOMEM (a page fault: SIGBUS,
 * poll: POLLERR); nothing is lost, for which kmemleak looks, and the module can be unloaded
 * afterwards.
 *
 * The kernel needs fault injection. Source: Linux,
 * Documentation/fault-injection/fault-injection.rst, about /proc/PID/fail-nth.
 */
#include "author.h"

#define ROUNDS	5000
#define IO_BOTH	_IOWR('t', 1, struct mapdev_fault_out)

static __thread int fail_nth;

/* Of this thread: let the n-th allocation from now on fail; 0: none. */
static int arm(int n)
{
	char text[16];
	int size = snprintf(text, sizeof(text), "%d", n);

	if (!fail_nth)
		fail_nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	return pwrite(fail_nth, text, size, 0) == size;
}

/* Whether it has failed. */
static int has_failed(void)
{
	char text[16] = "";

	return pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
}

/*
 * Rounds until one goes through; `calls` gives 0 or the errno of what failed. 0: one ended with
 * another errno.
 */
static int all_rounds(int (*calls)(const void *), const void *of, const char *what)
{
	int round, error, injected, failed = 0;

	for (round = 1; round < ROUNDS; round++) {
		if (!arm(round))
			return 0;
		error = calls(of);
		injected = has_failed();
		arm(0);
		if (error && error != ENOMEM) {
			dprintf(1, "# %s: allocation %d that fails: %s\n", what, round, strerror(error));
			return 0;
		}
		failed += !!error;
		if (!injected)
			break;
	}
	printf("# %s: %d allocations failed, %d times it was ENOMEM\n", what, round - 1, failed);
	return failed && round < ROUNDS && !error;
}

/* -- the author makes a device and its memory, and all goes again --------------------------- */

struct made {
	__u32 flags;
	__u32 kind;
	int memfd;
};

static int map_and_touch(const char *path)
{
	int fd = open(path, O_RDWR), error = 0;
	char byte, *a;

	if (fd < 0)
		return errno;
	a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (a == MAP_FAILED) {
		error = errno;
	} else {
		if (touch(a, 0) || touch(a + PAGE, 1))
			error = ENOMEM;
		munmap(a, 4 * PAGE);
	}
	if (!error && (pread(fd, &byte, 1, 2 * PAGE) != 1 || pwrite(fd, "x", 1, 3 * PAGE) != 1))
		error = errno;
	close(fd);
	return error;
}

static int make(const void *of)
{
	const struct made *made = of;
	struct mapdev_memory memory;
	struct author author;
	int error = -author_create(&author, 0, made->flags, made->kind, 4 * PAGE, "asdf");

	if (!error)
		error = -new_memory(&author, &memory, MAPDEV_MEM_MEMFD, PAGE, made->memfd, NULL);
	if (!error)
		error = map_and_touch(made->flags & MAPDEV_PROC ? "/proc/" NAME : DEV);
	author_stop(&author);
	return error;
}

static void test_create(void)
{
	static const __u32 kinds[] = { MAPDEV_MEM_ARRAY, MAPDEV_MEM_VMALLOC, MAPDEV_MEM_CONTIGUOUS,
				       MAPDEV_MEM_DMA };
	static const __u32 flags[] = { 0, MAPDEV_PROC, MAPDEV_PER_OPEN, MAPDEV_PER_OPEN | MAPDEV_PROC };
	struct mapdev_version version;
	int memfd = sealed_memfd(PAGE), fd = open("/dev/mapdev", O_RDWR | O_CLOEXEC);
	char what[32];

	CHECK(memfd >= 0 && fd >= 0);
	for (int i = 0; i < 4; i++) {
		const struct made made = { flags[i], kinds[i], memfd };

		snprintf(what, sizeof(what), "create, kind %u flags %u", made.kind, made.flags);
		CHECK(all_rounds(make, &made, what));
		CHECK(!ioctl(fd, MAPDEV_IOC_VERSION, &version) && !version.used_bytes);
	}
out:
	close(memfd);
	close(fd);
}

/* -- a program calls ------------------------------------------------------------------------- */

static int call_all(const void *of)
{
	struct mapdev_fault_out both = { 0 };
	struct pollfd ready = { .fd = open(DEV, O_RDWR), .events = POLLIN };
	char byte, *a = MAP_FAILED;
	int error = 0, n;

	(void)of;
	if (ready.fd < 0)
		return errno;
	if (read(ready.fd, &byte, 1) < 0 || write(ready.fd, "x", 1) < 0 ||
	    ioctl(ready.fd, IO_BOTH, &both) < 0 || fsync(ready.fd) < 0)
		error = errno;
	n = error ? 1 : poll(&ready, 1, -1);
	if (n < 0 || ready.revents & POLLERR)
		error = n < 0 ? errno : ENOMEM;
	if (!error)
		a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ready.fd, 0);
	if (!error && a == MAP_FAILED)
		error = errno;
	if (!error && (touch(a, 0) || touch(a, 1) || touch(a + PAGE, 1)))
		error = ENOMEM;
	if (a != MAP_FAILED)
		munmap(a, 4 * PAGE);
	close(ready.fd);
	return error;
}

static void test_calls(void)
{
	static const __u32 kinds[] = { MAPDEV_MEM_ARRAY, MAPDEV_MEM_FAULT, MAPDEV_MEM_MEMFD };
	struct author author = { .fd = -1 };
	pid_t pid;

	for (int i = 0; i < 3; i++) {
		CHECK(!author_start(&author, ALL_OPS | MAPDEV_OP(MAPDEV_VM_FAULT), kinds[i],
				    4 * PAGE, succeed));
		pid = fork();
		if (!pid) {
			char what[32];

			close(author.fd);
			fail_nth = 0;	/* it is of the parent */
			snprintf(what, sizeof(what), "calls, kind %u", kinds[i]);
			MUST(all_rounds(call_all, NULL, what));
			_exit(0);
		}
		CHECK(ended(pid) == 0);
		CHECK(reached(&author.counts[MAPDEV_RELEASE], author.counts[MAPDEV_OPEN] / 2));
		author_stop(&author);
	}
out:
	author_stop(&author);
}

/* -- the author answers ---------------------------------------------------------------------- */

/*
 * A page whose number says which allocation is to fail, of the first one none. A reply that fails
 * can be given again.
 */
static void answer_twice(struct author *author, struct request *request, size_t body_len)
{
	struct {
		struct mapdev_fault_out out;
		unsigned char bytes[PAGE];
	} page = { { .pgoff = request->body.fault.pgoff, .npages = 1 }, { 0 } };
	int error, failed;

	if (request->head.opcode != MAPDEV_FAULT) {
		succeed(author, request, body_len);
		return;
	}
	memset(page.bytes, 'A' + page.out.pgoff, PAGE);
	arm(page.out.pgoff);
	error = answer(author, request->head.unique, 0, 0, &page, sizeof(page));
	failed = has_failed();
	arm(0);
	author->noted += error == -ENOMEM;
	author->value += !failed;
	if (error)
		answer(author, request->head.unique, error == -ENOMEM ? 0 : -EIO, 0,
		       error == -ENOMEM ? (void *)&page : NULL, error == -ENOMEM ? sizeof(page) : 0);
}

static void test_answers(void)
{
	struct author author;
	pid_t pid;

	CHECK(!author_start(&author, MAPDEV_OP(MAPDEV_FAULT), MAPDEV_MEM_FAULT, 32 * PAGE, answer_twice));
	pid = fork();
	if (!pid) {
		int fd = open(DEV, O_RDWR);
		char *a = mmap(NULL, 32 * PAGE, PROT_READ, MAP_SHARED, fd, 0);

		close(author.fd);
		MUST(a != MAP_FAILED);
		for (int i = 0; i < 32; i++)
			MUST(a[i * PAGE] == 'A' + i);
		_exit(0);
	}
	CHECK(ended(pid) == 0);
	printf("# answers: %d times ENOMEM, %d without a failure\n", author.noted, (int)author.value);
	CHECK(author.noted >= 2 && author.value > 0);
out:
	author_stop(&author);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "failing-create", test_create },
		{ "failing-calls", test_calls },
		{ "failing-answers", test_answers },
		{ NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
