"""The pytest plugin: devices in tests, with their models at hand. It is active wherever mapdev is installed.

def test_driver_counts_interrupts(mapdev_run: MapdevRun) -> None:
    timer = Timer()
    done = mapdev_run(["./driver", "/dev/uio0"], {"/dev/uio0": timer}, timeout=10)
    assert done.returncode == 0
    assert timer.regs.LOAD == 1000

Fixtures: ``mapdev_run`` and ``mapdev_start`` run a program in a private /dev, /proc and /sys, as `mapdev run` does;
``mapdev_serve`` serves devices in a directory, as `mapdev serve` does. The model is the object that the test holds. A
test that fails shows all callbacks of its devices, and what became of its programs.

Every pytest run imports this file: what costs time is imported by the fixtures.
"""

import os
import shlex
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

import pytest

if TYPE_CHECKING:
    from mapdev.device import Device
    from mapdev.errors import HostError
    from mapdev.hosts.fuse.host import FuseHost
    from mapdev.run.inprocess import Program
    from mapdev.trace import Event

Memory: TypeAlias = Literal["shared", "on-demand"]
"""How programs get at the memory: the best way to try, as the option --memory of the commands."""

_EVENTS: Final = 1000
"""As many callbacks are kept for the report, the last ones."""


class _Test:
    """What one test does with devices: kept to be shown if it fails, and to be ended in any case."""

    def __init__(self, config: pytest.Config) -> None:
        self.skips: bool = config.getoption("--mapdev-skip")
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self.seen = 0
        self._lock = threading.Lock()
        self.programs: list[MapdevProgram] = []
        self.served: list[MapdevServed] = []

    def trace(self, event: "Event") -> None:
        with self._lock:
            self.seen += 1
            self.events.append(event)

    def take(self, devices: "Mapping[str, Device | str]") -> "dict[str, Device]":
        """The devices themselves, none of which is served already: its wake() would reach the files of one place only.

        Raises ``UsageError``.
        """
        from mapdev.errors import UsageError
        from mapdev.targets import load

        taken: dict[str, Device] = {}
        busy = [device for program in self.programs for device in program.devices]
        busy += [device for served in self.served for device in served.devices]
        for name, device in devices.items():
            taken[name] = load(device, name)[1] if isinstance(device, str) else device
            if any(taken[name] is other for other in busy):
                raise UsageError(f"the device for {name} is served already: make another one, or end what uses it")
            busy.append(taken[name])
        return taken

    def unable(self, error: "HostError") -> NoReturn:
        """What this machine cannot do skips or fails the test, in one line."""
        __tracebackhide__ = True
        if self.skips:
            raise pytest.skip.Exception(f"mapdev: {error}") from None
        raise pytest.fail.Exception(f"mapdev: {error}", pytrace=False) from None

    def end(self) -> None:
        """End everything, the programs first."""
        with ExitStack() as stack:
            for served in self.served:
                stack.callback(served.close)
            for program in self.programs:
                stack.callback(program.close)

    def sections(self) -> list[tuple[str, str]]:
        """For the report of a failure."""
        from mapdev.trace import format_event

        with self._lock:
            events, earlier = tuple(self.events), self.seen - len(self.events)
        lines = [f"({earlier} earlier callbacks)"] if earlier else []
        lines += [format_event(event) for event in events]
        shown = [("mapdev trace", "\n".join(lines) or "(no callback has come)")]
        if self.programs:
            shown.append(("mapdev programs", "\n".join(program.story() for program in self.programs)))
        return shown


_TEST: Final = pytest.StashKey[_Test]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("mapdev").addoption(
        "--mapdev-skip",
        action="store_true",
        help="Skip, instead of failing, the tests with devices that this machine, or this user on it, cannot serve.",
    )


# not a new-style wrapper: older pytest, which has to load this file too, does not know them
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    test = item.stash.get(_TEST, None)
    if test is not None and report.failed:
        for program in test.programs:
            program.close()
        report.sections += test.sections()


@pytest.fixture
def _mapdev_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Test]:
    # a child of vfork(2) that closes a file of ours, or changes into our directory, waits for our answer, while the
    # whole interpreter waits for the child (the switch is documented with `subprocess`)
    monkeypatch.setattr(subprocess, "_USE_VFORK", False, raising=False)
    test = request.node.stash[_TEST] = _Test(request.config)
    yield test
    test.end()


# -- mapdev_serve ---------------------------------------------------------------------------------------------


class MapdevServed:
    """Devices that are being served. ``directory``: where they are.

    They are for other processes. The test itself may open, read and write them, but not map them: a touch of a page
    that is not there stops the whole interpreter, and so the model that is to hand it over, for ever. (To call a device
    without a kernel there is ``mapdev.testing``.)
    """

    def __init__(self, host: "FuseHost", devices: "list[Device]") -> None:
        self.directory = host.directory
        self.devices = devices
        """Those that are served until it is closed."""
        self._host = host

    def path(self, name: str | None = None) -> Path:
        """The file of the device called `name`, or of the only one. Raises ``KeyError``."""
        names = [dispatch.name for dispatch in self._host.dispatches]
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            raise KeyError(f"{name}: there is {', '.join(names)}")
        return self.directory / name

    def close(self) -> None:
        """Unmount. Idempotent; the end of the test does it, too."""
        if self.devices:
            self._host.close()
            self.directory.rmdir()
            self.devices.clear()


class MapdevServe:
    """The fixture ``mapdev_serve``: call it to serve devices until the end of the test."""

    def __init__(self, test: _Test) -> None:
        self._test = test

    def __call__(
        self, devices: "Device | Mapping[str, Device | str]", *, memory: Memory = "shared", mode: int | None = None
    ) -> MapdevServed:
        """`devices`: one device, or file name -> device or TARGET. `mode`: permission bits, such as 0o666.

        Without `mode` only the user who runs the tests may open them. If this machine cannot serve, the test fails
        with the reason, or is skipped (--mapdev-skip).
        """
        __tracebackhide__ = True
        from mapdev.device import Device
        from mapdev.errors import FuseError, HostError
        from mapdev.hosts.base import Permissions
        from mapdev.hosts.fuse.host import FuseHost
        from mapdev.hosts.fuse.mount import Way, best_way
        from mapdev.hosts.fuse.session import Mode

        if isinstance(devices, Device):
            devices = {devices.node_name(): devices}
        taken = self._test.take(devices)
        permissions = None if mode is None else Permissions(mode, os.geteuid(), os.getegid())
        best = Mode.SHARED if memory == "shared" else Mode.ON_DEMAND
        directory = Path(tempfile.mkdtemp(prefix="mapdev-"))  # not below tmp_path, which is closed to other users
        try:
            if best_way() is Way.NAMESPACE:  # it would be this process that enters it
                raise FuseError("an ordinary user needs the program fusermount3: install the package fuse3")
            host = FuseHost(directory, taken, permissions=permissions, mode=best, trace=self._test.trace)
        except BaseException as error:
            directory.rmdir()
            if isinstance(error, HostError):
                self._test.unable(error)
            raise
        served = MapdevServed(host, list(taken.values()))
        self._test.served.append(served)
        return served


@pytest.fixture
def mapdev_serve(_mapdev_test: _Test) -> MapdevServe:
    """Serve devices in a directory until the end of the test: see ``MapdevServe.__call__``."""
    return MapdevServe(_mapdev_test)


# -- mapdev_run, mapdev_start ---------------------------------------------------------------------------------


class MapdevProgram:
    """A program that runs. ``process``: its ``subprocess.Popen``, with pipes of text."""

    def __init__(self, program: "Program", devices: "list[Device]") -> None:
        self.devices = devices
        """Those that it has as long as it runs."""
        self._program = program
        self._story = ""
        self._written = ("", "")
        self.process = program.process

    def wait(self, timeout: float = 30) -> "subprocess.CompletedProcess[str]":
        """Block until the program has ended; what it has started is ended with it. Once only.

        After `timeout` seconds it is killed: raises ``subprocess.TimeoutExpired``.
        """
        __tracebackhide__ = True
        try:
            done = self._program.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self._story = f"was killed after {timeout:g} s"
            self._written = (str(error.output), str(error.stderr))
            raise error.with_traceback(None) from None
        finally:
            self.devices.clear()
        how = f"by signal {-done.returncode}" if done.returncode < 0 else f"with exit code {done.returncode}"
        self._story, self._written = f"ended {how}", (done.stdout, done.stderr)
        return done

    def close(self) -> None:
        """End it, if it still runs. Idempotent; the end of the test does it, too."""
        if self._story:
            return
        running = self.process.poll() is None
        try:
            self.wait(0 if running else 5)
        except subprocess.TimeoutExpired:
            self._story = "was still running, and was killed" if running else "had ended, but not its output"

    def story(self) -> str:
        """What became of it, in a few lines."""
        lines = [f"$ {shlex.join(self._program.args)}", f"  {self._story}"]
        for name, text in zip(("stdout", "stderr"), self._written, strict=True):
            lines += [f"  {name}: {line}" for line in text.splitlines()]
        return "\n".join(lines)


Words: TypeAlias = Sequence[str | os.PathLike[str]]


class MapdevStart:
    """The fixture ``mapdev_start``: as ``mapdev_run``, but the test goes on while the program runs."""

    def __init__(self, test: _Test) -> None:
        self._test = test

    def __call__(
        self, program: Words, devices: "Mapping[str, Device | str] | None" = None, *,
        files: Mapping[str, str | os.PathLike[str]] | None = None, input: str | None = None,  # noqa: A002
        cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None, memory: Memory = "shared",
        chardev: bool = False, trap: bool = False, faults: Sequence[str] = (),
    ) -> MapdevProgram:  # fmt: skip
        """As ``MapdevRun.__call__``; returns when the program is executed. What still runs when the test ends is
        killed."""
        __tracebackhide__ = True
        from mapdev.errors import HostError, MapdevError, UsageError
        from mapdev.faults import parse
        from mapdev.run.host import Host
        from mapdev.run.inprocess import Program
        from mapdev.run.program import NotStarted
        from mapdev.run.request import Request

        if isinstance(program, str):
            raise UsageError(f"the program is a list of words: {shlex.split(program)}")
        words = [os.fspath(word) for word in program]
        real = {path: os.fspath(file) for path, file in (files or {}).items()}
        try:
            taken = self._test.take(devices or {})
            host = Host(Request(taken, real, words, lambda: self._test.trace, chardev, memory == "shared", trap,
                                faults=[parse(fault) for fault in faults]))  # fmt: skip
        except MapdevError as error:
            raise error.with_traceback(None) from error.__cause__
        try:
            started = Program(host, words, input=input, cwd=cwd, env=env)
        except HostError as error:
            self._test.unable(error)
        except NotStarted as error:
            raise error.with_traceback(None) from None
        running = MapdevProgram(started, list(taken.values()))
        self._test.programs.append(running)
        return running


class MapdevRun:
    """The fixture ``mapdev_run``: call it to run a program in which devices exist."""

    def __init__(self, test: _Test) -> None:
        self._start = MapdevStart(test)

    def __call__(
        self, program: Words, devices: "Mapping[str, Device | str] | None" = None, *,
        files: Mapping[str, str | os.PathLike[str]] | None = None, timeout: float = 30,
        input: str | None = None, cwd: str | os.PathLike[str] | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None, memory: Memory = "shared", chardev: bool = False, trap: bool = False,
        faults: Sequence[str] = (),
    ) -> "subprocess.CompletedProcess[str]":  # fmt: skip
        """Run `program` (its words) to its end, in a /dev, /proc and /sys of its own.

        `devices`: absolute path -> device or TARGET; what the device declares as its surroundings is there, too.
        `files`: absolute path -> a real file or directory to be shown there. `input`, `cwd` and `env` as
        ``subprocess.run`` has them; output is captured as text. `chardev`: stat(2) shows character devices, which
        devices that have a number imply. `trap`: each load and store comes to ``load`` and ``store``, or is seen in the
        trace, also where a device does not ask for it. `faults`: what goes wrong on purpose (``mapdev.faults``).

        After `timeout` seconds the program, and all that it has started, is killed: ``subprocess.TimeoutExpired``. If
        this machine cannot do it, the test fails with the reason, or is skipped (--mapdev-skip). A wrong request
        raises ``UsageError``, a program that is not there ``NotStarted``.
        """
        __tracebackhide__ = True
        running = self._start(
            program,
            devices,
            files=files,
            input=input,
            cwd=cwd,
            env=env,
            memory=memory,
            chardev=chardev,
            trap=trap,
            faults=faults,
        )
        return running.wait(timeout)


@pytest.fixture
def mapdev_run(_mapdev_test: _Test) -> MapdevRun:
    """Run a program in which devices exist: see ``MapdevRun.__call__``."""
    return MapdevRun(_mapdev_test)


@pytest.fixture
def mapdev_start(_mapdev_test: _Test) -> MapdevStart:
    """The same, without waiting for its end: see ``MapdevStart.__call__``."""
    return MapdevStart(_mapdev_test)
