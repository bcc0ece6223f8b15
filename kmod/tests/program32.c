// SPDX-License-Identifier: GPL-2.0-only
/*
 * A 32-bit program that uses the device of foreign.c, or makes one itself and answers for it. It
 * has no C library, as the compilers' packages have none of 32 bits: what it calls is in here.
 *
 * Exit code 0, or the line that failed, of which a part fits.
 */
#include <asm/unistd_32.h>
#include <linux/errno.h>
#include <linux/ioctl.h>
#include <linux/types.h>

#include "foreign.h"
#include "layout.h"

_Static_assert(sizeof(long) == 4, "it is compiled for 32 bits");

#define O_RDWR		2
#define O_LARGEFILE	0100000
#define PROT_READ	1
#define PROT_WRITE	2
#define MAP_SHARED	1
#define POLLIN		1

struct pollfd {
	int fd;
	short events;
	short revents;
};

/* call(number, arguments of the system call) */
long call(long number, ...);
asm("	.text\n"
    "call:\n"
    "	push %ebp\n"
    "	push %edi\n"
    "	push %esi\n"
    "	push %ebx\n"
    "	mov 20(%esp), %eax\n"
    "	mov 24(%esp), %ebx\n"
    "	mov 28(%esp), %ecx\n"
    "	mov 32(%esp), %edx\n"
    "	mov 36(%esp), %esi\n"
    "	mov 40(%esp), %edi\n"
    "	mov 44(%esp), %ebp\n"
    "	int $0x80\n"
    "	pop %ebx\n"
    "	pop %esi\n"
    "	pop %edi\n"
    "	pop %ebp\n"
    "	ret\n"
    "	.globl _start\n"
    "_start:\n"
    "	mov %esp, %eax\n"
    "	and $-16, %esp\n"
    "	sub $12, %esp\n"
    "	push %eax\n"
    "	call begin\n");

/* The compiler calls these by itself. */
void *memset(void *to, int byte, __SIZE_TYPE__ n)
{
	void *at = to;

	asm volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
	void *at = to;

	asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

static void __attribute__((noreturn)) leave(int code)
{
	for (;;)
		call(__NR_exit, code);
}

#define MUST(condition)				\
	do {					\
		if (!(condition))		\
			leave(__LINE__ % 254 ?: 254);	\
	} while (0)

static int opened(const char *path)
{
	int fd = call(__NR_open, path, O_RDWR | O_LARGEFILE);

	MUST(fd >= 0);
	return fd;
}

static unsigned char *mapped(int fd, unsigned long pgoff)
{
	long a = call(__NR_mmap2, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, pgoff);

	MUST(!((unsigned long)a > -4096UL));
	return (unsigned char *)a;
}

/* -- a program that uses a device of a 64-bit author ----------------------------------------- */

static void nested_pointers(int fd)
{
	unsigned char bytes[3] = { 1, 2, 3 };
	struct nested32 nested = { (unsigned long)bytes, 3, 0 };

	MUST(call(__NR_ioctl, fd, IO_NESTED32, &nested) == 7);
	MUST(nested.sum == 6 && bytes[0] == 2 && bytes[2] == 4);
	nested.pointer = 0xfffff000;
	MUST(call(__NR_ioctl, fd, IO_NESTED32, &nested) == -EFAULT);
	MUST(call(__NR_ioctl, fd, IO_NESTED32, 0xfffff000) == -EFAULT);
	MUST(call(__NR_ioctl, fd, IO_NUMBER, NUMBER) == 0);	/* not sign-extended */
}

static void use(void)
{
	int fd = opened("/dev/mapdev_test");
	struct pollfd ready = { fd, POLLIN, 0 };
	unsigned char buffer[8], *page;
	__u64 position;

	nested_pointers(fd);
	MUST(call(__NR_pread64, fd, buffer, 8, (long)(FAR & 0xffffffff), (long)(FAR >> 32)) == 5);
	MUST(buffer[0] == 'h' && buffer[4] == 'o');
	MUST(call(__NR_write, fd, buffer, 8) == 8);
	MUST(!call(__NR__llseek, fd, (long)(FAR >> 32), (long)(FAR & 0xffffffff), &position, 0));
	MUST(position == FAR);
	MUST(call(__NR_poll, &ready, 1, -1) == 1 && ready.revents == POLLIN);
	MUST(!call(__NR_fsync, fd));
	page = mapped(fd, FAR_PAGE);		/* its offset in bytes has more than 32 bits */
	MUST(page[0] == FAR_BYTE && page[4095] == FAR_BYTE);
	page[1] = 's';
	MUST(mapped(fd, FAR_PAGE)[1] == 's');
	MUST(!call(__NR_munmap, page, 4096) && !call(__NR_close, fd));
	nested_pointers(opened("/proc/mapdev_test"));
}

/* -- an author ------------------------------------------------------------------------------- */

static unsigned char buffer[MAPDEV_MIN_BUFFER];

static void reply(int fd, __u64 unique, __u64 value, const char *payload, __u32 length)
{
	struct {
		struct mapdev_reply head;
		char payload[16];
	} reply = { .head = { sizeof(reply.head) + length, 0, unique, value, 0, 0 } };

	memcpy(reply.payload, payload, length);
	MUST(call(__NR_write, fd, &reply, reply.head.len) == (long)reply.head.len);
}

/* The answer to an ioctl whose argument points to a pointer: that it leads to what we know. */
static void follow(int fd, const struct mapdev_request *request)
{
	const struct mapdev_ioctl_in *in = (const void *)(request + 1);
	const __u32 *pointer = (const void *)(in + 1);
	char byte = 0;
	struct mapdev_user_copy copy = { request->unique, *pointer, (unsigned long)&byte, 1 };

	MUST(in->cmd == IO_POINTER && in->flags == MAPDEV_IOCTL_COMPAT && in->in_len == 4);
	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_FETCH, &copy) && byte == 'p');
	byte = 'q';
	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_STORE, &copy));
	reply(fd, request->unique, 3, "", 0);
}

static void __attribute__((noreturn)) program_of_ours(void)
{
	int fd = opened("/dev/mapdev_test");
	char byte = 'p', bytes[8];
	__u32 pointer = (unsigned long)&byte;

	MUST(call(__NR_read, fd, bytes, 8) == 2 && bytes[0] == 'h' && bytes[1] == 'i');
	MUST(call(__NR_ioctl, fd, IO_POINTER, &pointer) == 3 && byte == 'q');
	MUST(mapped(fd, 0)[0] == 'm');
	leave(0);
}

static void answer_for_one(void)
{
	static struct mapdev_create create = {
		.version = MAPDEV_VERSION_MAJOR,
		.ops = MAPDEV_OP(MAPDEV_READ) | MAPDEV_OP(MAPDEV_IOCTL) | MAPDEV_OP(MAPDEV_RELEASE),
		.name = "mapdev_test",
		.mode = 0600,
		.memory = { .kind = MAPDEV_MEM_ARRAY, .memfd = -1, .length = 4096, .init_len = 1 },
	};
	const struct mapdev_request *request = (const void *)buffer;
	struct mapdev_version version;
	struct mapdev_memory memory = { .kind = MAPDEV_MEM_VMALLOC, .memfd = -1, .length = 4096 };
	static struct mapdev_info info;
	int fd = opened("/dev/mapdev"), status;
	long pid;

	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_VERSION, &version) && version.major == 1);
	create.memory.init = (unsigned long)"m";
	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_CREATE, &create) && create.memory.id);
	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_MEMORY, &memory) && memory.id);
	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_PUT, &memory.id));
	MUST(!call(__NR_ioctl, fd, MAPDEV_IOC_INFO, &info) && info.length == 4096);
	MUST(info.name[0] == 'm' && info.ops == create.ops);
	pid = call(__NR_fork);
	if (!pid)
		program_of_ours();
	MUST(pid > 0);
	for (;;) {
		MUST(call(__NR_read, fd, buffer, sizeof(buffer)) == (long)request->len);
		MUST(request->pid == (__u32)pid);
		if (request->opcode == MAPDEV_READ)
			reply(fd, request->unique, 0, "hi", 2);
		else if (request->opcode == MAPDEV_IOCTL)
			follow(fd, request);
		else
			break;
	}
	MUST(request->opcode == MAPDEV_RELEASE);
	MUST(call(__NR_waitpid, pid, &status, 0) == pid && !status);
}

/* The stack, as the kernel leaves it to a program: the number of its arguments, and these. */
void __attribute__((noreturn, used, regparm(0))) begin(char **stack)
{
	char *what = stack[2];

	if (what && what[0] == 'a')
		answer_for_one();
	else
		use();
	leave(0);
}
