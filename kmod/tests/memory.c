// SPDX-License-Identifier: GPL-2.0-only
/* What a program that maps a device sees, for every kind of memory. */
#include "author.h"

#include <sys/uio.h>

static const __u32 kinds[] = { MAPDEV_MEM_MEMFD, MAPDEV_MEM_ARRAY, MAPDEV_MEM_VMALLOC,
			       MAPDEV_MEM_CONTIGUOUS, MAPDEV_MEM_DMA };
#define NKINDS	(sizeof(kinds) / sizeof(kinds[0]))

/*
 * Two mappings, read, write, private copies, limits, fork, mremap, madvise; and the physical
 * addresses to the author.
 */
static void program(int nothing, __u32 kind, __u64 *frames)
{
	int fd = open(DEV, O_RDWR), ro = open(DEV, O_RDONLY), pid, status;
	char *a, *b, *c, buffer[8] = "";

	(void)nothing;
	MUST(fd >= 0 && ro >= 0);
	a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(a != MAP_FAILED && b != MAP_FAILED && a != b);
	MUST(!memcmp(a, "asdf", 4) && !memcmp(b, "asdf", 4));
	memcpy(a, "qwer", 4);
	MUST(!memcmp(b, "qwer", 4));
	MUST(read(fd, buffer, 4) == 4 && !memcmp(buffer, "qwer", 4));
	MUST(pwrite(fd, "zxcv", 4, PAGE) == 4 && !memcmp(b + PAGE, "zxcv", 4));
	MUST(lseek(fd, 0, SEEK_END) == 4 * (long)PAGE && read(fd, buffer, 4) == 0);
	MUST(FAILS(pwrite(fd, "x", 1, 4 * PAGE), ENOSPC));
	MUST(pread(fd, buffer, 8, 4 * PAGE - 4) == 4);
	for (int i = 0; i < 4; i++) {
		a[i * PAGE + 8] = 1;
		MUST(b[i * PAGE + 8] == 1);
		frames[i] = physical(a + i * PAGE);
		MUST(frames[i] && physical(b + i * PAGE) == frames[i]);
	}

	MUST(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 4 * PAGE), EINVAL));
	MUST(FAILS(mmap(NULL, 5 * PAGE, PROT_READ, MAP_SHARED, fd, 0), EINVAL));
	MUST(FAILS(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 3 * PAGE), EINVAL));
	MUST(FAILS(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0), EACCES));
	c = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ro, PAGE);
	MUST(c != MAP_FAILED && !memcmp(c, "zxcv", 4));
	MUST(FAILS(mprotect(c, PAGE, PROT_READ | PROT_WRITE), EACCES));
	MUST(FAILS(mremap(c, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT));

	c = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	MUST(c != MAP_FAILED && !memcmp(c, "qwer", 4));
	memcpy(c, "mine", 4);
	c[PAGE] = 'M';		/* a page that was not read before */
	MUST(!memcmp(a, "qwer", 4) && a[PAGE] == 'z' && !memcmp(c, "mine", 4));
	pid = fork();
	if (!pid) {
		a[2 * PAGE] = 'f';
		c[0] = 'x';
		_exit(memcmp(b, "qwer", 4) != 0);
	}
	MUST(waitpid(pid, &status, 0) == pid && !status);
	MUST(a[2 * PAGE] == 'f' && !memcmp(c, "mine", 4));

	MUST(!madvise(a, 4 * PAGE, MADV_DONTNEED) && !memcmp(a, "qwer", 4));
	MUST(!msync(a, 4 * PAGE, MS_SYNC));
	c = mremap(b, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b + (1 << 30));
	MUST(c != MAP_FAILED && !memcmp(c, "qwer", 4));
	MUST(!munmap(c + PAGE, PAGE) && !memcmp(c, "qwer", 4) && c[2 * PAGE] == 'f');
	MUST(touch(c + PAGE, 0) == SIGSEGV);
	MUST(!close(fd) && !memcmp(a, "qwer", 4));
	{	/* get_user_pages: not of bare frames, as those of a driver's DMA memory are */
		struct iovec local = { buffer, 4 }, remote = { a, 4 };
		long n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

		MUST(kind == MAPDEV_MEM_DMA ? n == -1 && errno == EFAULT :
		     n == 4 && !memcmp(buffer, "qwer", 4));
	}
	_exit(0);
}

static void one_kind(__u32 kind)
{
	__u64 *frames = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct author author;
	char *own = MAP_FAILED;
	pid_t pid;

	CHECK(!author_create(&author, 0, 0, kind, 4 * PAGE, "asdf"));
	pid = fork();
	if (!pid)
		program(close(author.fd), kind, frames);
	CHECK(ended(pid) == 0);
	own = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, author.fd,
		   author.create.memory.map_offset);
	CHECK(own != MAP_FAILED && !memcmp(own, "qwer", 4) && !memcmp(own + PAGE, "zxcv", 4));
	for (int i = 0; i < 4; i++) {
		struct mapdev_page page = { .memory = author.create.memory.id, .pgoff = i };

		CHECK(!ioctl(author.fd, MAPDEV_IOC_PAGE, &page) && page.physical == frames[i]);
		if (kind == MAPDEV_MEM_CONTIGUOUS || kind == MAPDEV_MEM_DMA)
			CHECK(frames[i] == frames[0] + i * PAGE);
	}
	CHECK(FAILS(mmap(NULL, 5 * PAGE, PROT_READ, MAP_SHARED, author.fd,
			 author.create.memory.map_offset), EINVAL));
	CHECK(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, author.fd, 0), EINVAL));
out:
	if (own != MAP_FAILED)
		munmap(own, 4 * PAGE);
	munmap(frames, PAGE);
	author_stop(&author);
}

static void test_memfd(void)
{
	one_kind(MAPDEV_MEM_MEMFD);
}

static void test_array(void)
{
	one_kind(MAPDEV_MEM_ARRAY);
}

static void test_vmalloc(void)
{
	one_kind(MAPDEV_MEM_VMALLOC);
}

static void test_contiguous(void)
{
	one_kind(MAPDEV_MEM_CONTIGUOUS);
}

static void test_dma(void)
{
	one_kind(MAPDEV_MEM_DMA);
}

/*
 * The memfd stays the author's: stores are seen both ways, holes are punched under a mapping,
 * seals hold.
 */
static void test_memfd_is_the_memory(void)
{
	struct author author = { .fd = -1 };
	struct mapdev_memory memory;
	char *own = MAP_FAILED, *mapped = MAP_FAILED;
	int fd = -1, loose = -1;

	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_MEMFD, 8 * PAGE, "asdf"));
	own = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   author.create.memory.memfd, 0);
	fd = open(DEV, O_RDWR);
	mapped = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(own != MAP_FAILED && mapped != MAP_FAILED);
	own[3 * PAGE] = 'o';
	CHECK(mapped[3 * PAGE] == 'o');
	mapped[5 * PAGE] = 'm';
	CHECK(own[5 * PAGE] == 'm' && physical(own + 5 * PAGE) == physical(mapped + 5 * PAGE));
	CHECK(!fallocate(author.create.memory.memfd, 3 /* PUNCH_HOLE | KEEP_SIZE */, 3 * PAGE,
			 3 * PAGE));
	CHECK(mapped[3 * PAGE] == 0 && mapped[5 * PAGE] == 0 && own[5 * PAGE] == 0);
	mapped[5 * PAGE] = 'n';
	CHECK(own[5 * PAGE] == 'n' && !memcmp(mapped, "asdf", 4));
	/* it is mapped writable: that cannot be sealed away */
	CHECK(FAILS(fcntl(author.create.memory.memfd, 1033, 8 /* F_SEAL_WRITE */), EBUSY));
	CHECK(!fcntl(author.create.memory.memfd, 1033, 0x10 /* F_SEAL_FUTURE_WRITE */));
	CHECK(FAILS(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM));
	CHECK(FAILS(pwrite(fd, "x", 1, 0), EPERM));
	mapped[0] = 'A';

	loose = syscall(SYS_memfd_create, "loose", 2);
	CHECK(!ftruncate(loose, PAGE));
	CHECK(new_memory(&author, &memory, MAPDEV_MEM_MEMFD, PAGE, loose, NULL) == -EINVAL);
	CHECK(!fcntl(loose, 1033, 2) &&
	      new_memory(&author, &memory, MAPDEV_MEM_MEMFD, 2 * PAGE, loose, NULL) == -EINVAL);
	CHECK(new_memory(&author, &memory, MAPDEV_MEM_MEMFD, PAGE, -1, NULL) == -EBADF);
	CHECK(new_memory(&author, &memory, MAPDEV_MEM_MEMFD, PAGE, fd, NULL) == -EINVAL);
	CHECK(!fcntl(loose, 1033, 8) &&
	      new_memory(&author, &memory, MAPDEV_MEM_MEMFD, PAGE, loose, NULL) == -EPERM);
out:
	munmap(own, 8 * PAGE);
	munmap(mapped, 8 * PAGE);
	close(fd);
	close(loose);
	author_stop(&author);
}

static void test_each_open_its_own(void)
{
	static const __u32 own_kinds[] = { MAPDEV_MEM_ARRAY, MAPDEV_MEM_VMALLOC,
					   MAPDEV_MEM_CONTIGUOUS, MAPDEV_MEM_DMA };
	struct author author = { .fd = -1 };
	char *a, *b;
	int one, two;

	for (unsigned int i = 0; i < 4; i++) {
		CHECK(!author_create(&author, 0, MAPDEV_PER_OPEN, own_kinds[i], 2 * PAGE, "asdf"));
		one = open(DEV, O_RDWR);
		two = open(DEV, O_RDWR);
		a = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, one, 0);
		b = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, two, 0);
		CHECK(a != MAP_FAILED && b != MAP_FAILED);
		a[0] = 'x';
		a[PAGE] = 'y';
		CHECK(!memcmp(b, "asdf", 5) && b[PAGE] == 0);
		close(one);
		CHECK(a[PAGE] == 'y');
		munmap(a, 2 * PAGE);
		munmap(b, 2 * PAGE);
		close(two);
		author_stop(&author);
	}
out:
	author_stop(&author);
}

static void test_maps_shows_the_name(void)
{
	struct author author;
	char line[512], *mapped;
	int fd = -1, found = 0;
	FILE *maps = NULL;

	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_ARRAY, PAGE, NULL));
	fd = open(DEV, O_RDWR);
	mapped = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED);
	maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof(line), maps))
		found += strstr(line, DEV "\n") != NULL;
	CHECK(found == 1);
	munmap(mapped, PAGE);
out:
	if (maps)
		fclose(maps);
	close(fd);
	author_stop(&author);
}

/* Much memory, touched page by page, then all at once unmapped and touched again. */
static void test_revoke_of_much(void)
{
	const size_t length = 512 * PAGE;
	struct author author;
	struct mapdev_range range = { 0 };
	char *mapped;
	int fd;

	for (unsigned int i = 0; i < NKINDS; i++) {
		CHECK(!author_create(&author, 0, 0, kinds[i], length, "asdf"));
		fd = open(DEV, O_RDWR);
		mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		CHECK(mapped != MAP_FAILED);
		for (size_t at = 0; at < length; at += PAGE)
			mapped[at + 1] = at / PAGE;
		range.memory = author.create.memory.id;
		CHECK(!ioctl(author.fd, MAPDEV_IOC_REVOKE, &range));
		CHECK(!physical(mapped) && !physical(mapped + length - PAGE));
		for (size_t at = length; at; at -= PAGE)
			CHECK(mapped[at - PAGE + 1] == (char)((at - PAGE) / PAGE));
		munmap(mapped, length);
		close(fd);
		author_stop(&author);
	}
out:
	author_stop(&author);
}

/* A memfd of huge pages is mapped by huge page table entries, where the kernel has them. */
static void test_memfd_huge(void)
{
	const size_t huge = 2UL << 20;
	int force = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDWR), fd = -1;
	char line[256], *mapped = MAP_FAILED, *own = MAP_FAILED;
	struct author author = { .fd = -1 };
	unsigned long kib, of_own = 0, of_mapped = 0, start = 0, first, end;
	FILE *smaps = NULL;

	if (force < 0 || write(force, "force", 5) != 5) {
		printf("# no huge pages of shmem in this kernel\n");
		goto out;
	}
	CHECK(!author_create(&author, 0, 0, MAPDEV_MEM_MEMFD, 2 * huge, NULL));
	fd = open(DEV, O_RDWR);
	/* addresses that are multiples of the size, as not every kernel picks them */
	own = mmap((void *)(1UL << 40), 2 * huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		   author.create.memory.memfd, 0);
	mapped = mmap((void *)(1UL << 41), 2 * huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		      fd, 0);
	CHECK(own != MAP_FAILED && mapped != MAP_FAILED);
	memset(own, 1, 2 * huge);
	for (size_t at = 0; at < 2 * huge; at += PAGE)
		CHECK(mapped[at] == 1);
	smaps = fopen("/proc/self/smaps", "r");
	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
			start = first;
		if (sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1 ||
		    sscanf(line, "FilePmdMapped: %lu", &kib) == 1) {
			of_own += start == 1UL << 40 ? kib : 0;
			of_mapped += start == 1UL << 41 ? kib : 0;
		}
	}
	printf("# mapped huge: %lu KiB of the memfd, %lu KiB of the device\n", of_own, of_mapped);
	CHECK(of_mapped >= of_own);
out:
	if (force >= 0 && write(force, "never", 5) < 0)
		perror("# shmem_enabled");
	if (smaps)
		fclose(smaps);
	munmap(own, 2 * huge);
	munmap(mapped, 2 * huge);
	close(force);
	close(fd);
	author_stop(&author);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "memory-memfd", test_memfd },
		{ "memory-array", test_array },
		{ "memory-vmalloc", test_vmalloc },
		{ "memory-contiguous", test_contiguous },
		{ "memory-dma", test_dma },
		{ "memfd-is-the-memory", test_memfd_is_the_memory },
		{ "each-open-its-own", test_each_open_its_own },
		{ "maps-shows-the-name", test_maps_shows_the_name },
		{ "revoke-of-much", test_revoke_of_much },
		{ "memfd-huge", test_memfd_huge },
		{ NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
