"""Requests of the kernel answered: which node, which open file, which operation of which device. No I/O.

``Session.handle`` takes one request and returns the body of the reply or raises ``OSError``. It calls devices only
through ``Dispatch`` and the kernel only through ``Kernel``.

Three ways to give memory to programs, best first (``Mode``):

* shared memory: the memfd of the device's ``Pages`` is registered with the kernel, and OPEN is answered with
  DIRECT_IO | PASSTHROUGH: mmap goes to the memfd itself, read and write come here.
* on demand: DIRECT_IO alone; a mapping is the page cache of the inode. A page fault is a READ without a lock owner,
  and what programs stored comes back as a WRITE with the cache flag. Also the way for pages that ``fault`` hands over.
* page cache only: before Linux 6.6 a DIRECT_IO file cannot be mapped shared; read and write go to the page cache too.
"""

import errno
import itertools
import threading
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

from mapdev.answer import Answer, in_turn, is_coming, or_none, then
from mapdev.file import File, Vma
from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.nodes import Node, Nodes, OpenFile
from mapdev.hosts.fuse.pagecache import Kernel, PageCache
from mapdev.hosts.fuse.tree import DeviceEntry, Directory, Memory, Placeholder, Symlink
from mapdev.hosts.fuse.wire import Fopen, Opcode
from mapdev.ioctl import IoctlArg
from mapdev.libc import PAGE_SIZE, PROT_READ, PROT_WRITE
from mapdev.pages import Mappable, OnDemandPages, Pages, next_serial

if TYPE_CHECKING:
    import asyncio

Body = bytes | bytearray | memoryview

IDENTIFY: Final = 0xD701
"""An ioctl that ``Session.tracer`` makes on a descriptor to learn which open file it is: the answer is its handle."""


# as plain numbers: an operator of an IntFlag costs as much as all else that is done at an open
_DIRECT_IO: Final = int(Fopen.DIRECT_IO)
_KEEP_CACHE: Final = int(Fopen.KEEP_CACHE)
_PASSTHROUGH: Final = int(Fopen.PASSTHROUGH)
_PARALLEL_DIRECT_WRITES: Final = int(Fopen.PARALLEL_DIRECT_WRITES)
"""A write that blocks does not hold up those of other opens."""
_SHARED: Final = _PARALLEL_DIRECT_WRITES | _DIRECT_IO | _PASSTHROUGH


class Mode(Enum):
    """How programs get at a device's memory; the value is what people read."""

    SHARED = "shared memory"
    ON_DEMAND = "on demand"
    PAGE_CACHE = "page cache only"

    @property
    def meaning(self) -> str:
        return _MEANING[self]


_MEANING: Final = {
    Mode.SHARED: "zero-copy: Python and every mapping see each store at once",
    Mode.ON_DEMAND: "the kernel keeps copies of pages: stores through mappings reach Python at msync, munmap or pull()",
    Mode.PAGE_CACHE: "as on kernels older than Linux 6.6: of a device with memory, read and write see its pages, "
    "and its own read and write are not called; stores reach Python at msync, munmap or pull()",
}


class Request:
    """One request. ``faulting``: the kernel holds a page locked until it is answered.

    Also the ``Call`` (see ``mapdev.file``) of the operation that it becomes.
    """

    # most requests are answered without any of these ever being set
    faulting = False
    interrupted = False
    waiting: threading.Condition | None = None
    task: "asyncio.Task[None] | None" = None
    undo: Callable[[], Answer[None]] | None = None
    """What takes back the effect, if the reply can no longer be delivered."""
    after: list[Callable[[], None]] = []  # noqa: RUF012 - the empty one of all is never changed
    """The notifications to send once the operation has its answer."""

    def __init__(self, header: wire.Header, body: memoryview) -> None:
        _, self.opcode, self.unique, self.nodeid, self.uid, self.gid, self.pid, _, _ = header
        self.body = body


class Session:
    """One mounted directory of devices."""

    def __init__(self, nodes: Nodes, kernel: Kernel, mode: Mode = Mode.ON_DEMAND) -> None:
        self.nodes = nodes
        self.mode = mode
        self.tracer = 0
        """The thread of this process that may ask by IDENTIFY; 0: none."""
        self._kernel = kernel
        self._handlers: dict[int, Callable[[Request], Answer[Body]]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.STATFS: self._statfs,
            Opcode.RELEASE: self._release,
            Opcode.FSYNC: self._fsync,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdir,
            Opcode.RELEASEDIR: self._nothing,
            Opcode.IOCTL: self._ioctl,
            Opcode.POLL: self._poll,
            Opcode.DESTROY: self._nothing,
            Opcode.COPY_FILE_RANGE: self._copy_file_range,
        }

    def mode_of(self, has_fault: bool) -> Mode:
        """How the memory of a device is given to programs."""
        return Mode.ON_DEMAND if self.mode is Mode.SHARED and has_fault else self.mode

    def handle(self, request: Request) -> Answer[Body]:
        """The body of the reply. Raises ``OSError``, as does the coroutine if it is one; see ``errno_of``."""
        handler = self._handlers.get(request.opcode)
        if handler is None:
            # a directory of devices does not change; for the rest (FLUSH, xattr, ...) ENOSYS is the lasting no
            raise OSError(errno.EPERM if request.opcode in _CHANGE_DIRECTORY else errno.ENOSYS, "")
        return handler(request)

    @staticmethod
    def errno_of(request: Request, error: OSError) -> int:
        """What is replied instead of a body.

        To the kernel ENOSYS means: never send this request again, for no file of the mount. So it is not for one device
        to say.
        """
        if error.errno == errno.ENOSYS:
            return _INSTEAD_OF_ENOSYS.get(request.opcode, errno.ENOSYS)
        return error.errno or errno.EIO

    async def close(self) -> None:
        """The mount is gone: every file that is still open is released."""
        for opened in tuple(self.nodes.files.values()):
            opened.handles = 1
            released = self._put_file(opened)
            if is_coming(released):
                await released

    # -- names and attributes -----------------------------------------------------------------------------

    def _lookup(self, request: Request) -> Body:
        name = wire.parse_name(request.body)
        node = self.nodes.lookup(self._node(request), name)
        if node is None:
            raise OSError(errno.ENOENT, "")
        return self._entry_out(node)

    def _entry_out(self, node: Node) -> bytes:
        attr, valid = self.nodes.attr(node)
        return wire.entry_out(node.nodeid, attr, self.nodes.entry_valid(node), valid)

    def _forget(self, request: Request) -> Body:
        (nlookup,) = wire.FORGET_IN.unpack_from(request.body)
        self.nodes.forget(request.nodeid, nlookup)
        return b""

    def _batch_forget(self, request: Request) -> Body:
        for nodeid, nlookup in wire.parse_batch_forget(request.body):
            self.nodes.forget(nodeid, nlookup)
        return b""

    def _getattr(self, request: Request) -> Body:
        return wire.attr_out(*self.nodes.attr(self._node(request)))

    def _setattr(self, request: Request) -> Body:
        """O_TRUNC and new times change nothing, as on a device; truncate(2) is refused, as there."""
        valid, _, _, size, *_ = wire.SETATTR_IN.unpack_from(request.body)
        attr, lasts = self.nodes.attr(self._node(request))
        if valid & wire.FATTR_SIZE and size != attr.size and (size or valid & wire.FATTR_FH):
            raise OSError(errno.EINVAL, "")
        if valid & (wire.FATTR_MODE | wire.FATTR_UID | wire.FATTR_GID):
            raise OSError(errno.EPERM, "")
        return wire.attr_out(attr, lasts)

    def _statfs(self, request: Request) -> Body:  # noqa: ARG002
        return wire.STATFS_OUT.pack(0, 0, 0, 0, 0, PAGE_SIZE, 255, PAGE_SIZE, 0)

    def _opendir(self, request: Request) -> Body:  # noqa: ARG002
        return wire.OPEN_OUT.pack(0, 0, 0)

    def _readdir(self, request: Request) -> Body:
        _, offset, size, *_ = wire.READ_IN.unpack_from(request.body)
        entries = bytearray()
        node = self._node(request)
        directory = node.entry
        if not isinstance(directory, Directory):
            raise OSError(errno.ENOTDIR, "")
        before = len(wire.NO_ENTRY) if request.opcode == Opcode.READDIRPLUS else 0
        listing = itertools.islice(self.nodes.listing(directory), offset, None)
        for number, (name, ino, mode) in enumerate(listing, offset + 1):
            entry = wire.dirent(ino, number, name, mode)
            if len(entries) + before + len(entry) > size:
                break
            if before:
                entries += self._listed_out(node, directory, name)
            entries += entry
        return entries

    def _listed_out(self, parent: Node, directory: Directory, name: bytes) -> bytes:
        """READDIRPLUS saves the kernel a LOOKUP for each of what is there to be mounted on. The rest it looks up when
        it is wanted: a device each time, since its node may be another by then."""
        if not isinstance(directory.entries.get(name), Placeholder | Directory):
            return wire.NO_ENTRY
        node = self.nodes.lookup(parent, name)
        return wire.NO_ENTRY if node is None else self._entry_out(node)

    def _readlink(self, request: Request) -> Body:
        link = self._node(request).entry
        if not isinstance(link, Symlink):
            raise OSError(errno.EINVAL, "")
        return link.target(request.pid) if callable(link.target) else link.target

    def _nothing(self, request: Request) -> Body:  # noqa: ARG002
        return b""

    # -- open and release ---------------------------------------------------------------------------------

    def _open(self, request: Request) -> Answer[Body]:
        flags, _ = wire.OPEN_IN.unpack_from(request.body)
        node = self._node(request)
        entry = node.entry
        if not isinstance(entry, DeviceEntry):
            raise OSError(errno.EACCES, "")  # a placeholder that nothing was mounted on
        reopened = self._reopened(node)
        if reopened is not None:
            return self._open_out(request, reopened)
        before = next_serial()
        opened = self.nodes.new_file(node, entry, flags, request.pid, request.uid, request.gid)
        return then(entry.dispatch.open(opened.file), lambda _: self._accepted(request, opened, before))

    def _reopened(self, node: Node) -> OpenFile | None:
        """A second open of a node that belongs to one open (through /proc/PID/fd/N): the same file, as by dup(2)."""
        with self.nodes.lock:
            home = self.nodes.home(node.entry)
            if home is None and node.files:
                node.files[0].handles += 1
                return node.files[0]
            if home is not None and home is not node and not node.files:
                raise OSError(errno.ESTALE, "")  # the kernel looks the name up again and comes to the home
            return None

    def _accepted(self, request: Request, opened: OpenFile, before: int) -> Answer[Body]:
        """The device has let it be opened: which memory does it map?"""
        file, dispatch = opened.file, opened.entry.dispatch
        if not dispatch.has_mmap:
            return self._opened(request, opened, before, None)
        prot = (PROT_READ if file.readable else 0) | (PROT_WRITE if file.writable else 0)
        vma = Vma(0, dispatch.device.size or 0, prot)
        memory = or_none(lambda: dispatch.mmap(file, vma))  # a refusal of mmap(2), not of open(2)
        return then(memory, lambda memory: self._opened(request, opened, before, memory))

    def _opened(self, request: Request, opened: OpenFile, before: int, memory: Mappable | None) -> Answer[Body]:
        """All is known: the file is open, with this memory, unless it has to be opened at another node."""
        node, entry, refused = opened.node, opened.entry, None
        try:
            with self.nodes.lock:
                if not self._at_home(node, entry, memory, before):
                    raise OSError(errno.ESTALE, "")
                self._map(node, memory, opened.file)
                self.nodes.add_file(opened)
                fopen = opened.fopen = self._fopen(node, opened.file)
                opened.direct, opened.passthrough = bool(fopen & _DIRECT_IO), bool(fopen & _PASSTHROUGH)
                if memory is not None:
                    entry.size = memory.nbytes
        except OSError as error:
            refused = error
        if refused is not None:  # not in the handler: what `release` may raise has nothing to do with it
            return then(entry.dispatch.release(opened.file), partial(_refuse, refused))
        if node.cache is not None:
            self._tell_size(node)
        return self._open_out(request, opened)

    def _open_out(self, request: Request, opened: OpenFile) -> Body:
        request.undo = lambda: self._put_file(opened)
        node, fopen = opened.node, opened.fopen
        if node.cache is not None and (len(node.files) > 1 or opened.handles > 1):
            # else opening would drop the cached pages of the others, and so wait, unkillably, for a fault that blocks
            fopen |= _KEEP_CACHE
        return wire.OPEN_OUT.pack(opened.fh, fopen, node.backing_id if opened.passthrough else 0)

    def _tell_size(self, node: Node) -> None:
        """Beyond the size that the kernel knows it faults nothing in, and OPEN cannot tell it a new one: STORE can.

        The page is left without content (it is stored to in part), so that a touch of it still faults.
        """
        memory = node.memory
        if memory is not None and node.told < memory.nbytes:
            self._kernel.notify_store(node.nodeid, memory.nbytes - 1, memoryview(b"\0"))
            node.told = memory.nbytes

    def _at_home(self, node: Node, entry: DeviceEntry, memory: Mappable | None, before: int) -> bool:
        """Learn whether opens share `memory`; False if this open has to go to another node.

        Memory older than the open (`before`) is shared, and so is memory that another node maps already.
        """
        if entry.memory is Memory.PRIVATE:
            return True
        home = self.nodes.home(entry)
        if entry.memory is Memory.UNKNOWN:
            other = next((o.node for o in self.nodes.files.values() if o.entry is entry and o.node is not node
                          and memory is not None and o.node.memory is memory), None)  # fmt: skip
            if memory is None or memory.serial < before or other is not None:
                entry.memory = Memory.SHARED
                self.nodes.set_home(entry, other or node)
            return other is None
        if node is not home:
            return False
        if memory is not node.memory and node.files and node.memory is not None:
            # it looked shared, and was not: from now on every open has a node of its own
            entry.memory = Memory.PRIVATE
            self.nodes.set_home(entry, None)
            self._kernel.when_answered(lambda: self._kernel.notify_inval_entry(node.parent, node.name))
            return False
        return True

    def _map(self, node: Node, memory: Mappable | None, file: File) -> None:
        """`memory` is what this node maps from now on; `file` the open that brought it."""
        if memory is node.memory and (node.backing_id or node.cache is not None):
            return
        self._unmap(node)
        trapped = isinstance(node.entry, DeviceEntry) and node.entry.trapped
        if self.mode is Mode.SHARED and not (trapped and memory is not None):
            fd = memory.fd if isinstance(memory, Pages) else None
            if memory is None and file.seekable and not file.stream:
                fd = self._kernel.unmappable  # mmap(2) gives ENODEV
            if fd is not None:
                node.backing_id = self._kernel.backing_open(fd)
        if memory is not None and not node.backing_id:
            node.cache = PageCache(node.nodeid, memory, self._kernel)
            memory.attach(node.cache)
        node.memory = memory

    def _unmap(self, node: Node) -> None:
        if node.backing_id:
            self._kernel.backing_close(node.backing_id)
            node.backing_id = 0
        if node.cache is not None and node.memory is not None:
            node.memory.detach(node.cache)
            node.cache = None
        node.memory = None

    def _fopen(self, node: Node, file: File) -> int:
        """How the kernel is to treat this open file."""
        if node.backing_id:  # with which the kernel takes neither STREAM nor NONSEEKABLE
            return _SHARED
        fopen = _PARALLEL_DIRECT_WRITES
        if file.stream:
            fopen |= Fopen.STREAM
        elif not file.seekable:
            fopen |= Fopen.NONSEEKABLE
        if self.mode is Mode.PAGE_CACHE and node.memory is not None:
            return fopen
        return fopen | _DIRECT_IO

    def _release(self, request: Request) -> Answer[Body]:
        fh, *_ = wire.RELEASE_IN.unpack_from(request.body)
        return then(self._put_file(self._file(fh)), _empty)

    def _put_file(self, opened: OpenFile) -> Answer[None]:
        node = opened.node
        with self.nodes.lock:
            opened.handles -= 1
            if opened.handles or self.nodes.files.pop(opened.fh, None) is None:
                return None
            node.files.remove(opened)
            if not node.files and self.nodes.home(node.entry) is not node:
                self._unmap(node)
        opened.file.notify_poll = None
        return opened.entry.dispatch.release(opened.file)

    # -- read and write, by programs and by the page cache ------------------------------------------------

    def _read(self, request: Request) -> Answer[Body]:
        fh, pos, count, read_flags, _, flags, _ = wire.READ_IN.unpack_from(request.body)
        opened = self._file(fh)
        if read_flags & wire.READ_LOCKOWNER and opened.direct:
            file = opened.file
            file.flags = flags
            return opened.entry.dispatch.read(file, count, 0 if file.stream else pos)
        if opened.node.cache is None:
            # no mapping faults to us here, so this is splice(2) or sendfile(2), whose pages would stay cached and go
            # stale; refused as by drivers without splice_read: programs then use read(2)
            raise OSError(errno.EINVAL, "")
        request.faulting = True
        return self._fault(opened.node, pos, count)

    def _fault(self, node: Node, pos: int, count: int) -> Answer[Body]:
        """The page cache wants these bytes, whole pages. An error is SIGBUS for the program that touched them."""
        memory = node.memory
        if memory is not None and pos >= memory.nbytes and self.mode is Mode.PAGE_CACHE:
            # read(2) at the end: older kernels (5.10) ask for that page before they look at the size
            return b""
        if memory is None or pos + count > memory.nbytes:
            # a short answer would be pages of zeros: no SIGBUS past the end. Of a window that reads ahead over the
            # end, the kernel asks for the touched page again by itself.
            raise OSError(errno.EIO, "")
        first, last = pos // PAGE_SIZE, -(-(pos + count) // PAGE_SIZE)
        if node.cache is not None:
            node.cache.handed.update(range(first, last))
        if isinstance(memory, OnDemandPages):
            first_open = node.files[0]
            file, dispatch = first_open.file, first_open.entry.dispatch
            if last - first == 1:
                return dispatch.fault(file, memory, first)
            return then(in_turn(dispatch.fault(file, memory, pgoff) for pgoff in range(first, last)), b"".join)
        return memory.load(pos, count)

    def _write(self, request: Request) -> Answer[Body]:
        fh, pos, count, write_flags, _, flags, _ = wire.WRITE_IN.unpack_from(request.body)
        data = request.body[wire.WRITE_IN.size : wire.WRITE_IN.size + count]
        opened = self._file(fh)
        if opened.direct and not write_flags & wire.WRITE_CACHE:
            file = opened.file
            file.flags = flags
            taken = opened.entry.dispatch.write(file, bytes(data), 0 if file.stream else pos)
            return then(taken, lambda taken: wire.WRITE_OUT.pack(taken, 0))
        request.faulting = True
        memory, cache = opened.node.memory, opened.node.cache
        if memory is None or cache is None:
            raise OSError(errno.EIO, "")
        stored = data[: max(0, memory.nbytes - pos)]
        if len(stored) < count and not write_flags & wire.WRITE_CACHE:  # write(2), after which a file would be larger
            if not stored:
                raise OSError(errno.ENOSPC, "")
            count = len(stored)
        cache.written_back(pos, stored)
        return wire.WRITE_OUT.pack(count, 0)

    def _fsync(self, request: Request) -> Answer[Body]:
        fh, flags, _ = wire.FSYNC_IN.unpack_from(request.body)
        opened = self._file(fh)
        return then(opened.entry.dispatch.fsync(opened.file, bool(flags & wire.FSYNC_FDATASYNC)), _empty)

    def _copy_file_range(self, request: Request) -> Body:  # noqa: ARG002
        """As of any device: programs then copy with read(2) and write(2). (ENOSYS: the kernel would splice.)"""
        raise OSError(errno.EINVAL, "")

    # -- ioctl and poll -----------------------------------------------------------------------------------

    def _ioctl(self, request: Request) -> Answer[Body]:
        fh, flags, cmd, arg, in_size, out_size = wire.IOCTL_IN.unpack_from(request.body)
        opened = self._file(fh)
        if cmd == IDENTIFY and self.tracer and request.pid == self.tracer:
            return wire.IOCTL_OUT.pack(fh, 0, 0, 0)
        node = opened.node
        if node.cache is not None and node.cache.handed and node.memory is not None:
            # read(2) and write(2) make the kernel write back first; for ioctl(2) it is up to us
            node.memory.pull()
        data = bytes(request.body[wire.IOCTL_IN.size : wire.IOCTL_IN.size + in_size])
        argument = IoctlArg(arg, data, out_size, request.pid, compat=bool(flags & wire.IOCTL_COMPAT))
        result = opened.entry.dispatch.ioctl(opened.file, cmd, argument)
        return then(result, lambda result: wire.IOCTL_OUT.pack(result, 0, 0, 0) + argument.out)

    def _poll(self, request: Request) -> Answer[Body]:
        fh, kh, flags, _ = wire.POLL_IN.unpack_from(request.body)
        opened = self._file(fh)
        if flags & wire.POLL_SCHEDULE_NOTIFY:  # before the device is asked: a wake in between is not lost
            opened.file.notify_poll = lambda: self._kernel.notify_poll(kh)
        return then(opened.entry.dispatch.poll(opened.file), lambda mask: wire.POLL_OUT.pack(mask, 0))

    # -- what a request names -----------------------------------------------------------------------------

    def _node(self, request: Request) -> Node:
        node = self.nodes.get(request.nodeid)
        if node is None:
            raise OSError(errno.ESTALE, "")
        return node

    def _file(self, fh: int) -> OpenFile:
        opened = self.nodes.files.get(fh)
        if opened is None:
            raise OSError(errno.EBADF, "")
        return opened


def _empty(_: None) -> Body:
    return b""


def _refuse(error: OSError, _: None) -> Body:
    raise error


# SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, CREATE, RENAME2, TMPFILE
_CHANGE_DIRECTORY: Final = frozenset({6, 8, 9, 10, 11, 12, 13, 35, 45, 51})

_INSTEAD_OF_ENOSYS: Final[dict[int, int]] = {
    Opcode.OPEN: errno.EOPNOTSUPP, Opcode.FSYNC: errno.EINVAL, Opcode.IOCTL: errno.ENOTTY, Opcode.POLL: errno.EIO,
}  # fmt: skip
