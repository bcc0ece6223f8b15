"""The descriptor of /dev/fuse: requests read, replies and notifications written, by threads (see ``workers.py``).

There is always a thread that reads: not only an operation can block, also a notification that waits for a page that
is being faulted in.
"""

import errno
import fcntl
import logging
import mmap
import os
import queue
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mapdev import file as device_file
from mapdev.answer import is_coming, start
from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.session import Body, Mode, Request, Session
from mapdev.hosts.fuse.wire import Init, Notify, Opcode
from mapdev.hosts.workers import Loop, Workers, leave_to_parent

log = logging.getLogger("mapdev.fuse")

_out_header: Final = wire.OUT_HEADER.pack
_OUT_HEADER_SIZE: Final = wire.OUT_HEADER.size

_MAX_BACKGROUND: Final = 256
"""Page cache requests that the kernel sends at once; a fault that blocks holds one."""
_RETRIEVE_TIMEOUT: Final = 10.0
_CLOSE_TIMEOUT: Final = 2.0
_SIGKILL_BIT: Final = 1 << 8

_MAY_BLOCK: Final = frozenset({Opcode.OPEN, Opcode.READ, Opcode.WRITE, Opcode.IOCTL, Opcode.POLL, Opcode.FSYNC})
_READ_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
"""What a read of /dev/fuse may fail with and go on; ENOENT: the request was interrupted, and taken back."""


class Channel:
    """One open of /dev/fuse. Implements ``Kernel`` for the session that it serves."""

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, a descriptor of /dev/fuse that a mount was made with."""
        self.offer: wire.InitIn | None = None
        self.unmappable: int | None = None
        self._fd = fd
        self._lock = threading.Lock()
        self._workers = Workers("mapdev-fuse", wire.BUFFER_SIZE, self._read, self._take, self._ended)
        self._ready = threading.Event()
        self._gone = threading.Event()
        self._requests: dict[int, Request] = {}
        self._interrupted: dict[int, Request] = {}
        self._retrieving: dict[int, queue.SimpleQueue[bytes]] = {}
        self._last_retrieve = 0
        self._loop = Loop()
        self._max_readahead = 1 << 20
        leave_to_parent(self)
        self._control: dict[int, Callable[[int, memoryview], None]] = {
            Opcode.INIT: self._init,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.NOTIFY_REPLY: self._retrieved,
        }

    def serve(self, session: Session, max_readahead: int, wanted: int = 0) -> None:
        """Start to answer; returns when the kernel and we have agreed (INIT) and `session.mode` is found by trying.

        `max_readahead` in bytes; `wanted`: flags of INIT besides those of every host. Raises ``TimeoutError`` if the
        kernel says nothing, ``OSError`` EPROTO if it speaks another major version.
        """
        self._session = session
        self._max_readahead = max_readahead
        self._wanted = wanted
        if not self._workers.spawn():
            raise OSError(errno.EAGAIN, "no thread can be started")
        if not self._ready.wait(10):
            raise TimeoutError("the kernel does not begin to talk on /dev/fuse")
        if self.offer is None or self.offer.major != wire.MAJOR:
            raise OSError(errno.EPROTO, "the kernel speaks another FUSE protocol")
        if session.mode is Mode.SHARED and not self._passthrough_works(self.offer):
            session.mode = Mode.ON_DEMAND
        if session.mode is Mode.ON_DEMAND and not self.offer.flags & Init.DIRECT_IO_ALLOW_MMAP:
            session.mode = Mode.PAGE_CACHE

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the kernel has ended the connection (umount, abort); False after `timeout` seconds."""
        return self._gone.wait(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """After unmounting: wait for the threads, release what is open, close the descriptor.

        Programs that still have files open keep a lazily unmounted connection alive: their threads are left behind,
        and the descriptor with them, until the process ends.
        """
        for request in tuple(self._requests.values()):
            device_file.interrupt(request)
        self._workers.join(timeout)
        ended = self._loop.made is None or self._loop.made.cancel_all()
        released = threading.Event()

        async def release() -> None:
            await self._session.close()
            released.set()

        start(release(), self._loop.run)
        if not released.wait(_CLOSE_TIMEOUT):
            log.error("the release of a file does not end; it is left behind")
        if self._loop.made is not None and ended:
            self._loop.made.close()
        if self.unmappable is not None:
            os.close(self.unmappable)
            self.unmappable = None
        if ended and self._workers.join(0):
            self.close_fd()

    def close_fd(self) -> None:
        """Leave the connection; it ends when nobody has the descriptor any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- the threads --------------------------------------------------------------------------------------

    def _read(self, buffer: mmap.mmap) -> memoryview | None:
        while True:
            try:
                return memoryview(buffer)[: os.readv(self._fd, [buffer])]
            except OSError as error:
                if error.errno not in _READ_AGAIN:
                    return None  # ENODEV: unmounted or aborted

    def _ended(self) -> None:
        self._gone.set()
        self._ready.set()

    def _take(self, data: memoryview, refuse: bool) -> None:
        try:
            request = Request(wire.parse_header(data), data[wire.IN_HEADER.size :])
        except wire.ProtocolError as error:
            log.error("%s", error)
            return
        unique, opcode = request.unique, request.opcode
        if opcode in self._control:
            self._control[opcode](unique, request.body)
        elif refuse and opcode in _MAY_BLOCK:
            self._reply(unique, errno.EBUSY, b"")
        else:
            self._requests[unique] = device_file.running.call = request
            try:
                self._answer(request)
            except Exception:  # a bug of ours must not leave a program waiting
                log.exception("request %d (opcode %d) failed", unique, opcode)
                if self._requests.pop(unique, None) is not None:
                    self._reply(unique, errno.EIO, b"")
            device_file.running.call = None

    def _answer(self, request: Request) -> None:
        number, body = 0, b""
        try:
            answer = self._session.handle(request)
            if is_coming(answer):
                start(self._answer_when(request, answer), lambda work: self._finish_in_loop(request, work))
                return
            body = answer  # type: ignore[assignment]
        except Exception as error:
            number = self._errno_of(request, error)
        if request.after and not request.faulting:
            self._send(request.after)
        undone = self._deliver(request, number, body)
        if undone is not None:
            start(undone, self._loop.run)
        if request.after:
            self._send(request.after)

    async def _answer_when(self, request: Request, answer: Coroutine[Any, Any, Body]) -> None:
        number, body = 0, b""
        try:
            body = await answer  # type: ignore[assignment]
        except Exception as error:
            number = self._errno_of(request, error)
        if not request.faulting:
            await self._settle(request)
        undone = self._deliver(request, number, body)
        if undone is not None:
            await undone
        if request.faulting:
            await self._settle(request)

    def _errno_of(self, request: Request, error: Exception) -> int:
        if isinstance(error, OSError):
            return self._session.errno_of(request, error)
        log.error("request %d (opcode %d) failed", request.unique, request.opcode, exc_info=error)
        return errno.EIO

    def _deliver(self, request: Request, number: int, body: Body) -> Coroutine[Any, Any, None] | None:
        """Reply; or take back what was done, if it was answered with EINTR meanwhile."""
        if self._requests.pop(request.unique, None) is not None:
            if self._interrupted:
                self._interrupted.pop(request.unique, None)
            if request.opcode not in wire.NO_REPLY:
                self._reply(request.unique, number, body)
        elif request.undo is not None and not number:
            return request.undo()
        return None

    @staticmethod
    def _send(after: list[Callable[[], None]]) -> None:
        """The notifications that waited for the end of an operation.

        Before the reply, for they may be what the program asked for; but of a fault only after it: a push that waits
        for the very page that is faulted in would wait for ever.
        """
        while after:
            after.pop(0)()

    async def _settle(self, request: Request) -> None:
        """``_send``, of an operation that may have come to its end in the loop."""
        self._send(request.after)
        if self._loop.made is not None and self._loop.made.is_current():
            await self._loop.made.pushed()

    def _finish_in_loop(self, request: Request, work: Coroutine[Any, Any, None]) -> None:
        request.body = memoryview(b"")  # it has been read, and the buffer is this thread's, which goes on
        self._loop.run(work, request)

    def _reply(self, unique: int, number: int, body: Body) -> None:
        try:
            os.writev(self._fd, (_out_header(_OUT_HEADER_SIZE + len(body), -number, unique), body))
        except OSError as error:
            if error.errno == errno.EINVAL:  # the program waits until it gets an answer that the kernel takes
                log.error("the kernel does not take our answer of %d bytes", len(body))
                os.write(self._fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -errno.EIO, unique))
            elif error.errno not in (errno.ENOENT, errno.ENODEV):  # the request, or the mount, is no more
                raise

    def _init(self, unique: int, body: memoryview) -> None:
        self.offer = offer = wire.InitIn.parse(body)
        if offer.major > wire.MAJOR:  # the kernel then asks again, in our version
            self._reply(unique, 0, wire.INIT_OUT.pack(wire.MAJOR, *bytes(11)))
            return
        wanted = (Init.ASYNC_READ | Init.BIG_WRITES | Init.PARALLEL_DIROPS | Init.MAX_PAGES | Init.INIT_EXT
                  | Init.DIRECT_IO_ALLOW_MMAP | self._wanted)  # fmt: skip
        if self._session.mode is Mode.SHARED:
            wanted |= Init.PASSTHROUGH
        if self._session.mode is Mode.PAGE_CACHE:
            wanted &= ~Init.DIRECT_IO_ALLOW_MMAP
        depth = 1 if wanted & offer.flags & Init.PASSTHROUGH else 0
        self._reply(unique, 0, wire.init_out(offer, wanted, self._max_readahead, _MAX_BACKGROUND, depth))
        self._ready.set()

    # -- signals ------------------------------------------------------------------------------------------

    def _interrupt(self, own: int, body: memoryview) -> None:
        """The program that waits for the request named has a signal; `own` is the number of this message itself."""
        (unique,) = wire.INTERRUPT_IN.unpack_from(body)
        request = self._requests.get(unique)
        if request is None:
            # answered already, or another thread has read it and not yet taken it: the kernel knows, and if
            # it still waits, says it again
            self._reply(own, errno.EAGAIN, b"")
            return
        device_file.interrupt(request)
        self._loop.cancel(request)
        with self._lock:
            first = not self._interrupted
            self._interrupted[unique] = request
        if first:
            try:
                threading.Thread(target=self._watch_interrupted, name="mapdev-signals", daemon=True).start()
            except RuntimeError:  # no thread can be had: better an EINTR too many than a client for ever
                del self._interrupted[unique]
                if self._requests.pop(unique, None) is not None:
                    self._reply(unique, errno.EINTR, b"")

    def _watch_interrupted(self) -> None:
        """A program that is being killed gets its answer even if the device never comes to one.

        Other signals wait for the device, as they do for a driver in an uninterruptible sleep. The kernel tells us of
        the first signal only, so a later SIGKILL has to be looked for.
        """
        while not self._gone.wait(0.05):
            for unique, request in tuple(self._interrupted.items()):
                if _is_dying(request.pid) and self._requests.pop(unique, None) is not None:
                    self._reply(unique, errno.EINTR, b"")
                if unique not in self._requests:
                    self._interrupted.pop(unique, None)
            with self._lock:
                if not self._interrupted:
                    return

    # -- Kernel: what the session asks for ----------------------------------------------------------------

    def backing_open(self, fd: int) -> int:
        backing_id: int = fcntl.ioctl(self._fd, wire.DEV_IOC_BACKING_OPEN, bytearray(wire.BACKING_MAP.pack(fd, 0, 0)))
        return backing_id

    def backing_close(self, backing_id: int) -> None:
        fcntl.ioctl(self._fd, wire.DEV_IOC_BACKING_CLOSE, bytearray(backing_id.to_bytes(4, sys.byteorder)))

    def notify_store(self, nodeid: int, offset: int, data: memoryview) -> None:
        self._notify(Notify.STORE, wire.NOTIFY_STORE_OUT.pack(nodeid, offset, len(data), 0), data)

    def notify_retrieve(self, nodeid: int, offset: int, size: int) -> bytes:
        with self._lock:
            self._last_retrieve += 1
            unique = self._last_retrieve
        answer = self._retrieving[unique] = queue.SimpleQueue()
        try:
            if not self._notify(Notify.RETRIEVE, wire.NOTIFY_RETRIEVE_OUT.pack(unique, nodeid, offset, size, 0)):
                return b""
            return answer.get(timeout=_RETRIEVE_TIMEOUT)
        except queue.Empty:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer NOTIFY_RETRIEVE") from None
        finally:
            del self._retrieving[unique]

    def notify_inval_inode(self, nodeid: int, offset: int, size: int) -> None:
        self._notify(Notify.INVAL_INODE, wire.NOTIFY_INVAL_INODE_OUT.pack(nodeid, offset, size))

    def notify_inval_entry(self, parent: int, name: bytes) -> None:
        self._notify(Notify.INVAL_ENTRY, wire.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0), name + b"\0")

    def notify_poll(self, kh: int) -> None:
        self._notify(Notify.POLL, wire.NOTIFY_POLL_OUT.pack(kh))

    def when_answered(self, work: Callable[[], None]) -> None:
        call = device_file.running.call
        if isinstance(call, Request):
            call.after = [*call.after, work]
        elif self._loop.made is not None and self._loop.made.is_current():
            self._loop.made.push(work)
        else:
            work()

    def _notify(self, code: Notify, *parts: bytes | memoryview) -> bool:
        """False if the kernel does not know the inode, name or handle any more: then nothing has to be told."""
        try:
            os.writev(self._fd, wire.notification(code, *parts))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EBADF):
                return False
            raise
        return True

    def _retrieved(self, unique: int, body: memoryview) -> None:
        answer = self._retrieving.get(unique)
        if answer is not None:
            _, _, size, *_ = wire.NOTIFY_RETRIEVE_IN.unpack_from(body)
            answer.put(bytes(body[wire.NOTIFY_RETRIEVE_IN.size :][:size]))

    def _passthrough_works(self, offer: wire.InitIn) -> bool:
        """Kernels offer passthrough to those too who may not use it: only trying tells."""
        if not offer.flags & Init.PASSTHROUGH:
            return False
        fd = os.memfd_create("probe", os.MFD_CLOEXEC)
        try:
            self.backing_close(self.backing_open(fd))
        except OSError:
            return False
        finally:
            os.close(fd)
        self.unmappable = _unmappable(self)
        return True


def _unmappable(channel: Channel) -> int | None:
    """A regular file without an mmap operation that the kernel takes as a backing file, if there is one."""
    try:
        fd = os.open("/sys/module/fuse/parameters/max_user_bgreq", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        channel.backing_close(channel.backing_open(fd))
    except OSError:
        os.close(fd)
        return None
    return fd


def _is_dying(pid: int) -> bool:
    """Whether the thread `pid` has SIGKILL pending (every fatal signal becomes one) or is gone."""
    if not pid:
        return True  # cannot be seen from here, so cannot be told: better an EINTR too many than a client for ever
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line.split()[1], 16) & _SIGKILL_BIT:
                    return True
    except OSError:  # it is gone; or there is no descriptor to look with
        return True
    return False
