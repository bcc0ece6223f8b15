// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs and authors of another kind than the other side: of 32 bits, or in other user, process
 * and mount namespaces.
 */
#include "author.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "foreign.h"
#include "layout.h"

/* -- 32 bits --------------------------------------------------------------------------------- */

static const char *program32;	/* the path of the 32-bit program */

/* Run it. Whether all was well, or the kernel runs no 32-bit programs, which then is told. */
static int well(const char *what)
{
	const int none = 255;
	pid_t pid = fork();
	int code;

	if (!pid) {
		execl(program32, program32, what, NULL);
		_exit(errno == ENOEXEC ? none : 1);
	}
	code = ended(pid);
	if (code == none)
		strcpy(skipped, "this kernel runs no 32-bit programs");
	else if (code)
		printf("# program32.c failed in line %d, or 254 more, and so on\n", code);
	return !code || code == none;
}

static void answers_32(struct author *author, struct request *request, size_t body_len)
{
	struct mapdev_user_copy copy = { .unique = request->head.unique };
	struct nested32 nested;
	unsigned char bytes[16];
	int failed;

	switch (request->head.opcode) {
	case MAPDEV_READ:
		failed = request->body.read.pos != FAR;
		answer(author, copy.unique, failed ? -EUCLEAN : 0, 0, "hello", failed ? 0 : 5);
		return;
	case MAPDEV_IOCTL:
		break;
	default:
		succeed(author, request, body_len);
		return;
	}
	author->noted |= request->body.ioctl.flags != MAPDEV_IOCTL_COMPAT ||
			 request->body.ioctl.arg >> 32;
	if (request->body.ioctl.cmd == IO_NUMBER) {
		failed = request->body.ioctl.arg != NUMBER;
		answer(author, copy.unique, failed ? -EUCLEAN : 0, 0, NULL, 0);
		return;
	}
	memcpy(&nested, (char *)&request->body + body_len, sizeof(nested));
	copy.address = nested.pointer;
	copy.buffer = (uintptr_t)bytes;
	copy.length = nested.length;
	failed = request->body.ioctl.cmd != IO_NESTED32 || nested.length > sizeof(bytes) ||
		 ioctl(author->fd, MAPDEV_IOC_FETCH, &copy);
	for (unsigned int i = 0; !failed && i < nested.length; i++)
		nested.sum += bytes[i]++;
	failed = failed || ioctl(author->fd, MAPDEV_IOC_STORE, &copy);
	if (failed)
		answer(author, copy.unique, -errno, 0, NULL, 0);
	else
		answer(author, copy.unique, 0, 7, &nested, sizeof(nested));
}

static void test_32_bit_program(void)
{
	struct author author, proc = { .fd = -1 };

	CHECK(!author_start(&author, ALL_OPS & ~MAPDEV_OP(MAPDEV_PAGE_MKWRITE), MAPDEV_MEM_FAULT,
			    1ULL << 33, answers_32));
	CHECK(!author_create(&proc, ALL_OPS, MAPDEV_PROC, MAPDEV_MEM_ARRAY, PAGE, NULL));
	CHECK(!author_serve(&proc, answers_32));
	CHECK(well("use"));
	CHECK(!author.noted && !proc.noted);
	CHECK(skipped[0] || author.counts[MAPDEV_IOCTL] == 3);
out:
	author_stop(&proc);
	author_stop(&author);
}

static void test_32_bit_author(void)
{
	CHECK(well("author"));
	CHECK(access(DEV, F_OK) && errno == ENOENT);
out:
	return;
}

/* -- namespaces ------------------------------------------------------------------------------ */

/* Who asks, as the author sees it: that is what every read says. */
struct asker {
	__u32 pid;
	__u32 uid;
	__u32 gid;
};

static void tells_who(struct author *author, struct request *request, size_t body_len)
{
	struct asker asker = { request->head.pid, request->head.uid, request->head.gid };

	if (request->head.opcode == MAPDEV_READ)
		answer(author, request->head.unique, 0, 0, &asker, sizeof(asker));
	else
		succeed(author, request, body_len);
}

static struct asker who_asks(const char *path)
{
	struct asker asker = { 0 };
	int fd = open(path, O_RDWR);

	MUST(fd >= 0 && read(fd, &asker, sizeof(asker)) == sizeof(asker));
	close(fd);
	return asker;
}

static int map_ids(pid_t pid, const char *file, const char *line)
{
	char path[64];
	int fd, failed;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	fd = open(path, O_WRONLY);
	failed = write(fd, line, strlen(line)) != (ssize_t)strlen(line);
	close(fd);
	return failed;
}

/*
 * A process that is the first one of its namespaces, where it is root and was `id`. 0 in the
 * process that does the rest; the other one tells us its pid, and waits for it. -1: there is none.
 */
static pid_t in_namespaces(int id, pid_t *first)
{
	char ids[32];
	int pair[2];
	pid_t pid;

	close(other_side);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	pid = fork();
	other_side = pair[!pid];
	close(pair[!!pid]);
	if (!pid) {
		MUST(!unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS));
		MUST(say() && hear());		/* ids are mapped */
		pid = fork();
		if (pid) {
			MUST(write(other_side, &pid, sizeof(pid)) == sizeof(pid));
			_exit(ended(pid));
		}
		MUST(hear() && getpid() == 1);
		MUST(!setgid(0) && !setuid(0));
		return 0;
	}
	snprintf(ids, sizeof(ids), "0 %d 1\n", id);
	if (!hear() || map_ids(pid, "uid_map", ids) || map_ids(pid, "gid_map", ids) || !say() ||
	    read(other_side, first, sizeof(*first)) != sizeof(*first) || !say()) {
		kill(pid, SIGKILL);
		return -1;
	}
	return pid;
}

static void test_program_in_namespaces(void)
{
	struct author author = { .fd = -1 }, proc = { .fd = -1 };
	struct asker asker;
	pid_t pid, first;

	CHECK(!author_start(&author, MAPDEV_OP(MAPDEV_READ), MAPDEV_MEM_NONE, 0, tells_who));
	CHECK(!author_create(&proc, MAPDEV_OP(MAPDEV_READ), MAPDEV_PROC, MAPDEV_MEM_NONE, 0, NULL));
	CHECK(!author_serve(&proc, tells_who));
	pid = in_namespaces(1000, &first);
	CHECK(pid >= 0);
	if (!pid) {
		asker = who_asks(DEV);
		MUST(write(other_side, &asker, sizeof(asker)) == sizeof(asker));
		MUST(!mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
		MUST(!mount("proc", "/proc", "proc", 0, NULL));		/* that of its namespace */
		asker = who_asks("/proc/" NAME);
		MUST(write(other_side, &asker, sizeof(asker)) == sizeof(asker));
		MUST(FAILS(open("/dev/mapdev", O_RDWR), EACCES));	/* root of nothing */
		_exit(0);
	}
	for (int i = 0; i < 2; i++) {
		CHECK(read(other_side, &asker, sizeof(asker)) == sizeof(asker));
		CHECK(asker.pid == (__u32)first && asker.uid == 1000 && asker.gid == 1000);
	}
	CHECK(ended(pid) == 0);
out:
	author_stop(&proc);
	author_stop(&author);
}

/* As in a container that was given /dev/mapdev. */
static void is_author(__u32 flags)
{
	struct author author;
	struct mapdev_page page = { 0 };

	MUST(!author_create(&author, MAPDEV_OP(MAPDEV_READ), flags, MAPDEV_MEM_ARRAY, PAGE, NULL));
	page.memory = author.create.memory.id;
	MUST(FAILS(ioctl(author.fd, MAPDEV_IOC_PAGE, &page), EPERM));	/* root of this only */
	MUST(!author_serve(&author, tells_who));
	MUST(say() && hear());
	author_stop(&author);
	_exit(0);
}

static void test_author_in_namespaces(void)
{
	struct mapdev_info info;
	struct asker asker;
	struct stat status;
	pid_t pid, first;
	int control = open("/dev/mapdev", O_RDWR), uid;

	for (int proc = 0; proc < 2; proc++) {
		const char *path = proc ? "/proc/" NAME : DEV;

		pid = in_namespaces(0, &first);
		CHECK(pid >= 0);
		if (!pid)
			is_author(proc ? MAPDEV_PROC : 0);
		CHECK(hear());
		memset(&info, 0, sizeof(info));
		CHECK(!ioctl(control, MAPDEV_IOC_INFO, &info) && info.pid == (__u32)first);
		CHECK(!stat(path, &status) && !status.st_uid);
		asker = who_asks(path);		/* of ids, 0 alone is known there; of processes, none */
		CHECK(!asker.pid && !asker.uid && !asker.gid);
		uid = setegid(1234) || seteuid(1234);
		if (!uid)
			asker = who_asks(path);
		CHECK(!seteuid(0) && !setegid(0) && !uid);
		CHECK(!asker.pid && asker.uid == 65534 && asker.gid == 65534);
		CHECK(say() && ended(pid) == 0);
		CHECK(access(path, F_OK) && errno == ENOENT);
	}
out:
	close(control);
}

/* A node of its own for the device, as containers have them; and what is left of it. */
static void with_its_own_node(int fd)
{
	static const char node[] = "/tmp/mapdev_node";
	struct stat status;
	pid_t asks = getpid();

	MUST(!fstat(fd, &status) && S_ISCHR(status.st_mode));
	MUST(!unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	MUST(!mount("none", "/tmp", "tmpfs", 0, NULL));
	MUST(!mknod(node, S_IFCHR | 0600, status.st_rdev));
	MUST(!umount2("/dev", MNT_DETACH) && access(DEV, F_OK));
	MUST(who_asks(node).pid == (__u32)asks);
	MUST(say() && hear());		/* removed meanwhile, but open */
	MUST(FAILS(open(node, O_RDWR), ENODEV));
	MUST(!close(fd) && FAILS(open(node, O_RDWR), ENXIO));
}

static void test_program_with_its_own_node(void)
{
	struct author author;
	pid_t pid;

	CHECK(!author_start(&author, MAPDEV_OP(MAPDEV_READ), MAPDEV_MEM_NONE, 0, tells_who));
	pid = run_program(&author, with_its_own_node);
	CHECK(hear());
	author_stop(&author);
	CHECK(say() && ended(pid) == 0);
out:
	author_stop(&author);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "32-bit-program", test_32_bit_program },
		{ "32-bit-author", test_32_bit_author },
		{ "program-in-namespaces", test_program_in_namespaces },
		{ "author-in-namespaces", test_author_in_namespaces },
		{ "program-with-its-own-node", test_program_with_its_own_node },
		{ NULL, NULL },
	};

	program32 = getenv("PROGRAM32") ?: "bin/program32";
	return run_tests(tests, argc, argv);
}
