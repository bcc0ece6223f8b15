"""The descriptor of a control (an open of /dev/mapdev): all that is read from it, written to it, and asked by ioctl.

One thread reads at a time, so that what the module says about a file is taken up in the order in which it was said: a
request is known before the word that its program has a signal, and notices of one file are worked off one by one.
"""

import collections
import ctypes
import errno
import fcntl
import logging
import mmap
import os
import select
import threading
from collections.abc import Coroutine
from typing import Any, Final

from mapdev import file as device_file
from mapdev import libc
from mapdev.answer import Answer, is_coming, start
from mapdev.hosts.kmod import uapi
from mapdev.hosts.kmod.kernelpages import Body
from mapdev.hosts.kmod.session import Reply, Request, Session
from mapdev.hosts.kmod.uapi import Opcode
from mapdev.hosts.workers import Loop, Workers, leave_to_parent
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Mappable

log = logging.getLogger("mapdev.kmod")

_CLOSE_TIMEOUT: Final = 2.0


class Channel:
    """One control. Implements ``Kernel`` for the session that it serves."""

    def __init__(self, fd: int, loop: Loop) -> None:
        """Takes over `fd`, which is O_NONBLOCK. `loop` is shared by the channels of a host, whose it is."""
        self._fd = fd
        self._loop = loop
        self._workers = Workers("mapdev-kmod", uapi.MIN_BUFFER, self._read, self._take, self._ended)
        self._reading = threading.Lock()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._stop, select.POLLIN)
        self._closing = False
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._notices: dict[int, collections.deque[Request]] = {}
        leave_to_parent(self)

    def create(self, create: uapi.Create) -> None:
        """MAPDEV_IOC_CREATE; `create` then holds what the module has added. Raises ``OSError``."""
        self._ioctl(uapi.IOC_CREATE, create)

    def serve(self, session: Session) -> None:
        """Start to answer. Raises ``OSError`` if no thread can be had."""
        self._session = session
        if not self._workers.spawn():
            raise OSError(errno.EAGAIN, "no thread can be started")

    def wait(self, timeout: float | None = None) -> bool:
        """Block until somebody has removed the device; False after `timeout` seconds."""
        return self._gone.wait(timeout)

    def stop(self, timeout: float = 1.0) -> None:
        """Take no request any more, and remove the device: whoever waits for it gets ENODEV."""
        self._closing = True
        os.eventfd_write(self._stop, 1)
        for request in tuple(self._requests.values()):
            device_file.interrupt(request)
            self._loop.cancel(request)
        ended = self._workers.join(timeout)
        self._session.give_back()  # what is mapped of the control would keep it open
        if ended:
            self.close_fd()
        else:  # a method never ends: its thread is left behind, with a descriptor that does no harm
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, self._fd, inheritable=False)
            os.close(null)

    def release(self) -> None:
        """After ``stop``: every file that was still open is released."""
        released = threading.Event()

        async def release() -> None:
            await self._session.close()
            released.set()

        start(release(), self._loop.run)
        if not released.wait(_CLOSE_TIMEOUT):
            log.error("the release of a file does not end; it is left behind")

    def close_fd(self) -> None:
        """Leave the control; the device goes when nobody has its descriptor any more."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._stop)
            self._fd = -1

    # -- the threads --------------------------------------------------------------------------------------

    def _read(self, buffer: mmap.mmap) -> Request | None:
        with self._reading:
            while not self._closing:
                try:
                    count = os.readv(self._fd, [buffer])
                except BlockingIOError:
                    self._poll.poll()
                    continue
                except OSError as error:
                    if error.errno == errno.EINTR:
                        continue
                    if error.errno != errno.ENODEV:
                        log.error("reading from the module failed: %s", error)
                    return None
                if not count:  # the end of a file; the module says ENODEV
                    return None
                try:
                    request = Request(uapi.parse(memoryview(buffer)[:count]))
                except uapi.ProtocolError as error:
                    log.error("%s", error)
                    self._refuse(memoryview(buffer)[:count])
                    continue
                if request.opcode == Opcode.INTERRUPT:
                    self._interrupt(request)
                elif request.unique:
                    self._requests[request.unique] = request
                    return request
                elif self._queue(request):
                    return request
            return None

    def _refuse(self, data: memoryview) -> None:
        """An answer to what we do not understand, so that nobody waits for ever."""
        if len(data) >= uapi.REQUEST_SIZE:
            unique = uapi.Request.from_buffer_copy(data).unique
            if unique:
                self.reply(unique, errno.EIO)

    def _queue(self, notice: Request) -> bool:
        """Put a notice behind those of its file; whether the caller is to work them off."""
        with self._lock:
            queue = self._notices.get(notice.file)
            if queue is not None:
                queue.append(notice)
                return False
            self._notices[notice.file] = collections.deque([notice])
            return True

    def _ended(self) -> None:
        self._gone.set()

    def _take(self, request: Request, refuse: bool) -> None:
        if not request.unique:
            start(self._work_off(request.file), self._loop.run)
            return
        if refuse:
            self._requests.pop(request.unique, None)
            self.reply(request.unique, errno.EBUSY)
            return
        device_file.running.call = request
        try:
            answer = self._session.handle(request)
            if is_coming(answer):
                start(self._answer_when(request, answer), lambda work: self._finish_in_loop(request, work))
            else:
                undone = self._deliver(request, answer)
                if is_coming(undone):
                    start(undone, self._loop.run)
        except Exception as error:
            self._refuse_with(request, error)
        device_file.running.call = None

    def _finish_in_loop(self, request: Request, work: Coroutine[Any, Any, None]) -> None:
        request.message = request.message._replace(payload=memoryview(b""))  # it was read; the buffer is the thread's
        self._loop.run(work, request)

    async def _answer_when(self, request: Request, answer: Coroutine[Any, Any, Reply | None]) -> None:
        try:
            undone = self._deliver(request, await answer)
            if is_coming(undone):
                await undone
        except Exception as error:
            self._refuse_with(request, error)

    def _deliver(self, request: Request, answer: Reply | None) -> Answer[None]:
        """Reply, if that has not been done; or take back what was done, if who waited for it is gone."""
        self._requests.pop(request.unique, None)
        taken = answer is None or self.reply(request.unique, 0, *answer)
        return None if taken or request.undo is None else request.undo()

    def _refuse_with(self, request: Request, error: Exception) -> None:
        self._requests.pop(request.unique, None)
        if not isinstance(error, OSError):  # a bug of ours must not leave a program waiting
            log.error("request %d (opcode %d) failed", request.unique, request.opcode, exc_info=error)
        self.reply(request.unique, getattr(error, "errno", None) or errno.EIO)

    async def _work_off(self, file: int) -> None:
        """The notices of one file, in their order, until there is none."""
        while True:
            with self._lock:
                queue = self._notices[file]
                if not queue:
                    del self._notices[file]
                    return
                notice = queue.popleft()
            try:
                done = self._session.notice(notice)
                if is_coming(done):
                    await done
            except Exception:
                log.exception("notice %d of file %d failed", notice.opcode, file)

    def _interrupt(self, notice: Request) -> None:
        """The program that waits for the request named has a signal. One that is killed does not wait for us."""
        body = notice.message.body
        assert isinstance(body, uapi.InterruptIn)
        request = self._requests.get(body.unique)
        if request is not None:  # else it has been answered
            device_file.interrupt(request)
            self._loop.cancel(request)

    # -- Kernel: what the session asks for ----------------------------------------------------------------

    def reply(self, unique: int, error: int = 0, value: int = 0, flags: int = 0, payload: Body = b"") -> bool:
        try:
            os.writev(self._fd, [uapi.reply(unique, error, value, flags, len(payload)), payload])
        except OSError as failure:
            if failure.errno == errno.EINVAL and not error:  # the program waits until it gets one that is taken
                log.error("the module does not take our answer of %d bytes", len(payload))
                self.reply(unique, errno.EIO)
            elif failure.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF):  # nobody waits; the device is gone
                raise
            return False
        return True

    def memory(self, kind: int, memfd: int, length: int) -> tuple[int, int]:
        memory = uapi.Memory(kind, memfd, length)
        self._ioctl(uapi.IOC_MEMORY, memory)
        return memory.id, memory.map_offset

    def put(self, memory: int) -> None:
        try:
            self._ioctl(uapi.IOC_PUT, ctypes.c_uint64(memory))
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EBADF, errno.ENOTTY):  # the control is closed: all is put
                log.error("memory %d cannot be given back: %s", memory, error)

    def revoke(self, memory: int, offset: int, length: int) -> None:
        if length:
            self._ioctl(uapi.IOC_REVOKE, uapi.Range(memory, offset, length))

    def wrprotect(self, memory: int, offset: int, length: int) -> None:
        if length:
            self._ioctl(uapi.IOC_WRPROTECT, uapi.Range(memory, offset, length))

    def fetch(self, unique: int, address: int, count: int) -> bytes:
        buffer = ctypes.create_string_buffer(count)
        copy = uapi.UserCopy(unique, address & (1 << 64) - 1, ctypes.addressof(buffer), count)
        self._ioctl(uapi.IOC_FETCH, copy)
        return buffer.raw

    def store(self, unique: int, address: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        copy = uapi.UserCopy(unique, address & (1 << 64) - 1, ctypes.addressof(buffer), len(data))
        self._ioctl(uapi.IOC_STORE, copy)

    def wake(self, file: int) -> None:
        try:
            self._ioctl(uapi.IOC_WAKE, uapi.Wake(file, uapi.POLL_MASK, 0))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.ENOTTY):  # it is closed
                raise

    def physical_address(self, memory: Mappable, offset: int) -> int | None:
        """MAPDEV_IOC_PAGE: where the byte at `offset` is; None if the module has not that page."""
        number = self._session.id_of(memory)
        if number is None:
            return None
        page = uapi.Page(number, offset // PAGE_SIZE)
        try:
            self._ioctl(uapi.IOC_PAGE, page)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise
        return int(page.physical) + offset % PAGE_SIZE

    def map(self, map_offset: int, length: int) -> int:
        address = libc.mmap(None, length, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED, self._fd, map_offset)
        libc.madvise(address, length, libc.MADV_DONTFORK)  # a child would keep the control open
        return address

    def unmap(self, address: int, length: int) -> None:
        libc.munmap(address, length)

    def peek(self, address: int, count: int) -> bytes:
        # not a load: of a device that was removed meanwhile it would be a SIGBUS
        return libc.process_vm_readv(os.getpid(), address, count)

    def poke(self, address: int, data: bytes | memoryview) -> None:
        libc.process_vm_writev(os.getpid(), address, bytes(data))

    def _ioctl(self, number: int, argument: ctypes.Structure | ctypes.c_uint64) -> None:
        fcntl.ioctl(self._fd, number, argument)
