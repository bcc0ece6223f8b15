/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sizes of what programs and the module exchange, for 32-bit and for 64-bit programs. An ioctl's
 * number has the size of its structure in it.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include "mapdev.h"

#define LAYOUT(type, size)	_Static_assert(sizeof(struct type) == (size), #type)

LAYOUT(mapdev_request, 48);
LAYOUT(mapdev_read_in, 16);
LAYOUT(mapdev_ioctl_in, 24);
LAYOUT(mapdev_poll_in, 8);
LAYOUT(mapdev_vma_in, 40);
LAYOUT(mapdev_fault_in, 32);
LAYOUT(mapdev_interrupt_in, 8);
LAYOUT(mapdev_fsync_in, 8);
LAYOUT(mapdev_reply, 32);
LAYOUT(mapdev_fault_out, 16);
LAYOUT(mapdev_memory, 48);
LAYOUT(mapdev_create, 192);
LAYOUT(mapdev_range, 24);
LAYOUT(mapdev_user_copy, 32);
LAYOUT(mapdev_wake, 16);
LAYOUT(mapdev_page, 24);
LAYOUT(mapdev_info, 136);
LAYOUT(mapdev_remove, 72);
LAYOUT(mapdev_version, 32);

#endif
