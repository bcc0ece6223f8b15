"""What is measured of whom, and the rounds: all servers run, and for each job the contenders take turns."""

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

from bench import contenders as who
from bench.contenders import CONTENDERS, Absent, Build, Contender, Server
from bench.result import Result, progress

RESIDENT = (who.TMPFS, who.TMPFS_HUGE, who.SHARED, who.SHARED_HUGE)
ASKED_FOR = (who.ON_DEMAND, who.READ_AHEAD, who.PAGE_CACHE, who.FAULT, who.C, who.PYFUSE3, who.MFUSEPY, who.CUSE)
CALLERS = (who.TMPFS, who.SHARED, who.ON_DEMAND, who.C, who.PYFUSE3, who.MFUSEPY, who.CUSE)
TRACES = (who.NO_TRACE, who.UNTRACED, who.TRACED)

SEQUENTIAL, RANDOM = "touch sequential", "touch random"
READ_4K, READ_1M, WRITE_4K, WRITE_1M = "read 4 KiB", "read 1 MiB", "write 4 KiB", "write 1 MiB"
OPEN, IOCTL, POLL = "open and close", "ioctl", "poll wake-up"
TRACE_READ, TRACE_IOCTL = "read 4 KiB, traced", "ioctl, traced"
TWO_CLIENTS = "clients: two read 4 KiB, two CPUs"
TWO_CPUS = ", two CPUs"
"""At the end of the name of a job: its client is on another CPU than the server."""


_SETTLE = 0.7
"""Seconds until all that servers start beside themselves (the watchers of mapdev) has come to rest."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done. ``memory`` in bytes."""

    memory: int = 256 << 20
    calls: int = 3000
    rounds: int = 7
    repeats: int = 5
    opens: int = 100_000

    @classmethod
    def quick(cls) -> "Sizes":
        return cls(memory=8 << 20, calls=450, rounds=2, repeats=2, opens=1_000)


@dataclass(frozen=True, slots=True)
class Job:
    """``arguments`` of the client after the path of ``file`` ("memory" or "device"); ``on``: who does it."""

    name: str
    client: str
    file: str
    arguments: tuple[int, ...]
    on: tuple[str, ...]
    repeats: int = 1
    """So often in each round; the median of them is the round's."""


def jobs(sizes: Sizes) -> dict[str, list[Job]]:
    """Part of the bench -> its jobs."""
    n, big = sizes.calls, max(sizes.calls // 20, 15)
    return {
        "touch": [
            # the first are so short that one interruption is all of it
            Job(SEQUENTIAL, "touch-sequential", "memory", (sizes.memory,), RESIDENT, 2 * sizes.repeats + 1),
            Job(SEQUENTIAL, "touch-sequential", "memory", (sizes.memory,), ASKED_FOR),
            Job(RANDOM, "touch-random", "memory", (sizes.memory,), RESIDENT, 2 * sizes.repeats + 1),
            Job(RANDOM, "touch-random", "memory", (sizes.memory,), ASKED_FOR),
        ],
        "calls": [
            Job(READ_4K, "read", "device", (4096, n), CALLERS),
            Job(READ_1M, "read", "device", (1 << 20, big), CALLERS),
            Job(WRITE_4K, "write", "device", (4096, n), CALLERS),
            Job(WRITE_1M, "write", "device", (1 << 20, big), CALLERS),
            Job(OPEN, "open", "device", (n,), CALLERS),
            Job(IOCTL, "ioctl", "device", (n,), CALLERS),
            Job(POLL, "poll", "device", (60,), CALLERS),
        ],
        "two-cpus": [
            Job(RANDOM + TWO_CPUS, "touch-random", "memory", (sizes.memory, 2000),
                (who.TMPFS, who.ON_DEMAND, who.C, who.PYFUSE3, who.MFUSEPY, who.CUSE)),
            Job(READ_4K + TWO_CPUS, "read", "device", (4096, n // 2), CALLERS),
            Job(OPEN + TWO_CPUS, "open", "device", (n // 2,), CALLERS),
            Job(IOCTL + TWO_CPUS, "ioctl", "device", (n // 2,), CALLERS),
            Job(TWO_CLIENTS, "clients", "device", (4096, n // 2, 2), (who.SHARED, who.WORKERS, who.C, who.PYFUSE3)),
        ],
        "trace": [
            Job(TRACE_READ, "read", "device", (4096, n // 2), TRACES, 2 * sizes.repeats + 1),
            Job(TRACE_IOCTL, "ioctl", "device", (n // 2,), TRACES, 2 * sizes.repeats + 1),
        ],
    }  # fmt: skip


class Client:
    """The program of the jobs, at work for one run of the bench."""

    def __init__(self, build: Build) -> None:
        self._program = build.client
        self.cpus = cpus()
        self.server_cpu, self.client_cpu = self.cpus

    def command(self, client: str, path: Path, *arguments: int) -> list[str]:
        return [str(self._program), client, str(path), *map(str, arguments)]

    def run(self, client: str, path: Path, *arguments: int, on: set[int] | None = None) -> float:
        """Nanoseconds per operation, the median of the batches; on the CPU of the servers unless others are named.

        Raises ``Absent`` with what the client says.
        """
        on = {self.server_cpu} if on is None else on
        try:
            done = subprocess.run(self.command(client, path, *arguments), capture_output=True, text=True, timeout=300,
                                  check=False, preexec_fn=lambda: who.pin(on))  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Absent("the client did not come to an end within 300 s") from None
        if done.returncode:
            raise Absent(done.stderr.strip() or f"the client ended with {done.returncode}")
        return median(batches(done.stdout))


def batches(text: str) -> list[float]:
    """What the client printed. Raises ``ValueError`` if it is not a positive number a line."""
    values = [float(line) for line in text.splitlines()]
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError(f"no times: {text!r}")
    return values


def cpus() -> tuple[int, int]:
    """The CPU for servers (and clients), and another one if there is."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]


def measure(result: Result, build: Build, place: Path, sizes: Sizes, parts: Sequence[str]) -> None:
    """Do the jobs of these parts of the bench."""
    todo = [job for part, its_jobs in jobs(sizes).items() if part in parts for job in its_jobs]
    rounds(result, build, place, sizes.memory, sizes.rounds, todo, CONTENDERS)


After: TypeAlias = Callable[[Job, Server], None]
"""Called whenever a server has done a job."""


def rounds(
    result: Result,
    build: Build,
    place: Path,
    size: int,
    count: int,
    todo: list[Job],
    known: Mapping[str, Contender],
    after: After = lambda *_: None,
) -> None:
    """`count` rounds of the jobs; the servers are new ones in each, with `size` bytes of memory."""
    client = Client(build)
    for number in range(count if todo else 0):
        progress(f"round {number + 1} of {count}: starting the servers")
        with servers(result, client, build, place, size, todo, known) as running:
            time.sleep(_SETTLE)
            for job in todo:
                progress(f"round {number + 1} of {count}: {job.name}")
                _take_turns(result, client, job, running, number, after)


@contextlib.contextmanager
def servers(
    result: Result,
    client: Client,
    build: Build,
    place: Path,
    size: int,
    todo: list[Job],
    known: Mapping[str, Contender],
) -> Iterator[dict[str, Server]]:
    """Everybody that any of these jobs is for. Who is not to be had is put down in `result`."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Server] = {}
        for name in dict.fromkeys(name for job in todo for name in job.on):
            try:
                serving = who.served(known[name], build, place, size, client.server_cpu)
                running[name] = stack.enter_context(serving)
            except Absent as absent:
                for job in todo:
                    if name in job.on:
                        result.lacks(job.name, name, str(absent))
        yield running


def _take_turns(
    result: Result, client: Client, job: Job, running: dict[str, Server], round_number: int, after: After
) -> None:
    two = job.name.endswith(TWO_CPUS)
    if two and client.client_cpu == client.server_cpu:
        for name in job.on:
            result.lacks(job.name, name, "there is only one CPU")
        return
    taken: dict[str, list[float]] = {}
    for repeat in range(job.repeats):
        first = (round_number + repeat) % len(job.on)
        for name in (*job.on[first:], *job.on[:first]):
            server = running.get(name)
            if server is None or name in result.absent.get(job.name, {}):
                continue
            try:
                if why := server.contender.cannot.get(job.client.split("-")[0]):
                    raise Absent(why)
                on = {client.client_cpu} if two else {client.server_cpu}
                if job.client == "clients":
                    on.add(client.server_cpu)
                value = client.run(job.client, server.path(job.file), *job.arguments, on=on)
                taken.setdefault(name, []).append(value)
                after(job, server)
            except Absent as absent:
                result.lacks(job.name, name, str(absent))
    for name, values in taken.items():
        if name not in result.absent.get(job.name, {}):
            result.add(job.name, name, median(values))
