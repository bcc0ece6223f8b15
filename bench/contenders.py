"""Who is measured: tmpfs, mapdev in each of its ways, and its peers; each server is a process of its own."""

import contextlib
import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS_PYTHON = ROOT / ".cache" / "peers" / "bin" / "python"
"""Of the virtual environment that `scripts/setup bench` makes for them."""

TMPFS = "tmpfs"
TMPFS_HUGE = "tmpfs, huge pages"
SHARED = "mapdev, shared memory"
SHARED_HUGE = "mapdev, shared, huge pages"
ON_DEMAND = "mapdev, on demand"
READ_AHEAD = "mapdev, on demand, read-ahead 4 MiB"
PAGE_CACHE = "mapdev, page cache only"
FAULT = "mapdev, fault"
C = "libfuse, C"
PYFUSE3 = "pyfuse3"
MFUSEPY = "mfusepy"
CUSE = "CUSE"
TRACED, UNTRACED, NO_TRACE = "trace on", "trace off", "without any trace"
WORKERS = "two forked bare loops"

_READ_AHEAD_KB = 4096
_CUSE_NODE = Path("/dev/mapdev-bench-cuse")
IS_ROOT = os.geteuid() == 0


class Absent(Exception):  # noqa: N818 - not an error: a row of the table
    """A contender is not to be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Build:
    """What was compiled, in a directory that goes with the run of the bench. Without libfuse's headers, the client."""

    client: Path
    lowlevel: Path | None
    cuse: Path | None

    @classmethod
    def make(cls, directory: Path) -> "Build":
        """Raises ``Absent`` if there is no compiler: without the client nothing can be measured."""
        if shutil.which("gcc") is None:
            raise Absent("gcc is missing: as root, `scripts/setup bench` installs it")
        client = directory / "client"
        flags = ["gcc", "-O2", "-Wall", "-o"]
        subprocess.run([*flags, client, HERE / "client.c"], check=True, timeout=60)
        peers = directory / "lowlevel", directory / "cuse"
        try:
            found = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True,
                                   text=True, timeout=60).stdout.split()  # fmt: skip
            for peer in peers:
                source = HERE / "peers" / f"{peer.name}.c"
                subprocess.run([*flags, peer, source, *found], check=True, timeout=60)
        except (OSError, subprocess.CalledProcessError):
            return cls(client, None, None)
        return cls(client, *peers)


Command: TypeAlias = Callable[[Build, Path, int], list[str | Path]]
"""(what was built, mount point, bytes) -> how to serve there; may raise ``Absent``."""


@dataclass(frozen=True, slots=True)
class Contender:
    """``command`` None: a file of the kernel's own.

    ``cannot``: the first word of a job -> why not. ``memory`` and ``device``: the names of the files that it serves,
    for mappings and for the other calls.
    """

    name: str
    command: Command | None
    cannot: dict[str, str] = field(default_factory=dict)
    memory: str = "memory"
    device: str = "device"
    tune: Callable[[Path], None] = lambda _: None
    node: Path | None = None
    """What it serves instead of a directory."""


@dataclass(frozen=True, slots=True)
class Server:
    """A contender that serves now; ``pid`` 0: the kernel itself."""

    contender: Contender
    directory: Path
    pid: int

    def path(self, file: str) -> Path:
        if self.contender.node is not None:
            return self.contender.node
        return self.directory / (self.contender.memory if file == "memory" else self.contender.device)


def mapdev_serve(mount: Path, *arguments: str, module: str = "mapdev") -> list[str | Path]:
    """The command."""
    return [sys.executable, "-m", module, "serve", "--mount", mount, *arguments]


def _mapdev(cls: str, *options: str, module: str = "mapdev") -> Command:
    def command(_build: Build, mount: Path, _size: int) -> list[str | Path]:
        return mapdev_serve(mount, f"device={HERE / 'device.py'}:{cls}", *options, module=module)

    return command


def _shared(cls: str) -> Command:
    serve = _mapdev(cls)

    def command(build: Build, mount: Path, size: int) -> list[str | Path]:
        if not IS_ROOT:
            raise Absent("memory is shared only as root")
        return serve(build, mount, size)

    return command


def _lowlevel(build: Build, mount: Path, size: int) -> list[str | Path]:
    if build.lowlevel is None:
        raise Absent("libfuse's headers are missing: as root, `scripts/setup bench` installs them")
    return [build.lowlevel, mount, str(size)]


def _peer(name: str) -> Command:
    def command(_build: Build, mount: Path, size: int) -> list[str | Path]:
        found: list[str | Path] = [PEERS_PYTHON, "-c", f"import {name}"]
        if (
            not PEERS_PYTHON.exists()
            or subprocess.run(found, capture_output=True, timeout=60, check=False).returncode
        ):
            raise Absent(f"{name} is not installed: `scripts/setup bench` tries to")
        return [PEERS_PYTHON, HERE / "peers" / f"{name}_server.py", mount, str(size)]

    return command


def _cuse(build: Build, _mount: Path, size: int) -> list[str | Path]:
    if not os.path.exists("/dev/cuse"):
        config = Path("/proc/config.gz")
        without = config.exists() and b"CONFIG_CUSE=" not in gzip.decompress(config.read_bytes())
        why = (
            "the kernel was built without CUSE" if without else "the kernel has no CUSE, or its module is not loaded"
        )
        raise Absent(f"no /dev/cuse: {why}")
    if not os.access("/dev/cuse", os.R_OK | os.W_OK):
        raise Absent("/dev/cuse is open only to root")
    if build.cuse is None:
        raise Absent("libfuse's headers are missing: as root, `scripts/setup bench` installs them")
    return [build.cuse, _CUSE_NODE.name, str(size)]


def _workers(_build: Build, mount: Path, size: int) -> list[str | Path]:
    """No mapdev: an experiment, see workers.py."""
    cpus = sorted(os.sched_getaffinity(0))
    return [sys.executable, "-m", "bench.workers", "serve", mount, str(size), "read", str(cpus[-1]), str(cpus[0])]


def _raise_read_ahead(directory: Path) -> None:
    """INIT can only lower what the kernel reads ahead; raising it is the administrator's."""
    if not IS_ROOT:
        raise Absent("read_ahead_kb may be raised only by root")
    device = directory.stat().st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    knob.write_text(str(_READ_AHEAD_KB), encoding="ascii")


def _traced(build: Build, mount: Path, size: int) -> list[str | Path]:
    return [*_mapdev("Resident")(build, mount, size), "--trace-file", mount.with_name(f"{mount.name}.trace")]


_CONTENDERS = (
    Contender(TMPFS, None, {"ioctl": "no ioctl of its own", "poll": "always ready"}),
    Contender(TMPFS_HUGE, None),
    Contender(SHARED, _shared("Resident"), memory="device"),
    Contender(SHARED_HUGE, _shared("Huge"), memory="device"),
    Contender(ON_DEMAND, _mapdev("Resident", "--memory", "on-demand"), memory="device"),
    Contender(READ_AHEAD, _mapdev("Resident", "--memory", "on-demand"), tune=_raise_read_ahead, memory="device"),
    Contender(PAGE_CACHE, _mapdev("Resident", "--memory", "page-cache"), memory="device"),
    Contender(FAULT, _mapdev("Faulting"), memory="device"),
    Contender(C, _lowlevel),
    Contender(PYFUSE3, _peer("pyfuse3"), {"ioctl": "has no ioctl"}),
    Contender(MFUSEPY, _peer("mfusepy"), {"poll": "cannot wake a poll: the handle is not exposed"}),
    Contender(CUSE, _cuse, {"touch": "has no mmap"}, node=_CUSE_NODE),
    Contender(WORKERS, _workers, {"poll": "cannot wake a poll"}, memory="device"),
    Contender(NO_TRACE, _mapdev("Resident", module="bench.untraced"), memory="device"),
    Contender(UNTRACED, _mapdev("Resident"), memory="device"),
    Contender(TRACED, _traced, memory="device"),
)
CONTENDERS = {each.name: each for each in _CONTENDERS}


@contextlib.contextmanager
def served(contender: Contender, build: Build, place: Path, size: int, cpu: int) -> Iterator[Server]:
    """Serve `size` bytes somewhere below `place` (on a tmpfs), pinned to `cpu`. Raises ``Absent``.

    Whatever happens, what was started ends and is unmounted.
    """
    directory = place / contender.name.replace(" ", "-").replace(",", "")
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        if contender.command is None:
            if contender.name == TMPFS_HUGE:
                _mount_huge_tmpfs(directory)
                stack.callback(lambda: subprocess.run(["umount", "-l", directory], timeout=60, check=True))
            _fill(directory / "memory", size)
            (directory / "device").symlink_to("memory")
            yield Server(contender, directory, 0)
            return
        command = contender.command(build, directory, size)
        pid = stack.enter_context(_running(command, directory, contender.node, size, cpu))
        contender.tune(directory)
        yield Server(contender, directory, pid)


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        zeros = bytes(1 << 20)
        for at in range(0, size, 1 << 20):
            file.write(zeros[: size - at])


def _mount_huge_tmpfs(directory: Path) -> None:
    if not IS_ROOT:
        raise Absent("a tmpfs of huge pages is mounted only by root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=always", "bench", directory], timeout=60, check=False,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        raise Absent(f"the kernel mounts no tmpfs of huge pages: {done.stderr.strip()}")


@contextlib.contextmanager
def _running(command: list[str | Path], directory: Path, node: Path | None, size: int, cpu: int) -> Iterator[int]:
    log = directory.with_name(f"{directory.name}.log")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=stderr, stdin=subprocess.DEVNULL, cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for us: we end the server, which then unmounts
            env={**os.environ, "BENCH_BYTES": str(size), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
            preexec_fn=lambda: pin({cpu}),
        )  # fmt: skip
    try:
        _wait_until(node.exists if node is not None else lambda: is_mounted(directory), process, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        if is_mounted(directory):
            tool = ["umount", "-l"] if IS_ROOT else ["fusermount3", "-u", "-z"]
            subprocess.run([*tool, directory], timeout=60, check=True)


def _wait_until(it_serves: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if it_serves():
            return
        time.sleep(0.01)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise Absent(f"its server does not start: {said[-1] if said else 'it says nothing'}")


def is_mounted(directory: Path) -> bool:
    """Also if nobody serves it any more."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split()[1] == str(directory) for line in mounts)


def pin(cpus: set[int]) -> None:
    """This process, and what it starts, on these CPUs, before everything else that they do (only root may, and only
    root needs: then no other load is measured)."""
    os.sched_setaffinity(0, cpus)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def raise_file_limit() -> int:
    """For all that is started from now on; how many open files each may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, 1 << 20), hard):
        with contextlib.suppress(ValueError, OSError):  # not even every root may raise it
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def most_memories() -> int:
    """How many devices, or opens, with memory of their own a host can have: each takes two descriptors."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2
