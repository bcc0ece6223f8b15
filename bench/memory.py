"""The memory of a host: with files open, after closing them, and by how many opens were ever made."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import contenders as who
from bench.contenders import CONTENDERS, Absent, Build, Contender, Server
from bench.jobs import Client, Sizes
from bench.result import Result, progress

PRIVATE = "mapdev, a page for each open"
OPENS_MADE = "bytes per open made"
"""In ``Result.memory``: by how much the host has grown for each open+close of many; 0 is flat."""

_PRIVATE = Contender(PRIVATE, lambda *args: who.mapdev_serve(args[1], "device=lkmc_mmap"), memory="device")
_MEASURED = (CONTENDERS[who.SHARED], CONTENDERS[who.ON_DEMAND], _PRIVATE, CONTENDERS[who.C], CONTENDERS[who.PYFUSE3],
             CONTENDERS[who.MFUSEPY])  # fmt: skip
_WARM_UP = 20_000


def measure(result: Result, build: Build, place: Path, sizes: Sizes) -> None:
    """Fills ``result.memory`` and the series ``OPENS_MADE``, one value (bytes) for each of up to three rounds."""
    client = Client(build)
    for contender in _MEASURED:
        try:
            with who.served(contender, build, place, 1 << 20, client.server_cpu) as server:
                result.memory[contender.name] = dict(_held(client, server, sizes.opens))
            for _ in range(min(sizes.rounds, 3)):
                with who.served(contender, build, place, 1 << 20, client.server_cpu) as server:
                    result.add(OPENS_MADE, contender.name, _growth_per_open(client, server, sizes.opens))
        except Absent as absent:
            result.lacks(OPENS_MADE, contender.name, str(absent))


def resident(pid: int) -> int:
    """Bytes of memory that are there for this process (Rss of proc_pid_smaps(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise OSError("smaps_rollup has no Rss")


def _held(client: Client, server: Server, most: int) -> Iterator[tuple[str, float]]:
    """(how many open, bytes)"""
    yield "0 open", resident(server.pid)
    if server.contender is _PRIVATE:
        most = min(most, who.most_memories())
    for count in (1, 1000, most):
        progress(f"memory of {server.contender.name} with {count} open files")
        with _holding(client, server, count) as close:
            yield f"{count:,} open", resident(server.pid)
            close()
    yield "all closed", resident(server.pid)


@contextlib.contextmanager
def _holding(client: Client, server: Server, count: int) -> "Iterator[Close]":
    process = subprocess.Popen(
        client.command("hold", server.path("device"), count), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: who.pin({client.server_cpu}),
    )  # fmt: skip
    try:
        close = Close(process)
        close.expect("held")
        yield close
    finally:
        process.kill()
        process.communicate(timeout=60)


class Close:
    """Called, it lets the client close what it holds, and waits until that is done."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.expect("closed")

    def expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            assert self._process.stderr is not None
            raise Absent(self._process.stderr.read().strip() or "the client ended")


def _growth_per_open(client: Client, server: Server, opens: int) -> float:
    progress(f"memory of {server.contender.name} after {opens} opens")
    client.run("open", server.path("device"), min(_WARM_UP, opens))
    before = resident(server.pid)
    client.run("open", server.path("device"), opens)
    return (resident(server.pid) - before) / opens
