"""Requests of the module answered: which open file, which operation. No I/O.

``Session.handle`` takes one request and answers what goes into the reply, or raises ``OSError``; ``Session.notice``
takes what is only told. Both call the device through ``Dispatch`` alone, and the module through ``Kernel``.

``mmap`` is asked at each mmap(2), with the real area. ``Pages`` are given to the module as the memfd that they are:
programs map the very pages that Python has, and their faults are the kernel's own affair unless the device defines
``vm_fault``. ``OnDemandPages`` become memory of the module that asks for each page once; see ``kernelpages.py``. Memory
is with the module as long as an open file uses it.

The kernel does not call a driver's ``vm_open`` for the area that mmap(2) makes; drivers do it in their ``mmap``, so
that each has its ``vm_close``, and so does the session.
"""

import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from mapdev.answer import Answer, is_coming, then
from mapdev.dispatch import Dispatch
from mapdev.file import File, Vma
from mapdev.hosts.kmod import uapi
from mapdev.hosts.kmod.kernelpages import Body, FaultMemory, Kernel, Memory, SharedMemory
from mapdev.hosts.kmod.uapi import MemoryKind, Opcode, ReplyFlag, VmaFlag
from mapdev.ioctl import IoctlArg
from mapdev.pages import Mappable, OnDemandPages, Pages

if TYPE_CHECKING:
    import asyncio

_PROT: Final = VmaFlag.READ | VmaFlag.WRITE | VmaFlag.EXEC


class Request:
    """One request or notice. Also the ``Call`` (see ``mapdev.file``) of the operation that it becomes."""

    # most requests are answered without any of these ever being set
    interrupted = False
    waiting: threading.Condition | None = None
    task: "asyncio.Task[None] | None" = None
    undo: Callable[[], Answer[None]] | None = None
    """What takes back the effect, if the reply can no longer be delivered."""

    def __init__(self, message: uapi.Message) -> None:
        header = message.header
        self.message = message
        self.opcode, self.unique, self.file, self.flags = header.opcode, header.unique, header.file, header.flags
        self.pid, self.uid, self.gid = header.pid, header.uid, header.gid


class Reply(NamedTuple):
    """What the module is told: ``uapi.reply``."""

    value: int = 0
    flags: int = 0
    payload: Body = b""


class OpenFile:
    """One open of the device, and the memory that it has mapped."""

    __slots__ = ("file", "uses")

    def __init__(self, file: File) -> None:
        self.file = file
        self.uses: set[_Used] = set()


class _Used:
    """Memory that the module has, and the open files that use it."""

    __slots__ = ("copy", "files", "memory")

    def __init__(self, memory: Mappable, copy: Memory) -> None:
        self.memory, self.copy = memory, copy
        self.files: set[OpenFile] = set()


class _Caller:
    """The memory of the program that waits for a request (``mapdev.ioctl.Caller``)."""

    def __init__(self, kernel: Kernel, unique: int) -> None:
        self._kernel, self._unique = kernel, unique

    def fetch(self, address: int, count: int) -> bytes:
        parts = [self._kernel.fetch(self._unique, at, n) for at, n in _cut(address, count)]
        return b"".join(parts)

    def store(self, address: int, data: bytes) -> None:
        for at, n in _cut(address, len(data)):
            self._kernel.store(self._unique, at, data[at - address : at - address + n])


def _cut(address: int, count: int) -> list[tuple[int, int]]:
    """(address, bytes) of pieces that the module copies at once."""
    most = uapi.MAX_TRANSFER
    return [(address + done, min(most, count - done)) for done in range(0, count, most)]


class Session:
    """One device."""

    def __init__(self, dispatch: Dispatch, kernel: Kernel) -> None:
        self.dispatch = dispatch
        self.files: dict[int, OpenFile] = {}
        self._kernel = kernel
        self._lock = threading.Lock()
        self._used: dict[int, _Used] = {}  # by the id of the memory in the module
        self._handlers: dict[int, Callable[[Request], Answer[Reply | None]]] = {
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.IOCTL: self._ioctl,
            Opcode.POLL: self._poll,
            Opcode.MMAP: self._mmap,
            Opcode.FAULT: self._fault,
            Opcode.VM_FAULT: self._vm_fault,
            Opcode.PAGE_MKWRITE: self._page_mkwrite,
            Opcode.FSYNC: self._fsync,
        }

    @property
    def ops(self) -> int:
        """``Create.ops``: what the author defines. OPEN and RELEASE always: a ``File`` lives from one to the other."""
        device = self.dispatch.device
        asked = {Opcode.OPEN, Opcode.RELEASE}
        asked |= {opcode for opcode, operation in _OPERATIONS.items() if device.defines(operation)}
        if self.dispatch.has_mmap:
            asked.add(Opcode.MMAP)
        if self.dispatch.has_fault:  # what programs stored in the module's pages is fetched when an area goes
            asked.add(Opcode.VM_CLOSE)
        return sum(uapi.op(opcode) for opcode in asked)

    def handle(self, request: Request) -> Answer[Reply | None]:
        """What the reply carries; None: it has been sent. Raises ``OSError``, as does the coroutine if it is one."""
        handler = self._handlers.get(request.opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, "")
        return handler(request)

    def notice(self, request: Request) -> Answer[None]:
        """Something has happened to a file; those of one file have to come in their order."""
        opened = self.files.get(request.file)
        if opened is None:
            return None  # its open was taken back
        if request.opcode == Opcode.RELEASE:
            return self._put_file(request.file)
        body = cast(uapi.VmaIn, request.message.body)
        used = self._used.get(body.memory)
        if request.opcode == Opcode.VM_OPEN:
            return self.dispatch.vm_open(opened.file, _vma(body))
        if used is not None:
            used.memory.pull()
        if self.dispatch.device.defines("vm_close"):
            return self.dispatch.vm_close(opened.file, _vma(body))
        return None

    def id_of(self, memory: Mappable) -> int | None:
        """Under which number the module has this memory, if it has."""
        with self._lock:
            return next((number for number, used in self._used.items() if used.memory is memory), None)

    def give_back(self) -> None:
        """The control is about to be closed: what programs stored is fetched, and no memory is with the module."""
        with self._lock:
            used, self._used = tuple(self._used.values()), {}
        for each in used:
            each.memory.detach(each.copy)
            each.copy.close()

    async def close(self) -> None:
        """The device is gone: every file that is still open is released."""
        for number in tuple(self.files):
            released = self._put_file(number)
            if is_coming(released):
                await released

    # -- open and release ---------------------------------------------------------------------------------

    def _open(self, request: Request) -> Answer[Reply]:
        file = File(self.dispatch.name, request.file, request.flags, request.pid, request.uid, request.gid)

        def accepted(_: None) -> Reply:
            self.files[request.file] = OpenFile(file)
            request.undo = lambda: self._put_file(request.file)
            flags = 0 if file.seekable else ReplyFlag.NONSEEKABLE
            return Reply(flags=ReplyFlag.STREAM if file.stream else flags)

        return then(self.dispatch.open(file), accepted)

    def _put_file(self, number: int) -> Answer[None]:
        opened = self.files.pop(number, None)
        if opened is None:
            return None
        with self._lock:
            for used in opened.uses:
                used.files.discard(opened)
            unused = [u for u in opened.uses if not u.files and self._used.pop(u.copy.id, None) is not None]
        for used in unused:
            used.memory.detach(used.copy)
            used.copy.close()
        opened.file.notify_poll = None
        return self.dispatch.release(opened.file)

    # -- read, write, ioctl, poll -------------------------------------------------------------------------

    def _read(self, request: Request) -> Answer[Reply]:
        body = cast(uapi.ReadIn, request.message.body)
        file = self._file(request)
        pos, count = 0 if file.stream else body.pos, body.count
        self._pull(pos, count)
        # mypy finds for the three types of `data` nothing but Sequence[int]
        return then(self.dispatch.read(file, count, pos), lambda data: Reply(payload=data))  # type: ignore[arg-type]

    def _write(self, request: Request) -> Answer[Reply]:
        body = cast(uapi.ReadIn, request.message.body)
        file = self._file(request)
        pos, data = 0 if file.stream else body.pos, bytes(request.message.payload)
        self._pull(pos, len(data))
        return then(self.dispatch.write(file, data, pos), Reply)

    def _ioctl(self, request: Request) -> Answer[Reply]:
        body = cast(uapi.IoctlIn, request.message.body)
        file = self._file(request)
        self._pull()
        caller = _Caller(self._kernel, request.unique)
        compat = bool(body.flags & uapi.IOCTL_COMPAT)
        argument = IoctlArg(body.arg, bytes(request.message.payload), body.out_max, request.pid, caller, compat)
        result = self.dispatch.ioctl(file, body.cmd, argument)
        return then(result, lambda result: Reply(result, payload=argument.out))

    def _poll(self, request: Request) -> Answer[Reply]:
        file, number = self._file(request), request.file
        file.notify_poll = lambda: self._kernel.wake(number)  # before the device is asked: no wake is lost
        return then(self.dispatch.poll(file), lambda mask: Reply(mask & uapi.POLL_MASK))

    def _fsync(self, request: Request) -> Answer[Reply]:
        file = self._file(request)
        self._pull()
        datasync = bool(cast(uapi.FsyncIn, request.message.body).datasync)
        return then(self.dispatch.fsync(file, datasync), _nothing)

    def _pull(self, offset: int = 0, length: int | None = None) -> None:
        """What programs stored into the module's own pages of these bytes is in Python's pages now."""
        if not self.dispatch.has_fault:
            return
        with self._lock:
            faulted = [used.memory for used in self._used.values() if isinstance(used.copy, FaultMemory)]
        for memory in faulted:
            if offset < memory.nbytes:
                rest = memory.nbytes - offset
                memory.pull(offset, rest if length is None else min(length, rest))

    # -- memory -------------------------------------------------------------------------------------------

    def _mmap(self, request: Request) -> Answer[Reply]:
        opened, vma = self._opened(request), _vma(cast(uapi.VmaIn, request.message.body))

        def mapped(memory: Mappable) -> Answer[Reply]:
            used = self._use(memory, opened)
            request.undo = lambda: self.dispatch.vm_close(opened.file, vma)
            return then(self.dispatch.vm_open(opened.file, vma), lambda _: Reply(used.copy.id))

        return then(self.dispatch.mmap(opened.file, vma), mapped)

    def _use(self, memory: Mappable, opened: OpenFile) -> _Used:
        with self._lock:
            used = next((used for used in self._used.values() if used.memory is memory), None)
            if used is None:
                used = _Used(memory, self._give(memory))
                self._used[used.copy.id] = used
                memory.attach(used.copy)
            used.files.add(opened)
            opened.uses.add(used)
            return used

    def _give(self, memory: Mappable) -> Memory:
        if isinstance(memory, Pages):
            return SharedMemory(memory, self._kernel, MemoryKind.MEMFD)
        assert isinstance(memory, OnDemandPages)
        return FaultMemory(memory, self._kernel, MemoryKind.FAULT)

    def _fault(self, request: Request) -> Answer[None]:
        body = cast(uapi.FaultIn, request.message.body)
        used = self._used.get(body.memory)
        copy = None if used is None else used.copy
        if used is None or not isinstance(copy, FaultMemory) or not isinstance(used.memory, OnDemandPages):
            raise OSError(errno.EIO, "")
        if body.pgoff >= used.memory.npages:
            raise OSError(errno.EFAULT, "")
        head = bytes(uapi.FaultOut(body.pgoff, 1, 0))

        def send(page: memoryview) -> bool:
            return self._kernel.reply(request.unique, payload=head + page)

        page = self.dispatch.fault(self._file(request), used.memory, body.pgoff)
        return then(page, lambda page: copy.hand_over(body.pgoff, page, send))

    def _vm_fault(self, request: Request) -> Answer[Reply]:
        pgoff = cast(uapi.FaultIn, request.message.body).pgoff
        return then(self.dispatch.vm_fault(self._file(request), pgoff), _nothing)

    def _page_mkwrite(self, request: Request) -> Answer[Reply]:
        pgoff = cast(uapi.FaultIn, request.message.body).pgoff
        return then(self.dispatch.page_mkwrite(self._file(request), pgoff), _nothing)

    # -- what a request names -----------------------------------------------------------------------------

    def _opened(self, request: Request) -> OpenFile:
        opened = self.files.get(request.file)
        if opened is None:
            raise OSError(errno.EBADF, "")
        return opened

    def _file(self, request: Request) -> File:
        file = self._opened(request).file
        if request.opcode in _BY_DESCRIPTOR:
            file.flags = request.flags  # as fcntl(2) may have changed them
        return file


_OPERATIONS: Final = {
    Opcode.READ: "read", Opcode.WRITE: "write", Opcode.IOCTL: "ioctl", Opcode.POLL: "poll", Opcode.FAULT: "fault",
    Opcode.PAGE_MKWRITE: "page_mkwrite", Opcode.FSYNC: "fsync", Opcode.VM_OPEN: "vm_open",
    Opcode.VM_CLOSE: "vm_close", Opcode.VM_FAULT: "vm_fault",
}  # fmt: skip

_BY_DESCRIPTOR: Final = frozenset({Opcode.READ, Opcode.WRITE, Opcode.IOCTL, Opcode.POLL})


def _nothing(_: None) -> Reply:
    return Reply()


def _vma(body: uapi.VmaIn) -> Vma:
    return Vma(body.pgoff, body.length, int(body.flags & _PROT), bool(body.flags & VmaFlag.SHARED), body.start)
