// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happens when an author, a program, a device or the module goes while others use it; and
 * nonsense from an author.
 */
#include "author.h"

/*
 * An author in a process of its own, which makes a device until it is killed. -1: it could not.
 */
static pid_t other_author(__u64 ops, __u32 kind, __u64 length, handler handle)
{
	int ready[2];
	char byte = 1;
	pid_t pid;

	if (pipe(ready))
		return -1;
	pid = fork();
	if (!pid) {
		struct author author;

		byte = author_start(&author, ops, kind, length, handle) != 0;
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(1);
	}
	if (read(ready[0], &byte, 1) != 1 || byte) {
		kill(pid, SIGKILL);
		pid = -1;
	}
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void not_even_open(struct author *author, struct request *request, size_t body_len)
{
	(void)author;
	(void)request;
	(void)body_len;
}

static void all_but_the_second_page(struct author *author, struct request *request, size_t body_len)
{
	if (request->head.opcode != MAPDEV_FAULT || request->body.fault.pgoff != 1)
		succeed(author, request, body_len);
}

/* Asleep, as far as anybody can see. */
static int sleeps(pid_t pid)
{
	char path[64], state = 0;
	FILE *file;

	for (int i = 0; i < 3000 && state != 'S' && state != 'D'; i++) {
		usleep(10000);
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		file = fopen(path, "r");
		if (!file || fscanf(file, "%*d %*s %c", &state) != 1)
			state = 0;
		if (file)
			fclose(file);
	}
	usleep(50000);
	return state == 'S' || state == 'D';
}

/* -- programs that wait; how they end is their exit code ------------------------------------- */

static int in_open(void)
{
	return open(DEV, O_RDWR) < 0 ? errno : 0;
}

static int in_read(void)
{
	char byte;

	return read(open(DEV, O_RDWR), &byte, 1) < 0 ? errno : 0;
}

static int in_ioctl(void)
{
	return ioctl(open(DEV, O_RDWR), 0x7401) < 0 ? errno : 0;
}

static int in_fsync(void)
{
	return fsync(open(DEV, O_RDWR)) < 0 ? errno : 0;
}

static int in_poll(void)
{
	struct pollfd ready = { .fd = open(DEV, O_RDWR), .events = POLLIN };

	return poll(&ready, 1, -1) == 1 && ready.revents & POLLERR ? ENODEV : 0;
}

static int in_mmap(void)
{
	void *a = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open(DEV, O_RDWR), 0);

	return a == MAP_FAILED ? errno : 0;
}

static int in_fault(void)
{
	char *a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open(DEV, O_RDWR), 0);

	return touch(a + PAGE, 0) == SIGBUS ? ENODEV : 0;
}

static int in_mkwrite(void)
{
	char *a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open(DEV, O_RDWR), 0);

	return touch(a, 1) == SIGBUS ? ENODEV : 0;
}

static int in_fault_of_read(void)
{
	return in_read();
}

struct waiting {
	const char *where;
	int (*program)(void);
	__u64 ops;
	__u32 kind;
	__u32 opcode;
};

#define DEFAULT_OPS	(MAPDEV_OP(MAPDEV_RELEASE) | MAPDEV_OP(MAPDEV_VM_CLOSE))
#define ASKS(opcode)	(MAPDEV_OP(opcode) | DEFAULT_OPS), \
			(opcode) == MAPDEV_FAULT ? MAPDEV_MEM_FAULT : MAPDEV_MEM_ARRAY, (opcode)

static const struct waiting places[] = {
	{ "open", in_open, ASKS(MAPDEV_OPEN) },
	{ "read", in_read, ASKS(MAPDEV_READ) },
	{ "ioctl", in_ioctl, ASKS(MAPDEV_IOCTL) },
	{ "fsync", in_fsync, ASKS(MAPDEV_FSYNC) },
	{ "poll", in_poll, ASKS(MAPDEV_POLL) },
	{ "mmap", in_mmap, ASKS(MAPDEV_MMAP) },
	{ "fault", in_fault, ASKS(MAPDEV_FAULT) },
	{ "vm_fault", in_fault, ASKS(MAPDEV_VM_FAULT) },
	{ "mkwrite", in_mkwrite, ASKS(MAPDEV_PAGE_MKWRITE) },
	{ "fault of read", in_fault_of_read, ASKS(MAPDEV_FAULT) },
};
#define NPLACES	(sizeof(places) / sizeof(places[0]))

static pid_t start(const struct author *author, const struct waiting *place)
{
	pid_t pid = fork();

	if (!pid) {
		if (author)
			close(author->fd);
		_exit(place->program());
	}
	return pid;
}

static void test_author_killed(void)
{
	pid_t author = -1, pid = -1;
	int code;

	for (unsigned int i = 0; i < NPLACES; i++) {
		author = other_author(places[i].ops, places[i].kind, 4 * PAGE, not_even_open);
		CHECK(author > 0);
		pid = start(NULL, &places[i]);
		CHECK(sleeps(pid) && !waitpid(pid, NULL, WNOHANG));
		kill(author, SIGKILL);
		CHECK(ended(author) == 1000 + SIGKILL);
		author = -1;
		code = ended(pid);
		if (code != ENODEV)
			printf("# %s: ended with %d\n", places[i].where, code);
		CHECK(code == ENODEV);
		CHECK(access(DEV, F_OK) && errno == ENOENT);
	}
out:
	if (author > 0)
		kill(author, SIGKILL);
}

static void test_program_killed(void)
{
	struct author author = { .fd = -1 };
	unsigned int opcode;
	pid_t pid;

	for (unsigned int i = 0; i < NPLACES; i++) {
		opcode = places[i].opcode;
		CHECK(!author_start(&author, places[i].ops, places[i].kind, 4 * PAGE,
				    not_even_open));
		pid = start(&author, &places[i]);
		CHECK(reached(&author.counts[opcode], 1) && !waitpid(pid, NULL, WNOHANG));
		kill(pid, SIGKILL);
		CHECK(ended(pid) == 1000 + SIGKILL);
		CHECK(reached(&author.counts[MAPDEV_INTERRUPT], 1));
		CHECK(author.last[MAPDEV_INTERRUPT] == author.last[opcode]);
		CHECK(answer(&author, author.last[opcode], -EIO, 0, NULL, 0) == -ENOENT);
		CHECK(opcode == MAPDEV_OPEN || reached(&author.counts[MAPDEV_RELEASE], 1));
		author_stop(&author);
	}
out:
	author_stop(&author);
}

static void test_author_stopped_then_killed_program(void)
{
	pid_t author, pid = -1;

	/* the author does not even read: nothing of the request is left */
	author = other_author(places[1].ops, places[1].kind, PAGE, not_even_open);
	CHECK(author > 0);
	kill(author, SIGSTOP);
	pid = start(NULL, &places[1]);
	CHECK(sleeps(pid));
	kill(pid, SIGKILL);
	CHECK(ended(pid) == 1000 + SIGKILL);
	kill(author, SIGCONT);
	pid = start(NULL, &places[1]);
	CHECK(sleeps(pid));
	kill(author, SIGKILL);
	CHECK(ended(pid) == ENODEV);
out:
	kill(author, SIGKILL);
	ended(author);
}

static void *exits_into(void *address)
{
	syscall(SYS_set_tid_address, address);	/* the kernel clears it at the end of the thread */
	syscall(SYS_exit, 0);
	return NULL;
}

/* A fault of a thread that is past being killed does not wait. */
static void test_exit_does_not_wait(void)
{
	struct author author;
	struct stat status;
	pthread_t thread;
	pid_t pid;

	CHECK(!author_start(&author, MAPDEV_OP(MAPDEV_FAULT), MAPDEV_MEM_FAULT, PAGE,
			    not_even_open));
	pid = fork();
	if (!pid) {
		int fd = open(DEV, O_RDWR);
		char *a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		close(author.fd);
		MUST(a != MAP_FAILED && !pthread_create(&thread, NULL, exits_into, a));
		do
			usleep(1000);
		while (!stat("/proc/self/task", &status) && status.st_nlink > 3);
		_exit(0);
	}
	CHECK(ended(pid) == 0 && !author.counts[MAPDEV_FAULT]);
out:
	author_stop(&author);
}

static void test_removed_while_mapped(void)
{
	struct author author;
	char *a = MAP_FAILED, byte;
	pid_t other;
	int fd = -1;

	other = other_author(MAPDEV_OP(MAPDEV_OPEN) | MAPDEV_OP(MAPDEV_FAULT), MAPDEV_MEM_FAULT,
			     4 * PAGE, all_but_the_second_page);
	CHECK(other > 0);
	fd = open(DEV, O_RDWR);
	a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(a != MAP_FAILED && a[0] == 'A');
	kill(other, SIGKILL);
	CHECK(ended(other) == 1000 + SIGKILL);
	CHECK(a[0] == 'A' && !touch(a, 1));	/* what is there stays */
	CHECK(touch(a + PAGE, 0) == SIGBUS && touch(a + 2 * PAGE, 1) == SIGBUS);
	CHECK(FAILS(read(fd, &byte, 1), ENODEV) && FAILS(write(fd, &byte, 1), ENODEV));
	CHECK(FAILS(ioctl(fd, 1), ENODEV) && FAILS(fsync(fd), ENODEV));
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
	CHECK(FAILS(open(DEV, O_RDWR), ENOENT));
	/* the name is free again, and the old file is not the new device's */
	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_ARRAY, PAGE, "new"));
	CHECK(FAILS(read(fd, &byte, 1), ENODEV) && !touch(a, 0));
	author_stop(&author);
out:
	if (a != MAP_FAILED)
		munmap(a, 4 * PAGE);
	close(fd);
}

static void test_timeout(void)
{
	struct author author;
	pid_t pid;

	memset(&author, 0, sizeof(author));
	for (unsigned int i = 1; i < NPLACES; i++) {
		struct mapdev_create *create = &author.create;
		int code;

		memset(create, 0, sizeof(*create));
		author.fd = open("/dev/mapdev", O_RDWR | O_CLOEXEC);
		create->version = MAPDEV_VERSION_MAJOR;
		strcpy(create->name, NAME);
		create->ops = places[i].ops;
		create->mode = 0600;
		create->timeout_ms = 100;
		create->memory.kind = places[i].kind;
		create->memory.memfd = -1;
		create->memory.length = 4 * PAGE;
		CHECK(!ioctl(author.fd, MAPDEV_IOC_CREATE, create));
		pid = start(&author, &places[i]);
		code = ended(pid);
		CHECK(code == ETIMEDOUT || (code == ENODEV && (places[i].program == in_fault ||
							       places[i].program == in_poll ||
							       places[i].program == in_mkwrite)));
		close(author.fd);
	}
	author.fd = -1;
out:
	author_stop(&author);
}

/* -- the module ------------------------------------------------------------------------------ */

static int unload(void)
{
	return syscall(SYS_delete_module, "mapdev", O_NONBLOCK) ? errno : 0;
}

static void test_unload_refused(void)
{
	struct mapdev_remove remove = { .name = NAME };
	struct author author = { .fd = -1 };
	char *a = MAP_FAILED;
	int fd = -1, control = open("/dev/mapdev", O_RDWR);

	CHECK(unload() == EWOULDBLOCK || unload() == EBUSY);
	CHECK(!author_create(&author, 0, MAPDEV_PERSIST, MAPDEV_MEM_ARRAY, PAGE, "kept"));
	close(author.fd);
	close(control);
	author.fd = -1;
	CHECK(unload());		/* a persistent device */
	fd = open(DEV, O_RDWR);
	a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(a != MAP_FAILED && !strcmp(a, "kept"));
	control = open("/dev/mapdev", O_RDWR);
	CHECK(!ioctl(control, MAPDEV_IOC_REMOVE, &remove));
	close(control);
	CHECK(unload());		/* an open file */
	close(fd);
	CHECK(unload() && !strcmp(a, "kept"));	/* a mapping */
	CHECK(!touch(a, 1));
out:
	if (a != MAP_FAILED)
		munmap(a, PAGE);
	author_stop(&author);
}

/* -- nonsense -------------------------------------------------------------------------------- */

static unsigned int seed;

static unsigned int any(void)
{
	seed = seed * 1103515245 + 12345;
	return seed >> 8;
}

/* Whatever is wrong with a reply: EINVAL, the request still waits, and a right one is taken. */
static void malformed(struct author *author, struct request *request, size_t body_len)
{
	__u64 unique = request->head.unique;
	struct {
		struct mapdev_reply head;
		struct mapdev_fault_out out;
		char payload[3 * PAGE];
	} reply;
	static const int errors[] = { 1, -512, -4096, 0x7fffffff, -0x7fffffff - 1 };
	int bad = 0;

	for (int i = 0; i < 200; i++) {
		size_t len = sizeof(reply.head), said;

		memset(&reply, 0, sizeof(reply));
		reply.head.unique = unique;
		said = 0;
		switch (any() % 9) {
		case 0:
			reply.head.error = errors[any() % 5];
			break;
		case 1:
			reply.head.reserved = any() | 1;
			break;
		case 2:
			reply.head.flags = any() | 4;
			break;
		case 3:
			said = any() | 1 << 20;
			break;
		case 4:
			len = any() % sizeof(reply.head);
			break;
		case 5:
			reply.head.error = -EIO;
			reply.head.value = any() | 1;
			break;
		case 6:
			reply.head.error = -EIO;
			len += 1 + any() % 100;
			break;
		case 7:		/* no opcode has such a value, nor so much payload */
			reply.head.value = ~0ULL - any();
			break;
		case 8:
			len += 1 + any() % 4096;
			if (request->head.opcode == MAPDEV_READ)
				len += request->body.read.count;
			if (request->head.opcode == MAPDEV_IOCTL)
				len += request->body.ioctl.out_max;
			reply.out.pgoff = any();
			reply.out.npages = any() % 3;
			reply.out.reserved = any() % 2;
			break;
		}
		reply.head.len = said ? said : len;
		if (!FAILS(write(author->fd, &reply, len), EINVAL)) {
			printf("# opcode %u, reply %d of length %zu: errno %d\n",
			       request->head.opcode, i, len, errno);
			bad = 1;
			break;
		}
	}
	author->noted += bad;
	if (!bad && answer(author, unique + 1000, 0, 0, NULL, 0) != -ENOENT)
		author->noted++;
	succeed(author, request, body_len);
}

static void test_malformed_replies(void)
{
	struct author author;
	pid_t pid;

	seed = 1;
	CHECK(!author_start(&author, ALL_OPS, MAPDEV_MEM_FAULT, 4 * PAGE, malformed));
	pid = fork();
	if (!pid) {
		struct pollfd ready = { .events = POLLIN };
		int fd = open(DEV, O_RDWR);
		char buffer[64], *a;

		close(author.fd);
		MUST(fd >= 0);
		MUST(read(fd, buffer, 64) == 0 && write(fd, buffer, 64) == 64);
		MUST(!ioctl(fd, _IOWR('t', 9, long[4]), buffer) && !fsync(fd));
		ready.fd = fd;
		MUST(poll(&ready, 1, -1) == 1);
		a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		MUST(a != MAP_FAILED && a[PAGE] == 'B' && !touch(a + PAGE, 1));
		_exit(0);
	}
	CHECK(ended(pid) == 0);
	CHECK(author.noted == 0);
out:
	author_stop(&author);
}

/* Ioctls of random numbers and contents on a control with a device, with half-sensible ids. */
static void test_random_ioctls(void)
{
	struct author author;
	union {
		unsigned int words[128];
		__u64 quads[64];
		struct mapdev_create create;
		struct mapdev_memory memory;
	} any_of;
	struct mapdev_range range = { 0 };
	int fd;

	seed = 2;
	CHECK(!author_create(&author, MAPDEV_OP(MAPDEV_FAULT), 0, MAPDEV_MEM_FAULT, 16 * PAGE,
			     NULL));
	fd = open(DEV, O_RDWR);
	for (int i = 0; i < 20000; i++) {
		unsigned int nr = any() % 14;
		unsigned int cmd = _IOC(any() % 4, MAPDEV_IOC_MAGIC, nr, 8 * (any() % 40));
		static const unsigned int known[] = {
			MAPDEV_IOC_VERSION, MAPDEV_IOC_CREATE, MAPDEV_IOC_MEMORY, MAPDEV_IOC_PUT,
			MAPDEV_IOC_REVOKE, MAPDEV_IOC_WRPROTECT, MAPDEV_IOC_FETCH, MAPDEV_IOC_STORE,
			MAPDEV_IOC_WAKE, MAPDEV_IOC_PAGE, MAPDEV_IOC_INFO, MAPDEV_IOC_REMOVE,
		};

		for (int w = 0; w < 128; w++)
			any_of.words[w] = any() % 8 ? any() % 3 : any() * any();
		if (any() % 2)
			any_of.quads[0] = 1 + any() % 3;
		if (any() % 8)
			cmd = known[any() % 12];
		if (cmd == MAPDEV_IOC_MEMORY && any() % 2) {
			any_of.memory.kind = 1 + any() % 7;
			any_of.memory.memfd = any() % 2 ? -1 : fd;
			any_of.memory.length = any() % 4 ? any() % 8 * PAGE :
					       (__u64)any() << (any() % 40);
			any_of.memory.init = (uintptr_t)&any_of;
			any_of.memory.init_len = any() % 600;
		}
		ioctl(author.fd, cmd, any() % 50 ? (void *)&any_of : (void *)(unsigned long)any());
	}
	range.memory = author.create.memory.id;
	ioctl(author.fd, MAPDEV_IOC_REVOKE, &range);
	close(fd);
out:
	author_stop(&author);
}

/*
 * Reads of the control with buffers that are too short, or not there: the request is still the
 * next one.
 */
static void test_unreadable_requests(void)
{
	struct author author;
	char *buffer = malloc(MAPDEV_MIN_BUFFER);
	char *half = mmap(NULL, 2 * MAPDEV_MIN_BUFFER, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct mapdev_request *request = (void *)buffer;
	struct pollfd ready = { .events = POLLIN };
	pid_t pid = -1;

	CHECK(!author_create(&author, MAPDEV_OP(MAPDEV_WRITE) | MAPDEV_OP(MAPDEV_RELEASE), 0,
			     MAPDEV_MEM_NONE, 0, NULL));
	CHECK(FAILS(read(author.fd, buffer, MAPDEV_MIN_BUFFER), EAGAIN));
	pid = fork();
	if (!pid) {
		int fd;

		close(author.fd);
		fd = open(DEV, O_RDWR);
		_exit(write(fd, buffer, 100000) != 100000);
	}
	ready.fd = author.fd;
	CHECK(poll(&ready, 1, LONG_ENOUGH) == 1);
	CHECK(FAILS(read(author.fd, buffer, MAPDEV_MIN_BUFFER - 1), EINVAL));
	CHECK(FAILS(read(author.fd, buffer, 16), EINVAL));
	munmap(half + 5 * PAGE, PAGE);
	CHECK(FAILS(read(author.fd, half, MAPDEV_MIN_BUFFER), EFAULT));
	CHECK(read(author.fd, buffer, MAPDEV_MIN_BUFFER) == sizeof(*request) +
	      sizeof(struct mapdev_read_in) + 100000);
	CHECK(request->opcode == MAPDEV_WRITE && request->pid == (__u32)pid && request->uid == 0);
	CHECK(!answer(&author, request->unique, 0, 100000, NULL, 0));
	CHECK(ended(pid) == 0);
	CHECK(poll(&ready, 1, LONG_ENOUGH) == 1);
	CHECK(FAILS(read(author.fd, half, MAPDEV_MIN_BUFFER - 1), EINVAL));
	munmap(half, PAGE);
	CHECK(FAILS(read(author.fd, half, MAPDEV_MIN_BUFFER), EFAULT));
	CHECK(read(author.fd, buffer, MAPDEV_MIN_BUFFER) == sizeof(*request));
	CHECK(request->opcode == MAPDEV_RELEASE && !request->unique);
out:
	munmap(half, 2 * MAPDEV_MIN_BUFFER);
	free(buffer);
	author_stop(&author);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "author-killed", test_author_killed },
		{ "program-killed", test_program_killed },
		{ "author-stopped", test_author_stopped_then_killed_program },
		{ "exit-does-not-wait", test_exit_does_not_wait },
		{ "removed-while-mapped", test_removed_while_mapped },
		{ "timeout", test_timeout },
		{ "unload-refused", test_unload_refused },
		{ "malformed-replies", test_malformed_replies },
		{ "random-ioctls", test_random_ioctls },
		{ "unreadable-requests", test_unreadable_requests },
		{ NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
