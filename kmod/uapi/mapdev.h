/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * mapdev: character devices and /proc files whose operations are answered by a program.
 *
 * Objects and lifetimes
 *
 *   control    One open of /dev/mapdev. It owns at most one device; its last close, also by the death of its process,
 *              removes the device (unless it is MAPDEV_PERSIST).
 *   device     Made by MAPDEV_IOC_CREATE: /dev/NAME or /proc/NAME. Once removed, it has no name any more; requests
 *              that wait fail with ENODEV, so do new calls on files that are open still, and faults are SIGBUS.
 *   file       One open of the device, with an id of its own, from OPEN to RELEASE.
 *   memory     A run of pages that files map: made by CREATE or by MAPDEV_IOC_MEMORY, named by an id. It lives until its
 *              control has put it (MAPDEV_IOC_PUT) or is closed, and nothing maps it and no file is bound to it.
 *   request    One call of a program that waits for an answer: taken by read(2) of the control, answered by write(2).
 *   notice     Something that has happened; taken like a request, never answered.
 *
 * A control that has created a device reads requests. Each read(2) gives exactly one, never a part of one; the buffer
 * must have MAPDEV_MIN_BUFFER bytes at least, else EINVAL. Without a request it waits, or EAGAIN with O_NONBLOCK; poll(2)
 * says POLLIN. ENODEV when the device is removed. Several threads may read and write at the same time. Each
 * write(2) is exactly one reply. A reply to a request that is not waiting (any more) is ENOENT and changes nothing. One that
 * cannot be (wrong length, an errno that is none, more bytes than were asked for) is EINVAL, and the request still waits.
 *
 * All structures have one layout on 32 and 64 bits. Reserved fields and unknown flags must be zero: EINVAL else.
 *
 * Version
 *   1.0   the first
 */
#ifndef _UAPI_MAPDEV_H
#define _UAPI_MAPDEV_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MAPDEV_VERSION_MAJOR	1	/* other majors do not understand each other */
#define MAPDEV_VERSION_MINOR	0	/* grows with what is added */

#define MAPDEV_NAME_MAX		63
#define MAPDEV_MAX_TRANSFER	(1U << 20)	/* bytes of payload in one request or reply */
#define MAPDEV_MIN_BUFFER	(MAPDEV_MAX_TRANSFER + 4096)	/* for read(2) of the control */

/* -- what is asked: struct mapdev_request, followed by the body of its opcode, and its payload ---------------- */

enum mapdev_opcode {
	MAPDEV_OPEN		= 1,	/* request; the errno is that of open(2) */
	MAPDEV_RELEASE		= 2,	/* notice: the last descriptor and the last area of this file are gone */
	MAPDEV_READ		= 3,	/* request; reply payload: the bytes, at most count */
	MAPDEV_WRITE		= 4,	/* request, payload: the bytes; reply: mapdev_reply.value of them were taken */
	MAPDEV_IOCTL		= 5,	/* request; value is the result of ioctl(2) */
	MAPDEV_POLL		= 6,	/* request; value is a mask of POLL*. Ask again: MAPDEV_IOC_WAKE */
	MAPDEV_MMAP		= 7,	/* request; value is the id of the memory. mmap_lock of the program is held */
	MAPDEV_VM_OPEN		= 8,	/* notice: an area was duplicated (fork, split, mremap) */
	MAPDEV_VM_CLOSE		= 9,	/* notice: an area is gone, or one that MMAP allowed did not come to be */
	MAPDEV_FAULT		= 10,	/* request: a page of MAPDEV_MEM_FAULT memory is not there; reply: mapdev_fault_out */
	MAPDEV_PAGE_MKWRITE	= 11,	/* request: the first store into a page since it was mapped or write-protected */
	MAPDEV_FSYNC		= 12,	/* request: fsync(2), msync(2) */
	MAPDEV_INTERRUPT	= 13,	/* notice: the program that waits for request body.unique has a signal */
	MAPDEV_VM_FAULT		= 14,	/* request: a page is touched that the program's page table has not; not of MAPDEV_MEM_FAULT
					 * memory. Mapped when it is answered, and nothing around it; a huge page is one page */
};

/* mapdev_create.ops: the operations that the author answers. What is not set is never asked, and answers as a driver
 * that does not define it: OPEN, RELEASE succeed; READ and WRITE act on the memory if the device has some, else EINVAL;
 * IOCTL ENOTTY; POLL always ready; MMAP maps the memory of the file or of the device, else ENODEV; FSYNC succeeds; VM_FAULT
 * maps, with what is around it.
 * INTERRUPT is always told, with its bit or without. */
#define MAPDEV_OP(opcode)	(1ULL << (opcode))

struct mapdev_request {
	__u32 len;		/* all of it, with body and payload */
	__u32 opcode;		/* enum mapdev_opcode */
	__u64 unique;		/* names the request in its reply; 0: a notice */
	__u64 file;		/* id of the open file */
	__u32 pid;		/* of the program: process id, in the pid namespace of who opened the control; 0: not there */
	__u32 uid;		/* fsuid and fsgid of the caller, in the user namespace of who opened the control */
	__u32 gid;
	__u32 flags;		/* of the file, as open(2) and fcntl(2) F_SETFL take them: O_* */
	__u64 reserved;
};

struct mapdev_read_in {		/* MAPDEV_READ; MAPDEV_WRITE, followed by count bytes */
	__u64 pos;		/* in bytes */
	__u32 count;		/* in bytes, at most MAPDEV_MAX_TRANSFER: a longer read(2) or write(2) is cut short */
	__u32 reserved;
};

#define MAPDEV_IOCTL_COMPAT	(1U << 0)	/* the program is a 32-bit one on a 64-bit kernel */

struct mapdev_ioctl_in {	/* MAPDEV_IOCTL, followed by in_len bytes */
	__u32 cmd;
	__u32 flags;		/* MAPDEV_IOCTL_* */
	__u64 arg;		/* the third argument, as a number */
	__u32 in_len;		/* cmd is _IOW or _IOWR: its size, copied from *arg; else 0 */
	__u32 out_max;		/* cmd is _IOR or _IOWR: its size, the most the reply may carry for *arg; else 0 */
};

struct mapdev_poll_in {		/* MAPDEV_POLL */
	__u32 events;		/* POLL* that the program waits for */
	__u32 reserved;
};

#define MAPDEV_VMA_READ		(1U << 0)
#define MAPDEV_VMA_WRITE	(1U << 1)
#define MAPDEV_VMA_EXEC		(1U << 2)
#define MAPDEV_VMA_SHARED	(1U << 3)

struct mapdev_vma_in {		/* MAPDEV_MMAP, MAPDEV_VM_OPEN, MAPDEV_VM_CLOSE */
	__u64 memory;		/* id; 0 in MMAP */
	__u64 start;		/* address in the program; 0 in MMAP where it is not known yet */
	__u64 length;		/* in bytes */
	__u64 pgoff;		/* in pages */
	__u32 flags;		/* MAPDEV_VMA_* */
	__u32 reserved;
};

#define MAPDEV_FAULT_WRITE	(1U << 0)	/* it was a store */

struct mapdev_fault_in {	/* MAPDEV_FAULT, MAPDEV_PAGE_MKWRITE, MAPDEV_VM_FAULT. Nothing of the program is locked. */
	__u64 memory;
	__u64 pgoff;		/* in pages, below the length of the memory */
	__u64 address;		/* in the program, of the page; 0: the page is touched by read(2) or write(2) */
	__u32 flags;		/* MAPDEV_FAULT_* */
	__u32 reserved;
};

struct mapdev_interrupt_in {	/* MAPDEV_INTERRUPT */
	__u64 unique;		/* of the request; answer it soon, with EINTR or what is there */
};

struct mapdev_fsync_in {	/* MAPDEV_FSYNC */
	__u32 datasync;		/* fdatasync(2) */
	__u32 reserved;
};

/* -- what is answered: struct mapdev_reply, followed by the payload ------------------------------------------- */

#define MAPDEV_REPLY_NONSEEKABLE	(1U << 0)	/* OPEN: lseek(2) is ESPIPE */
#define MAPDEV_REPLY_STREAM		(1U << 1)	/* OPEN: the file has no position */

struct mapdev_reply {
	__u32 len;		/* all of it, with payload */
	__s32 error;		/* 0, or -1 to -511: a negative errno; then no payload and no value */
	__u64 unique;
	__u64 value;		/* as the opcode says; else 0 */
	__u32 flags;		/* MAPDEV_REPLY_* */
	__u32 reserved;
};

struct mapdev_fault_out {	/* MAPDEV_FAULT: followed by npages whole pages, at most MAPDEV_MAX_TRANSFER bytes */
	__u64 pgoff;		/* the first; the page that was asked for must be among them */
	__u32 npages;		/* pages that are there already stay as they are */
	__u32 reserved;
};

/* -- ioctls of the control ------------------------------------------------------------------------------------ */

enum mapdev_memory_kind {
	MAPDEV_MEM_NONE		= 0,
	MAPDEV_MEM_MEMFD	= 1,	/* the pages of a memfd, sealed against shrinking: no copy */
	MAPDEV_MEM_ARRAY	= 2,	/* an array with a page per entry, each allocated, zeroed, when it is first touched */
	MAPDEV_MEM_VMALLOC	= 3,	/* virtually contiguous in the kernel, all there from the start (vmalloc_user) */
	MAPDEV_MEM_CONTIGUOUS	= 4,	/* physically contiguous, all there from the start */
	MAPDEV_MEM_DMA		= 5,	/* dma_alloc_coherent */
	MAPDEV_MEM_FAULT	= 6,	/* as ARRAY, but what is in a page is asked for by MAPDEV_FAULT */
};

struct mapdev_memory {		/* MAPDEV_IOC_MEMORY, and in mapdev_create */
	__u32 kind;		/* enum mapdev_memory_kind */
	__s32 memfd;		/* MEMFD; else -1 */
	__u64 length;		/* in bytes, whole pages */
	__u64 init;		/* address of the initial bytes, not for MEMFD and FAULT; the rest is zero */
	__u64 init_len;		/* how many: at most length and MAPDEV_MAX_TRANSFER */
	__u64 id;		/* out: its name, never 0 */
	__u64 map_offset;	/* out: mmap(2) of the control at this offset maps it for the author */
};

#define MAPDEV_PROC		(1U << 0)	/* /proc/NAME, not /dev/NAME */
#define MAPDEV_PER_OPEN		(1U << 1)	/* each open has memory of its own, made as `memory` says (not MEMFD, FAULT) */
#define MAPDEV_PERSIST		(1U << 2)	/* no ops: the device outlives the control, until MAPDEV_IOC_REMOVE */
#define MAPDEV_DEVT		(1U << 3)	/* major and minor are asked for; EBUSY if taken */

struct mapdev_create {		/* MAPDEV_IOC_CREATE */
	__u32 version;		/* in: MAPDEV_VERSION_MAJOR */
	__u32 flags;		/* MAPDEV_PROC ... */
	__u64 ops;		/* MAPDEV_OP(...) | ... */
	char name[MAPDEV_NAME_MAX + 1];		/* no '/', ends in NUL, zeros behind it; EEXIST if it is there */
	__u32 mode;		/* permission bits, at most 0777 */
	__u32 uid;		/* owner, in the user namespace of the caller */
	__u32 gid;
	__u32 timeout_ms;	/* requests that wait longer fail with ETIMEDOUT (fault: SIGBUS); 0: they wait */
	__u32 major;		/* in, with MAPDEV_DEVT; out, for /dev */
	__u32 minor;
	__u64 size;		/* what stat(2) shows of a /proc file; in bytes */
	struct mapdev_memory memory;	/* shared by all opens unless PER_OPEN; kind NONE: none, or as MMAP answers */
	__u64 reserved[4];
};

struct mapdev_range {		/* MAPDEV_IOC_REVOKE, MAPDEV_IOC_WRPROTECT */
	__u64 memory;
	__u64 offset;		/* in bytes, whole pages */
	__u64 length;		/* 0: to the end */
};

struct mapdev_user_copy {	/* MAPDEV_IOC_FETCH, MAPDEV_IOC_STORE */
	__u64 unique;		/* a request that waits: READ, WRITE or IOCTL */
	__u64 address;		/* in the memory of the program that waits */
	__u64 buffer;		/* in that of the author */
	__u64 length;		/* at most MAPDEV_MAX_TRANSFER; EFAULT if not all of it is there */
};

struct mapdev_wake {		/* MAPDEV_IOC_WAKE */
	__u64 file;		/* 0: every open file of the device */
	__u32 events;		/* POLL* that may be ready now; 0: any. EINVAL: POLLNVAL, and what is no POLL* */
	__u32 reserved;
};

struct mapdev_page {		/* MAPDEV_IOC_PAGE: where a page is; needs CAP_SYS_ADMIN */
	__u64 memory;
	__u64 pgoff;
	__u64 physical;		/* out: address of its first byte; ENODATA if it is not there */
};

struct mapdev_info {		/* MAPDEV_IOC_INFO: about the devices of this module, one by one */
	__u64 index;		/* in: from 0 on; ENOENT behind the last */
	char name[MAPDEV_NAME_MAX + 1];		/* out, as all that follows */
	__u32 flags;
	__u32 mode;
	__u32 major;
	__u32 minor;
	__u64 length;		/* of its memory, in bytes */
	__u32 kind;		/* of its memory */
	__u32 files;		/* open now */
	__u64 ops;
	__u32 pid;		/* of who made it, in the caller's pid namespace; 0 if not there */
	__u32 uid;
	__u64 reserved[2];
};

struct mapdev_remove {		/* MAPDEV_IOC_REMOVE: a MAPDEV_PERSIST device of the same user, or any for CAP_SYS_ADMIN */
	__u32 flags;		/* MAPDEV_PROC: the one in /proc */
	__u32 reserved;
	char name[MAPDEV_NAME_MAX + 1];
};

struct mapdev_version {		/* MAPDEV_IOC_VERSION */
	__u32 major;
	__u32 minor;
	__u64 memory_kinds;	/* 1 << kind of each that this kernel can do */
	__u64 max_bytes;	/* the limit of kernel memory for all devices together */
	__u64 used_bytes;
};

#define MAPDEV_IOC_MAGIC	0xF5
#define MAPDEV_IOC_VERSION	_IOR(MAPDEV_IOC_MAGIC, 0, struct mapdev_version)
#define MAPDEV_IOC_CREATE	_IOWR(MAPDEV_IOC_MAGIC, 1, struct mapdev_create)
#define MAPDEV_IOC_MEMORY	_IOWR(MAPDEV_IOC_MAGIC, 2, struct mapdev_memory)
#define MAPDEV_IOC_PUT		_IOW(MAPDEV_IOC_MAGIC, 3, __u64)	/* the id of a memory */
#define MAPDEV_IOC_REVOKE	_IOW(MAPDEV_IOC_MAGIC, 4, struct mapdev_range)	/* the next access faults again; FAULT memory: is asked for again */
#define MAPDEV_IOC_WRPROTECT	_IOW(MAPDEV_IOC_MAGIC, 5, struct mapdev_range)	/* the next store is PAGE_MKWRITE */
#define MAPDEV_IOC_FETCH	_IOW(MAPDEV_IOC_MAGIC, 6, struct mapdev_user_copy)	/* from the program */
#define MAPDEV_IOC_STORE	_IOW(MAPDEV_IOC_MAGIC, 7, struct mapdev_user_copy)	/* to the program */
#define MAPDEV_IOC_WAKE		_IOW(MAPDEV_IOC_MAGIC, 8, struct mapdev_wake)
#define MAPDEV_IOC_PAGE		_IOWR(MAPDEV_IOC_MAGIC, 9, struct mapdev_page)
#define MAPDEV_IOC_INFO		_IOWR(MAPDEV_IOC_MAGIC, 10, struct mapdev_info)
#define MAPDEV_IOC_REMOVE	_IOW(MAPDEV_IOC_MAGIC, 11, struct mapdev_remove)

#endif /* _UAPI_MAPDEV_H */
