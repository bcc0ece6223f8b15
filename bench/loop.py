"""The least that serves the client of the bench from Python: requests read from /dev/fuse and answered, one at a time.

No session, no dispatch, no device class: a floor for what a host written in Python can cost. The experiments of
``uring.py`` and ``workers.py`` are about it.
"""

import errno
import mmap
import os
from typing import Final

from mapdev import IOR
from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.wire import Fopen, Init, Opcode

GET_COUNT: Final = IOR("b", 1, 8)
_DEVICE, _COUNTS = 2, 3
_NODES: Final = {b"device": _DEVICE, b"counts": _COUNTS}
_FLAGS = Init.ASYNC_READ | Init.BIG_WRITES | Init.MAX_PAGES | Init.INIT_EXT | Init.PASSTHROUGH
_READ_AGAIN: Final = (errno.EINTR, errno.EAGAIN, errno.ENOENT)
"""What a read of /dev/fuse may fail with and go on; ENOENT: the request was interrupted, and taken back."""

_EACH: Final = 1 + os.sysconf("SC_NPROCESSORS_CONF")


def zeroed_counts(loops: int = 1) -> memoryview:
    """What "counts" shows, for `loops` loops, in memory that a fork shares. For each: how many opens it has answered,
    and for each CPU how many reads of files that were opened by a process pinned to it; as native unsigned long long.
    """
    return memoryview(mmap.mmap(-1, loops * _EACH * 8)).cast("Q")


class Answers:
    """The file "device", read and written with direct I/O, and "counts", which says who has answered whom.

    A file handle is the number of the opener's CPU: all that a loop has to know of a file that another has opened.
    """

    def __init__(self, memory: memoryview, counts: memoryview, number: int = 0, backing_id: int = 0) -> None:
        """`counts` are those of all loops, `number` is which this one is. `backing_id` is of what mmap(2) maps."""
        self._memory, self._all_counts = memory, counts
        self._counts = counts[number * _EACH : (number + 1) * _EACH]
        self._contents = {_DEVICE: memory, _COUNTS: counts.cast("B")}
        self._fopen = Fopen.DIRECT_IO | (Fopen.PASSTHROUGH if backing_id else 0)
        self._backing_id = backing_id

    def __call__(self, opcode: int, nodeid: int, pid: int, body: memoryview) -> tuple[int, bytes | memoryview]:
        """(errno, body of the reply)"""
        if opcode == Opcode.READ:
            cpu, pos, count, *_ = wire.READ_IN.unpack_from(body)
            if nodeid == _DEVICE:
                self._counts[1 + cpu] += 1
            return 0, self._contents[nodeid][pos : pos + count]
        if opcode == Opcode.WRITE:
            return self._write(nodeid, body)
        if opcode == Opcode.IOCTL:
            return self._ioctl(nodeid, body)
        if opcode == Opcode.OPEN:
            return 0, self._open(nodeid, pid)
        if opcode == Opcode.RELEASE:
            return 0, b""
        if opcode == Opcode.LOOKUP:
            node = _NODES.get(wire.parse_name(body))
            return (0, wire.entry_out(node, self._attr(node), 1000, 1000)) if node else (errno.ENOENT, b"")
        if opcode == Opcode.GETATTR:
            return 0, wire.attr_out(self._attr(nodeid), 1000)
        return errno.ENOSYS, b""

    def _open(self, nodeid: int, pid: int) -> bytes:
        if nodeid != _DEVICE:
            return wire.OPEN_OUT.pack(0, Fopen.DIRECT_IO, 0)
        self._counts[0] += 1
        try:
            cpu = min(os.sched_getaffinity(pid))
        except ProcessLookupError:  # killed in its open
            cpu = 0
        return wire.OPEN_OUT.pack(cpu, self._fopen, self._backing_id)

    def _write(self, nodeid: int, body: memoryview) -> tuple[int, bytes]:
        _, pos, count, *_ = wire.WRITE_IN.unpack_from(body)
        count = min(count, len(self._memory) - pos)
        if nodeid != _DEVICE or count <= 0:
            return errno.ENOSPC, b""
        self._memory[pos : pos + count] = body[wire.WRITE_IN.size :][:count]
        return 0, wire.WRITE_OUT.pack(count, 0)

    def _ioctl(self, nodeid: int, body: memoryview) -> tuple[int, bytes]:
        _, _, cmd, *_ = wire.IOCTL_IN.unpack_from(body)
        if nodeid != _DEVICE or cmd != GET_COUNT:
            return errno.ENOTTY, b""
        opens = sum(self._all_counts[::_EACH])
        return 0, wire.IOCTL_OUT.pack(0, 0, 0, 0) + opens.to_bytes(8, "little")

    def _attr(self, nodeid: int) -> wire.Attr:
        if nodeid == wire.ROOT_ID:
            return wire.Attr(nodeid, 0, 0o040700, 2, os.getuid(), os.getgid(), 0)
        return wire.Attr(nodeid, len(self._contents[nodeid]), 0o100600, 1, os.getuid(), os.getgid(), 0)


class Loop:
    """One descriptor of /dev/fuse, read and written."""

    def __init__(self, fd: int, answers: Answers) -> None:
        self._fd, self._answers = fd, answers
        self._buffer = mmap.mmap(-1, wire.BUFFER_SIZE)

    def init(self, more: Init | int = 0) -> None:
        """Agree with the kernel, on the flags `more` too if it offers them."""
        data = memoryview(self._buffer)[: os.readv(self._fd, [self._buffer])]
        header = wire.parse_header(data)
        if header.opcode != Opcode.INIT:
            raise wire.ProtocolError(f"the first request is {header.opcode}, no INIT")
        offer = wire.InitIn.parse(data[wire.IN_HEADER.size :])
        self._reply(header.unique, 0, wire.init_out(offer, _FLAGS | more, offer.max_readahead, 16, 1))

    def run(self) -> None:
        """Until the connection ends."""
        while True:
            try:
                data = memoryview(self._buffer)[: os.readv(self._fd, [self._buffer])]
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno not in _READ_AGAIN:
                    raise
                continue
            _, opcode, unique, nodeid, _, _, pid, *_ = wire.IN_HEADER.unpack_from(data)
            if opcode not in wire.NO_REPLY:
                self._reply(unique, *self._answers(opcode, nodeid, pid, data[wire.IN_HEADER.size :]))

    def _reply(self, unique: int, number: int, body: bytes | memoryview) -> None:
        try:
            os.writev(self._fd, [wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(body), -number, unique), body])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # the request, or the mount, is no more
                raise
