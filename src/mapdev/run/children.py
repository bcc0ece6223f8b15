"""The children of the launcher: the program is started and waited for, and the host with it."""

import os
import signal
import socket
import time
from contextlib import suppress
from typing import Final, NoReturn

from mapdev.errors import HostError, MapdevError
from mapdev.run import namespace, program
from mapdev.run.fork import fork
from mapdev.run.messages import receive
from mapdev.run.mounts import Mounts

_HOST_END: Final = 5.0
"""Seconds for the host to end after the last process of the namespace."""


class Children:
    """Both of them, by their pids (0 when they are gone)."""

    def __init__(self, host: int) -> None:
        self._host = host
        self._needs_host = True  # the program cannot be without it
        self._host_failed = False  # it did not end by itself
        self._program = 0
        self._namespace = ""
        self._status: int | None = None  # of the program, when it has ended

    def start(self, args: list[str], environment: dict[bytes, bytes], host: socket.socket) -> None:
        """Fork the program `args`, and wait until it is executed. Raises ``MapdevError`` with the reason if it is not.

        `host`: what the host has the other end of. When the program is forked, all signals are blocked here.
        """
        mounts = _mounts(host)
        self._needs_host = bool(mounts.unions)  # else nothing is served
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are taken by sigwaitinfo
        reading, writing = os.pipe2(os.O_CLOEXEC)
        launcher = os.getpid()

        def child() -> NoReturn:
            program.end_with(launcher)
            program.become(program.Order(mounts, args, environment), host, writing, mask)

        self._program = fork(child)
        os.close(writing)
        with os.fdopen(reading, "rb") as report:
            self._namespace = program.started(report)

    def wait(self) -> int:
        """Until the program has ended, and the host too unless a daemon still needs it. The exit code of the program.

        Passes signals on. If one ended the program, it ends this process.
        """
        while self._status is None:
            info = signal.sigwaitinfo(signal.valid_signals())
            if info.si_signo == signal.SIGCHLD:
                self._reap()
                # a program that is just ending leaves its namespace, and the host without work, before it can be
                # waited for
                died = self._needs_host and not self._host
                if died and self._program in namespace.members(self._namespace):
                    raise HostError("the host of the devices has died, and the program was ended with it")
            elif info.si_code <= 0 and self._program:
                # somebody's kill(2); what the terminal sends, the program has got by itself
                with suppress(ProcessLookupError):
                    os.kill(self._program, info.si_signo)
        until = time.monotonic() + _HOST_END
        while self._host and time.monotonic() < until:
            signal.sigtimedwait([signal.SIGCHLD], 0.02)
            self._reap()
            if self._host and namespace.members(self._namespace):
                self._host = 0  # it goes on for a daemon
        code = os.waitstatus_to_exitcode(self._status)
        # of what is traced the kernel kills the program by itself
        if self._host_failed and code == -signal.SIGKILL:
            raise HostError("the host of the devices has died, and the program was ended with it")
        if code < 0:
            _die_of(-code)
        return code

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._host and not os.WIFSTOPPED(status):
                self._host, self._host_failed = 0, status != 0
            elif pid == self._program and os.WIFSTOPPED(status):
                # so that the shell takes the terminal back. The SIGCONT that ends it is pending then, and passed on as
                # all others: once, since another one would undo a stop that has come meanwhile
                os.kill(os.getpid(), signal.SIGSTOP)
            elif pid == self._program:
                self._program, self._status = 0, status

    def end(self) -> None:
        """Nothing is left behind when it did not come to a regular end."""
        if self._status is None:
            namespace.kill(self._namespace)
            for pid in (self._program, self._host):
                if pid:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _mounts(host: socket.socket) -> Mounts:
    """What the host has made of the request. Raises its error."""
    answer = receive(host)
    if isinstance(answer, MapdevError):
        raise answer
    if not isinstance(answer, Mounts):
        raise HostError("the host of the devices has died before it was ready; what it said is above")
    return answer


def _die_of(number: int) -> None:
    """As the program did; without a second core dump."""
    import resource

    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)
