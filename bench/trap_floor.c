/* The least that a tracer has to do at an access of a closed mapping: the signal is looked at, the registers are
   fetched and put back behind the instruction, and nothing else. trap_floor FILE */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void touch(volatile uint32_t *area)
{
	double least = 1e18;
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	for (int round = 0; round < 10; round++) {
		double began = now();
		for (int i = 0; i < 2000; i++)
			__asm__ volatile("movl %%eax, (%%rdi)" : : "D"(area), "a"(i) : "memory"); /* of two bytes */
		double took = (now() - began) / 2000;
		least = took < least ? took : least;
	}
	printf("store %.2f\n", least);
	fflush(stdout);
	_exit(0);
}

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "floor", O_RDWR | O_CREAT, 0600), status;
	volatile uint32_t *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)1 << 62);
	pid_t pid = fork();
	if (!pid)
		touch(area);
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		struct user_regs_struct registers;
		siginfo_t info;
		if (WSTOPSIG(status) != SIGBUS)
			return 1;
		ptrace(PTRACE_GETSIGINFO, pid, 0, &info);
		ptrace(PTRACE_GETREGS, pid, 0, &registers);
		registers.rip += 2;
		ptrace(PTRACE_SETREGS, pid, 0, &registers);
		ptrace(PTRACE_CONT, pid, 0, 0);
	}
	return 0;
}
