"""How a mapping of a path behaves: checks that say what they saw, for any file, not only for ours.

    for result in verify("/dev/shm/x"):
        print(result.name, result.verdict, result.evidence)

The checks run in a process of their own (see `mapdev.conformance.worker`), thus the caller may have threads,
may serve the path itself, and may be killed at any time.

What is written to a path is put back, whatever happens to the checks or to the caller; only a SIGKILL of that
process, or a device that stops to answer, can prevent it. Times of the file may change, and a hole at its
start may become zeros that are stored.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from mapdev.conformance.result import Facts, Result, Verdict
from mapdev.errors import HostError, UsageError

__all__ = ["Facts", "Result", "Verdict", "inspect", "verify"]

_START: Final = 60.0
"""Seconds that a new Python may take to start on a busy machine."""

_ENVIRONMENT: Final = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    # numpy comes with the package; its threads must not: the process forks.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def inspect(path: str | os.PathLike[str], *, timeout: float = 5.0) -> Facts:
    """The facts of a path: it is opened and mapped, without a load or a store.

    Raises `UsageError` when it cannot be opened for reading, `HostError` when that takes more than `timeout`
    seconds. Blocks for little longer than that.
    """
    with closing(_messages(path, timeout, checks=False, read_only=True)) as messages:
        return Facts(**next(messages)[1])


def verify(path: str | os.PathLike[str], *, read_only: bool = False, timeout: float = 5.0) -> Generator[Result]:
    """Run all checks of a path; a result for each, as it is there.

    It STORES to the first bytes of the first two pages and puts back what was there, unless `read_only`.
    Each check has `timeout` seconds. An iterator that is closed, or left by an exception, waits until the
    content is back.

    Raises, when iterated, `UsageError` when the path cannot be opened for reading, `HostError` when that
    takes too long, when the checking process is ended by somebody else, or when, on an early end, the content
    could not be put back.
    """
    with closing(_messages(path, timeout, checks=True, read_only=read_only)) as messages:
        for kind, message in messages:
            if kind == "result":
                yield Result(message["name"], Verdict(message["verdict"]), message["evidence"])


def _messages(
    path: str | os.PathLike[str], timeout: float, *, checks: bool, read_only: bool
) -> Generator[tuple[str, Any]]:
    """What the checking process sends. At any end that process has put the content back, or we say so."""
    text = os.fsdecode(path)
    request = {"path": text, "timeout": timeout, "checks": checks, "read_only": read_only}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for the caller, who ends this in order
        env=os.environ | _ENVIRONMENT,
    )
    patience = _START + 3 * timeout  # a check, the killing of it, the putting back
    try:
        for kind, message in _lines(process, patience):
            if kind == "error":
                raise UsageError(f"cannot open {_shown(text)} for reading: {message}")
            if kind == "silent":
                raise HostError(f"cannot open {_shown(text)}: {message}; whatever serves it does not answer")
            if kind == "done":
                return
            yield kind, message
        raise HostError(f"the checking process was stopped before it was done with {_shown(text)}")
    finally:
        _end(process, patience, _shown(text))


def _lines(process: "subprocess.Popen[bytes]", patience: float) -> Generator[tuple[str, Any]]:
    """The messages of the process to the last. Raises `HostError` after `patience` seconds without."""
    assert process.stdout is not None
    fd, data = process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + patience
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise HostError(f"the checking process (pid {process.pid}) has said nothing for {patience:g} s")
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return
        *lines, data = (data + chunk).split(b"\n")
        for line in lines:
            yield from json.loads(line).items()
            deadline = time.monotonic() + patience


def _end(process: "subprocess.Popen[bytes]", patience: float, shown: str) -> None:
    """Let the process end, and wait: it has the content to put back. Says so if it could not."""
    assert process.stdin is not None
    assert process.stdout is not None
    lost = ""
    try:
        # The byte is for a caller that has forked: its child holds the pipe open as well.
        os.write(process.stdin.fileno(), b"!")
    except BrokenPipeError:
        pass
    process.stdin.close()
    try:
        lost = "".join(str(message) for kind, message in _lines(process, patience) if kind == "lost")
        status = process.wait(patience)
    except (HostError, subprocess.TimeoutExpired):
        process.kill()
        status = process.wait()
    process.stdout.close()
    if lost:
        raise HostError(f"what was at the start of {shown} could not be put back: {lost}")
    if status < 0:
        ended = signal.Signals(-status).name
        raise HostError(f"{ended} ended the checking process: the start of {shown} may not be put back")
    if status:
        raise RuntimeError(f"the checking process ended with {status}; its traceback is on standard error")


def _shown(path: str) -> str:
    """The path as text that can be printed."""
    return os.fsencode(path).decode(errors="replace")
