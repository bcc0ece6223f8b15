/*
 * The user-space test of lkmc_mmap: two mappings of one open are one page.
 *
 * Usage: two_mappings PATH
 *
 * Prints each step when it is done, and the virtual and physical address of each mapping. The exit code is 0 if every
 * step came out as it should, 1 if one did not or a system call failed. It knows nothing of who serves PATH.
 */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TEXT_SIZE = 4, MAPPINGS = 2 };

/* An entry of /proc/PID/pagemap. Source: Linux, Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1) /* bits 0-54, if the page is present */
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

static size_t page_size;

__attribute__((format(printf, 1, 2))) static void done(const char *format, ...)
{
	static int step;
	va_list arguments;

	printf("%3d. ", ++step);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

/* Say what did not come out, and answer false. */
__attribute__((format(printf, 1, 2))) static bool failed(const char *format, ...)
{
	va_list arguments;

	fflush(stdout); /* the steps that were done come first */
	fputs("FAILED: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return false;
}

static bool call_failed(const char *call)
{
	return failed("%s: %s", call, strerror(errno));
}

/* A page need not hold a NUL: exactly TEXT_SIZE bytes are looked at and shown. */
static bool is_text(const char *what, const void *seen, const char *expected)
{
	if (memcmp(seen, expected, TEXT_SIZE) == 0)
		return true;
	return failed("%s should be %s and is %.*s", what, expected, TEXT_SIZE, (const char *)seen);
}

/* From the position of fd until all the bytes are there; the end of the file before that is EIO. */
static bool read_all(int fd, void *bytes, size_t size)
{
	size_t have = 0;

	while (have < size) {
		ssize_t count = read(fd, (char *)bytes + have, size - have);

		if (count > 0) {
			have += (size_t)count;
		} else if (count == 0) {
			errno = EIO;
			return false;
		} else if (errno != EINTR) {
			return false;
		}
	}
	return true;
}

/* The entry of the page at an address of this process. */
static bool pagemap_entry(const void *address, uint64_t *entry)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	off_t at = (off_t)((uintptr_t)address / page_size * sizeof *entry);
	bool good;

	if (fd < 0)
		return call_failed("open /proc/self/pagemap");
	good = lseek(fd, at, SEEK_SET) == at && read_all(fd, entry, sizeof *entry);
	if (!good)
		call_failed("read /proc/self/pagemap");
	if (close(fd) != 0)
		return call_failed("close /proc/self/pagemap");
	return good;
}

/* The physical address behind a virtual one; 0 if the kernel hides it. */
static bool physical_address(const void *address, uint64_t *physical)
{
	uint64_t entry, offset = (uintptr_t)address % page_size;

	if (!pagemap_entry(address, &entry))
		return false;
	if (!(entry & PAGEMAP_PRESENT))
		return failed("%p is not present%s", address, entry & PAGEMAP_SWAPPED ? " (swapped)" : "");
	/* without CAP_SYS_ADMIN the frame number reads as zero, which is no address */
	*physical = entry & PAGEMAP_FRAME ? (entry & PAGEMAP_FRAME) * page_size + offset : 0;
	return true;
}

static bool one_physical_page(char *const mappings[MAPPINGS])
{
	uint64_t physical[MAPPINGS];

	for (int i = 0; i < MAPPINGS; i++) {
		if (!physical_address(mappings[i], &physical[i]))
			return false;
		if (physical[i])
			done("virtual %p is physical 0x%" PRIx64, (void *)mappings[i], physical[i]);
		else
			done("virtual %p: the physical address is hidden without CAP_SYS_ADMIN", (void *)mappings[i]);
	}
	if (physical[0] != physical[1])
		return failed("the two mappings have two physical addresses");
	return true;
}

static bool steps(int fd, char *const mappings[MAPPINGS])
{
	char text[TEXT_SIZE];
	ssize_t count;

	for (int i = 0; i < MAPPINGS; i++)
		if (!is_text("a new mapping", mappings[i], "asdf"))
			return false;
	done("both mappings read asdf");

	memcpy(mappings[0], "qwer", sizeof "qwer");
	if (!is_text("the second mapping after a store to the first", mappings[1], "qwer"))
		return false;
	done("stored qwer through the first mapping: the second reads qwer");

	if (!one_physical_page(mappings))
		return false;

	if (!read_all(fd, text, sizeof text))
		return call_failed("read");
	if (!is_text("what read gives", text, "qwer"))
		return false;
	done("read gives qwer");

	do
		count = write(fd, "zxcv", TEXT_SIZE);
	while (count < 0 && errno == EINTR);
	if (count < 0)
		return call_failed("write");
	if (count != TEXT_SIZE) /* writing the rest would put it at the start of the page */
		return failed("write took %zd bytes of %d", count, TEXT_SIZE);
	for (int i = 0; i < MAPPINGS; i++)
		if (!is_text("a mapping after a write", mappings[i], "zxcv"))
			return false;
	done("wrote zxcv: both mappings read zxcv");
	return true;
}

static bool with_mappings(int fd)
{
	char *mappings[MAPPINGS];
	int mapped = 0;
	bool good = true;

	while (good && mapped < MAPPINGS) {
		void *address = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (address == MAP_FAILED)
			good = call_failed("mmap");
		else
			mappings[mapped++] = address;
	}
	if (good) {
		done("mapped twice: at %p and at %p", (void *)mappings[0], (void *)mappings[1]);
		good = mappings[0] != mappings[1] || failed("the two mappings have one virtual address");
	}
	good = good && steps(fd, mappings);
	while (mapped > 0)
		if (munmap(mappings[--mapped], page_size) != 0)
			good = call_failed("munmap");
	if (good)
		done("unmapped both");
	return good;
}

int main(int argc, char **argv)
{
	long size = sysconf(_SC_PAGESIZE);
	bool good;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: %s PATH\n", argc > 0 ? argv[0] : "two_mappings");
		return 1;
	}
	if (size <= 0) {
		failed("the size of a page is not known");
		return 1;
	}
	page_size = (size_t)size;
	fd = open(argv[1], O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0) {
		call_failed(argv[1]);
		return 1;
	}
	done("opened %s", argv[1]);
	good = with_mappings(fd);
	if (close(fd) != 0)
		good = call_failed("close");
	if (good)
		done("closed it");
	if (fflush(stdout) != 0 || ferror(stdout))
		good = call_failed("standard output");
	return good ? 0 : 1;
}
