"""ptrace(2), waitpid(2) and their neighbours, and nothing on top of them.

All calls on one thread have to come from the thread that attached to it, and need it stopped. Raises ``OSError`` with
the call's errno; ESRCH: the thread has been killed meanwhile. The lock of the interpreter is kept: no call here blocks.

Sources: ptrace(2), sigaction(2), pidfd_getfd(2); ``<linux/ptrace.h>``, ``<asm-generic/siginfo.h>``.
"""

import ctypes
import os
from typing import Final

WALL, WNOTHREAD = 0x40000000, 0x20000000

EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 1, 2, 3, 4, 7, 128
SYSCALL_STOP: Final = 0x85
"""SIGTRAP | 0x80: the stop at the end of a system call (PTRACE_O_TRACESYSGOOD)."""

_OPTIONS: Final = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 20
"""PTRACE_O_TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, TRACEEXEC, TRACESECCOMP, EXITKILL."""

PEEKTEXT, CONT, GETREGS, SETREGS, _SYSCALL = 1, 7, 12, 13, 24
GETSIGINFO, _SETSIGINFO, _GETREGSET, _SETREGSET, _SEIZE, _LISTEN = 0x4202, 0x4203, 0x4204, 0x4205, 0x4206, 0x4208
_NT_X86_XSTATE: Final = 0x202

_SYS_PIDFD_OPEN, _SYS_PIDFD_GETFD = 434, 438  # on every architecture but alpha

SIGINFO_SIZE: Final = 128
BUS_ADRERR, SEGV_MAPERR, FPE_INTDIV = 2, 1, 1

# PyDLL: to let other threads of Python run meanwhile, and wait for them, would take longer than these calls
_libc = ctypes.PyDLL(None, use_errno=True)
_ptrace = _libc["ptrace"]
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long
_syscall = _libc["syscall"]
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)
_syscall.restype = ctypes.c_long


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"ptrace: {os.strerror(number)}")


def seize(pid: int) -> None:
    """Trace `pid` and all that it will start, without stopping it. EPERM: forbidden, or somebody else traces it."""
    if _ptrace(_SEIZE, pid, 0, _OPTIONS) < 0:
        raise _failed()


def cont(tid: int, signal: int = 0) -> None:
    """Let it go on, and get `signal`."""
    if _ptrace(CONT, tid, 0, signal) < 0:
        raise _failed()


def cont_to_return(tid: int) -> None:
    """Let it go on until the system call that it is in returns."""
    if _ptrace(_SYSCALL, tid, 0, 0) < 0:
        raise _failed()


def listen(tid: int) -> None:
    """Leave it stopped, as its group is (SIGSTOP, Ctrl-Z), until that goes on."""
    if _ptrace(_LISTEN, tid, 0, 0) < 0:
        raise _failed()


def get_registers(tid: int, address: int) -> None:
    """The general registers, to our `address` (struct user_regs_struct)."""
    if _ptrace(GETREGS, tid, 0, address) < 0:
        raise _failed()


def set_registers(tid: int, address: int) -> None:
    """From our `address`."""
    if _ptrace(SETREGS, tid, 0, address) < 0:
        raise _failed()


def get_vector_registers(tid: int, address: int, size: int) -> int:
    """x87, SSE, AVX to our `address`, as XSAVE stores them; how many bytes."""
    vector = _Iovec(address, size)
    if _ptrace(_GETREGSET, tid, _NT_X86_XSTATE, ctypes.addressof(vector)) < 0:
        raise _failed()
    return int(vector.len)


def set_vector_registers(tid: int, address: int, size: int) -> None:
    """From our `address`; `size` as ``get_vector_registers`` told."""
    vector = _Iovec(address, size)
    if _ptrace(_SETREGSET, tid, _NT_X86_XSTATE, ctypes.addressof(vector)) < 0:
        raise _failed()


def get_siginfo(tid: int, address: int) -> None:
    """The siginfo_t of the signal that it has stopped for, to our `address`."""
    if _ptrace(GETSIGINFO, tid, 0, address) < 0:
        raise _failed()


def set_siginfo(tid: int, address: int) -> None:
    """From our `address`."""
    if _ptrace(_SETSIGINFO, tid, 0, address) < 0:
        raise _failed()


def peek(tid: int, address: int, to: int) -> bool:
    """Eight bytes of its memory, executable or not, to our address `to`; False if they are not all there."""
    # the C library would hand over the value as the result, in which -1 is a value, too: the kernel stores it
    if _syscall_peek(_SYS_PTRACE, PEEKTEXT, tid, address, to) < 0:
        if ctypes.get_errno() == 3:  # ESRCH
            raise _failed()
        return False
    return True


_SYS_PTRACE: Final = 101 if os.uname().machine == "x86_64" else 117
_syscall_peek = ctypes.PyDLL(None, use_errno=True)["syscall"]
_syscall_peek.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_syscall_peek.restype = ctypes.c_long


def duplicate(pid: int, fd: int) -> int:
    """A descriptor of ours for what `fd` of process `pid` is open on (Linux 5.6). It is close-on-exec."""
    pidfd = _syscall(_SYS_PIDFD_OPEN, pid, 0, 0)
    if pidfd < 0:
        raise _failed()
    try:
        ours = int(_syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
        if ours < 0:
            raise _failed()
        return ours
    finally:
        os.close(pidfd)
