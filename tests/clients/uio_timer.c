/*
 * A user-space driver of the timer in tests/hosts/devices/uio_timer.py, as it would be for the hardware: it finds the
 * maps in /sys/class/uio/uio0, maps map N at N pages, starts the timer and waits for its interrupt.
 *
 * Usage: uio_timer. Prints what it saw; the exit code is 1 if a system call failed.
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CTRL, PERIOD, COUNT }; /* registers of 32 bits */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uintmax_t attribute(int map, const char *name)
{
	char path[80], text[40] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/uio/uio0/maps/map%d/%s", map, name);
	file = fopen(path, "r");
	if (!file || !fgets(text, sizeof(text), file))
		die(path);
	fclose(file);
	return strtoumax(text, NULL, 16);
}

static volatile void *map(int fd, int number)
{
	size_t size = attribute(number, "size");
	char *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, number * sysconf(_SC_PAGESIZE));

	if (address == MAP_FAILED)
		die("mmap");
	printf("map%d: %ju bytes at %#jx\n", number, (uintmax_t)size, attribute(number, "addr"));
	return address + attribute(number, "offset");
}

int main(void)
{
	int fd = open("/dev/uio0", O_RDWR | O_SYNC);
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	volatile uint32_t *registers;
	volatile char *log;

	if (fd < 0)
		die("/dev/uio0");
	registers = map(fd, 0);
	log = map(fd, 1);
	registers[PERIOD] = 20;
	registers[CTRL] = 1;
	for (uint32_t interrupt = 1; interrupt <= 3; interrupt++) {
		uint32_t events, enable = 1;

		if (write(fd, &enable, sizeof(enable)) != sizeof(enable))
			die("write");
		if (poll(&poll_fd, 1, 10000) != 1)
			die("poll");
		if (read(fd, &events, sizeof(events)) != sizeof(events))
			die("read");
		printf("%" PRIu32 " events, COUNT %" PRIu32 ", log %.7s\n", events, registers[COUNT], (char *)log + 0x2000);
	}
	return 0;
}
