// SPDX-License-Identifier: GPL-2.0-only
/*
 * Serve a device of ordinary behaviour until it is killed, for programs that test devices by all
 * that they can think of.
 */
#include "author.h"

static const char text[4096];

/* The bytes of an answer, as many as the program can take. */
static void give(struct author *author, __u64 unique, size_t most)
{
	answer(author, unique, 0, 0, text, most < sizeof(text) ? most : sizeof(text));
}

static void serve_anything(struct author *author, struct request *request, size_t body_len)
{
	if (request->head.opcode == MAPDEV_READ)
		give(author, request->head.unique, request->body.read.count);
	else if (request->head.opcode == MAPDEV_IOCTL && request->body.ioctl.cmd % 3)
		answer(author, request->head.unique, -ENOTTY, 0, NULL, 0);
	else if (request->head.opcode == MAPDEV_IOCTL)
		give(author, request->head.unique, request->body.ioctl.out_max);
	else
		succeed(author, request, body_len);
}

int main(void)
{
	struct author author;
	int error = author_start(&author, ALL_OPS, MAPDEV_MEM_FAULT, 256 * PAGE, serve_anything);

	if (error) {
		fprintf(stderr, "server: %s\n", strerror(-error));
		return 1;
	}
	for (;;)
		pause();
}
