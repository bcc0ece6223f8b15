/* SPDX-License-Identifier: GPL-2.0-only */
/* What foreign.c and the 32-bit program that it starts agree on. */
#ifndef FOREIGN_H
#define FOREIGN_H

#include <linux/ioctl.h>
#include <linux/types.h>

struct nested32 {
	__u32 pointer;
	__u32 length;
	__u32 sum;
};

#define IO_NESTED32	_IOWR('t', 1, struct nested32)
#define IO_NUMBER	0x7402
#define NUMBER		0xfffffff0U
#define IO_POINTER	_IOW('t', 3, __u32)

/* A position and a page beyond what 32 bits can count in bytes. */
#define FAR		0x123456789ULL
#define FAR_PAGE	0x100003UL
#define FAR_BYTE	((unsigned char)('A' + FAR_PAGE))

#endif
