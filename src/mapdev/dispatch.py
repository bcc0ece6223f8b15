"""One request -> one operation of a device -> an answer or an errno. No host is known here.

Every method of ``Dispatch`` calls one operation, looks whether the answer is of the right kind and size, and returns
it: at once if the operation is plain, else as a coroutine (``Answer``). All that can come out of it otherwise is
``OSError`` with an errno that a program may see.
"""

import errno
import logging
import operator
import os
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import CoroutineType
from typing import Any, TypeAlias, TypeVar

from mapdev import answer as answers
from mapdev import device as model
from mapdev import ioctl, pages
from mapdev.answer import Answer, finish, in_turn, then
from mapdev.device import Device
from mapdev.errors import UsageError
from mapdev.file import File, Vma, VmFault
from mapdev.ioctl import IoctlArg
from mapdev.libc import PAGE_SHIFT, PAGE_SIZE
from mapdev.pages import Mappable, OnDemandPages, Pages
from mapdev.trace import Callback, Trace

S = TypeVar("S")
T = TypeVar("T")

Data: TypeAlias = bytes | bytearray | memoryview
Check: TypeAlias = Callable[[str, Any, S], T]
"""(operation, its answer, what that has to fit) -> what is made of it."""

log = logging.getLogger("mapdev.device")

_GETS = {
    "fault": "SIGBUS", "vm_fault": "SIGBUS", "page_mkwrite": "SIGBUS", "load": "SIGBUS", "store": "SIGBUS",
    "release": "no word of it", "vm_open": "no word of it", "vm_close": "no word of it",
}  # fmt: skip
_OURS = {__file__, answers.__file__, ioctl.__file__, pages.__file__}
_BETWEEN = tuple(os.path.join(os.path.dirname(__file__), *path) for path in (
    ("registers", ""), ("devices", "uio.py"), ("devices", "devmem.py")))  # fmt: skip
"""They call the methods of the author's registers."""

_ACCESSES = "load", "store"
"""Who carries out an access of a program traces it: he knows the instruction."""

_MAX_ERRNO = 511
"""FUSE takes no larger one, and no errno that programs know is larger."""


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
        for operation in (*_DESCRIBE, *_ACCESSES):
            method = getattr(device, operation)
            if device.injected is not None:
                method = device.injected.around(operation, method)
            if trace is not None and device.defines(operation) and operation in _DESCRIBE:
                method = self._traced(operation, method, trace)
            setattr(self, "_" + operation, method)
        if not device.defines("mmap"):
            self._mmap = _none
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

    def open(self, file: File) -> Answer[None]:
        """``Device.open``; afterwards the file is among ``files``."""
        return then(self._told("open", self._open, file), lambda _: self.files.add(file))

    def release(self, file: File) -> Answer[None]:
        """``Device.release``; never fails."""
        self.files.discard(file)
        return self._unheard("release", self._release, file)

    def read(self, file: File, count: int, pos: int) -> Answer[Data]:
        """``Device.read``: at most `count` bytes."""
        if not self.has_read:
            raise OSError(errno.EINVAL, "read is not defined")
        return self._asked("read", self._read, _data, count, file, count, pos)

    def write(self, file: File, buf: bytes, pos: int) -> Answer[int]:
        """``Device.write``: how many bytes were taken."""
        if not self.has_write:
            raise OSError(errno.EINVAL, "write is not defined")
        return self._asked("write", self._write, _number, len(buf), file, buf, pos)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> Answer[int]:
        """``Device.ioctl``: the result; bytes for the program are in ``arg.out`` by then, or in its memory."""
        if not self.has_ioctl:
            raise OSError(errno.ENOTTY, "ioctl is not defined")
        return self._asked("ioctl", self._ioctl, _result_of_ioctl, arg, file, cmd, arg)

    def poll(self, file: File) -> Answer[int]:
        """``Device.poll``: a mask of POLL* bits."""
        if not self.has_poll:
            return model.DEFAULT_POLLMASK
        return self._asked("poll", self._poll, _number, 0xFFFF, file)

    def mmap(self, file: File, vma: Vma) -> Answer[Mappable]:
        """``Device.mmap``: the memory that this open maps."""
        if not self.has_mmap:
            raise OSError(errno.ENODEV, "mmap is not defined")
        return self._asked("mmap", self._mmap, self._mapped, None, file, vma)

    def fault(self, file: File, memory: OnDemandPages, pgoff: int) -> Answer[memoryview]:
        """The page `pgoff` of `memory`: there already, or handed over now by ``Device.fault``."""
        page = memory.present(pgoff)
        if page is not None:
            return page
        return self._asked("fault", self._fault, lambda _, page, pgoff: memory.insert(pgoff, page), pgoff, file,
                           VmFault(pgoff))  # fmt: skip

    def fsync(self, file: File, datasync: bool) -> Answer[None]:
        """``Device.fsync``."""
        return self._told("fsync", self._fsync, file, datasync)

    def vm_fault(self, file: File, pgoff: int) -> Answer[None]:
        """``Device.vm_fault``."""
        return self._told("vm_fault", self._vm_fault, file, VmFault(pgoff))

    def page_mkwrite(self, file: File, pgoff: int) -> Answer[None]:
        """``Device.page_mkwrite``."""
        return self._told("page_mkwrite", self._page_mkwrite, file, VmFault(pgoff))

    def vm_open(self, file: File, vma: Vma) -> Answer[None]:
        """``Device.vm_open``; never fails."""
        return self._unheard("vm_open", self._vm_open, file, vma)

    def vm_close(self, file: File, vma: Vma) -> Answer[None]:
        """``Device.vm_close``; never fails."""
        return self._unheard("vm_close", self._vm_close, file, vma)

    def load(self, file: File, memory: Mappable, count: int, pos: int) -> Answer[bytes]:
        """``Device.load``, or what is in `memory` (as ``mmap`` answered it): exactly `count` bytes."""
        if self.has_load:
            return self._asked("load", self._load, _exactly, count, file, count, pos)
        load = self._of_memory("load", lambda _, count, pos: _loaded(memory, pos, count))
        return self._brought(
            file, memory, pos, count, lambda: self._asked("load", load, _exactly, count, file, count, pos)
        )

    def store(self, file: File, memory: Mappable, data: bytes, pos: int) -> Answer[None]:
        """``Device.store``, or into `memory`."""
        if self.has_store:
            return self._told("store", self._store, file, data, pos)
        store = self._of_memory("store", lambda _, data, pos: _stored(memory, pos, data))
        return self._brought(file, memory, pos, len(data), lambda: self._told("store", store, file, data, pos))

    def traps(self, pos: int, length: int) -> bool:
        """``Device.traps``, or there is a fault on purpose that only an access can meet."""
        injected = self.device.injected
        return bool(self.device.traps(pos, length) or (injected is not None and injected.need_traps(pos, length)))

    def _of_memory(self, operation: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """An access that the memory answers, and not the device; faults on purpose strike it all the same."""
        injected = self.device.injected
        return method if injected is None else injected.around(operation, method)

    def _brought(
        self, file: File, memory: Mappable, pos: int, count: int, access: Callable[[], Answer[T]]
    ) -> Answer[T]:
        """`access`, once the pages of these bytes are there, as if the program had faulted on them."""
        if not isinstance(memory, OnDemandPages):
            return access()
        pgoffs = range(pos // PAGE_SIZE, (pos + count - 1) // PAGE_SIZE + 1)
        pages = in_turn(self.fault(file, memory, pgoff) for pgoff in pgoffs)
        return then(pages, lambda _: access())

    def _asked(
        self, operation: str, method: Callable[..., Any], check: Check[S, T], of: S, file: File, *args: Any
    ) -> Answer[T]:
        """What `check` makes of the answer of the operation; it raises what is wrong with it."""
        try:
            answer = method(file, *args)
            if answer.__class__ is CoroutineType:
                return self._asked_later(operation, answer, check, of, file, args)
            return check(operation, answer, of)
        except BaseException as error:
            raise self._failed(operation, file, args, error) from None

    async def _asked_later(
        self, operation: str, answer: Coroutine[Any, Any, Any], check: Check[S, T], of: S, file: File,
        args: tuple[Any, ...],
    ) -> T:  # fmt: skip
        try:
            return check(operation, await finish(answer), of)
        except BaseException as error:
            raise self._failed(operation, file, args, error) from None

    def _told(self, operation: str, method: Callable[..., Any], file: File, *args: Any) -> Answer[None]:
        """An operation that answers nothing."""
        return self._asked(operation, method, _nothing, None, file, *args)

    def _unheard(self, operation: str, method: Callable[..., Any], file: File, *args: Any) -> Answer[None]:
        """An operation whose failure nobody hears of but the author."""
        try:
            answer = method(file, *args)
            if answer.__class__ is CoroutineType:
                return self._unheard_later(operation, answer, file)
            _nothing(operation, answer)
        except BaseException as error:
            self._report(operation, file, error)
        return None

    async def _unheard_later(self, operation: str, answer: Coroutine[Any, Any, Any], file: File) -> None:
        try:
            _nothing(operation, await finish(answer))
        except BaseException as error:
            if not _was_cancelled(error):  # else the host ends
                self._report(operation, file, error)

    def _mapped(self, _operation: str, memory: Any, _of: None) -> Mappable:
        if memory is None and self.has_fault:
            memory = self._faulted_memory()
        if not isinstance(memory, Pages | OnDemandPages):
            raise TypeError(f"mmap answered {memory!r}, not pages")
        if isinstance(memory, OnDemandPages) and not self.has_fault:
            raise TypeError("mmap answered on-demand pages, but fault is not defined")
        return memory

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

    def _failed(self, operation: str, file: File, args: tuple[Any, ...], error: BaseException) -> OSError:
        """What a program is told of `error`: the author's own errno, or EIO and a traceback to the author."""
        if _was_cancelled(error) or isinstance(error, GeneratorExit):
            return InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        again = operation == "fault" and self._asked_again(args[0].pgoff)
        number = _errno(error)
        if isinstance(error, OSError) and error.errno == number:
            return error
        if not again:
            self._report(operation, file, error)  # SystemExit too: a device does not end its host
        return OSError(number, os.strerror(number))

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
        describe, name = _DESCRIBE[operation], self.name
        clock, now, new = time.perf_counter, time.time, tuple.__new__

        def tell(args: tuple[Any, ...], took: float, result: str, number: int) -> None:
            file = args[0]
            event = now(), name, file.id, file.pid, operation, describe(*args), result, number, took
            trace(new(Callback, event))  # Callback(...) itself goes through a function in Python

        def tell_failure(args: tuple[Any, ...], took: float, error: BaseException) -> None:
            number = _errno(error)
            tell(args, took, f"-{errno.errorcode.get(number, number)}", number)

        async def follow(answer: Coroutine[Any, Any, Any], args: tuple[Any, ...], began: float) -> Any:
            try:
                result = await answer
            except BaseException as error:
                tell_failure(args, clock() - began, error)
                raise
            tell(args, clock() - began, _value(result), 0)
            return result

        def traced(*args: Any) -> Any:
            began = clock()
            try:
                result = method(*args)
            except BaseException as error:
                tell_failure(args, clock() - began, error)
                raise
            if result.__class__ is CoroutineType:
                return follow(result, args, began)
            tell(args, clock() - began, _value(result), 0)
            return result

        return traced

    def _log_line(self, message: str) -> None:
        assert self._trace is not None
        self._trace(Callback(time.time(), self.name, 0, 0, "log", message, "", 0, 0.0))


def _none(*_: Any) -> None:
    """The ``mmap`` of a device that has only ``fault``."""


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
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    return view.cast("B") if view.contiguous else memoryview(bytes(view))


# -- what is wrong with an answer ---------------------------------------------------------------------------


def _data(operation: str, data: Any, most: int) -> Data:
    if data.__class__ is not bytes:
        data = _buffer(data)
    if len(data) > most:
        raise ValueError(f"{operation} answered {len(data)} bytes where {most} were asked for")
    return data  # type: ignore[no-any-return]


def _exactly(operation: str, answer: Any, count: int) -> bytes:
    data = answer if answer.__class__ is bytes else bytes(_buffer(answer))
    if len(data) != count:
        raise ValueError(f"{operation} answered {len(data)} bytes where {count} are loaded")
    return data


def _number(operation: str, value: Any, most: int) -> int:
    number = operator.index(value)  # TypeError names the type that came instead
    if not 0 <= number <= most:
        raise ValueError(f"{operation} answered {number}, which is not between 0 and {most}")
    return number


def _result_of_ioctl(operation: str, value: Any, arg: IoctlArg) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return _number(operation, value, (1 << 31) - 1)
    arg.copy_to_user(_buffer(value))
    return 0


def _nothing(operation: str, answer: Any, _of: None = None) -> None:
    if answer is not None:  # such as the -errno.X of a driver in C, which would be taken for success
        raise TypeError(f"{operation} answered {answer!r}, not None: raise OSError(errno.X) to refuse")


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


_BUFFERS = memoryview, bytes, bytearray
_NO_BUFFERS = int, Pages, OnDemandPages


def _value(value: Any) -> str:
    """What an operation answered, or bytes that it was given."""
    if value.__class__ is memoryview and (value.itemsize > 1 or value.ndim != 1):
        value = _buffer(value)
    if isinstance(value, _BUFFERS):
        return f"{len(value)} {bytes(value[:16])!r}{'...' if len(value) > 16 else ''}"
    if value is None:
        return "0"
    if not isinstance(value, _NO_BUFFERS):
        with suppress(TypeError, ValueError, BufferError):
            return _value(_buffer(value))  # such as an array of numpy
    return repr(value)


def _errno(error: BaseException) -> int:
    """What a program is told (see ``Dispatch._failed``)."""
    if _was_cancelled(error) or isinstance(error, GeneratorExit):
        return errno.EINTR
    number = error.errno if isinstance(error, OSError) else None
    return number if isinstance(number, int) and 1 <= number <= _MAX_ERRNO else errno.EIO


_DESCRIBE: dict[str, Callable[..., str]] = {
    "open": lambda file: _open_flags(file.flags),
    "release": lambda _: "",
    "read": lambda _, count, pos: f"count={count}, pos={pos}",
    "write": lambda _, buf, pos: f"{_value(buf)}, pos={pos}",
    "ioctl": lambda _, cmd, arg: f"{cmd:#x}, {int(arg):#x}",
    "poll": lambda _: "",
    "mmap": lambda _, vma: f"pgoff={vma.pgoff}, length={vma.length}",
    "fault": lambda _, vmf: f"pgoff={vmf.pgoff:#x} (offset {vmf.pgoff << PAGE_SHIFT:#x})",
    "fsync": lambda _, datasync: f"datasync={datasync}",
    "vm_fault": lambda _, vmf: f"pgoff={vmf.pgoff:#x}",
    "page_mkwrite": lambda _, vmf: f"pgoff={vmf.pgoff:#x}",
    "vm_open": lambda _, vma: f"pgoff={vma.pgoff}, length={vma.length}",
    "vm_close": lambda _, vma: f"pgoff={vma.pgoff}, length={vma.length}",
}
