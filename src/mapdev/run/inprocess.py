"""A program in which devices of this process exist: its model is at hand while a driver runs. (`mapdev run` is
``launcher``: there a process of its own is the host.)

The program is started anew and not forked, since this process may have threads.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mapdev.errors import HostError
from mapdev.run import namespace, program
from mapdev.run.host import Host
from mapdev.run.messages import send

if TYPE_CHECKING:
    from mapdev.run.trap.tracer import Tracer

_START_TIMEOUT: Final = 30.0
_END_TIMEOUT: Final = 5.0
# without site-packages it is this mapdev that is imported, and no module of the test's can be in the way
_BECOME: Final = "import sys; sys.path.append(sys.argv[1]); from mapdev.run.program import main; main()"
_PACKAGES: Final = str(Path(__file__).parents[2])


class _Process(subprocess.Popen[str]):
    """The program. If it is traced from here, it is the tracer who hears how it ended, and waitpid(2) of others would
    take its stops away."""

    tracer: "Tracer | None" = None

    def poll(self) -> int | None:
        if self.tracer is None:
            return super().poll()
        if self.returncode is None and self.tracer.ended.is_set():
            status = self.tracer.status
            self.returncode = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.tracer is None:
            return super().wait(timeout)
        if not self.tracer.ended.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll() or 0


class Program:
    """A program that runs, in a private /dev, /proc and /sys; also a with-statement.

    ``process``: a ``subprocess.Popen`` with pipes of text; its pid is that of the program itself, which leads a session
    of its own. When the program ends, what it has started is ended with it (kill -9); and it ends when the thread that
    has started it does.
    """

    def __init__(
        self, host: Host, args: list[str], *, input: str | None = None,  # noqa: A002
        cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start the program `args`, with the devices of `host`. Returns when it is executed.

        `input`: what it reads from standard input (default: nothing). Raises ``HostError`` where this machine, or this
        user on it, cannot do it, and ``program.NotStarted`` if there is no such program.
        """
        self.args = args
        self._input = input
        self._namespace = ""
        self._pin = -1
        self._lock = threading.Lock()
        self._reaper = threading.Thread(target=self._reap, name="mapdev-reaper", daemon=True)
        self._host = host
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with ours, os.fdopen(reading, "rb") as report:
            with theirs, os.fdopen(writing, "wb"):
                self.process = _Process(
                    [sys.executable, "-I", "-S", "-c", _BECOME, _PACKAGES,
                     str(os.getpid()), str(theirs.fileno()), str(writing)],
                    stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, text=True, errors="backslashreplace", cwd=cwd, start_new_session=True,
                    pass_fds=[theirs.fileno(), writing],
                )  # fmt: skip
            limit = threading.Timer(_START_TIMEOUT, self.process.kill)
            limit.start()
            try:
                self._begin(ours, os.environ if env is None else env)
                self._namespace = program.started(report)
            except BaseException as error:
                self.process.kill()
                for said in filter(None, self._rest()):
                    error.add_note(said)  # by a Python that could not even begin
                self.close()
                raise
            finally:
                limit.cancel()
        self._reaper.start()

    def _begin(self, ours: socket.socket, env: Mapping[str, str]) -> None:
        environment = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        order = program.Order(self._host.mounts, self.args, environment)
        try:
            send(ours, order)
            self._host.begin(ours)
            self.process.tracer = self._host.tracer
            _, pins, *_ = socket.recv_fds(ours, 3, 1)
        except OSError as error:
            raise HostError(f"the devices cannot be served: {error}") from error
        self._pin = next(iter(pins), -1)

    def _reap(self) -> None:
        self.process.wait()
        self._end_namespace()  # else who reads the output would wait for what the program has started

    def _end_namespace(self) -> None:
        with self._lock:
            if self._pin >= 0:
                namespace.kill(self._namespace)
                os.close(self._pin)
                self._pin = -1

    def wait(self, timeout: float | None = None) -> "subprocess.CompletedProcess[str]":
        """Block until the program has ended, and its devices are released.

        After `timeout` seconds it is killed: raises ``subprocess.TimeoutExpired`` with what it has written.
        """
        given, self._input = self._input, None
        try:
            out, err = self.process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            assert timeout is not None
            self._end_namespace()
            out, err = self._rest()
            raise subprocess.TimeoutExpired(self.args, timeout, out, err) from None
        finally:
            self.close()
        return subprocess.CompletedProcess(self.args, self.process.returncode, out, err)

    def _rest(self) -> tuple[str, str]:
        try:
            return self.process.communicate(timeout=_END_TIMEOUT)
        except subprocess.TimeoutExpired:  # a process that went to yet another namespace has the pipes
            return "", ""

    def close(self) -> None:
        """End what still runs, release the devices. Idempotent."""
        self._end_namespace()
        self.process.kill()
        self.process.wait(_END_TIMEOUT)
        if self._reaper.is_alive():
            self._reaper.join(_END_TIMEOUT)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # it did not read all of its input
                    stream.close()
        self._host.wait(_END_TIMEOUT)
        self._host.close()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
