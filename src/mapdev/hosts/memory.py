"""A host without a kernel: a device's operations called from Python, through the same dispatch as everywhere.

For unit tests of devices. What the kernel does before a driver is reached is done here: access modes, offsets,
faults, copies for MAP_PRIVATE. There is one process and no page cache; everything is as in shared memory mode.
"""

import ctypes
import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Self, TypeVar

from mapdev import libc
from mapdev.answer import Answer, is_coming
from mapdev.device import Device
from mapdev.dispatch import Dispatch
from mapdev.file import File, Vma
from mapdev.hosts.base import Devices
from mapdev.ioctl import IOC_READ, IOC_WRITE, IoctlArg
from mapdev.libc import PAGE_SIZE, PROT_READ, PROT_WRITE
from mapdev.pages import BytesLike, Mappable, OnDemandPages, Pages
from mapdev.trace import Trace

if TYPE_CHECKING:
    from mapdev.hosts.loop import EventLoop

T = TypeVar("T")


class BusError(Exception):
    """What would be SIGBUS: the page cannot be had."""


class SegmentationFault(Exception):  # noqa: N818 - its name among programmers
    """What would be SIGSEGV: the area does not permit this, or is not mapped any more."""


class MemoryHost:
    """Devices that are opened by ``open``; also a with-statement.

    `devices`: one device, or several by name.
    """

    def __init__(self, devices: Devices | Device, trace: Trace | None = None) -> None:
        named = {devices.node_name(): devices} if isinstance(devices, Device) else devices
        self._dispatches = {name: Dispatch(device, name, trace) for name, device in named.items()}
        self._loop: EventLoop | None = None
        self._files: set[OpenFile] = set()
        self._last_id = 0

    def open(self, name: str | None = None, flags: int = os.O_RDWR) -> "OpenFile":
        """open(2) of the device `name` (may be left out if there is one only). Raises ``OSError``."""
        if name is None and len(self._dispatches) == 1:
            name = next(iter(self._dispatches))
        if name not in self._dispatches:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        dispatch = self._dispatches[name]
        self._last_id += 1
        file = File(name, self._last_id, flags, os.getpid(), os.geteuid(), os.getegid())
        self.wait(dispatch.open(file))
        opened = OpenFile(self, dispatch, file)
        self._files.add(opened)
        return opened

    def close(self) -> None:
        """Every open file is released. Idempotent."""
        for opened in tuple(self._files):
            opened.release()
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, answer: Answer[T]) -> T:
        """The value of one operation: it is here if that is plain, and comes from an event loop if it is async."""
        return self._event_loop().result_of(answer) if is_coming(answer) else answer

    def forget(self, opened: "OpenFile") -> None:
        self._files.discard(opened)

    def _event_loop(self) -> "EventLoop":
        if self._loop is None:
            from mapdev.hosts.loop import EventLoop

            self._loop = EventLoop()
        return self._loop


class OpenFile:
    """One open of a device; its methods are the system calls of these names and raise ``OSError`` as they do."""

    def __init__(self, host: MemoryHost, dispatch: Dispatch, file: File) -> None:
        self.file = file
        """What the device gets: ``file.private_data`` is there to look at."""
        self.position = 0
        self._host = host
        self._dispatch = dispatch
        self._areas: set[Area] = set()
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, count: int, pos: int | None = None) -> bytes:
        """read(2), or pread(2) with `pos`."""
        self._need(self.file.readable)
        data = bytes(self._host.wait(self._dispatch.read(self.file, count, self._at(pos))))
        self._advance(pos, len(data))
        return data

    def write(self, data: BytesLike, pos: int | None = None) -> int:
        """write(2), or pwrite(2) with `pos`."""
        self._need(self.file.writable)
        taken = self._host.wait(self._dispatch.write(self.file, bytes(data), self._at(pos)))
        self._advance(pos, taken)
        return taken

    def lseek(self, offset: int) -> int:
        """lseek(2) with SEEK_SET."""
        if not self.file.seekable or self.file.stream:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        self.position = offset
        return offset

    def ioctl(self, cmd: int, arg: int | bytes | bytearray = 0) -> int:
        """ioctl(2): `arg` a number, or a buffer; a bytearray gets what the device stores."""
        self._need(self._open)
        if isinstance(arg, int):
            argument, buffer = IoctlArg(arg, pid=os.getpid()), None
        else:
            # the device may also reach for the caller's memory: let there be some
            buffer = ctypes.create_string_buffer(bytes(arg), len(arg))
            size = cmd >> 16 & 0x3FFF
            data = bytes(arg)[:size] if cmd >> 30 & IOC_WRITE else b""
            room = size if cmd >> 30 & IOC_READ else 0
            argument = IoctlArg(ctypes.addressof(buffer), data, room, os.getpid())
        result = self._host.wait(self._dispatch.ioctl(self.file, cmd, argument))
        if buffer is not None and isinstance(arg, bytearray):
            stored = argument.out or buffer.raw
            arg[: len(stored)] = stored[: len(arg)]
        return result

    def poll(self, events: int | None = None, timeout: float = 0.0) -> int:
        """poll(2): the mask of what is ready, of `events` if given; waits up to `timeout` seconds for one of them."""
        self._need(self._open)
        woken = threading.Event()
        self.file.notify_poll = woken.set
        until = time.monotonic() + timeout
        while True:
            woken.clear()
            ready = self._host.wait(self._dispatch.poll(self.file))
            ready = ready if events is None else ready & events
            if ready or not woken.wait(max(0.0, until - time.monotonic())):
                return ready

    def fsync(self, datasync: bool = False) -> None:
        """fsync(2), fdatasync(2)."""
        self._need(self._open)
        self._host.wait(self._dispatch.fsync(self.file, datasync))

    def mmap(
        self, length: int, prot: int = PROT_READ | PROT_WRITE, flags: int = libc.MAP_SHARED, offset: int = 0
    ) -> "Area":
        """mmap(2): `length` and `offset` in bytes; EINVAL for nothing or an offset within a page, EACCES for a
        shared writable mapping of a file that is not writable."""
        self._need(self._open)
        if length <= 0 or offset < 0 or offset % PAGE_SIZE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        shared = bool(flags & libc.MAP_SHARED)
        if not self.file.readable or (shared and prot & PROT_WRITE and not self.file.writable):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        vma = Vma(offset // PAGE_SIZE, length, prot, shared)
        memory = self._host.wait(self._dispatch.mmap(self.file, vma))
        area = Area(self, memory, vma, shared and self._dispatch.traps(offset, length))
        self._areas.add(area)
        return area

    def close(self) -> None:
        """close(2): the device's ``release`` runs now, or with the last munmap."""
        if self._open:
            self._open = False
            self._release_if_last()

    def release(self) -> None:
        """The process ends: its areas go, and the file."""
        self._open = False
        for area in tuple(self._areas):
            area.munmap()
        self._release_if_last()

    # for Area

    def fault(self, memory: OnDemandPages, pgoff: int) -> memoryview:
        try:
            return self._host.wait(self._dispatch.fault(self.file, memory, pgoff))
        except OSError as error:
            raise BusError(f"page {pgoff}: {error}") from error

    def load(self, memory: Mappable, count: int, pos: int) -> bytes:
        try:
            return self._host.wait(self._dispatch.load(self.file, memory, count, pos))
        except OSError as error:
            raise BusError(f"load of {count} bytes at {pos:#x}: {error}") from error

    def store(self, memory: Mappable, data: bytes, pos: int) -> None:
        try:
            self._host.wait(self._dispatch.store(self.file, memory, data, pos))
        except OSError as error:
            raise BusError(f"store of {len(data)} bytes at {pos:#x}: {error}") from error

    def unmapped(self, area: "Area") -> None:
        self._areas.discard(area)
        self._release_if_last()

    def _release_if_last(self) -> None:
        if not self._open and not self._areas and self.file in self._dispatch.files:
            self._host.forget(self)
            self._host.wait(self._dispatch.release(self.file))

    def _need(self, permitted: bool) -> None:
        if not permitted or not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _at(self, pos: int | None) -> int:
        return self.position if pos is None and not self.file.stream else pos or 0

    def _advance(self, pos: int | None, count: int) -> None:
        if pos is None and not self.file.stream:
            self.position += count


class Area:
    """A mapping: ``area[a:b]`` loads, ``area[a:b] = data`` stores, bytes from its start.

    Raises ``BusError`` and ``SegmentationFault`` where a program would get these signals. If the device ``traps`` it,
    each is one access of that width, and comes to ``Device.load`` or ``Device.store``.
    """

    def __init__(self, opened: OpenFile, memory: Mappable, vma: Vma, trapped: bool = False) -> None:
        self.vma = vma
        self.trapped = trapped
        self._opened = opened
        self._memory = memory
        self._private: dict[int, memoryview] = {}
        self._mapped = True

    def __len__(self) -> int:
        return self.vma.length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.munmap()

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(len(self))
        self._permit(PROT_READ)
        if self.trapped and start < stop:
            self._within(stop)
            return self._opened.load(self._memory, stop - start, self.vma.pgoff * PAGE_SIZE + start)
        return b"".join(bytes(self._page(page)[a:b]) for page, a, b, _ in _by_page(start, stop))

    def __setitem__(self, key: slice, data: BytesLike) -> None:
        start, stop, _ = key.indices(len(self))
        if len(data) != stop - start:
            raise ValueError(f"{len(data)} bytes for a range of {stop - start}")
        self._permit(PROT_WRITE)
        if self.trapped and start < stop:
            self._within(stop)
            self._opened.store(self._memory, bytes(data), self.vma.pgoff * PAGE_SIZE + start)
            return
        for page, a, b, done in _by_page(start, stop):
            target = self._page(page) if self.vma.shared else self._own(page)
            target[a:b] = memoryview(data)[done : done + b - a]

    def mprotect(self, prot: int) -> None:
        """mprotect(2) of the whole area: EACCES for what the open file does not permit."""
        if prot & PROT_WRITE and self.vma.shared and not self._opened.file.writable:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        self.vma = Vma(self.vma.pgoff, self.vma.length, prot, self.vma.shared)

    def munmap(self) -> None:
        """munmap(2) of the whole area. Idempotent."""
        if self._mapped:
            self._mapped = False
            self._opened.unmapped(self)

    def _permit(self, prot: int) -> None:
        if not self._mapped or not self.vma.prot & prot:
            raise SegmentationFault("not mapped any more" if not self._mapped else "not permitted by prot")

    def _within(self, stop: int) -> None:
        last = (self.vma.pgoff * PAGE_SIZE + stop - 1) // PAGE_SIZE
        if last >= self._memory.npages:
            raise BusError(f"page {last} of a device of {self._memory.npages}")

    def _page(self, page: int) -> memoryview:
        own = self._private.get(page)
        if own is not None:
            return own
        pgoff = self.vma.pgoff + page
        if pgoff >= self._memory.npages:
            raise BusError(f"page {pgoff} of a device of {self._memory.npages}")
        if isinstance(self._memory, Pages):
            return self._memory.page(pgoff)
        assert isinstance(self._memory, OnDemandPages)
        return self._opened.fault(self._memory, pgoff)

    def _own(self, page: int) -> memoryview:
        if page not in self._private:
            self._private[page] = memoryview(bytearray(self._page(page)))
        return self._private[page]


def _by_page(start: int, stop: int) -> list[tuple[int, int, int, int]]:
    """(page, from, to, bytes before it) for each page of the range."""
    pieces = []
    at = start
    while at < stop:
        page, a = divmod(at, PAGE_SIZE)
        b = min(PAGE_SIZE, a + stop - at)
        pieces.append((page, a, b, at - start))
        at += b - a
    return pieces
