"""One request -> one operation of a device -> an answer or an errno. No host is known here.

Every method of ``Dispatch`` calls one operation, waits for it if it is a coroutine, looks whether the answer is of the
right kind and size, and returns it. All that can come out of it otherwise is ``OSError`` with an errno that a program
may see. A plain operation completes without an event loop: the first ``send`` to the coroutine ends it (see ``start``).
"""

import errno
import inspect
import logging
import operator
import os
import sys
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

from mapdev import device as model
from mapdev import ioctl, pages
from mapdev.device import Device
from mapdev.errors import UsageError
from mapdev.file import File, Vma, VmFault
from mapdev.ioctl import IoctlArg
from mapdev.libc import PAGE_SHIFT, PAGE_SIZE
from mapdev.pages import Mappable, OnDemandPages, Pages
from mapdev.trace import Event, Trace

T = TypeVar("T")

log = logging.getLogger("mapdev.device")

_GETS = {
    "fault": "SIGBUS", "vm_fault": "SIGBUS", "page_mkwrite": "SIGBUS", "load": "SIGBUS", "store": "SIGBUS",
    "release": "no word of it", "vm_open": "no word of it", "vm_close": "no word of it",
}  # fmt: skip
_OURS = {__file__, ioctl.__file__, pages.__file__}
_BETWEEN = tuple(os.path.join(os.path.dirname(__file__), *path) for path in (
    ("registers", ""), ("devices", "uio.py"), ("devices", "devmem.py")))  # fmt: skip
"""They call the methods of the author's registers."""

_ACCESSES = {"load", "store"}
"""Who carries out an access of a program traces it: he knows the instruction."""

_MAX_ERRNO = 511
"""FUSE takes no larger one, and no errno that programs know is larger."""


@types.coroutine
def _to_the_loop() -> Generator[None, None, None]:
    """Suspend once, for ``start`` to see that this one needs an event loop."""
    yield


async def _finish(answer: Coroutine[Any, Any, T]) -> T:
    """The rest of an ``async def`` operation, in the event loop."""
    try:
        await _to_the_loop()
    except BaseException:  # cancelled before it began
        answer.close()
        raise
    return await answer


def start(work: Coroutine[Any, Any, None], loop: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Run `work` here as far as it goes with plain methods; hand what is left to `loop` (which runs it as a task)."""
    try:
        work.send(None)
    except StopIteration:
        return
    loop(work)


class Dispatch:
    """The operations of one device, ready to be called. ``files`` are those that are open now."""

    def __init__(self, device: Device, name: str, trace: Trace | None = None) -> None:
        _check(device, name)
        self.device = device
        self.name = name
        self.files: set[File] = set()
        self._trace = trace
        self._address_space: OnDemandPages | None = None
        self._failed_faults: dict[int, float] = {}
        if device.injected is not None:
            device.injected.strike(device)
        for operation in _DESCRIBE:
            method = getattr(device, operation)
            if device.injected is not None:
                method = device.injected.around(operation, method)
            if trace is not None and device.defines(operation) and operation not in _ACCESSES:
                method = self._traced(operation, method, trace)
            setattr(self, "_" + operation, method)
        self.has_mmap = device.defines("mmap") or device.defines("fault")
        self.has_fault = device.defines("fault")
        if self.has_fault and not device.defines("mmap") and device.size:
            self._faulted_memory()  # before any open: it is shared by all
        self.has_read, self.has_write = device.defines("read"), device.defines("write")
        self.has_ioctl, self.has_poll = device.defines("ioctl"), device.defines("poll")
        self.has_load, self.has_store = device.defines("load"), device.defines("store")
        device._files = self.files
        if trace is not None:
            device._log = self._log_line

    # set in __init__
    _open: Callable[..., Any]
    _release: Callable[..., Any]
    _read: Callable[..., Any]
    _write: Callable[..., Any]
    _ioctl: Callable[..., Any]
    _poll: Callable[..., Any]
    _mmap: Callable[..., Any]
    _fault: Callable[..., Any]
    _fsync: Callable[..., Any]
    _vm_fault: Callable[..., Any]
    _page_mkwrite: Callable[..., Any]
    _vm_open: Callable[..., Any]
    _vm_close: Callable[..., Any]
    _load: Callable[..., Any]
    _store: Callable[..., Any]

    async def open(self, file: File) -> None:
        """``Device.open``; afterwards the file is among ``files``."""
        await self._told("open", self._open, file)
        self.files.add(file)

    async def release(self, file: File) -> None:
        """``Device.release``; never fails."""
        self.files.discard(file)
        try:
            answer = self._release(file)
            if answer.__class__ is types.CoroutineType:
                answer = await _finish(answer)
            _nothing(answer, "release")
        except BaseException as error:
            if not _was_cancelled(error):  # else the host ends
                self._report("release", file, error)

    async def read(self, file: File, count: int, pos: int) -> bytes | bytearray | memoryview:
        """``Device.read``: at most `count` bytes."""
        if not self.has_read:
            raise OSError(errno.EINVAL, "read is not defined")
        try:
            data = self._read(file, count, pos)
            if data.__class__ is types.CoroutineType:
                data = await _finish(data)
            if data.__class__ is not bytes:
                data = _buffer(data)
            if len(data) > count:
                raise ValueError(f"read answered {len(data)} bytes where {count} were asked for")
            return data  # type: ignore[no-any-return]
        except BaseException as error:
            raise self._failed("read", file, error) from None

    async def write(self, file: File, buf: bytes, pos: int) -> int:
        """``Device.write``: how many bytes were taken."""
        if not self.has_write:
            raise OSError(errno.EINVAL, "write is not defined")
        try:
            taken = self._write(file, buf, pos)
            if taken.__class__ is types.CoroutineType:
                taken = await _finish(taken)
            return _number(taken, "write", len(buf))
        except BaseException as error:
            raise self._failed("write", file, error) from None

    async def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:
        """``Device.ioctl``: the result; bytes for the program are in ``arg.out`` by then, or in its memory."""
        if not self.has_ioctl:
            raise OSError(errno.ENOTTY, "ioctl is not defined")
        try:
            result = self._ioctl(file, cmd, arg)
            if result.__class__ is types.CoroutineType:
                result = await _finish(result)
            if result is None:
                return 0
            if isinstance(result, int):
                return _number(result, "ioctl", (1 << 31) - 1)
            arg.copy_to_user(_buffer(result))
            return 0
        except BaseException as error:
            raise self._failed("ioctl", file, error) from None

    async def poll(self, file: File) -> int:
        """``Device.poll``: a mask of POLL* bits."""
        if not self.has_poll:
            return model.DEFAULT_POLLMASK
        try:
            mask = self._poll(file)
            if mask.__class__ is types.CoroutineType:
                mask = await _finish(mask)
            return _number(mask, "poll", 0xFFFF)
        except BaseException as error:
            raise self._failed("poll", file, error) from None

    async def mmap(self, file: File, vma: Vma) -> Mappable:
        """``Device.mmap``: the memory that this open maps."""
        if not self.has_mmap:
            raise OSError(errno.ENODEV, "mmap is not defined")
        try:
            memory = None
            if self.device.defines("mmap"):
                memory = self._mmap(file, vma)
                if memory.__class__ is types.CoroutineType:
                    memory = await _finish(memory)
            if memory is None and self.has_fault:
                memory = self._faulted_memory()
            if not isinstance(memory, Pages | OnDemandPages):
                raise TypeError(f"mmap answered {memory!r}, not pages")
            if isinstance(memory, OnDemandPages) and not self.has_fault:
                raise TypeError("mmap answered on-demand pages, but fault is not defined")
            return memory
        except BaseException as error:
            raise self._failed("mmap", file, error) from None

    async def fault(self, file: File, memory: OnDemandPages, pgoff: int) -> memoryview:
        """The page `pgoff` of `memory`: there already, or handed over now by ``Device.fault``."""
        page = memory.present(pgoff)
        if page is not None:
            return page
        try:
            answer = self._fault(file, VmFault(pgoff))
            if answer.__class__ is types.CoroutineType:
                answer = await _finish(answer)
            return memory.insert(pgoff, answer)
        except BaseException as error:
            raise self._failed("fault", file, error, again=self._asked_again(pgoff)) from None

    async def fsync(self, file: File, datasync: bool) -> None:
        """``Device.fsync``."""
        await self._told("fsync", self._fsync, file, datasync)

    async def vm_fault(self, file: File, pgoff: int) -> None:
        """``Device.vm_fault``."""
        await self._told("vm_fault", self._vm_fault, file, VmFault(pgoff))

    async def page_mkwrite(self, file: File, pgoff: int) -> None:
        """``Device.page_mkwrite``."""
        await self._told("page_mkwrite", self._page_mkwrite, file, VmFault(pgoff))

    async def vm_open(self, file: File, vma: Vma) -> None:
        """``Device.vm_open``; never fails."""
        with suppress(OSError):
            await self._told("vm_open", self._vm_open, file, vma)

    async def vm_close(self, file: File, vma: Vma) -> None:
        """``Device.vm_close``; never fails."""
        with suppress(OSError):
            await self._told("vm_close", self._vm_close, file, vma)

    async def load(self, file: File, memory: Mappable, count: int, pos: int) -> bytes:
        """``Device.load``, or what is in `memory` (as ``mmap`` answered it): exactly `count` bytes."""
        load = self._load
        if not self.has_load:
            if isinstance(memory, OnDemandPages):
                await self._bring(file, memory, pos, count)
            if self.device.injected is None:
                return _loaded(memory, pos, count)
            load = self.device.injected.around("load", lambda _, count, pos: _loaded(memory, pos, count))
        try:
            answer = load(file, count, pos)
            if answer.__class__ is types.CoroutineType:
                answer = await _finish(answer)
            data = bytes(_buffer(answer))
            if len(data) != count:
                raise ValueError(f"load answered {len(data)} bytes where {count} are loaded")
            return data
        except BaseException as error:
            raise self._failed("load", file, error) from None

    async def store(self, file: File, memory: Mappable, data: bytes, pos: int) -> None:
        """``Device.store``, or into `memory`."""
        store = self._store
        if not self.has_store:
            if isinstance(memory, OnDemandPages):
                await self._bring(file, memory, pos, len(data))
            if self.device.injected is None:
                _stored(memory, pos, data)
                return
            store = self.device.injected.around("store", lambda _, data, pos: _stored(memory, pos, data))
        await self._told("store", store, file, data, pos)

    def traps(self, pos: int, length: int) -> bool:
        """``Device.traps``, or there is a fault on purpose that only an access can meet."""
        injected = self.device.injected
        return bool(self.device.traps(pos, length) or (injected is not None and injected.need_traps(pos, length)))

    async def _bring(self, file: File, memory: OnDemandPages, pos: int, count: int) -> None:
        """The pages of these bytes are there, as if the program had faulted on them."""
        for pgoff in range(pos // PAGE_SIZE, (pos + count - 1) // PAGE_SIZE + 1):
            await self.fault(file, memory, pgoff)

    async def _told(self, operation: str, method: Callable[..., Any], file: File, *args: Any) -> None:
        """An operation that answers nothing."""
        try:
            answer = method(file, *args)
            if answer.__class__ is types.CoroutineType:
                answer = await _finish(answer)
            _nothing(answer, operation)
        except BaseException as error:
            raise self._failed(operation, file, error) from None

    def _faulted_memory(self) -> OnDemandPages:
        """What a device with `fault` alone maps: ``size`` bytes, the same for all opens."""
        if self._address_space is None:
            size = self.device.size
            if not isinstance(size, int) or size < 1:
                raise TypeError("fault is defined, so size (in bytes) is needed for the kernel to know the end")
            self._address_space = OnDemandPages(-(-size // PAGE_SIZE))
        return self._address_space

    def _asked_again(self, pgoff: int) -> bool:
        """Whether the fault on this page has just failed: a kernel that was refused while it read ahead asks twice."""
        now = time.monotonic()
        self._failed_faults = {page: at for page, at in tuple(self._failed_faults.items()) if now - at < 1}
        again = pgoff in self._failed_faults
        self._failed_faults[pgoff] = now
        return again

    def _failed(self, operation: str, file: File, error: BaseException, again: bool = False) -> OSError:
        """What a program is told of `error`: the author's own errno, or EIO and a traceback to the author."""
        if _was_cancelled(error) or isinstance(error, GeneratorExit):
            return InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        if isinstance(error, OSError) and isinstance(error.errno, int) and 1 <= error.errno <= _MAX_ERRNO:
            return error
        if not again:
            self._report(operation, file, error)  # SystemExit too: a device does not end its host
        return OSError(errno.EIO, os.strerror(errno.EIO))

    def _report(self, operation: str, file: File, error: BaseException) -> None:
        """One traceback to the author, of the author's frames if there are any."""
        trail = error.__traceback__
        own = trail
        while own is not None and _is_ours(own.tb_frame.f_code.co_filename):
            own = own.tb_next
        if own is None:  # the operation came back with a wrong answer: say which one it was
            code = getattr(getattr(self.device, operation), "__code__", None)
            if code is not None:
                place = f'File "{code.co_filename}", line {code.co_firstlineno}, in {code.co_name}'
                error.add_note(f"answered by {place}")
        what = _GETS.get(operation, "EIO")
        log.error("%s of %s#%d failed; the program gets %s", operation, self.name, file.id, what,
                  exc_info=(type(error), error, own))  # fmt: skip

    # -- the trace ----------------------------------------------------------------------------------------

    def _traced(self, operation: str, method: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
        describe = _DESCRIBE[operation]

        def event(file: File, args: tuple[Any, ...], began: float, result: Any, error: BaseException | None) -> None:
            number = 0 if error is None else getattr(error, "errno", None) or errno.EIO
            if _was_cancelled(error):
                number = errno.EINTR
            text = f"-{errno.errorcode.get(number, number)}" if error is not None else _result(result)
            took = time.perf_counter() - began
            trace(Event(time.time(), self.name, file.id, file.pid, operation, describe(*args), text, number, took))

        async def finish(file: File, args: tuple[Any, ...], began: float, answer: Awaitable[Any]) -> Any:
            try:
                result = await answer
            except BaseException as error:
                event(file, args, began, None, error)
                raise
            event(file, args, began, result, None)
            return result

        def traced(file: File, *args: Any) -> Any:
            began = time.perf_counter()
            try:
                result = method(file, *args)
            except BaseException as error:
                event(file, args or (file,), began, None, error)
                raise
            if inspect.iscoroutine(result):
                return finish(file, args or (file,), began, result)
            event(file, args or (file,), began, result, None)
            return result

        return traced

    def _log_line(self, message: str) -> None:
        assert self._trace is not None
        self._trace(Event(time.time(), self.name, 0, 0, "log", message, "", 0, 0.0))


def _loaded(memory: Mappable, pos: int, count: int) -> bytes:
    end = min(pos + count, (pos // PAGE_SIZE + 1) * PAGE_SIZE)
    data = bytes(memory.load(pos, end - pos))
    return data if end == pos + count else data + _loaded(memory, end, pos + count - end)


def _stored(memory: Mappable, pos: int, data: bytes) -> None:
    memory.store(pos, memoryview(data))
    memory.push(pos, len(data))


def _is_ours(filename: str) -> bool:
    return filename in _OURS or filename.startswith(_BETWEEN)


def _was_cancelled(error: BaseException | None) -> bool:
    asyncio = sys.modules.get("asyncio")  # nobody has loaded it: then nothing of it can have come
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _check(device: Device, name: str) -> None:
    for attribute, value in (("size", 0 if device.size is None else device.size), ("readahead", device.readahead)):
        if not (isinstance(value, int) and 0 <= value < 1 << 63):
            raise UsageError(f"{name}: {attribute} is {value!r}: give a number of bytes")


def _buffer(data: Any) -> memoryview:
    view = memoryview(data)  # TypeError names the type that came instead
    return view.cast("B") if view.contiguous else memoryview(bytes(view))


def _nothing(answer: Any, operation: str) -> None:
    if answer is not None:  # such as the -errno.X of a driver in C, which would be taken for success
        raise TypeError(f"{operation} answered {answer!r}, not None: raise OSError(errno.X) to refuse")


def _number(value: Any, operation: str, most: int) -> int:
    number = operator.index(value)  # TypeError names the type that came instead
    if not 0 <= number <= most:
        raise ValueError(f"{operation} answered {number}, which is not between 0 and {most}")
    return number


# -- how people read arguments and answers ------------------------------------------------------------------

_FLAGS = {name: value for name, value in sorted(vars(os).items())
          if name in {"O_APPEND", "O_CLOEXEC", "O_DIRECT", "O_DSYNC", "O_NONBLOCK", "O_SYNC", "O_TRUNC"}}  # fmt: skip


def _open_flags(flags: int) -> str:
    names = [("O_RDONLY", "O_WRONLY", "O_RDWR", "3")[flags & os.O_ACCMODE]]
    for name, value in _FLAGS.items():
        covered = name == "O_DSYNC" and flags & os.O_SYNC == os.O_SYNC
        if flags & value == value and not covered:
            names.append(name)
    return "|".join(names)


def _bytes(data: Any) -> str:
    view = bytes(memoryview(data)[:16])
    return f"{view!r}{'...' if len(data) > 16 else ''}"


def _result(result: Any) -> str:
    if result is None:
        return "0"
    if isinstance(result, Pages | OnDemandPages):
        return f"{result!r}"
    if isinstance(result, bytes | bytearray | memoryview):
        return f"{len(result)} {_bytes(result)}"
    return repr(result)


_DESCRIBE: dict[str, Callable[..., str]] = {
    "open": lambda file: _open_flags(file.flags),
    "release": lambda file: "",  # noqa: ARG005
    "read": lambda count, pos: f"count={count}, pos={pos}",
    "write": lambda buf, pos: f"{len(buf)} {_bytes(buf)}, pos={pos}",
    "ioctl": lambda cmd, arg: f"{cmd:#x}, {int(arg):#x}",
    "poll": lambda file: "",  # noqa: ARG005
    "mmap": lambda vma: f"pgoff={vma.pgoff}, length={vma.length}",
    "fault": lambda vmf: f"pgoff={vmf.pgoff:#x} (offset {vmf.pgoff << PAGE_SHIFT:#x})",
    "fsync": lambda datasync: f"datasync={datasync}",
    "vm_fault": lambda vmf: f"pgoff={vmf.pgoff:#x}",
    "page_mkwrite": lambda vmf: f"pgoff={vmf.pgoff:#x}",
    "vm_open": lambda vma: f"pgoff={vma.pgoff}, length={vma.length}",
    "vm_close": lambda vma: f"pgoff={vma.pgoff}, length={vma.length}",
    "load": lambda count, pos: f"{count} bytes at {pos:#x}",
    "store": lambda data, pos: f"{_bytes(data)} at {pos:#x}",
}
