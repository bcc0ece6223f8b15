"""ioctl numbers, and the third argument of ioctl(2) as a device sees it.

Source: ``include/uapi/asm-generic/ioctl.h`` (the layout of x86, arm and riscv): bits 0-7 number, 8-15 type,
16-29 size of the argument, 30-31 direction as the *program* sees it (1 = it writes to us, 2 = it reads from us).
"""

import ctypes
import errno
import struct
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from mapdev import libc

_T = TypeVar("_T")

BytesLike = bytes | bytearray | memoryview

IOC_NONE: Final = 0
IOC_WRITE: Final = 1
IOC_READ: Final = 2

Size = int | struct.Struct | type[ctypes.Structure]


def _ioc(direction: int, type_: int | str, nr: int, size: Size) -> int:
    if isinstance(size, struct.Struct):
        size = size.size
    elif not isinstance(size, int):
        size = ctypes.sizeof(size)
    type_ = ord(type_) if isinstance(type_, str) else type_
    if not (0 <= nr < 256 and 0 <= type_ < 256 and 0 <= size < 1 << 14):
        raise ValueError(f"no ioctl number has type {type_}, number {nr} and an argument of {size} bytes")
    return direction << 30 | size << 16 | type_ << 8 | nr


def IO(type_: int | str, nr: int) -> int:  # noqa: N802 - the kernel's name
    """``_IO``: a call without an argument, or with one that is a plain number."""
    return _ioc(IOC_NONE, type_, nr, 0)


def IOR(type_: int | str, nr: int, size: Size) -> int:  # noqa: N802
    """``_IOR``: the program reads `size` bytes (a number, a ``struct.Struct``, a ctypes structure) from the device."""
    return _ioc(IOC_READ, type_, nr, size)


def IOW(type_: int | str, nr: int, size: Size) -> int:  # noqa: N802
    """``_IOW``: the program hands `size` bytes to the device."""
    return _ioc(IOC_WRITE, type_, nr, size)


def IOWR(type_: int | str, nr: int, size: Size) -> int:  # noqa: N802
    """``_IOWR``: both."""
    return _ioc(IOC_READ | IOC_WRITE, type_, nr, size)


class Caller(Protocol):
    """The memory of the program that waits for an ioctl. Raises ``OSError``."""

    def fetch(self, address: int, count: int) -> bytes: ...

    def store(self, address: int, data: bytes) -> None: ...


class Process:
    """The memory of process `pid`, by ``process_vm_readv(2)``; 0: one that cannot be seen from here."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def fetch(self, address: int, count: int) -> bytes:
        return libc.process_vm_readv(self._seen(), address, count)

    def store(self, address: int, data: bytes) -> None:
        libc.process_vm_writev(self._seen(), address, data)

    def _seen(self) -> int:
        if not self._pid:
            raise OSError(errno.EFAULT, "the calling process cannot be seen from here (another PID namespace?)")
        return self._pid


class IoctlArg:
    """The third argument of ioctl(2): a number, or a pointer into the calling program's memory.

    An encoded command (``_IOR``, ``_IOW``, ``_IOWR``) says how many bytes it moves, and they come and go with the
    request. For any other command the device reads and stores in the caller's memory itself, through
    ``process_vm_readv(2)``; that takes the right to trace the caller (same user, or CAP_SYS_PTRACE; where
    /proc/sys/kernel/yama/ptrace_scope is 1 the host must be an ancestor of the caller), else EFAULT. The kernel host
    asks the module instead, and needs no right.
    """

    __slots__ = ("_caller", "_data", "_room", "compat", "out", "value")

    def __init__(
        self, value: int, data: bytes = b"", room: int = 0, pid: int = 0, caller: Caller | None = None,
        compat: bool = False,
    ) -> None:  # fmt: skip
        self.value = value
        """The argument as the program passed it: an unsigned long."""
        self.compat = compat
        """A 32-bit program on a 64-bit kernel (the kernel's ``compat_ioctl``): pointers in its structures have 4 bytes,
        and on x86 a ``__u64`` in them may be at an odd multiple of 4, so the size in `cmd` may be another one, too."""
        self.out = b""
        """What goes back with the answer (encoded commands that the program reads from)."""
        self._data = data
        self._room = room
        self._caller = caller or Process(pid)

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __bytes__(self) -> bytes:
        """The bytes that came with an ``_IOW`` or ``_IOWR`` command; empty for any other."""
        return self._data

    def copy_from_user(self, count: int | None = None, address: int | None = None) -> bytes:
        """`count` bytes at the argument, or at another `address` in the caller (for nested pointers).

        Without arguments: all the bytes that an encoded command carries. Raises ``OSError`` EFAULT for
        memory that cannot be read, EINVAL when `count` is needed and missing.
        """
        if address is None and self._data and (count is None or count <= len(self._data)):
            return self._data[:count]
        if count is None:
            raise OSError(errno.EINVAL, "copy_from_user: this command does not say how many bytes: pass a count")
        return self._access(lambda at: self._caller.fetch(at, count), address)

    def copy_to_user(self, data: BytesLike, address: int | None = None) -> None:
        """Store `data` at the argument, or at another `address` in the caller. Raises ``OSError`` EFAULT, and
        ``ValueError`` for more bytes than an encoded command says the argument has."""
        data = bytes(data)
        room = max(self._room, len(self._data))
        if address is None and 0 < room < len(data):  # it would end up in whatever the program has behind it
            raise ValueError(f"{len(data)} bytes for an ioctl argument of {room}")
        if address is None and len(data) <= self._room:
            self.out = data
            return
        self._access(lambda at: self._caller.store(at, data), address)

    def _access(self, access: Callable[[int], _T], address: int | None) -> _T:
        try:
            return access(self.value if address is None else address)
        except OSError as error:
            # ESRCH, EPERM: to the program it is a bad address all the same
            raise OSError(errno.EFAULT, str(error)) from error
