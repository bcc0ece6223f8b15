"""Forked workers, tried: would several processes that serve one mount be worth having? ``python -m bench.workers``.

A bare loop (``loop.py``) in each of several processes, each with a descriptor of its own for the same connection
(FUSE_DEV_IOC_CLONE), and the device in memory that they share. One process mounts, agrees with the kernel and forks
them; it answers nothing itself. A worker can also have, for each of its CPUs, a thread with an io_uring for the
requests made there (``uring.py``); that needs root and Linux 6.14. The verdict: docs/bench.md.

Sources: include/uapi/linux/fuse.h for the clone; fs/fuse/dev.c (``fuse_dev_do_read``) for who is woken.
"""

import contextlib
import fcntl
import itertools
import logging
import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from bench import contenders as who
from bench import jobs, page, uring
from bench.contenders import CONTENDERS, Absent, Build, Contender, Server
from bench.jobs import Job
from bench.loop import Answers, Loop, zeroed_counts
from bench.result import Result
from bench.statistic import median, ratio
from bench.tables import Table, job_table
from mapdev import libc
from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.mount import mount, open_dev_fuse

_DEV_IOC_CLONE: Final = 2 << 30 | 4 << 16 | 229 << 8 | 0


def serve(directory: Path, size: int, over_uring: bool, cpus: Sequence[set[int]]) -> bool:
    """Serve `size` bytes, with a worker on each of the sets of CPUs, until SIGTERM or until one of them ends.

    False if that was a failure.
    """
    memory, fd = _shared_memory(size)
    counts = zeroed_counts(sum(map(len, cpus)))
    workers: set[int] = set()
    mounted = mount(directory)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Loop(mounted.fd, Answers(memory, counts)).init(uring.OVER_IO_URING if over_uring else 0)
        backing_id = _backing_open(mounted.fd, fd)
        host = os.getpid()
        all_queues, numbers = queues(cpus), itertools.count()
        for its_cpus in cpus:
            rings = {cpu: all_queues[cpu] for cpu in its_cpus} if over_uring else {}
            answers = [Answers(memory, counts, next(numbers), backing_id) for _ in rings or [its_cpus]]
            worker = os.fork()
            if not worker:
                _to_its_end(partial(_work, host, mounted.fd, its_cpus, answers, rings))
            workers.add(worker)
        ended, status = os.wait()
        workers.discard(ended)
        return not status
    except KeyboardInterrupt:
        return True
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
        os.close(mounted.fd)
        mounted.unmount()


def queues(cpus: Sequence[set[int]]) -> dict[int, list[int]]:
    """For the io_uring of each CPU, the CPUs whose requests it takes: its own, and the first one those that have no
    worker, as the kernel sends nothing before all are taken."""
    own = sorted(set().union(*cpus))
    nobodys = sorted(set(range(os.sysconf("SC_NPROCESSORS_CONF"))).difference(own))
    return {cpu: [cpu, *(nobodys if cpu == own[0] else [])] for cpu in own}


def _shared_memory(size: int) -> tuple[memoryview, int]:
    """(the memory, its memfd). It is written, so that its pages are there."""
    fd = os.memfd_create("workers")
    os.truncate(fd, size)
    memory = memoryview(mmap.mmap(fd, size))
    for at in range(0, size, 1 << 20):
        memory[at : at + (1 << 20)] = bytes(min(1 << 20, size - at))
    return memory, fd


def _backing_open(fuse: int, memory: int) -> int:
    """What makes mmap(2) map the memory itself; 0 where only root may."""
    try:
        found: int = fcntl.ioctl(fuse, wire.DEV_IOC_BACKING_OPEN, bytearray(wire.BACKING_MAP.pack(memory, 0, 0)))
    except OSError:
        return 0
    return found


def _to_its_end(work: Callable[[], None]) -> NoReturn:
    """Do it, and end this process: that ends the others."""
    try:
        work()
        os._exit(0)
    except BaseException:
        logging.exception("a worker failed")
        os._exit(1)


def _work(host: int, fuse: int, cpus: set[int], answers: Sequence[Answers], rings: Mapping[int, list[int]]) -> None:
    """The life of a worker. It ends with the host however that ends, so that nobody waits for an answer for ever.

    `rings`: CPU -> queues, of each io_uring; without any, it reads the descriptor.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        return
    os.sched_setaffinity(0, cpus)
    clone = open_dev_fuse()
    fcntl.ioctl(clone, _DEV_IOC_CLONE, struct.pack("=I", fuse))
    os.close(fuse)

    def ring(cpu: int, its_answers: Answers) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread
        uring.Ring(clone, its_answers, rings[cpu]).run()

    for cpu, its_answers in zip(rings, answers, strict=False):
        threading.Thread(target=_to_its_end, args=[partial(ring, cpu, its_answers)], daemon=True).start()
    Loop(clone, answers[0]).run()  # over which FORGET comes also where the rest does not


ONE = "one bare loop"
FREE = "two forked bare loops, not pinned"
RINGS = "two forked bare loops, io_uring"
RING_THREADS = "two threads of one bare process, io_uring"
POOL = "libfuse, C, pool of threads, on both CPUs"
THREADS = "mapdev, shared memory, on both CPUs"

ALONE, ONE_CLIENT = "one client, one CPU", "one client" + jobs.TWO_CPUS
LOCAL = {ONE_CLIENT: "one client: answered on its CPU", jobs.TWO_CLIENTS: "two clients: answered on their CPU"}


def _command(how: str, *cpus: str) -> who.Command:
    def command(_build: Build, directory: Path, size: int) -> list[str | Path]:
        if how == "uring" and not uring.is_switched_on():
            raise Absent("needs root, and Linux 6.14 with FUSE over io_uring")
        return [sys.executable, "-m", "bench.workers", "serve", directory, str(size), how, *cpus]

    return command


def _on_both(cpus: str, command: who.Command | None, *arguments: str) -> who.Command:
    def on_both(build: Build, directory: Path, size: int) -> list[str | Path]:
        if shutil.which("taskset") is None:
            raise Absent("taskset is missing (install util-linux)")
        assert command is not None
        return ["taskset", "-c", cpus, *command(build, directory, size), *arguments]

    return on_both


def _known(first: int, second: int) -> dict[str, Contender]:
    """Everybody in the table, in its order. `first` is the CPU of all that have one only."""
    both = f"{first},{second}"
    c, shared = CONTENDERS[who.C], CONTENDERS[who.SHARED]
    known = (
        c,
        Contender(POOL, _on_both(both, c.command, "threads")),
        shared,
        Contender(THREADS, _on_both(both, shared.command), memory="device"),
        Contender(ONE, _command("read", str(first))),
        CONTENDERS[who.WORKERS],
        Contender(FREE, _command("read", both, both)),
        Contender(RINGS, _command("uring", str(first), str(second))),
        Contender(RING_THREADS, _command("uring", both)),
    )
    return {contender.name: contender for contender in known}


class Shares:
    """Called after each job: which part of the reads was answered by the worker that is on the CPU of the client."""

    def __init__(self, result: Result, pinned: dict[str, tuple[int, ...]]) -> None:
        """`pinned`: the contenders to look at, and the CPU of each of their workers."""
        self._result, self._pinned = result, pinned
        self._before: dict[int, list[int]] = {}

    def __call__(self, job: Job, server: Server) -> None:
        cpus = self._pinned.get(server.contender.name)
        if cpus is None:
            return
        counts = list(memoryview((server.directory / "counts").read_bytes()).cast("Q"))
        before = self._before.get(server.pid, [0] * len(counts))
        self._before[server.pid] = counts
        if job.name in LOCAL:
            share = share_on_their_cpu([now - then for now, then in zip(counts, before, strict=True)], cpus)
            self._result.add(LOCAL[job.name], server.contender.name, share)


def share_on_their_cpu(counts: Sequence[int], cpus: Sequence[int]) -> float:
    """`counts` of all workers, as ``loop.zeroed_counts`` says; `cpus`: where each is. Raises ``ZeroDivisionError``
    if nobody read."""
    each = len(counts) // len(cpus)
    reads = [counts[1 + at : each + at] for at in range(0, len(counts), each)]
    return sum(its[cpu] for its, cpu in zip(reads, cpus, strict=True)) / sum(map(sum, reads))


def measured(rounds: int = 11) -> Table:
    """One and two clients of each. Raises ``Absent`` without a compiler or a second CPU."""
    result = Result()
    first, second = jobs.cpus()
    if first == second:
        raise Absent("there is only one CPU")
    known = _known(first, second)
    todo = [Job(name, "clients", "device", (4096, 1500, clients), tuple(known))
            for name, clients in ((ALONE, 1), (ONE_CLIENT, 1), (jobs.TWO_CLIENTS, 2))]  # fmt: skip
    look = Shares(result, {who.WORKERS: (first, second), RINGS: (first, second)})
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(Absent):  # then its row says so
            stack.enter_context(uring.switched_on())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mapdev-bench-", dir="/dev/shm")))
        jobs.rounds(result, Build.make(place), place, 1 << 20, rounds, todo, known, look)
    return table(result, tuple(known))


def table(result: Result, names: Sequence[str]) -> Table:
    """With the ratio of the goal, and who has answered."""
    rows = {row[0]: row for row in job_table("", result, [ALONE, ONE_CLIENT, jobs.TWO_CLIENTS], 1e3).rows}
    series = result.series.get(jobs.TWO_CLIENTS, {})
    for name, row in rows.items():
        speed = ""
        if name in series and who.C in series:
            found = ratio(series[who.C], series[name])
            speed = f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
        row += [speed, *(_share(result.series.get(local, {}).get(name, [])) for local in LOCAL.values())]
    columns = ["", ALONE, ONE_CLIENT, "two clients, two CPUs", "two clients: speed of libfuse C", *LOCAL.values()]
    return Table("Workers (us per read of 4 KiB, all clients together)", columns,
                 [rows[name] for name in names if name in rows])  # fmt: skip


def _share(shares: list[float]) -> str:
    return f"{median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})" if shares else ""


def main() -> int:
    """The exit code."""
    match sys.argv[1:]:
        case ["serve", directory, size, ("read" | "uring") as how, *cpus] if cpus:
            each = [{int(cpu) for cpu in its.split(",")} for its in cpus]
            return 0 if serve(Path(directory), int(size), how == "uring", each) else 1
        case [] | ["--docs"] as docs:
            return page.experiment("workers", measured, bool(docs))
    sys.stderr.write("usage: python -m bench.workers [--docs]   --docs: put the table into docs/bench.md\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
