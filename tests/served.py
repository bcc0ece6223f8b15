"""`mapdev serve` as a process of its own, as its users run it."""

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.forkserver import ForkedServer
from tests.people import Person, directories

MARK = "MAPDEV_TESTS"
"""In the environment of all that a run of the tests starts: its pid."""


class Served:
    """A running server. ``ready`` is its line, ``directory`` where the devices are; ``log()`` its standard error.

    With `directory` None it serves by the kernel module.
    """

    def __init__(self, person: Person, directory: Path | None, *args: str | Path, log: Path) -> None:
        self.person = person
        self.by_module = directory is None
        get: Callable[[float], str]
        self._end: Callable[[], None]
        self.directory = directory or Path("/proc" if "--proc" in args else "/dev")
        self._log = log
        if directory is None:
            self.process: subprocess.Popen[str] | ForkedServer = ForkedServer(
                ["serve", *map(str, args), "--host", "kernel"], log.with_suffix(".out"), log
            )
            get, self._end = self.process.first_line, _nothing
        else:
            with log.open("w") as stderr:
                self.process = person.popen(
                    *person.python, "-m", "mapdev", "serve", *args, "--mount", directory,
                    stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
                )  # fmt: skip
            get, self._end = _lines(self.process)
        try:
            self.ready = get(60)
        except (queue.Empty, TimeoutError):
            self.kill()
            raise AssertionError(f"the server did not get ready within 60 s: {self.log()}") from None
        if not self.ready:
            self.process.wait(10)
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log()}")

    def path(self, name: str) -> Path:
        return self.directory / name

    def log(self) -> str:
        return self._log.read_text()

    def wait_log(self, text: str, timeout: float = 30) -> str:
        """Wait until the log holds `text`; the log then."""
        until = time.monotonic() + timeout
        while text not in (log := self.log()):
            assert time.monotonic() < until, f"{text!r} did not come within {timeout} s; the log is:\n{log}"
            time.sleep(0.02)
        return log

    def wait_for(self, condition: Callable[[str], object], timeout: float = 30) -> None:
        """Wait until `condition` is true of the log, and the log ends with a whole line."""
        until = time.monotonic() + timeout
        while not (condition(log := self.log()) and log.endswith("\n")):
            assert time.monotonic() < until, f"it did not come within {timeout} s; the log is:\n{log}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as a user would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(20)
            self._end()
            return code
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end within 20 s of signal {number}: {self.log()}") from None

    def kill(self) -> None:
        """kill -9"""
        self.process.kill()
        self.process.wait(10)
        self._end()

    def is_mounted(self) -> bool:
        """Whether its devices are still there."""
        if self.by_module:
            return any(Path(path).exists() for path in re.findall(r"(/\S+) \(", self.ready))
        return any(mount.endswith(f" {self.directory}") for mount in mounts())

    def wait_unmounted(self, timeout: float = 10) -> None:
        until = time.monotonic() + timeout
        while self.is_mounted():
            assert time.monotonic() < until, f"{self.directory} is still mounted after {timeout} s"
            time.sleep(0.01)


def _nothing() -> None: ...


def _lines(process: "subprocess.Popen[str]") -> tuple[Callable[[float], str], Callable[[], None]]:
    """A function that waits for the next line of its output, and one that waits for the end of it."""
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    stdout = process.stdout

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put("")
        stdout.close()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return lambda timeout: lines.get(timeout=timeout), lambda: reader.join(10)


def mounts() -> list[str]:
    """The mounts of mapdev: "fuse.mapdev PATH"."""
    with open("/proc/self/mounts", encoding="utf-8") as lines:
        found = [line.split() for line in lines]
    return [f"{fields[2]} {fields[1]}" for fields in found if fields[2] == "fuse.mapdev"]


def is_ours(mount: str) -> bool:
    """Whether this run of the tests made the directory that is mounted on."""
    return any(mount.endswith(f" {directory}") or f" {directory}/" in mount for directory in directories)


def watchers() -> list[int]:
    """The pids of the watcher processes (see mapdev.hosts.fuse.watcher) that this run of the tests has caused."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                is_watcher = b"fuse/watcher.py" in (entry / "cmdline").read_bytes()
                if is_watcher and mark in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
            except OSError:
                pass
    return pids
