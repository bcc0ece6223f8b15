"""The open files whose mappings are closed, and the loads and stores of programs in them.

A closed mapping is one whose offset is ``CLOSED`` and more: far beyond the end of the file, so that the kernel answers
each touch with SIGBUS. The offset names the open file too, by a number that is given here.
"""

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mapdev.answer import is_coming
from mapdev.dispatch import Dispatch
from mapdev.hosts.fuse.nodes import OpenFile
from mapdev.hosts.fuse.session import IDENTIFY, Session
from mapdev.hosts.fuse.tree import DeviceEntry
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Mappable
from mapdev.run.trap import ptrace
from mapdev.run.trap.areas import Area

if TYPE_CHECKING:
    from mapdev.hosts.loop import EventLoop

log = logging.getLogger("mapdev.trap")

CLOSED: Final = 1 << 62
_NUMBER_SHIFT: Final = 52
_NUMBERS: Final = 1 << 10
POSITION: Final = (1 << _NUMBER_SHIFT) - 1
"""The part of the offset that is the program's own."""


class Block:
    """One open file, as programs access it."""

    def __init__(
        self, opened: OpenFile, memory: Mappable, number: int, place: tuple[int, int, int], blocks: "Blocks"
    ) -> None:  # fmt: skip
        """`place`: inode, major, minor of its file."""
        self.number = number
        self.place = place
        self.opened = opened
        self.file = opened.file
        self.dispatch: Dispatch = opened.entry.dispatch
        self.memory = memory
        self._blocks = blocks
        self._load, self._store = self.dispatch.load, self.dispatch.store

    def load(self, pos: int, count: int) -> bytes:
        """What an instruction loads. Raises ``OSError``: SIGBUS."""
        if pos + count > self.memory.nbytes:
            raise OSError(errno.EFAULT, "beyond the end of the device")
        data = self._load(self.file, self.memory, count, pos)
        return self._blocks.loop().result_of(data) if is_coming(data) else data

    def store(self, pos: int, data: bytes) -> None:
        """What an instruction stores. Raises ``OSError``: SIGBUS."""
        if pos + len(data) > self.memory.nbytes:
            raise OSError(errno.EFAULT, "beyond the end of the device")
        done = self._store(self.file, self.memory, data, pos)
        if is_coming(done):
            self._blocks.loop().result_of(done)


class Blocks:
    """All of one run. Its methods but ``close`` are for the thread that traces."""

    def __init__(self, session: Session, entries: Iterable[DeviceEntry], st_dev: int, everything: bool) -> None:
        """`entries`: the devices; `st_dev`: of the mount that `session` serves them in. `everything`: devices that do
        not ask for it are trapped, too."""
        self._session = session
        self._st_dev = os.major(st_dev), os.minor(st_dev)
        self._everything = everything
        self._entries = {session.nodes.ino(entry): entry for entry in entries}
        self._blocks: dict[int, Block] = {}
        self._numbers: dict[int, int] = {}
        self._last = 0
        self._loop: EventLoop | None = None
        session.tracer = threading.get_native_id()

    def loop(self) -> "EventLoop":
        """Where coroutines of operations go on."""
        if self._loop is None:
            from mapdev.hosts.loop import EventLoop

            self._loop = EventLoop()
        return self._loop

    def at(self, area: Area) -> Block | None:
        """What the area is closed for, if it is."""
        return self.find(area.offset, (area.inode, area.major, area.minor))

    def find(self, offset: int, place: tuple[int, int, int]) -> Block | None:
        """The same; `place`: inode, major, minor."""
        block = self._blocks.get((offset ^ CLOSED) >> _NUMBER_SHIFT)
        return block if block is not None and block.place == place else None

    def closed_offset(self, tid: int, fd: int, offset: int, length: int) -> int | None:
        """The offset with which a mapping of `fd` of the thread `tid` is closed; None if it is none of ours, or not to
        be trapped. Raises ``OSError``, which mmap(2) is to fail with."""
        if not self._is_device(tid, fd) or offset % PAGE_SIZE:
            return None
        if offset > POSITION or offset + length > POSITION:
            raise OSError(errno.EINVAL, "no device is that large")
        opened = self._opened(tid, fd)
        memory = None if opened is None else opened.node.memory
        if opened is None or memory is None or not self._wanted(opened, offset, length):
            return None
        return CLOSED | self._number(opened, memory) << _NUMBER_SHIFT | offset

    def _is_device(self, tid: int, fd: int) -> bool:
        try:
            found = os.stat(f"/proc/{tid}/fd/{fd}")
        except PermissionError:  # a program that may not be looked at, by its own wish: prctl(2), PR_SET_DUMPABLE
            ours = ptrace.duplicate(_process_of(tid), fd)
            try:
                found = os.fstat(ours)
            finally:
                os.close(ours)
        except OSError:
            return False
        return found.st_ino in self._entries and (os.major(found.st_dev), os.minor(found.st_dev)) == self._st_dev

    def _opened(self, tid: int, fd: int) -> OpenFile | None:
        """Which open file it is. All opens of a device look alike: the kernel is asked by a call that comes to us."""
        try:
            ours = ptrace.duplicate(_process_of(tid), fd)
        except OSError as error:
            if error.errno == errno.EBADF:
                return None
            raise
        try:
            return self._session.nodes.files.get(fcntl.ioctl(ours, IDENTIFY))
        except OSError as error:
            if error.errno == errno.EBADF:  # O_PATH
                return None
            raise
        finally:
            os.close(ours)

    def _wanted(self, opened: OpenFile, offset: int, length: int) -> bool:
        try:
            return self._everything or opened.entry.dispatch.traps(offset, length)
        except Exception:
            log.exception("traps of %s failed; mmap gets EIO", opened.entry.dispatch.name)
            raise OSError(errno.EIO, "traps failed") from None

    def _number(self, opened: OpenFile, memory: Mappable) -> int:
        number = self._numbers.get(opened.fh)
        if number is not None and self._blocks[number].memory is memory:
            return number
        for number in ((self._last + more) % _NUMBERS for more in range(1, _NUMBERS + 1)):
            block = self._blocks.get(number)
            if block is None or block.opened.fh not in self._session.nodes.files:
                break
        else:
            raise OSError(errno.ENOMEM, "too many open devices are mapped")
        if block is not None:
            self._numbers.pop(block.opened.fh, None)
        place = self._session.nodes.ino(opened.entry), *self._st_dev
        self._blocks[number] = Block(opened, memory, number, place, self)
        self._numbers[opened.fh] = self._last = number
        return number

    def close(self) -> None:
        """End the threads, if there are any."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None


def _process_of(tid: int) -> int:
    with open(f"/proc/{tid}/status", "rb", buffering=0) as status:
        for line in status.read().split(b"\n"):
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
