"""`mapdev serve` as a process of its own that need not import anything: where processors are slow, most of its start.

A fork of the fork server of ``multiprocessing``, which has one thread and has imported what is needed.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["numpy", "mapdev.cli.serve", "mapdev.hosts.kmod.host", "mapdev.targets", "mapdev.trace"]
)


def _serve(args: Sequence[str], out: str, log: str) -> None:
    os.setsid()
    for number, path in ((1, out), (2, log)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    from mapdev.cli import main

    main(args, prog_name="mapdev")


class ForkedServer:
    """What a test uses of ``subprocess.Popen``."""

    def __init__(self, args: Sequence[str], out: Path, log: Path) -> None:
        self._out = out
        self._process = _forks.Process(target=_serve, args=(args, str(out), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def first_line(self, timeout: float) -> str:
        """What it printed first; empty if it ended without."""
        until = time.monotonic() + timeout
        while True:
            ended = self.poll() is not None
            text = self._out.read_text() if self._out.exists() else ""
            if text.endswith("\n") or ended:
                return text
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.05)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("mapdev serve", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
