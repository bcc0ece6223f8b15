/* A client of the device `Counters`: what programs do with mapped registers, threads, signals and processes.
   trap DEVICE WHAT [NUMBER]; prints what it has seen. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int fd;
static char *self, *device;
static volatile char *area;

#define NEXT (*(volatile uint32_t *)(area + 0x00))
#define SUM (*(volatile uint64_t *)(area + 0x08))
#define FIFO (*(volatile uint32_t *)(area + 0x10))
#define BAD (*(volatile uint32_t *)(area + 0x18))
#define SHORT (*(volatile uint32_t *)(area + 0x20))
#define MEMORY (area + 0x100)

static volatile char *map(size_t length, int prot, int flags, off_t offset)
{
	volatile char *p = mmap(NULL, length, prot, flags, fd, offset);
	if (p == MAP_FAILED) {
		printf("mmap: %s\n", strerror(errno));
		exit(1);
	}
	return p;
}

/* -- signals ------------------------------------------------------------------------------------------------ */

static sigjmp_buf jump;
static siginfo_t info;
static volatile sig_atomic_t alarms;

static void caught(int number, siginfo_t *i, void *context)
{
	(void)number, (void)context;
	info = *i;
	siglongjmp(jump, 1);
}

static void alarmed(int number)
{
	(void)number;
	alarms++;
}

static void catch(int number)
{
	struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO };
	sigaction(number, &action, NULL);
}

#define TRY(what, ...)                                                                                             \
	do {                                                                                                       \
		if (!sigsetjmp(jump, 1)) {                                                                         \
			__VA_ARGS__;                                                                               \
			printf("%s: went on\n", what);                                                             \
		} else                                                                                             \
			printf("%s: signal %d code %d at %ld\n", what, info.si_signo, info.si_code,                \
			       (long)((char *)info.si_addr - (char *)area));                                       \
	} while (0)

static void handlers(void)
{
	char name[] = "/tmp/trap-XXXXXX";
	int file = mkstemp(name);
	unlink(name);
	if (ftruncate(file, 10))
		exit(1);
	volatile char *other = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), *kept = area;
	catch(SIGSEGV), catch(SIGBUS), catch(SIGFPE);
	TRY("a model that raises at a load", (void)BAD);
	TRY("a model that raises at a store", BAD = 1);
	TRY("a model that answers too little", (void)SHORT);
	TRY("a load", (void)NEXT);
	area = other;
	TRY("past the end of a file", (void)area[4096]);
	TRY("within the file", (void)area[1]);
	area = NULL;
	TRY("a null pointer", (void)*(volatile char *)area);
	area = kept;
	if (!sigsetjmp(jump, 1)) {
		kill(getpid(), SIGBUS);
	} else
		printf("kill: signal %d code %d from %s\n", info.si_signo, info.si_code,
		       info.si_pid == getpid() ? "us" : "another");
	*(volatile uint32_t *)MEMORY = 0;
	TRY("a division by a register that is 0", { uint32_t low = 7, high = 0;
		__asm__ volatile("divl %2" : "+a"(low), "+d"(high) : "m"(*(volatile uint32_t *)MEMORY)); });
	area = map(8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	TRY("beyond the device", (void)area[4096]);
	TRY("half beyond the device", (void)*(volatile uint32_t *)(area + 4094));
	mprotect((void *)area, 4096, PROT_READ);
	TRY("a store to what may only be read", NEXT = 1);
	TRY("a load of it", (void)NEXT);
	mprotect((void *)area, 4096, PROT_NONE);
	TRY("a load of what may not be read", (void)NEXT);
	munmap((void *)area, 4096);
	TRY("a load of what is not mapped", (void)NEXT);
	area = map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	TRY("a load of a private mapping", (void)NEXT);
	TRY("a store to a private mapping", *(volatile uint32_t *)MEMORY = 1);
	area = kept;
	TRY("an instruction that cannot be done", __asm__ volatile("fxsave (%0)" : : "r"(MEMORY) : "memory"));
}

/* ITIMER_REAL every 100 us, and each access counted by us and by the device */
static void storm(unsigned long count)
{
	struct itimerval timer = { { 0, 100 }, { 0, 100 } };
	struct sigaction action = { .sa_handler = alarmed, .sa_flags = SA_RESTART };
	uint32_t last = NEXT, wrong = 0;
	char buffer[64], left[64];
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	for (unsigned long i = 0; i < count; i++) {
		uint32_t now = NEXT;
		wrong += now != ++last;
		SUM = 3;
		memset(buffer, (int)i, sizeof buffer);
		memcpy((void *)MEMORY, buffer, sizeof buffer);
		volatile char *from = MEMORY;
		char *to = left;
		unsigned long rest = sizeof left;
		__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(rest) : : "memory");
		wrong += rest != 0 || to != left + sizeof left;
		wrong += memcmp(left, buffer, sizeof left) != 0;
	}
	memset(&timer, 0, sizeof timer);
	setitimer(ITIMER_REAL, &timer, NULL);
	printf("wrong %u, sum %lu, alarms %s\n", wrong, (unsigned long)SUM, alarms ? "some" : "none");
}

/* -- threads ------------------------------------------------------------------------------------------------ */

static unsigned long each;

static void *hammer(void *unused)
{
	(void)unused;
	for (unsigned long i = 0; i < each; i++) {
		SUM = 1;
		__atomic_fetch_add((volatile uint32_t *)MEMORY, 1, __ATOMIC_SEQ_CST);
		volatile uint32_t *cas = (volatile uint32_t *)(MEMORY + 8);
		uint32_t old = *cas;
		while (!__atomic_compare_exchange_n(cas, &old, old + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		FIFO = (uint32_t)i + 1;
		(void)NEXT;
	}
	return NULL;
}

static void threads(int count, unsigned long number)
{
	pthread_t thread[64];
	each = number;
	for (int i = 0; i < count; i++)
		pthread_create(&thread[i], NULL, hammer, NULL);
	for (int i = 0; i < count; i++)
		pthread_join(thread[i], NULL);
	unsigned long entries = 0, total = 0;
	for (uint32_t entry; (entry = FIFO); entries++)
		total += entry;
	printf("sum %lu, xadd %u, cmpxchg %u, fifo %lu of %lu\n", (unsigned long)SUM, *(volatile uint32_t *)MEMORY,
	       *(volatile uint32_t *)(MEMORY + 8), entries, total);
}

static void *nothing(void *unused)
{
	(void)unused;
	SUM = 1;
	return NULL;
}

/* threads that come and go while others touch the device */
static void lives(int count)
{
	pthread_t busy, thread;
	each = 200;
	pthread_create(&busy, NULL, hammer, NULL);
	for (int i = 0; i < count; i++) {
		pthread_create(&thread, NULL, nothing, NULL);
		pthread_join(thread, NULL);
	}
	pthread_join(busy, NULL);
	printf("sum %lu\n", (unsigned long)SUM);
}

static void *executes(void *unused)
{
	(void)unused;
	execl(self, self, device, "sum", NULL);
	return NULL;
}

static void *leaves(void *unused)
{
	(void)unused;
	for (int i = 0; i < 20; i++)
		SUM = 1;
	exit(5);
}

/* -- processes ---------------------------------------------------------------------------------------------- */

static void processes(int count)
{
	for (int i = 0; i < count; i++)
		if (!fork()) {
			for (int j = 0; j < 25; j++)
				SUM = 1;
			if (i % 2)
				execl(self, self, device, "store", NULL);
			_exit(0);
		}
	for (int i = 0; i < count; i++) {
		pid_t pid = vfork();
		if (!pid) {
			SUM = 1; /* in the memory of the parent */
			execl(self, self, device, "store", NULL);
			_exit(1);
		}
	}
	while (wait(NULL) > 0)
		;
	printf("sum %lu\n", (unsigned long)SUM);
}

/* -- mappings ----------------------------------------------------------------------------------------------- */

static void mappings(void)
{
	volatile char *second = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	*(volatile uint32_t *)(second + 0x100) = 11;
	printf("the other mapping: %u\n", *(volatile uint32_t *)MEMORY);
	volatile char *moved = mremap((void *)second, 4096, 8192, MREMAP_MAYMOVE);
	printf("moved: %u\n", *(volatile uint32_t *)(moved + 0x100));
	volatile char *there = mmap(NULL, 16384, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	moved = mremap((void *)moved, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, there + 4096);
	printf("moved to a place: %d %u\n", moved == there + 4096, *(volatile uint32_t *)(moved + 0x100));
	moved = mmap((void *)there, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	*(volatile uint32_t *)(moved + 0x100) = 12;
	printf("MAP_FIXED: %d %u\n", moved == there, *(volatile uint32_t *)MEMORY);
	syscall(SYS_remap_file_pages, moved, 4096, 0, 0, 0);
	*(volatile uint32_t *)(moved + 0x100) = 13;
	printf("remap_file_pages: %u\n", *(volatile uint32_t *)MEMORY);
	register long r9 __asm__("r9") = 0; /* the kernel keeps the registers of a call */
	register long r8 __asm__("r8") = fd, r10 __asm__("r10") = MAP_SHARED;
	long result = SYS_mmap;
	__asm__ volatile("syscall" : "+a"(result), "+r"(r9) : "D"(0), "S"(4096), "d"(PROT_READ), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	printf("r9 after mmap: %ld\n", r9);
	close(fd);
	printf("after close: %u\n", *(volatile uint32_t *)(area + 0x100));
}

static void calls(void)
{
	int null = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDONLY), pipes[2];
	if (pipe(pipes))
		exit(1);
	printf("write: %zd", write(pipes[1], (void *)MEMORY, 16));
	printf(" %s\n", strerror(errno));
	printf("read: %zd", read(zero, (void *)MEMORY, 16));
	printf(" %s\n", strerror(errno));
	(void)null;
}

static void copies(void)
{
	unsigned char data[2048], back[2048];
	for (int size = 1; size < 2000; size += size / 3 + 1) {
		for (int i = 0; i < size; i++)
			data[i] = (unsigned char)(i * 7 + size);
		memcpy((void *)(MEMORY + 1), data, size);
		memset(back, 0, sizeof back);
		memcpy(back, (void *)(MEMORY + 1), size);
		if (memcmp(back, data, size) || memcmp((void *)(MEMORY + 1), data, size))
			printf("memcpy of %d\n", size);
		memmove((void *)(MEMORY + 3), (void *)(MEMORY + 1), size);
		if (memcmp((void *)(MEMORY + 3), data, size))
			printf("memmove of %d\n", size);
		memset((void *)MEMORY, size, size);
		for (int i = 0; i < size; i++)
			if ((unsigned char)MEMORY[i] != (unsigned char)size)
				printf("memset of %d\n", size);
	}
	strcpy((char *)MEMORY, "a string in a device");
	printf("%s, %zu\n", (char *)strdup((char *)MEMORY), strlen((char *)MEMORY));
}

int main(int argc, char **argv)
{
	pthread_t thread;
	self = argv[0], device = argv[1];
	const char *what = argv[2];
	unsigned long number = argc > 3 ? strtoul(argv[3], NULL, 0) : 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = open(device, O_RDWR | O_SYNC);
	if (fd < 0) {
		perror(device);
		return 1;
	}
	area = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	if (!strcmp(what, "handlers"))
		handlers();
	else if (!strcmp(what, "storm"))
		storm(number);
	else if (!strcmp(what, "threads"))
		threads(8, number);
	else if (!strcmp(what, "lives"))
		lives((int)number);
	else if (!strcmp(what, "processes"))
		processes((int)number);
	else if (!strcmp(what, "mappings"))
		mappings();
	else if (!strcmp(what, "calls"))
		calls();
	else if (!strcmp(what, "copies"))
		copies();
	else if (!strcmp(what, "store"))
		SUM = 1;
	else if (!strcmp(what, "sum"))
		printf("sum %lu\n", (unsigned long)SUM);
	else if (!strcmp(what, "exec")) {
		SUM = 4;
		pthread_create(&thread, NULL, executes, NULL);
		pause();
	} else if (!strcmp(what, "exit")) {
		pthread_create(&thread, NULL, leaves, NULL);
		for (;;)
			(void)NEXT;
	} else if (!strcmp(what, "bad"))
		return (int)BAD;
	else if (!strcmp(what, "forever")) {
		puts("begins");
		for (;;)
			SUM = 1;
	}
	return 0;
}
