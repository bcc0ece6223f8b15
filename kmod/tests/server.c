// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices of ordinary behaviour for programs that test devices by all that they can think of:
 * one that is served until this is killed, or with the argument "persistent" one of memory that
 * nobody serves, until "remove".
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

#define PERSISTENT	"mapdev_kept"

static int persistent(void)
{
	struct mapdev_create create = {
		.version = MAPDEV_VERSION_MAJOR,
		.flags = MAPDEV_PERSIST,
		.name = PERSISTENT,
		.mode = 0666,
		.memory = { .kind = MAPDEV_MEM_VMALLOC, .memfd = -1, .length = 16 * PAGE },
	};

	return ioctl(open("/dev/mapdev", O_RDWR), MAPDEV_IOC_CREATE, &create) ? -errno : 0;
}

static int removed(void)
{
	struct mapdev_remove remove = { .name = PERSISTENT };

	return ioctl(open("/dev/mapdev", O_RDWR), MAPDEV_IOC_REMOVE, &remove) ? -errno : 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "serve";
	struct author author;
	int error;

	if (!strcmp(what, "persistent"))
		error = persistent();
	else if (!strcmp(what, "remove"))
		error = removed();
	else
		error = author_start(&author, ALL_OPS, MAPDEV_MEM_FAULT, 256 * PAGE, serve_anything);
	if (error)
		fprintf(stderr, "server: %s: %s\n", what, strerror(-error));
	while (!error && !strcmp(what, "serve"))
		pause();
	return !!error;
}
