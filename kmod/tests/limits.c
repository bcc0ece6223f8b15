// SPDX-License-Identifier: GPL-2.0-only
/* What may be asked for: names, permissions, numbers, sizes; and many programs at once. */
#include "author.h"

#include <sys/sysmacros.h>

/* CREATE with one thing changed; what it says. */
static int created(void (*change)(struct mapdev_create *))
{
	struct mapdev_create create = { .version = MAPDEV_VERSION_MAJOR, .mode = 0600 };
	int fd = open("/dev/mapdev", O_RDWR), result;

	strcpy(create.name, NAME);
	create.memory.kind = MAPDEV_MEM_ARRAY;
	create.memory.length = PAGE;
	create.memory.memfd = -1;
	change(&create);
	result = ioctl(fd, MAPDEV_IOC_CREATE, &create) ? errno : 0;
	close(fd);
	return result;
}

#define CHANGE(code) ({ void change(struct mapdev_create *c) { code; } created(change); })

#define RENAME(text)	(memset(c->name, 0, 64), strcpy(c->name, text))

static void test_names(void)
{
	CHECK(CHANGE((void)c) == 0);
	CHECK(CHANGE(memset(c->name, 0, 64)) == EINVAL);
	CHECK(CHANGE(memset(c->name, 'x', 64)) == EINVAL);
	CHECK(CHANGE(memset(c->name, 'x', 63)) == 0);
	CHECK(CHANGE(RENAME("a/b")) == EINVAL);
	CHECK(CHANGE(RENAME("a!b")) == EINVAL);
	CHECK(CHANGE(RENAME("..")) == EINVAL);
	CHECK(CHANGE(c->name[40] = 'x') == EINVAL);
	CHECK(CHANGE(RENAME("null")) == EEXIST);
	CHECK(CHANGE(RENAME("mapdev")) == EEXIST);
	CHECK(CHANGE(c->flags = MAPDEV_PROC; RENAME("version")) == EEXIST);
	CHECK(CHANGE(c->flags = MAPDEV_PROC; RENAME("self")) == EEXIST);
	CHECK(CHANGE(c->flags = MAPDEV_PROC; RENAME("null")) == 0);
	CHECK(CHANGE(RENAME("version %s %n")) == 0);
out:
	return;
}

static void test_create_checked(void)
{
	CHECK(CHANGE(c->version = 2) == EINVAL);
	CHECK(CHANGE(c->flags = 1 << 4) == EINVAL);
	CHECK(CHANGE(c->ops = 1) == EINVAL);
	CHECK(CHANGE(c->ops = 1ULL << 15) == EINVAL);
	CHECK(CHANGE(c->mode = 04777) == EINVAL);
	CHECK(CHANGE(c->reserved[3] = 1) == EINVAL);
	CHECK(CHANGE(c->flags = MAPDEV_PERSIST; c->ops = MAPDEV_OP(MAPDEV_READ)) == EINVAL);
	CHECK(CHANGE(c->flags = MAPDEV_PROC | MAPDEV_DEVT; c->major = 240) == EINVAL);
	CHECK(CHANGE(c->flags = MAPDEV_DEVT; c->major = 1; c->minor = 3) == EBUSY);
	CHECK(CHANGE(c->flags = MAPDEV_DEVT; c->major = 1 << 20) == EINVAL);
	CHECK(CHANGE(c->flags = MAPDEV_DEVT; c->major = 240; c->minor = 1 << 20) == EINVAL);
	CHECK(CHANGE(c->uid = -1) == EINVAL);
	CHECK(CHANGE(c->memory.kind = 7) == EINVAL);
	CHECK(CHANGE(c->memory.memfd = 0) == EINVAL);
	CHECK(CHANGE(c->memory.length = 0) == EINVAL);
	CHECK(CHANGE(c->memory.length = PAGE + 1) == EINVAL);
	CHECK(CHANGE(c->memory.init_len = PAGE + 1) == EINVAL);
	CHECK(CHANGE(c->memory.init_len = 8; c->memory.init = 8) == EFAULT);
	CHECK(CHANGE(c->memory.kind = MAPDEV_MEM_FAULT) == EINVAL);
	CHECK(CHANGE(c->memory.kind = MAPDEV_MEM_NONE) == EINVAL);
	CHECK(CHANGE(c->memory.kind = MAPDEV_MEM_NONE; c->memory.length = 0) == 0);
	CHECK(CHANGE(c->flags = MAPDEV_PER_OPEN; c->memory.kind = MAPDEV_MEM_FAULT;
		     c->ops = MAPDEV_OP(MAPDEV_FAULT)) == EINVAL);
out:
	return;
}

static const __u64 huge[] = { 1ULL << 62, (1ULL << 63) - PAGE, 1ULL << 63, -PAGE,
			      (1ULL << 44) + PAGE };

static void test_sizes(void)
{
	struct mapdev_version before, after;
	struct mapdev_memory memory;
	struct author author;
	char *last;
	int error;

	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_NONE, 0, NULL));
	CHECK(!ioctl(author.fd, MAPDEV_IOC_VERSION, &before) && before.major == 1 &&
	      !before.used_bytes);
	for (int kind = MAPDEV_MEM_ARRAY; kind <= MAPDEV_MEM_FAULT; kind++)
		for (unsigned int i = 0; i < sizeof(huge) / sizeof(huge[0]); i++)
			CHECK(new_memory(&author, &memory, kind, huge[i], -1, NULL) == -EINVAL);
	for (int kind = MAPDEV_MEM_VMALLOC; kind <= MAPDEV_MEM_DMA; kind++) {
		CHECK(new_memory(&author, &memory, kind, 1ULL << 40, -1, NULL) == -ENOMEM);
		CHECK(new_memory(&author, &memory, kind, before.max_bytes / PAGE * PAGE + PAGE, -1,
				 NULL) == -ENOMEM);
	}
	CHECK(new_memory(&author, &memory, MAPDEV_MEM_CONTIGUOUS, 1ULL << 23, -1, NULL) == -ENOMEM);
	/* sparse memory costs what is touched, and no more than the limit in all */
	CHECK(!new_memory(&author, &memory, MAPDEV_MEM_ARRAY, 1ULL << 44, -1, NULL));
	last = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, author.fd,
		    memory.map_offset + (1ULL << 44) - PAGE);
	CHECK(last != MAP_FAILED && !touch(last, 1));
	CHECK(!munmap(last, PAGE) && !ioctl(author.fd, MAPDEV_IOC_PUT, &memory.id));
	error = 0;
	for (int i = 0; i < 100000 && !error; i++)
		error = new_memory(&author, &memory, MAPDEV_MEM_VMALLOC, 64 * PAGE, -1, NULL);
	CHECK(error == -ENOMEM);
	CHECK(!ioctl(author.fd, MAPDEV_IOC_VERSION, &after));
	CHECK(after.used_bytes <= after.max_bytes &&
	      after.used_bytes > after.max_bytes - 65 * PAGE);
	author_stop(&author);
	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_NONE, 0, NULL));
	CHECK(!ioctl(author.fd, MAPDEV_IOC_VERSION, &after) && !after.used_bytes);
out:
	author_stop(&author);
}

/* Over the limit a page that is touched is SIGBUS for who touches it, and nothing more. */
static void test_touching_too_much(void)
{
	struct mapdev_version version;
	struct author author;
	size_t at, length;
	pid_t pid;
	int fd;
	char *a;

	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_ARRAY, 1ULL << 33, NULL));
	CHECK(!ioctl(author.fd, MAPDEV_IOC_VERSION, &version));
	length = version.max_bytes + 64 * PAGE;
	pid = fork();
	if (!pid) {
		fd = open(DEV, O_RDWR);
		a = mmap(NULL, 1ULL << 33, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		MUST(a != MAP_FAILED);
		for (at = 0; at < length && !touch(a + at, 1); at += PAGE)
			;
		MUST(at >= version.max_bytes / PAGE * PAGE && at < length);
		MUST(touch(a + at, 0) == SIGBUS && !touch(a, 1));
		_exit(0);
	}
	CHECK(ended(pid) == 0);
out:
	author_stop(&author);
}

static void test_permissions(void)
{
	struct stat status;
	pid_t pid;
	int fd = open("/dev/mapdev", O_RDWR);
	struct mapdev_create create = { .version = 1, .mode = 0640, .uid = 1000, .gid = 7 };

	CHECK(!stat("/dev/mapdev", &status) && (status.st_mode & 07777) == 0660);
	strcpy(create.name, NAME);
	CHECK(!ioctl(fd, MAPDEV_IOC_CREATE, &create));
	CHECK(!stat(DEV, &status) && S_ISCHR(status.st_mode) && (status.st_mode & 07777) == 0640);
	CHECK(status.st_uid == 1000 && status.st_gid == 7);
	CHECK(major(status.st_rdev) == create.major && minor(status.st_rdev) == create.minor);
	CHECK(FAILS(ioctl(fd, MAPDEV_IOC_CREATE, &create), EBUSY));
	pid = fork();
	if (!pid) {
		struct mapdev_page page = { .memory = 1 };

		MUST(!setgid(1001) && !setuid(1001));
		MUST(FAILS(open(DEV, O_RDONLY), EACCES));
		MUST(FAILS(open("/dev/mapdev", O_RDWR), EACCES));
		MUST(FAILS(ioctl(fd, MAPDEV_IOC_PAGE, &page), EPERM));
		_exit(0);
	}
	CHECK(ended(pid) == 0);
	pid = fork();
	if (!pid) {
		MUST(!setgid(1000) && !setuid(1000) && open(DEV, O_RDWR) >= 0);
		_exit(0);
	}
	CHECK(ended(pid) == 0);
out:
	close(fd);
}

static void test_persistent(void)
{
	struct mapdev_remove remove = { .name = NAME };
	struct mapdev_info info;
	struct author author;
	int fd = -1, found = 0;
	char buffer[8];
	pid_t pid;

	CHECK(!author_create(&author, 0, MAPDEV_PERSIST | MAPDEV_PER_OPEN, MAPDEV_MEM_VMALLOC, PAGE,
			     "kept"));
	author_stop(&author);
	fd = open(DEV, O_RDWR);
	CHECK(fd >= 0 && read(fd, buffer, 4) == 4 && !memcmp(buffer, "kept", 4));
	CHECK(!author_create(&author, 0, MAPDEV_PROC, MAPDEV_MEM_NONE, 0, NULL));
	memset(&info, 0, sizeof(info));
	for (; !ioctl(author.fd, MAPDEV_IOC_INFO, &info); info.index++)
		if (info.flags & MAPDEV_PROC)
			found += !strcmp(info.name, NAME) && !info.files &&
				 info.pid == (__u32)getpid();
		else
			found += !strcmp(info.name, NAME) && info.files == 1 && info.uid == 0 &&
				 info.length == PAGE && info.mode == 0666;
	CHECK(errno == ENOENT && info.index == 2 && found == 2);
	remove.flags = MAPDEV_PROC;
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_REMOVE, &remove), EBUSY));
	remove.flags = 0;
	pid = fork();
	if (!pid) {
		MUST(!setuid(1001) && FAILS(ioctl(author.fd, MAPDEV_IOC_REMOVE, &remove), EPERM));
		_exit(0);
	}
	CHECK(ended(pid) == 0);
	CHECK(!ioctl(author.fd, MAPDEV_IOC_REMOVE, &remove));
	CHECK(FAILS(ioctl(author.fd, MAPDEV_IOC_REMOVE, &remove), ENOENT));
	CHECK(access(DEV, F_OK) && FAILS(read(fd, buffer, 4), ENODEV));
out:
	close(fd);
	author_stop(&author);
}

static void test_number(void)
{
	struct mapdev_create create = {
		.version = 1, .flags = MAPDEV_DEVT, .major = 240, .minor = 77
	};
	int fd = open("/dev/mapdev", O_RDWR), other = open("/dev/mapdev", O_RDWR);
	struct stat status;

	strcpy(create.name, NAME);
	CHECK(!ioctl(fd, MAPDEV_IOC_CREATE, &create));
	CHECK(!stat(DEV, &status) && status.st_rdev == makedev(240, 77));
	memset(create.name, 0, sizeof(create.name));
	strcpy(create.name, "another");
	CHECK(FAILS(ioctl(other, MAPDEV_IOC_CREATE, &create), EBUSY));
	create.minor = 78;
	CHECK(!ioctl(other, MAPDEV_IOC_CREATE, &create));
out:
	close(fd);
	close(other);
}

/* -- many at once ---------------------------------------------------------------------------- */

static void storm(int rounds)
{
	for (int i = 0; i < rounds; i++) {
		int fd = open(DEV, O_RDWR), status;
		char *a;
		pid_t pid;

		MUST(fd >= 0);
		a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		MUST(a != MAP_FAILED);
		a[i % 4 * PAGE] = i;
		if (i % 16 == 0) {
			pid = fork();
			if (!pid)
				_exit(touch(a + PAGE, 1));
			MUST(waitpid(pid, &status, 0) == pid && !status);
		}
		MUST(!munmap(a + PAGE, PAGE));
		close(fd);
		munmap(a, 4 * PAGE);
	}
	_exit(0);
}

static void test_storm(void)
{
	static const __u32 kinds[] = { MAPDEV_MEM_MEMFD, MAPDEV_MEM_ARRAY, MAPDEV_MEM_FAULT };
	struct mapdev_range range = { 0 };
	struct author author = { .fd = -1 };
	volatile int *n = author.counts;
	pid_t pids[4];

	for (unsigned int k = 0; k < 3; k++) {
		CHECK(!author_start(&author, ALL_OPS, kinds[k], 4 * PAGE, succeed));
		range.memory = author.create.memory.id;
		for (int i = 0; i < 4; i++) {
			pids[i] = fork();
			if (!pids[i]) {
				close(author.fd);
				storm(60);
			}
		}
		for (int i = 0; i < 50; i++) {
			CHECK(!ioctl(author.fd, i % 2 ? MAPDEV_IOC_REVOKE : MAPDEV_IOC_WRPROTECT,
				     &range));
			usleep(2000);
		}
		for (int i = 0; i < 4; i++)
			CHECK(ended(pids[i]) == 0);
		CHECK(reached(&n[MAPDEV_RELEASE], 240));
		CHECK(n[MAPDEV_OPEN] == 240 && n[MAPDEV_RELEASE] == 240 && n[MAPDEV_MMAP] == 240);
		CHECK(n[MAPDEV_MMAP] + n[MAPDEV_VM_OPEN] == n[MAPDEV_VM_CLOSE]);
		author_stop(&author);
	}
out:
	author_stop(&author);
}

/* Devices come and go while programs open whatever is there. */
static void test_coming_and_going(void)
{
	struct author author = { .fd = -1 };
	volatile int *stop = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				  -1, 0);
	pid_t pids[3];
	int i;

	for (i = 0; i < 3; i++) {
		pids[i] = fork();
		if (pids[i])
			continue;
		while (!*stop) {
			int fd = open(i ? DEV : "/proc/" NAME, O_RDWR);
			char byte, *a;

			if (fd < 0) {
				MUST(errno == ENOENT || errno == ENODEV || errno == ENXIO);
				continue;
			}
			a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (a != MAP_FAILED) {
				touch(a, 1);
				munmap(a, PAGE);
			}
			if (read(fd, &byte, 1) < 0)
				MUST(errno == ENODEV);
			close(fd);
		}
		_exit(0);
	}
	for (i = 0; i < 40; i++) {
		CHECK(!author_create(&author, 0, i % 2 ? MAPDEV_PROC : 0, MAPDEV_MEM_ARRAY, PAGE,
				     "x"));
		usleep(1000 + i * 100);
		author_stop(&author);
	}
out:
	*stop = 1;
	for (i = 0; i < 3; i++)
		if (ended(pids[i]) && !failure[0])
			strcpy(failure, "a program saw something that it should not");
	munmap((void *)stop, PAGE);
	author_stop(&author);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "names", test_names },
		{ "create-checked", test_create_checked },
		{ "sizes", test_sizes },
		{ "touching-too-much", test_touching_too_much },
		{ "permissions", test_permissions },
		{ "persistent", test_persistent },
		{ "number", test_number },
		{ "storm", test_storm },
		{ "coming-and-going", test_coming_and_going },
		{ NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
