"""FUSE over io_uring (Linux 6.14), tried from Python: ``python -m bench.uring``, as root. The verdict: docs/bench.md.

Two servers that differ in nothing but the transport, each a bare loop in one thread without mapdev's session: one reads
requests from /dev/fuse and writes the answers, one hands each answer over and takes the next request with a single
io_uring_enter(2). It switches the kernel's parameter on for that time. Numbers and layouts: include/uapi/linux/fuse.h
(``fuse_uring_req_header``, ``fuse_uring_cmd_req``), include/uapi/linux/io_uring.h; Documentation/filesystems/fuse/
fuse-io-uring.rst.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import contenders as who
from bench import jobs, page
from bench.contenders import CONTENDERS, Absent, Build, Contender
from bench.loop import Answers, Loop, zeroed_counts
from bench.result import Result
from bench.tables import Table, job_table
from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.mount import mount

URING, READ = "bare Python loop, io_uring", "bare Python loop, read and writev"
_PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")
OVER_IO_URING: Final = 1 << 41
_SIZE: Final = 1 << 20

_SYS_IO_URING_SETUP, _SYS_IO_URING_ENTER = 425, 426
_IORING_SETUP_SQE128, _IORING_ENTER_GETEVENTS, _IORING_OP_URING_CMD = 1 << 10, 1, 46
_OFF_SQES: Final = 0x10000000
_REGISTER, _COMMIT_AND_FETCH = 1, 2
_HEADER_SIZE, _OP_IN, _ENT = 288, 128, struct.Struct("=QQII")  # fuse_uring_ent_in_out, at 256
_SQE, _CMD, _CQE = struct.Struct("=BBHiIIQIIQ"), struct.Struct("=QQHxxxxxx"), struct.Struct("=QiI")
_ENTRIES_PER_CPU: Final = 4


class Entry:
    """A place for one request of the queue `cpu`: its header and its payload."""

    def __init__(self, cpu: int, number: int) -> None:
        self.cpu, self.number = cpu, number
        self._pages = mmap.mmap(-1, 4096), mmap.mmap(-1, wire.BUFFER_SIZE)
        self.header, self.payload = memoryview(self._pages[0]), memoryview(self._pages[1])
        at = [ctypes.addressof(ctypes.c_char.from_buffer(page)) for page in self._pages]
        self._iovecs = (ctypes.c_uint64 * 4)(at[0], _HEADER_SIZE, at[1], wire.MAX_WRITE)
        self.iovecs = ctypes.addressof(self._iovecs)


class Ring:
    """An io_uring over which the requests of one connection come that are made on certain CPUs."""

    def __init__(self, fd: int, answers: Answers, cpus: Sequence[int]) -> None:
        """The kernel has a queue for each CPU, and sends nothing before there is an entry for each.

        Raises ``OSError`` if it gives none.
        """
        self._fd = fd
        self._answers = answers
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.argtypes = [ctypes.c_long] * 7
        params = (ctypes.c_uint32 * 30)()
        params[2] = _IORING_SETUP_SQE128
        address = ctypes.addressof(params)
        self._ring = self._call(_SYS_IO_URING_SETUP, len(cpus) * _ENTRIES_PER_CPU, address, 0, 0, 0, 0)
        _, self._sq_tail, sq_mask, sq_entries, _, _, sq_array = (value // 4 for value in params[10:17])
        self._cq_head, self._cq_tail, cq_mask, _, _, cqes = (value // 4 for value in params[20:26])
        size = max(params[16] + params[0] * 4, params[25] + params[1] * _CQE.size)
        self._rings = mmap.mmap(self._ring, size + -size % 4)
        self._u32 = memoryview(self._rings).cast("I")
        self._sqes = mmap.mmap(self._ring, params[0] * 128, offset=_OFF_SQES)
        self._cqes = cqes * 4
        self._sq_mask, self._cq_mask = self._u32[sq_mask], self._u32[cq_mask]
        for number in range(self._u32[sq_entries]):
            self._u32[sq_array + number] = number
        self._entries = [Entry(cpu, number) for number, cpu in enumerate([*cpus] * _ENTRIES_PER_CPU)]
        for entry in self._entries:
            self._submit(entry, _REGISTER, 0)

    def run(self) -> None:
        """Until the connection ends."""
        submitted = len(self._entries)
        while True:
            try:
                self._call(_SYS_IO_URING_ENTER, self._ring, submitted, 1, _IORING_ENTER_GETEVENTS, 0, 0)
            except InterruptedError:
                continue
            submitted = 0
            head = self._u32[self._cq_head]
            while head != self._u32[self._cq_tail]:
                number, result, _ = _CQE.unpack_from(self._rings, self._cqes + (head & self._cq_mask) * _CQE.size)
                head = (head + 1) & 0xFFFFFFFF
                if result == -errno.ENOTCONN:
                    return
                if result < 0:
                    raise OSError(-result, os.strerror(-result))
                self._answer(self._entries[number])
                submitted += 1
            self._u32[self._cq_head] = head

    def _answer(self, entry: Entry) -> None:
        header = entry.header
        length, opcode, unique, nodeid, _, _, pid, *_ = wire.IN_HEADER.unpack_from(header)
        _, commit, in_payload, _ = _ENT.unpack_from(header, 256)
        body = header[_OP_IN:256]
        if in_payload:
            size = length - wire.IN_HEADER.size - in_payload
            body = memoryview(bytes(body[:size]) + entry.payload[:in_payload])
        number, out = self._answers(opcode, nodeid, pid, body)
        entry.payload[: len(out)] = out
        wire.OUT_HEADER.pack_into(header, 0, wire.OUT_HEADER.size + len(out), -number, unique)
        _ENT.pack_into(header, 256, 0, commit, len(out), 0)
        self._submit(entry, _COMMIT_AND_FETCH, commit)

    def _submit(self, entry: Entry, command: int, commit: int) -> None:
        tail = self._u32[self._sq_tail]
        at = (tail & self._sq_mask) * 128
        iovecs, count = (entry.iovecs, 2) if command == _REGISTER else (0, 0)
        _SQE.pack_into(
            self._sqes, at, _IORING_OP_URING_CMD, 0, 0, self._fd, command, 0, iovecs, count, 0, entry.number
        )
        _CMD.pack_into(self._sqes, at + 48, 0, commit, entry.cpu)
        self._u32[self._sq_tail] = (tail + 1) & 0xFFFFFFFF

    def _call(self, *arguments: int) -> int:
        result: int = self._syscall(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def serve(directory: Path, over_uring: bool) -> None:
    """Until SIGTERM."""
    mounted = mount(directory)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        answers = Answers(memoryview(bytearray(range(256)) * (_SIZE // 256)), zeroed_counts())
        loop = Loop(mounted.fd, answers)
        loop.init(OVER_IO_URING if over_uring else 0)
        if over_uring:
            threading.Thread(target=loop.run, daemon=True).start()
            Ring(mounted.fd, answers, range(os.sysconf("SC_NPROCESSORS_CONF"))).run()
        else:
            loop.run()
    except KeyboardInterrupt:
        pass
    finally:
        mounted.unmount()


def _server(name: str, how: str) -> Contender:
    return Contender(
        name, lambda _build, directory, _size: [sys.executable, "-m", "bench.uring", str(directory), how]
    )


def is_switched_on() -> bool:
    """Whether the kernel offers it."""
    return _PARAMETER.exists() and _PARAMETER.read_text(encoding="ascii").strip() == "Y"


@contextlib.contextmanager
def switched_on() -> Iterator[None]:
    """The kernel offers it while this lasts. Raises ``Absent``."""
    try:
        before = _PARAMETER.read_text(encoding="ascii")
        _PARAMETER.write_text("Y", encoding="ascii")
    except OSError as error:
        raise Absent(
            f"{_PARAMETER}: {error.strerror}: this needs root and Linux 6.14 with FUSE over io_uring"
        ) from error
    try:
        yield
    finally:
        _PARAMETER.write_text(before, encoding="ascii")


def measured(rounds: int = 7) -> Table:
    """Both transports beside libfuse in C."""
    result = Result()
    on = (URING, READ, who.C)
    todo = [jobs.Job(jobs.READ_4K, "read", "device", (4096, 3000), on),
            jobs.Job(jobs.READ_1M, "read", "device", (_SIZE, 300), on),
            jobs.Job(jobs.OPEN, "open", "device", (3000,), on),
            jobs.Job(jobs.READ_4K + jobs.TWO_CPUS, "read", "device", (4096, 3000), on)]  # fmt: skip
    servers = {URING: _server(URING, "uring"), READ: _server(READ, "read"), who.C: CONTENDERS[who.C]}
    with switched_on(), tempfile.TemporaryDirectory(prefix="mapdev-bench-", dir="/dev/shm") as directory:
        jobs.rounds(result, Build.make(Path(directory)), Path(directory), _SIZE, rounds, todo, servers)
    return job_table("FUSE over io_uring (us)", result, [job.name for job in todo], 1e3)


def main() -> int:
    """The exit code."""
    match sys.argv[1:]:
        case [directory, ("uring" | "read") as how]:
            serve(Path(directory), how == "uring")
            return 0
        case [] | ["--docs"] as docs:
            return page.experiment("uring", measured, bool(docs))
    sys.stderr.write("usage: python -m bench.uring [--docs]   --docs: put the table into docs/bench.md\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
