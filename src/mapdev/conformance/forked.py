"""Run a function in a forked process and learn what it returned, what it raised, or which signal ended it.

A store that must fault, or a page that may never come, can only be tried by a process that may die of it.
The processes that fork here have one thread only: the process that runs the checks, and its children.
"""

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

KILL_GRACE: Final = 1.0
"""Seconds that a killed process is waited for: in uninterruptible sleep (state D) it does not go."""


class Ended(Exception):  # noqa: N818 - an outcome, expected, and no error
    """The process did not return from its function."""


class Died(Ended):
    """A signal ended the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return self.signal.name


class Judged(Ended):
    """Base of what a check raises to end with a verdict; such exceptions travel between the processes."""


class NoAnswer(Ended):
    """The process was still busy when its time was over; it has been killed."""


class Stopped(Exception):  # noqa: N818
    """The process was killed because its caller is to end."""


def start(run: Callable[[], T]) -> tuple[int, int]:
    """Fork; the child calls `run` and exits. Gives its pid and the descriptor on which `finish` waits."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            # Whoever handles these (a fault handler that prints a stack) would hide the death, or talk of it.
            for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.write(writer, pickle.dumps(_outcome(run)))
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def _outcome(run: Callable[[], T]) -> tuple[bool, T | Exception]:
    try:
        return True, run()
    except (Ended, OSError) as error:
        return False, error
    except BaseException:
        return False, RuntimeError(traceback.format_exc())


def finish(pid: int, reader: int) -> Any:
    """Wait for the child of `start`: what it returned. Raises what it raised, or `Died`. May block."""
    answer = b""
    while chunk := os.read(reader, 1 << 16):
        answer += chunk
    os.close(reader)
    return _unpack(os.waitpid(pid, 0)[1], answer)


def _unpack(status: int, answer: bytes) -> Any:
    if os.WIFSIGNALED(status):
        raise Died(os.WTERMSIG(status))
    returned, value = pickle.loads(answer)
    if not returned:
        raise value
    return value


def forked(run: Callable[[], T]) -> T:
    """What `run` returns in a forked process. Raises what it raises there, or `Died`. May block."""
    value: T = finish(*start(run))
    return value


def ask(run: Callable[[], T], timeout: float, stop: Sequence[int] = ()) -> T:
    """As `forked`, with `timeout` seconds, and in a process group that is killed with all it has forked.

    Raises `NoAnswer` when the time is over, `Stopped` when a descriptor of `stop` becomes readable. Returns
    within `KILL_GRACE` of that even if the process cannot be killed.
    """
    deadline = time.monotonic() + timeout
    pid, reader = start(lambda: _alone(run))
    try:
        os.setpgid(pid, pid)  # here too: the child may not have come to it when it is killed
    except (ProcessLookupError, PermissionError):
        pass
    pidfd = os.pidfd_open(pid)
    try:
        answer = _until_gone(reader, pidfd, deadline, stop)
        return _unpack(os.waitpid(pid, os.WNOHANG)[1], answer)  # type: ignore[no-any-return]
    except (NoAnswer, Stopped):
        os.killpg(pid, signal.SIGKILL)
        try:
            _until_gone(reader, pidfd, time.monotonic() + KILL_GRACE, ())
        except NoAnswer:
            raise NoAnswer("it cannot be killed either (state D)") from None
        os.waitpid(pid, os.WNOHANG)
        raise
    finally:
        os.close(reader)
        os.close(pidfd)


def _alone(run: Callable[[], T]) -> T:
    os.setpgid(0, 0)
    # Should it be left behind in state D, nobody who reads our output to its end is to wait for it.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    return run()


def _until_gone(reader: int, pidfd: int, deadline: float, stop: Sequence[int]) -> bytes:
    """What came through `reader` until all who could write to it were gone, and the process has ended."""
    answer = b""
    for fd in (reader, pidfd):
        poll = select.poll()
        for watched in (fd, *stop):
            poll.register(watched, select.POLLIN)
        while True:
            ready = [found for found, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
            if not ready:
                raise NoAnswer
            if set(stop).intersection(ready):
                raise Stopped
            if fd == pidfd:
                break
            chunk = os.read(reader, 1 << 16)
            answer += chunk
            if not chunk:
                break
    return answer
