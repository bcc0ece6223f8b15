"""Devices whose operations misbehave in the way that the program chooses by a number, the place in ``MISDEEDS``."""

import asyncio
import errno
from collections.abc import Callable
from typing import Any, NoReturn

from mapdev import Device, File, IoctlArg, Vma, VmFault
from mapdev.libc import PAGE_SIZE

GOOD_PAGE = 63
ARM = 0x100
"""ioctl commands: ARM + place in ``ARMED`` makes the next call of that operation commit misdeed `arg`."""
ARMED = ("open", "release", "mmap", "poll", "fsync")


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _raises(make: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def misdeed() -> NoReturn:
        raise make()

    return misdeed


def _recursion() -> Any:
    return _recursion()


MISDEEDS: dict[str, Callable[[], Any]] = {
    "EXDEV": _raises(lambda: OSError(errno.EXDEV, "another device")),
    "ENOENT": _raises(lambda: FileNotFoundError(errno.ENOENT, "not there")),
    "ENOSYS": _raises(lambda: OSError(errno.ENOSYS, "not for this file")),
    "an OSError without errno": _raises(lambda: OSError("no errno")),
    "errno 0": _raises(lambda: OSError(0, "success")),
    "a negative errno": _raises(lambda: OSError(-errno.EIO, "as the kernel has it")),
    "an errno above 511": _raises(lambda: OSError(512, "ERESTARTSYS")),
    "an errno that is text": _raises(lambda: OSError("EIO", "text")),
    "ValueError": _raises(lambda: ValueError("nonsense")),
    "an exception without text": _raises(SpeechlessError),
    "SystemExit": _raises(lambda: SystemExit(3)),
    "KeyboardInterrupt": _raises(KeyboardInterrupt),
    "MemoryError": _raises(MemoryError),
    "StopIteration": _raises(lambda: StopIteration(7)),
    "StopAsyncIteration": _raises(StopAsyncIteration),
    "BaseException": _raises(lambda: BaseException("the base of all")),
    "recursion": _recursion,
    "text": lambda: "text",
    "a float": lambda: 1.5,
    "an object": object,
    "a list": lambda: [1, 2],
    "-1": lambda: -1,
    "2**80": lambda: 1 << 80,
    "65": lambda: 65,
    "None": lambda: None,
    "5 bytes": lambda: b"short",
    "a page less a byte": lambda: bytes(PAGE_SIZE - 1),
    "a page and a byte": lambda: bytes(PAGE_SIZE + 1),
}
_MISDEEDS = list(MISDEEDS.values())


class Plain(Device):
    """Chooses by `pos` in `read` and `write`, by `pgoff` in `fault`, by the number of the command in `ioctl`."""

    size = (GOOD_PAGE + 1) * PAGE_SIZE

    def __init__(self) -> None:
        self.armed: dict[str, int] = {}

    def _armed(self, operation: str) -> Any:
        number = self.armed.pop(operation, None)
        return None if number is None else _MISDEEDS[number]()

    def open(self, file: File) -> Any:  # noqa: ARG002
        return self._armed("open")

    def release(self, file: File) -> Any:  # noqa: ARG002
        return self._armed("release")

    def mmap(self, file: File, vma: Vma) -> Any:  # noqa: ARG002
        return self._armed("mmap")

    def poll(self, file: File) -> Any:  # noqa: ARG002
        return self._armed("poll") if "poll" in self.armed else 1

    def fsync(self, file: File, datasync: bool) -> Any:  # noqa: ARG002
        return self._armed("fsync")

    def read(self, file: File, count: int, pos: int) -> Any:  # noqa: ARG002
        return b"well" if pos == PAGE_SIZE else _MISDEEDS[pos]()

    def write(self, file: File, buf: bytes, pos: int) -> Any:  # noqa: ARG002
        return _MISDEEDS[pos]()

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> Any:  # noqa: ARG002
        if cmd & ARM:
            self.armed[ARMED[cmd & 0xFF]] = int(arg)
            return 0
        return _MISDEEDS[cmd & 0xFF]()

    def fault(self, file: File, vmf: VmFault) -> Any:  # noqa: ARG002
        return b"good".ljust(PAGE_SIZE) if vmf.pgoff == GOOD_PAGE else _MISDEEDS[vmf.pgoff]()


class Async(Plain):
    """The same in the event loop."""

    async def open(self, file: File) -> Any:
        await asyncio.sleep(0)
        return super().open(file)

    async def release(self, file: File) -> Any:
        await asyncio.sleep(0)
        return super().release(file)

    async def mmap(self, file: File, vma: Vma) -> Any:
        await asyncio.sleep(0)
        return super().mmap(file, vma)

    async def poll(self, file: File) -> Any:
        await asyncio.sleep(0)
        return super().poll(file)

    async def fsync(self, file: File, datasync: bool) -> Any:
        await asyncio.sleep(0)
        return super().fsync(file, datasync)

    async def read(self, file: File, count: int, pos: int) -> Any:
        await asyncio.sleep(0)
        return super().read(file, count, pos)

    async def write(self, file: File, buf: bytes, pos: int) -> Any:
        await asyncio.sleep(0)
        return super().write(file, buf, pos)

    async def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> Any:
        await asyncio.sleep(0)
        return super().ioctl(file, cmd, arg)

    async def fault(self, file: File, vmf: VmFault) -> Any:
        await asyncio.sleep(0)
        return super().fault(file, vmf)
