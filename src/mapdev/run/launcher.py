"""`mapdev run`: a program in which devices exist. Three processes:

* the launcher, which the user has started: it waits for the program, passes on signals, and ends as the program ends;
* the program, its child, in namespaces of its own (see ``namespace``);
* the host, its other child: it serves the devices until the kernel says that the last process of the namespace is
  gone (see ``host``); so what the program leaves behind as a daemon still has its devices.

If the host dies, everything in the namespace is killed: its /dev would be dead.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from mapdev.errors import HostError, MapdevError
from mapdev.run import host, namespace, program
from mapdev.run.host import Request
from mapdev.run.plan import Plan

_HOST_END = 5.0
"""Seconds for the host to end after the last process of the namespace."""

_ALL = signal.valid_signals()


@dataclass(slots=True)
class _Processes:
    """The children of the launcher: pids (0 when they are gone), how the program ended, its mount namespace.

    ``needs_host``: the program cannot be without it. ``host_failed``: it did not end by itself.
    """

    host: int
    needs_host: bool = True
    host_failed: bool = False
    program: int = 0
    namespace: str = ""
    status: int | None = None


def run(request: Request) -> int:
    """Run it; the exit code of the program. If a signal ended the program, the same signal ends this process.

    The caller must have one thread only. Raises ``MapdevError`` if it does not come to the program, among them
    ``program.NotStarted``; blocks until the program has ended.
    """
    environment = _environment()
    ours, theirs = socket.socketpair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # they are taken by sigwaitinfo
    processes = _Processes(_fork(lambda: _be_host(request, ours, theirs, mask)))
    try:
        theirs.close()
        with ours:
            plan = _plan(ours)
            processes.needs_host = bool(plan.unions)  # else nothing is served
            _start(request, plan, ours, processes, mask, environment)
        return _wait(processes)
    finally:
        _end(processes)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork(child: Any) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        child()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # ours: whatever users can do wrong has been reported
        os._exit(1)
    os._exit(0)


# -- the host -------------------------------------------------------------------------------------------------


def _be_host(request: Request, ours: socket.socket, theirs: socket.socket, mask: Any) -> None:
    ours.close()
    os.setsid()  # the signals of the terminal are the program's
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # whoever reads the program's output is not to wait for us
    os.close(nowhere)
    try:
        served = host.Host(request)
    except MapdevError as error:
        program.send(theirs, error)
        return
    program.send(theirs, served.plan.mounts_only())
    served.serve(theirs)


def _plan(ours: socket.socket) -> Plan:
    """What the host has made of the request. Raises its error."""
    answer = program.receive(ours)
    if isinstance(answer, MapdevError):
        raise answer
    if not isinstance(answer, Plan):
        raise HostError("the host of the devices has died before it was ready; what it said is above")
    return answer


# -- the program ----------------------------------------------------------------------------------------------


def _start(request: Request, plan: Plan, ours: socket.socket, processes: _Processes, mask: Any,
           environment: dict[bytes, bytes]) -> None:  # fmt: skip
    """Fork the program, and wait until it is executed. Raises ``MapdevError`` with the reason if it is not."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    launcher = os.getpid()

    def child() -> NoReturn:
        program.end_with(launcher)
        program.become(program.Order(plan, request.program, environment), ours, writing, mask)

    processes.program = _fork(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        processes.namespace = program.started(report)


def _environment() -> dict[bytes, bytes]:
    """As it was given to this process: Python has added to its own (LC_CTYPE, if the locale is C)."""
    with open("/proc/self/environ", "rb") as environ:
        pairs = [entry.partition(b"=") for entry in environ.read().split(b"\0")]
    return {name: value for name, equals, value in pairs if equals}


# -- waiting --------------------------------------------------------------------------------------------------


def _wait(processes: _Processes) -> int:
    """Until the program has ended, and the host too unless a daemon still needs it."""
    while processes.status is None:
        info = signal.sigwaitinfo(_ALL)
        if info.si_signo == signal.SIGCHLD:
            _reap(processes)
            # a program that is just ending leaves its namespace, and the host without work, before it can be waited for
            died = processes.needs_host and not processes.host
            if died and processes.program in namespace.members(processes.namespace):
                raise HostError("the host of the devices has died, and the program was ended with it")
        elif info.si_code <= 0 and processes.program:
            # somebody's kill(2); what the terminal sends, the program has got by itself
            with suppress(ProcessLookupError):
                os.kill(processes.program, info.si_signo)
    until = time.monotonic() + _HOST_END
    while processes.host and time.monotonic() < until:
        signal.sigtimedwait([signal.SIGCHLD], 0.02)
        _reap(processes)
        if processes.host and namespace.members(processes.namespace):
            processes.host = 0  # it goes on for a daemon
    code = os.waitstatus_to_exitcode(processes.status)
    if processes.host_failed and code == -signal.SIGKILL:  # of what is traced the kernel kills the program by itself
        raise HostError("the host of the devices has died, and the program was ended with it")
    if code < 0:
        _die_of(-code)
    return code


def _reap(processes: _Processes) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid == processes.host and not os.WIFSTOPPED(status):
            processes.host, processes.host_failed = 0, status != 0
        elif pid == processes.program and os.WIFSTOPPED(status):
            # so that the shell takes the terminal back. The SIGCONT that ends it is pending then, and passed on as all
            # others: once, since another one would undo a stop that has come meanwhile
            os.kill(os.getpid(), signal.SIGSTOP)
        elif pid == processes.program:
            processes.program, processes.status = 0, status


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


def _end(processes: _Processes) -> None:
    """Nothing is left behind when it did not come to a regular end."""
    if processes.status is None:
        namespace.kill(processes.namespace)
        for pid in (processes.program, processes.host):
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
