/*
 * Try lkmc_mmap from user space:  test [--log] PATH
 *
 * PATH is /proc/lkmc_mmap, or anything that claims to behave like it. With --log the kernel log is read, too: the
 * callbacks of the module have to be those that the system calls should cause, and the address that it logged has to be
 * the one that this process sees. That takes root, and nobody else who uses the module at the same time.
 *
 * A line "ok ..." for each step. The first that does not come out ends the program with "fail ..." and exit code 1.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GOT_SIGBUS = 77, GOT_THROUGH = 78 };

static const char *path;
static int kernel_log = -1; /* /dev/kmsg, if the log is to be read */
static size_t page_size;

/* -- steps ------------------------------------------------------------------------------------------------------ */

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("fail ");
	vprintf(format, arguments);
	printf("\n");
	va_end(arguments);
	exit(1);
}

/* A step: `name` says what should be so. */
static void step(const char *name, bool good)
{
	if (!good)
		fail("%s: it is not so", name);
	printf("ok %s\n", name);
}

/* A system call that has to succeed: errno is that of the call. */
static void done(const char *call, bool good)
{
	if (!good)
		fail("%s: %s", call, strerror(errno));
}

static bool holds(const char *memory, const char *text)
{
	return memcmp(memory, text, 4) == 0; /* the page need not hold a NUL */
}

static int open_device(void)
{
	int fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);

	done(path, fd >= 0);
	return fd;
}

static char *map(int fd, size_t pages)
{
	char *area = mmap(NULL, pages * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	done("mmap", area != MAP_FAILED);
	return area;
}

/* A driver may also refuse an area that is longer than what it has; then the test goes without one. */
static bool refuses_longer(int fd)
{
	char *area = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (area != MAP_FAILED) {
		done("munmap", munmap(area, 2 * page_size) == 0);
		close(fd);
		return false;
	}
	step("an area longer than the page is EINVAL", errno == EINVAL);
	close(fd);
	return true;
}

static void unmap(char *area, size_t pages)
{
	done("munmap", munmap(area, pages * page_size) == 0);
}

/* -- what the kernel knows --------------------------------------------------------------------------------------- */

/*
 * The physical address behind a virtual one; 0 if the kernel hides it (it does without CAP_SYS_ADMIN).
 * Source: Linux, Documentation/admin-guide/mm/pagemap.rst: bits 0-54 are the page frame number if bit 63 is set.
 */
static uint64_t physical_address(const char *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry, frame;

	done("open /proc/self/pagemap", fd >= 0);
	errno = EIO; /* for an answer that is too short */
	done("read /proc/self/pagemap",
	     pread(fd, &entry, sizeof(entry), (uintptr_t)address / page_size * sizeof(entry)) == sizeof(entry));
	close(fd);
	if (!(entry >> 63))
		fail("%p should be present, and pagemap says that it is not", (void *)address);
	frame = entry & ((UINT64_C(1) << 55) - 1);
	return frame ? frame * page_size + (uintptr_t)address % page_size : 0;
}

/* The module's lines in the log since the last call, in one line; and the address in them, if there is one. */
static const char *trace(uint64_t *address)
{
	static char words[1024];
	char record[8192];

	words[0] = '\0';
	for (;;) {
		ssize_t size = read(kernel_log, record, sizeof(record) - 1);
		char *text;

		if (size < 0 && errno == EPIPE)
			continue; /* the log went round: the next read is of its oldest line */
		if (size <= 0)
			return words;
		record[size] = '\0';
		/* a record is "PRIORITY,NUMBER,TIME,FLAGS;lkmc_mmap: WORD[: MORE]\n" and lines about the device */
		text = strchr(record, ';');
		if (!text || strncmp(text, ";lkmc_mmap: ", 12) != 0)
			continue;
		text = strtok(text + 12, "\n");
		if (address && sscanf(text, "open: page at physical address %" SCNx64, address) == 1)
			address = NULL;
		snprintf(words + strlen(words), sizeof(words) - strlen(words), "%s%s", words[0] ? " " : "",
			 strtok(text, ":"));
	}
}

/* A step: since the last one the module has had these callbacks. */
static void step_trace(const char *name, const char *expected, uint64_t *address)
{
	const char *seen;

	if (kernel_log < 0)
		return;
	seen = trace(address);
	if (strcmp(seen, expected) != 0)
		fail("%s: the callbacks should be \"%s\" and are \"%s\"", name, expected, seen);
	printf("ok %s: %s\n", name, expected);
}

/* -- the steps ---------------------------------------------------------------------------------------------------- */

static void two_mappings_of_one_page(void)
{
	uint64_t physical[2], logged = 0;
	char text[4];
	int fd = open_device();
	char *one = map(fd, 1), *two = map(fd, 1);

	step("two mappings have two virtual addresses", one != two);
	step("both begin with asdf", holds(one, "asdf") && holds(two, "asdf"));
	memcpy(one, "qwer", sizeof("qwer"));
	step("what is stored through one is seen through the other", holds(two, "qwer"));

	physical[0] = physical_address(one);
	physical[1] = physical_address(two);
	if (physical[0]) {
		printf("# virtual %p and %p, physical 0x%" PRIx64 "\n", (void *)one, (void *)two, physical[0]);
		step("both are one physical page", physical[0] == physical[1]);
	} else {
		printf("skip both are one physical page: page frame numbers are hidden without CAP_SYS_ADMIN\n");
	}

	done("read", read(fd, text, sizeof(text)) == sizeof(text));
	step("read gives what was stored", holds(text, "qwer"));
	step("after 4 bytes it is at its end", read(fd, text, sizeof(text)) == 0);
	done("write", write(fd, "zxcv", 4) == 4);
	step("what is written is seen through both", holds(one, "zxcv") && holds(two, "zxcv"));

	unmap(one, 1);
	unmap(two, 1);
	close(fd);
	step_trace("each mapping is opened, faulted in once, and closed",
		   "open mmap vm_open mmap vm_open vm_fault vm_fault read read write vm_close vm_close release", &logged);
	if (kernel_log >= 0 && physical[0])
		step("the address that the module logged is the physical one", logged == physical[0]);
}

static void each_open_has_its_own(void)
{
	int fd = open_device(), other = open_device();
	char *one = map(fd, 1), *two = map(other, 1);

	memcpy(one, "mine", 4);
	step("another open has another page", holds(two, "asdf"));
	close(fd);
	close(other);
	step("a mapping outlives close", holds(one, "mine"));
	unmap(one, 1);
	unmap(two, 1);
	step_trace("the page is released with its last mapping",
		   "open open mmap vm_open mmap vm_open vm_fault vm_fault vm_close release vm_close release", NULL);
}

static void a_child_shares_the_page(void)
{
	int fd = open_device(), status;
	char *area = map(fd, 1);
	pid_t child;

	memcpy(area, "mum.", 4);
	child = fork();
	done("fork", child >= 0);
	if (child == 0) {
		if (holds(area, "mum."))
			memcpy(area, "son.", 4);
		_exit(0);
	}
	done("waitpid", waitpid(child, &status, 0) == child);
	step("a child and its parent share the page", status == 0 && holds(area, "son."));
	close(fd);
	unmap(area, 1);
	/* the second vm_open is the child's copy of the area; its page table is its own, so it faults too */
	step_trace("fork calls vm_open", "open mmap vm_open vm_fault vm_open vm_fault vm_close vm_close release", NULL);
}

static void a_split_is_two_areas(void)
{
	int fd = open_device();
	char *area = map(fd, 2);

	step("an area may be longer than the page", holds(area, "asdf"));
	unmap(area + page_size, 1);
	step("half of it can be unmapped", holds(area, "asdf"));
	close(fd);
	unmap(area, 1);
	/* one area becomes two, which is the second vm_open, and then one of them goes */
	step_trace("a split calls vm_open", "open mmap vm_open vm_fault vm_open vm_close vm_close release", NULL);
}

static void on_sigbus(int number)
{
	(void)number;
	_exit(GOT_SIGBUS);
}

/* Whether a process that touches this address gets SIGBUS. */
static bool gives_sigbus(const volatile char *address)
{
	int status;
	pid_t child = fork();

	done("fork", child >= 0);
	if (child == 0) {
		signal(SIGBUS, on_sigbus);
		(void)*address;
		_exit(GOT_THROUGH);
	}
	done("waitpid", waitpid(child, &status, 0) == child);
	return WIFEXITED(status) && WEXITSTATUS(status) == GOT_SIGBUS;
}

static void nothing_is_beyond_the_page(void)
{
	int fd = open_device();
	char *area = map(fd, 2);
	char *beyond = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, page_size);

	/* a module can refuse it at once; of a file the kernel maps any offset, and refuses the access */
	if (beyond == MAP_FAILED) {
		step("an offset beyond the page is EINVAL", errno == EINVAL);
	} else {
		step("an offset beyond the page is SIGBUS", gives_sigbus(beyond));
		unmap(beyond, 1);
	}
	step("beyond the page is SIGBUS", gives_sigbus(area + page_size));
	unmap(area, 2);
	close(fd);
	if (kernel_log >= 0)
		trace(NULL);
}

/* VM_DONTEXPAND: of a driver only, as a file's area may grow. */
static void an_area_does_not_grow(void)
{
	int fd = open_device();
	char *area = map(fd, 1);
	void *larger = mremap(area, page_size, 2 * page_size, MREMAP_MAYMOVE);

	step("mremap does not let an area grow", larger == MAP_FAILED && errno == EFAULT);
	close(fd);
	unmap(area, 1);
	step_trace("what is refused calls nothing", "open mmap vm_open vm_close release", NULL);
}

int main(int argc, char **argv)
{
	bool log = argc == 3 && strcmp(argv[1], "--log") == 0;

	if (argc != 2 + log || argv[1 + log][0] == '-') {
		fprintf(stderr, "usage: %s [--log] PATH\n", argc ? argv[0] : "test");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0); /* children inherit nothing that is still to be printed */
	path = argv[1 + log];
	page_size = (size_t)sysconf(_SC_PAGESIZE);
	if (log) {
		kernel_log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		done("open /dev/kmsg, which takes root", kernel_log >= 0);
		done("lseek /dev/kmsg", lseek(kernel_log, 0, SEEK_END) == 0);
	}
	two_mappings_of_one_page();
	each_open_has_its_own();
	a_child_shares_the_page();
	if (log || !refuses_longer(open_device())) {
		a_split_is_two_areas();
		nothing_is_beyond_the_page();
	}
	if (log)
		an_area_does_not_grow();
	return 0;
}
