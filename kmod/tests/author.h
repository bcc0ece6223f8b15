/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An author for the tests: a thread that answers a device's requests, and what a test needs
 * around it.
 *
 * Programs that use the device are child processes: an author must not wait for itself, and they
 * have to die alone.
 */
#ifndef AUTHOR_H
#define AUTHOR_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mapdev.h"

#define PAGE		4096UL
#define NAME		"mapdev_test"
#define DEV		"/dev/" NAME
#define ALL_OPS		(MAPDEV_OP(MAPDEV_INTERRUPT) - MAPDEV_OP(MAPDEV_OPEN))
#define LONG_ENOUGH	120000	/* ms: something hangs */

/* -- how a test fails ------------------------------------------------------------------------ */

static char failure[256];
static char skipped[256];	/* why it cannot be tried here */

#define CHECK(condition)									\
	do {											\
		if (!(condition)) {								\
			snprintf(failure, sizeof(failure), "line %d: %s (errno %d)", __LINE__,	\
				 #condition, errno);						\
			goto out;								\
		}										\
	} while (0)

/* In a child process. */
#define MUST(condition)										\
	do {											\
		if (!(condition)) {								\
			dprintf(1, "# child, line %d: %s (errno %d)\n", __LINE__, #condition,	\
				errno);								\
			_exit(1);								\
		}										\
	} while (0)

#define FAILS(call, code)	(errno = 0, (long)(call) == -1 && errno == (code))

/* -- the author ------------------------------------------------------------------------------ */

struct author;

struct request {
	struct mapdev_request head;
	union {
		struct mapdev_read_in read;
		struct mapdev_ioctl_in ioctl;
		struct mapdev_poll_in poll;
		struct mapdev_vma_in vma;
		struct mapdev_fault_in fault;
		struct mapdev_interrupt_in interrupt;
		struct mapdev_fsync_in fsync;
	} body;
	unsigned char payload[];
};

/* Answers a request, or leaves it. */
typedef void (*handler)(struct author *author, struct request *request, size_t body_len);

struct author {
	int fd;
	struct mapdev_create create;
	handler handle;
	pthread_t thread;
	int serving;
	volatile int stop;
	volatile int counts[32];
	volatile __u64 last[32];	/* unique of the last of each opcode */
	volatile int noted;		/* for handlers */
	volatile __u64 value;
};

static inline long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Wait until a counter is there. 0: it took too long. */
static inline int reached(volatile int *counter, int value)
{
	long long end = now_ms() + LONG_ENOUGH;

	while (*counter < value)
		if (now_ms() > end || usleep(1000))
			return 0;
	return 1;
}

static inline size_t body_size(__u32 opcode)
{
	switch (opcode) {
	case MAPDEV_READ:
	case MAPDEV_WRITE:
		return sizeof(struct mapdev_read_in);
	case MAPDEV_IOCTL:
		return sizeof(struct mapdev_ioctl_in);
	case MAPDEV_POLL:
		return sizeof(struct mapdev_poll_in);
	case MAPDEV_MMAP:
	case MAPDEV_VM_OPEN:
	case MAPDEV_VM_CLOSE:
		return sizeof(struct mapdev_vma_in);
	case MAPDEV_FAULT:
	case MAPDEV_PAGE_MKWRITE:
	case MAPDEV_VM_FAULT:
		return sizeof(struct mapdev_fault_in);
	case MAPDEV_FSYNC:
		return sizeof(struct mapdev_fsync_in);
	case MAPDEV_INTERRUPT:
		return sizeof(struct mapdev_interrupt_in);
	default:
		return 0;
	}
}

static inline int answer(struct author *author, __u64 unique, int error, __u64 value,
			 const void *payload, size_t len)
{
	struct mapdev_reply *reply = calloc(1, sizeof(*reply) + len);
	int result;

	reply->len = sizeof(*reply) + len;
	reply->error = error;
	reply->unique = unique;
	reply->value = value;
	if (len)
		memcpy(reply + 1, payload, len);
	result = write(author->fd, reply, reply->len) == (ssize_t)reply->len ? 0 : -errno;
	free(reply);
	return result;
}

/*
 * What a device that does not care says: nothing to read, all of it written, memory 1, a page of
 * its number.
 */
static inline void succeed(struct author *author, struct request *request, size_t body_len)
{
	__u64 unique = request->head.unique, value = 0;
	struct {
		struct mapdev_fault_out out;
		unsigned char bytes[PAGE];
	} page;

	(void)body_len;
	memset(&page, 0, sizeof(page));
	switch (request->head.opcode) {
	case MAPDEV_WRITE:
		value = request->body.read.count;
		break;
	case MAPDEV_POLL:
		value = POLLIN;
		break;
	case MAPDEV_MMAP:
		value = author->create.memory.id;
		break;
	case MAPDEV_FAULT:
		page.out.pgoff = request->body.fault.pgoff;
		page.out.npages = 1;
		memset(page.bytes, 'A' + page.out.pgoff, PAGE);
		answer(author, unique, 0, 0, &page, sizeof(page));
		return;
	}
	answer(author, unique, 0, value, NULL, 0);
}

static inline void *serve(void *arg)
{
	struct author *author = arg;
	struct request *request = malloc(MAPDEV_MIN_BUFFER);
	struct pollfd ready = { .fd = author->fd, .events = POLLIN };

	while (!author->stop) {
		if (poll(&ready, 1, 20) <= 0)
			continue;
		if (read(author->fd, request, MAPDEV_MIN_BUFFER) < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			break;
		}
		author->last[request->head.opcode] = request->head.unique;
		if (request->head.opcode == MAPDEV_INTERRUPT)
			author->last[MAPDEV_INTERRUPT] = request->body.interrupt.unique;
		author->counts[request->head.opcode]++;
		if (request->head.unique)
			author->handle(author, request, body_size(request->head.opcode));
	}
	free(request);
	return NULL;
}

static inline int sealed_memfd(size_t length)
{
	int fd = syscall(SYS_memfd_create, "author", 2 /* MFD_ALLOW_SEALING */);

	if (fd < 0 || ftruncate(fd, length) || fcntl(fd, 1033 /* F_ADD_SEALS */, 2 /* SHRINK */))
		return -1;
	return fd;
}

static inline int author_create(struct author *author, __u64 ops, __u32 flags, __u32 kind,
				__u64 length, const char *init)
{
	struct mapdev_create *create = &author->create;

	memset(author, 0, sizeof(*author));
	author->fd = open("/dev/mapdev", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (author->fd < 0)
		return -errno;
	create->version = MAPDEV_VERSION_MAJOR;
	create->flags = flags;
	create->ops = ops;
	strcpy(create->name, NAME);
	create->mode = 0666;
	create->memory.kind = kind;
	create->memory.length = length;
	create->memory.memfd = kind == MAPDEV_MEM_MEMFD ? sealed_memfd(length) : -1;
	if (init && kind == MAPDEV_MEM_MEMFD) {
		if (pwrite(create->memory.memfd, init, strlen(init), 0) < 0)
			return -errno;
	} else if (init) {
		create->memory.init = (uintptr_t)init;
		create->memory.init_len = strlen(init);
	}
	return ioctl(author->fd, MAPDEV_IOC_CREATE, create) ? -errno : 0;
}

/* Answer the requests of a device that was made, in a thread. */
static inline int author_serve(struct author *author, handler handle)
{
	author->handle = handle;
	author->serving = 1;
	return -pthread_create(&author->thread, NULL, serve, author);
}

static inline int author_start(struct author *author, __u64 ops, __u32 kind, __u64 length,
			       handler handle)
{
	return author_create(author, ops, 0, kind, length, NULL) ?: author_serve(author, handle);
}

static inline void author_stop(struct author *author)
{
	author->stop = 1;
	if (author->serving)
		pthread_join(author->thread, NULL);
	author->serving = 0;
	if (author->fd >= 0)
		close(author->fd);
	if (author->create.memory.kind == MAPDEV_MEM_MEMFD)
		close(author->create.memory.memfd);
	author->fd = -1;
}

static inline int new_memory(struct author *author, struct mapdev_memory *memory, __u32 kind,
			     __u64 length, int memfd, const char *init)
{
	memset(memory, 0, sizeof(*memory));
	memory->kind = kind;
	memory->length = length;
	memory->memfd = memfd;
	memory->init = (uintptr_t)init;
	memory->init_len = init ? strlen(init) : 0;
	return ioctl(author->fd, MAPDEV_IOC_MEMORY, memory) ? -errno : 0;
}

/* -- programs that use the device ------------------------------------------------------------ */

static int other_side = -1;	/* of a program: the test; of the test: its last program */

/* Tell the other side how far this one is, and wait until it tells that. 0: it is gone. */
static inline int say(void)
{
	return write(other_side, "", 1) == 1;
}

static inline int hear(void)
{
	char byte;

	return read(other_side, &byte, 1) == 1;
}

/*
 * A program with the device open, in a process of its own, which ends well if `use` returns.
 * -1: there is none.
 */
static inline pid_t run_program(struct author *author, void (*use)(int fd))
{
	int pair[2], fd;
	pid_t pid;

	close(other_side);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -1;
	pid = fork();
	other_side = pair[!pid];
	close(pair[!!pid]);
	if (pid)
		return pid;
	close(author->fd);
	fd = open(DEV, O_RDWR);
	MUST(fd >= 0);
	use(fd);
	_exit(0);
}

/* How a child ended: its exit code, 1000 + its signal, or 2000: it did not, or never was. */
static inline int ended(pid_t pid)
{
	long long end = now_ms() + LONG_ENOUGH;
	int status;

	if (pid < 0)
		return 2000;
	while (!waitpid(pid, &status, WNOHANG)) {
		if (now_ms() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return 2000;
		}
		usleep(1000);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static sigjmp_buf back;

static inline void caught(int number)
{
	siglongjmp(back, number);
}

/* Load or store a byte. 0, or the signal that it raised. */
static inline int touch(volatile char *address, int store)
{
	struct sigaction old_bus, old_segv, action = { .sa_handler = caught };
	int number;

	sigaction(SIGBUS, &action, &old_bus);
	sigaction(SIGSEGV, &action, &old_segv);
	number = sigsetjmp(back, 1);
	if (!number) {
		if (store)
			*address = 's';
		else
			(void)*address;
	}
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return number;
}

/* The physical address behind one that has been touched; 0: none. */
static inline __u64 physical(void *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	__u64 entry = 0;

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	return entry >> 63 ? (entry & ((1ULL << 55) - 1)) * PAGE : 0;
}

/* -- running --------------------------------------------------------------------------------- */

struct test {
	const char *name;
	void (*run)(void);
};

/* All tests, or the one of that name. The exit code of the program. */
static inline int run_tests(const struct test *tests, int argc, char **argv)
{
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; tests->name; tests++) {
		if (argc > 1 && strcmp(argv[1], tests->name))
			continue;
		failure[0] = skipped[0] = 0;
		tests->run();
		if (failure[0])
			failed = 1;
		if (failure[0])
			printf("fail %s: %s\n", tests->name, failure);
		else if (skipped[0])
			printf("skip %s: %s\n", tests->name, skipped);
		else
			printf("ok %s\n", tests->name);
	}
	return failed;
}

#endif
