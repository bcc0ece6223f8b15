// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests and notices: what the author is asked and told, and what a program gets of its
 * answers.
 */
#include "author.h"

#include <sys/epoll.h>

#define IO_NESTED	_IOWR('t', 1, struct nested)
#define IO_PLAIN	0x7401

static void *volatile nowhere = (void *)8;

struct nested {
	__u64 pointer;
	__u32 length;
	__u32 sum;
};

/* -- read, write, ioctl, fsync --------------------------------------------------------------- */

static void simple_calls(struct author *author, struct request *request, size_t body_len)
{
	__u64 unique = request->head.unique;

	switch (request->head.opcode) {
	case MAPDEV_READ:
		if (request->body.read.pos >= 4096)
			answer(author, unique, -EUCLEAN, 0, NULL, 0);
		else
			answer(author, unique, 0, 0, "hello", request->body.read.count < 5 ?
			       request->body.read.count : 5);
		break;
	case MAPDEV_WRITE:
		author->value = ((unsigned char *)&request->body)[body_len];	/* first byte */
		author->noted = request->head.len - sizeof(request->head) - body_len;
		answer(author, unique, 0, request->body.read.count / 2, NULL, 0);
		break;
	case MAPDEV_FSYNC:
		answer(author, unique, request->body.fsync.datasync ? -ENOSPC : 0, 0, NULL, 0);
		break;
	case MAPDEV_OPEN:
		answer(author, unique, request->head.flags & O_EXCL ? -EBUSY : 0, 0, NULL, 0);
		break;
	default:
		succeed(author, request, body_len);
	}
}

static void makes_calls(int fd)
{
	char *big = calloc(1, 2 << 20), buffer[64];

	MUST(FAILS(open(DEV, O_RDWR | O_EXCL), EBUSY));
	MUST(read(fd, buffer, 64) == 5 && !memcmp(buffer, "hello", 5));
	MUST(lseek(fd, 0, SEEK_CUR) == 5);
	MUST(read(fd, buffer, 2) == 2 && read(fd, buffer, 0) == 0);
	MUST(FAILS(pread(fd, buffer, 5, 4096), EUCLEAN));
	MUST(FAILS(read(fd, nowhere, 5), EFAULT));
	MUST(write(fd, "12345678", 8) == 4);
	MUST(write(fd, big, 2 << 20) == 1 << 19);	/* cut to a MiB, half of it taken */
	MUST(FAILS(write(fd, nowhere, 8), EFAULT));
	MUST(!fsync(fd) && FAILS(fdatasync(fd), ENOSPC));
	MUST(ioctl(fd, IO_PLAIN, 0) == 0);
}

static void test_calls(void)
{
	struct author author;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_ARRAY, PAGE, simple_calls));
	CHECK(ended(run_program(&author, makes_calls)) == 0);
	CHECK(reached(&author.counts[MAPDEV_RELEASE], 1));
	CHECK(author.counts[MAPDEV_OPEN] == 2 && author.counts[MAPDEV_RELEASE] == 1);
	CHECK(author.noted == 1 << 20 && author.value == 0);
out:
	author_stop(&author);
}

static void nested_calls(struct author *author, struct request *request, size_t body_len)
{
	struct mapdev_user_copy copy = { .unique = request->head.unique };
	struct nested nested;
	unsigned char bytes[256];

	if (request->head.opcode != MAPDEV_IOCTL || request->body.ioctl.cmd != IO_NESTED) {
		if (request->head.opcode == MAPDEV_IOCTL)
			answer(author, request->head.unique, -ENOTTY, 0, NULL, 0);
		else
			succeed(author, request, body_len);
		if (request->head.opcode == MAPDEV_POLL) {
			copy.buffer = (uintptr_t)bytes;
			copy.length = 1;
			author->noted = FAILS(ioctl(author->fd, MAPDEV_IOC_FETCH, &copy), ENOENT);
		}
		return;
	}
	memcpy(&nested, (char *)&request->body + body_len, sizeof(nested));
	copy.address = nested.pointer;
	copy.buffer = (uintptr_t)bytes;
	copy.length = nested.length;
	if (nested.length > sizeof(bytes) || ioctl(author->fd, MAPDEV_IOC_FETCH, &copy)) {
		answer(author, request->head.unique, -errno, 0, NULL, 0);
		return;
	}
	nested.sum = 0;
	for (unsigned int i = 0; i < nested.length; i++)
		nested.sum += bytes[i]++;
	copy.length = nested.length;
	if (ioctl(author->fd, MAPDEV_IOC_STORE, &copy))
		answer(author, request->head.unique, -errno, 0, NULL, 0);
	else
		answer(author, request->head.unique, 0, 7, &nested, sizeof(nested));
}

static void passes_pointers(int fd)
{
	unsigned char bytes[3] = { 1, 2, 3 };
	struct nested nested = { (uintptr_t)bytes, 3, 0 };
	struct pollfd ready = { .fd = fd, .events = POLLIN };

	MUST(ioctl(fd, IO_NESTED, &nested) == 7);
	MUST(nested.sum == 6 && bytes[0] == 2 && bytes[2] == 4);
	nested.pointer = 8;
	MUST(FAILS(ioctl(fd, IO_NESTED, &nested), EFAULT));
	nested.pointer = ~0ULL - 1;
	MUST(FAILS(ioctl(fd, IO_NESTED, &nested), EFAULT));
	nested.pointer = (uintptr_t)"read-only";	/* can be fetched, not stored */
	MUST(FAILS(ioctl(fd, IO_NESTED, &nested), EFAULT));
	MUST(FAILS(ioctl(fd, IO_NESTED, 8), EFAULT));
	MUST(FAILS(ioctl(fd, IO_PLAIN, &nested), ENOTTY));
	MUST(poll(&ready, 1, -1) == 1);
}

static void test_ioctl_nested(void)
{
	struct author author;
	struct mapdev_user_copy copy = { .unique = 12345, .length = 1 };

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_ARRAY, PAGE, nested_calls));
	CHECK(ended(run_program(&author, passes_pointers)) == 0 && reached(&author.noted, 1));
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_FETCH, &copy), ENOENT));
	copy.length = MAPDEV_MAX_TRANSFER + 1;
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_FETCH, &copy), EINVAL));
out:
	author_stop(&author);
}

/* -- poll ------------------------------------------------------------------------------------ */

static void poll_when_told(struct author *author, struct request *request, size_t body_len)
{
	if (request->head.opcode == MAPDEV_POLL)
		answer(author, request->head.unique, 0, author->value, NULL, 0);
	else
		succeed(author, request, body_len);
}

static void waits_for_input(int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	int epoll = epoll_create1(0);

	MUST(poll(&ready, 1, 0) == 0);
	MUST(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	MUST(epoll_wait(epoll, &event, 1, -1) == 1 && event.events == EPOLLIN);
	MUST(poll(&ready, 1, -1) == 1 && ready.revents == POLLIN);
}

static void test_poll_and_wake(void)
{
	struct mapdev_wake wake = { .events = POLLIN };
	struct author author;
	pid_t pid;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_NONE, 0, poll_when_told));
	pid = run_program(&author, waits_for_input);
	CHECK(reached(&author.counts[MAPDEV_POLL], 2));
	author.value = POLLIN;
	CHECK(!ioctl(author.fd, MAPDEV_IOC_WAKE, &wake));
	CHECK(ended(pid) == 0);
out:
	author_stop(&author);
}

static void hears_of_changes(int fd)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int epoll = epoll_create1(0);

	MUST(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	for (int i = 0; i < 3; i++) {
		MUST(epoll_wait(epoll, &event, 1, i ? LONG_ENOUGH : 0) == !!i);
		MUST(say());
	}
}

/* An event for each wake, for one who hears of changes only; and a mask that is none is refused. */
static void test_wake_of_any_event(void)
{
	struct mapdev_wake wake = { .events = 0 };
	struct author author;
	pid_t pid;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_NONE, 0, poll_when_told));
	pid = run_program(&author, hears_of_changes);
	CHECK(hear());
	author.value = POLLIN;
	for (int i = 0; i < 2; i++)
		CHECK(!ioctl(author.fd, MAPDEV_IOC_WAKE, &wake) && hear());
	CHECK(ended(pid) == 0);
	wake.events = 0x4000;	/* POLLFREE, in the kernel */
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_WAKE, &wake), EINVAL));
	wake.events = POLLIN | 1U << 31;
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_WAKE, &wake), EINVAL));
out:
	author_stop(&author);
}

/* -- areas ----------------------------------------------------------------------------------- */

static char *mapped(int fd, int npages, int flags)
{
	char *a = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	MUST(a != MAP_FAILED);
	return a;
}

static void splits_areas(int fd)
{
	char *a = mapped(fd, 4, MAP_SHARED), *b;
	int status;
	pid_t child;

	MUST(!mprotect(a + PAGE, PAGE, PROT_READ));	/* two splits */
	child = fork();					/* three areas */
	if (!child)
		_exit(touch(a, 1));
	MUST(waitpid(child, &status, 0) == child && !status);
	b = mremap(a, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a + (1 << 30));
	MUST(b != MAP_FAILED && *b == 's');
	MUST(!munmap(a + 2 * PAGE, PAGE));
	MUST(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 4 * PAGE), EINVAL));
	close(fd);
	MUST(!touch(b, 1) && !touch(a + 3 * PAGE, 0));
}

static void test_areas_balance(void)
{
	struct author author;
	volatile int *n = author.counts;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_ARRAY, 4 * PAGE, succeed));
	CHECK(ended(run_program(&author, splits_areas)) == 0 && reached(&n[MAPDEV_RELEASE], 1));
	CHECK(n[MAPDEV_MMAP] == 2 && n[MAPDEV_VM_OPEN] >= 6);
	CHECK(n[MAPDEV_MMAP] + n[MAPDEV_VM_OPEN] == n[MAPDEV_VM_CLOSE]);
out:
	author_stop(&author);
}

static void map_the_second(struct author *author, struct request *request, size_t body_len)
{
	if (request->head.opcode == MAPDEV_MMAP && request->body.vma.pgoff == 1)
		answer(author, request->head.unique, -EACCES, 0, NULL, 0);
	else if (request->head.opcode == MAPDEV_MMAP)
		answer(author, request->head.unique, 0, author->value, NULL, 0);
	else
		succeed(author, request, body_len);
}

static void maps_both(int fd)
{
	char *a = mapped(fd, 1, MAP_SHARED);

	MUST(!strcmp(a, "second"));
	MUST(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE), EACCES));
	MUST(say() && hear());
	MUST(!strcmp(a, "second"));
}

static void test_mmap_answers(void)
{
	struct mapdev_memory memory;
	struct author author;
	int fd = -1;
	pid_t pid;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_NONE, 0, map_the_second));
	CHECK(!new_memory(&author, &memory, MAPDEV_MEM_VMALLOC, 2 * PAGE, -1, "second"));
	author.value = memory.id;
	pid = run_program(&author, maps_both);
	CHECK(hear());
	CHECK(!ioctl(author.fd, MAPDEV_IOC_PUT, &memory.id));	/* lives on in the mapping */
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_PUT, &memory.id), ENOENT));
	CHECK(say() && ended(pid) == 0);
	/* the reader of the requests cannot wait for its own address space */
	fd = open(DEV, O_RDWR);
	CHECK(fd >= 0);
	CHECK(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0), EDEADLK));
out:
	close(fd);
	author_stop(&author);
}

/* -- page faults ----------------------------------------------------------------------------- */

static void fault_answers(struct author *author, struct request *request, size_t body_len)
{
	struct {
		struct mapdev_fault_out out;
		unsigned char bytes[4 * PAGE];
	} *pages;

	if (request->head.opcode != MAPDEV_FAULT) {
		succeed(author, request, body_len);
		return;
	}
	if (request->body.fault.pgoff == 7) {
		answer(author, request->head.unique, -EIO, 0, NULL, 0);
		return;
	}
	pages = calloc(1, sizeof(*pages));
	pages->out.pgoff = request->body.fault.pgoff & ~1ULL;
	pages->out.npages = 2;
	memset(pages->bytes, 'A' + pages->out.pgoff, PAGE);
	memset(pages->bytes + PAGE, 'B' + pages->out.pgoff, PAGE);
	if (author->noted)
		usleep(200000);		/* others come to the same page meanwhile */
	answer(author, request->head.unique, 0, 0, pages, sizeof(pages->out) + 2 * PAGE);
	free(pages);
}

static char *shared_address;

static void *touch_it(void *result)
{
	*(char *)result = *(volatile char *)shared_address;
	return NULL;
}

static void faults_in_pages(int fd)
{
	char *a = mapped(fd, 64, MAP_SHARED), *private;
	char buffer[8], seen[4];
	pthread_t threads[4];

	MUST(a[0] == 'A' && a[PAGE] == 'B');		/* one request for two */
	MUST(touch(a + 7 * PAGE, 0) == SIGBUS);		/* one request */
	MUST(touch(a + 7 * PAGE, 1) == SIGBUS);		/* and another one */
	MUST(a[2 * PAGE] == 'C');
	a[2 * PAGE] = 'x';
	private = mapped(fd, 64, MAP_PRIVATE);
	private[4 * PAGE] = 'p';
	MUST(a[4 * PAGE] == 'E' && a[4 * PAGE + 1] == 'E' && private[4 * PAGE + 1] == 'E');
	MUST(pread(fd, buffer, 2, 8 * PAGE) == 2 && buffer[0] == 'I');	/* by read(2) */
	MUST(FAILS(pread(fd, buffer, 2, 7 * PAGE), EIO));
	MUST(say() && hear());				/* revoked meanwhile */
	MUST(a[2 * PAGE] == 'C' && private[4 * PAGE] == 'p');
	MUST(say() && hear());
	shared_address = a + 10 * PAGE;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, touch_it, &seen[i]);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		MUST(seen[i] == 'K');
	}
}

static void test_faults(void)
{
	struct author author;
	volatile int *n = author.counts;
	struct mapdev_range range = { .offset = 2 * PAGE, .length = PAGE };
	pid_t pid;

	CHECK(!author_start(&author,
			    ALL_OPS & ~(MAPDEV_OP(MAPDEV_READ) | MAPDEV_OP(MAPDEV_PAGE_MKWRITE)),
			    MAPDEV_MEM_FAULT, 64 * PAGE, fault_answers));
	range.memory = author.create.memory.id;
	pid = run_program(&author, faults_in_pages);
	CHECK(hear() && n[MAPDEV_FAULT] == 7);	/* 0, 7, 7, 2, 4, 8, 7 */
	CHECK(!ioctl(author.fd, MAPDEV_IOC_REVOKE, &range));
	CHECK(say() && hear() && n[MAPDEV_FAULT] == 8);
	author.noted = 1;
	CHECK(say() && ended(pid) == 0);
	CHECK(n[MAPDEV_FAULT] == 9);	/* four threads, one request */
out:
	author_stop(&author);
}

static const __u32 kinds[] = { MAPDEV_MEM_MEMFD, MAPDEV_MEM_ARRAY, MAPDEV_MEM_VMALLOC,
			       MAPDEV_MEM_CONTIGUOUS, MAPDEV_MEM_DMA, MAPDEV_MEM_FAULT };
#define NKINDS	(sizeof(kinds) / sizeof(kinds[0]))

static void stores_twice(int fd)
{
	char *a = mapped(fd, 8, MAP_SHARED), *p = mapped(fd, 8, MAP_PRIVATE);

	MUST(!touch(a, 0) && !touch(a, 1) && !touch(a + 1, 1));
	MUST(!touch(a + PAGE, 1) && !touch(a + PAGE, 1));
	MUST(!touch(p, 1));				/* a private copy */
	MUST(say() && hear());
	MUST(a[0] == 's' && !touch(a, 1) && !touch(a + PAGE, 0));
	MUST(say() && hear());
}

static void test_mkwrite(void)
{
	struct mapdev_range range;
	struct author author = { .fd = -1 };
	volatile int *n = author.counts;
	pid_t pid;

	for (unsigned int i = 0; i < NKINDS; i++) {
		CHECK(!author_start(&author, ALL_OPS & ~MAPDEV_OP(MAPDEV_MMAP), kinds[i], 8 * PAGE,
				    succeed));
		pid = run_program(&author, stores_twice);
		CHECK(hear() && n[MAPDEV_PAGE_MKWRITE] == 2);
		memset(&range, 0, sizeof(range));
		range.memory = author.create.memory.id;
		CHECK(!ioctl(author.fd, MAPDEV_IOC_WRPROTECT, &range));
		CHECK(say() && hear() && n[MAPDEV_PAGE_MKWRITE] == 3);
		CHECK(say() && ended(pid) == 0);
		author_stop(&author);
	}
out:
	author_stop(&author);
}

/*
 * What is told of pages that are there: each first touch through an area, and nothing of what is
 * around it.
 */
static void refuse_the_last(struct author *author, struct request *request, size_t body_len)
{
	int last = request->head.opcode == MAPDEV_VM_FAULT && request->body.fault.pgoff == 7;

	if (request->head.opcode == MAPDEV_VM_FAULT)
		author->value = author->value * 16 + request->body.fault.pgoff;
	if (last)
		answer(author, request->head.unique, -EIO, 0, NULL, 0);
	else
		succeed(author, request, body_len);
}

static int refuses;		/* whether the last page is refused */

static void touches_pages(int fd)
{
	char *a = mapped(fd, 8, MAP_SHARED), *p = mapped(fd, 8, MAP_PRIVATE);

	MUST(!touch(a + PAGE, 0) && !touch(a + PAGE, 0) && !touch(a + PAGE, 1));
	MUST(!touch(a + 2 * PAGE, 1) && !touch(p + PAGE, 1));
	if (refuses)
		MUST(touch(a + 7 * PAGE, 0) == SIGBUS && touch(p + 7 * PAGE, 1) == SIGBUS);
	MUST(say() && hear());
	MUST(!touch(a + PAGE, 0) && !touch(p + PAGE, 1));
}

static void test_vm_fault(void)
{
	const __u64 asked[] = { 0, MAPDEV_OP(MAPDEV_PAGE_MKWRITE) };
	struct mapdev_range range;
	struct author author = { .fd = -1 };
	volatile int *n = author.counts;
	pid_t pid;

	for (unsigned int i = 0; i < 2 * NKINDS; i++) {
		__u32 kind = kinds[i / 2];

		CHECK(!author_start(&author, asked[i % 2] | MAPDEV_OP(MAPDEV_VM_FAULT) |
				    (kind == MAPDEV_MEM_FAULT ? MAPDEV_OP(MAPDEV_FAULT) : 0),
				    kind, 8 * PAGE, refuse_the_last));
		refuses = kind != MAPDEV_MEM_FAULT;
		pid = run_program(&author, touches_pages);
		CHECK(hear() && author.value == (refuses ? 0x12177 : 0));
		memset(&range, 0, sizeof(range));
		range.memory = author.create.memory.id;
		CHECK(!ioctl(author.fd, MAPDEV_IOC_REVOKE, &range));
		CHECK(say() && ended(pid) == 0);
		CHECK(author.value == (refuses ? 0x121771 : 0));
		CHECK(n[MAPDEV_VM_FAULT] == (refuses ? 6 : 0));
		author_stop(&author);
	}
out:
	author_stop(&author);
}

static void refuse_stores(struct author *author, struct request *request, size_t body_len)
{
	if (request->head.opcode == MAPDEV_PAGE_MKWRITE)
		answer(author, request->head.unique, -EROFS, 0, NULL, 0);
	else
		succeed(author, request, body_len);
}

static void tries_to_store(int fd)
{
	char *a = mapped(fd, 2, MAP_SHARED);

	MUST(touch(a, 1) == SIGBUS && !touch(a, 0) && touch(a, 1) == SIGBUS && !a[0]);
}

static void test_mkwrite_refused(void)
{
	struct author author;
	volatile int *n = author.counts;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_ARRAY, 2 * PAGE, refuse_stores));
	CHECK(ended(run_program(&author, tries_to_store)) == 0);
	CHECK(n[MAPDEV_PAGE_MKWRITE] == 2);
out:
	author_stop(&author);
}

/* -- signals --------------------------------------------------------------------------------- */

static void never(struct author *author, struct request *request, size_t body_len)
{
	if (request->head.opcode == MAPDEV_OPEN || request->head.opcode == MAPDEV_POLL)
		succeed(author, request, body_len);
}

static void ignore(int number)
{
	(void)number;
}

static void is_interrupted(int fd)
{
	struct sigaction action = { .sa_handler = ignore };
	char byte;

	sigaction(SIGUSR1, &action, NULL);
	MUST(FAILS(read(fd, &byte, 1), EINTR));
}

static void test_interrupted(void)
{
	struct author author;
	volatile int *n = author.counts;
	pid_t pid;

	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_NONE, 0, never));
	pid = run_program(&author, is_interrupted);
	CHECK(reached(&n[MAPDEV_READ], 1));
	kill(pid, SIGUSR1);
	CHECK(reached(&n[MAPDEV_INTERRUPT], 1));
	CHECK(author.last[MAPDEV_INTERRUPT] == author.last[MAPDEV_READ]);
	kill(pid, SIGUSR1);		/* told once, and it waits on */
	usleep(100000);
	CHECK(n[MAPDEV_INTERRUPT] == 1 && waitpid(pid, NULL, WNOHANG) == 0);
	CHECK(!answer(&author, author.last[MAPDEV_READ], -EINTR, 0, NULL, 0));
	CHECK(ended(pid) == 0);
	CHECK(answer(&author, author.last[MAPDEV_READ], 0, 0, NULL, 0) == -ENOENT);
out:
	author_stop(&author);
}

/* -- /proc ----------------------------------------------------------------------------------- */

static void test_proc(void)
{
	struct author author;
	struct stat status;
	char buffer[8];
	int fd = -1;
	char *a;

	CHECK(!author_create(&author, 0, MAPDEV_PROC, MAPDEV_MEM_ARRAY, PAGE, "asdf"));
	CHECK(!stat("/proc/" NAME, &status) && S_ISREG(status.st_mode));
	CHECK((status.st_mode & 07777) == 0666 && access(DEV, F_OK));
	fd = open("/proc/" NAME, O_RDWR);
	CHECK(fd >= 0 && read(fd, buffer, 4) == 4 && !memcmp(buffer, "asdf", 4));
	a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(a != MAP_FAILED && !memcmp(a, "asdf", 4));
	author_stop(&author);
	CHECK(access("/proc/" NAME, F_OK));
	CHECK(FAILS(read(fd, buffer, 4), ENODEV));
	CHECK(!touch(a, 1));		/* was there */
	munmap(a, PAGE);
out:
	close(fd);
	author_stop(&author);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "calls", test_calls },
		{ "ioctl-nested", test_ioctl_nested },
		{ "poll-and-wake", test_poll_and_wake },
		{ "wake-of-any-event", test_wake_of_any_event },
		{ "areas-balance", test_areas_balance },
		{ "mmap-answers", test_mmap_answers },
		{ "faults", test_faults },
		{ "mkwrite", test_mkwrite },
		{ "vm-fault", test_vm_fault },
		{ "mkwrite-refused", test_mkwrite_refused },
		{ "interrupted", test_interrupted },
		{ "proc", test_proc },
		{ NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
