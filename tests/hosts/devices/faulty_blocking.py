"""Devices whose operations block for ever where the program wants it, each class in a way of its own.

`open` with O_SYNC, `read` and `write` from the second page on, `ioctl` BLOCK, `fault` of all pages but the first;
`poll` and `fsync` once ``ioctl`` ARM came on that file. What happens is written to standard error.
"""

import asyncio
import os
import sys
import threading
import time
from typing import Any

from mapdev import Device, File, IoctlArg, VmFault, signal_pending
from mapdev.libc import PAGE_SIZE

FILES, ARM, BLOCK = 0x4600, 0x4601, 0x4602
"""ioctl commands; FILES answers how many files are open."""


def note(what: str, file: File) -> None:
    sys.stderr.write(f"{what} #{file.id}\n")


class Sleeping(Device):
    """In a call that knows nothing of signals."""

    size = 64 * PAGE_SIZE

    def block(self, operation: str, file: File) -> Any:
        note(f"{operation} began", file)
        threading.Event().wait()

    def open(self, file: File) -> Any:
        return self.block("open", file) if file.flags & os.O_DSYNC else None

    def release(self, file: File) -> None:
        note("released", file)

    def read(self, file: File, count: int, pos: int) -> Any:  # noqa: ARG002
        return self.block("read", file) if pos >= PAGE_SIZE else b"well"

    def write(self, file: File, buf: bytes, pos: int) -> Any:
        return self.block("write", file) if pos >= PAGE_SIZE else len(buf)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> Any:  # noqa: ARG002
        if cmd == FILES:
            return len(tuple(self._files))
        if cmd == ARM:
            file.private_data = True
        return self.block("ioctl", file) if cmd == BLOCK else 0

    def poll(self, file: File) -> Any:
        return self.block("poll", file) if file.private_data else 1

    def fsync(self, file: File, datasync: bool) -> Any:  # noqa: ARG002
        return self.block("fsync", file) if file.private_data else None

    def fault(self, file: File, vmf: VmFault) -> Any:
        return self.block("fault", file) if vmf.pgoff else b"good".ljust(PAGE_SIZE)


class Slow(Sleeping):
    """For half a second, in a call that knows nothing of signals."""

    def block(self, operation: str, file: File) -> Any:
        note(f"{operation} began", file)
        time.sleep(0.5)
        read = b"late, and interrupted" if signal_pending() else b"late"
        return {"read": read, "write": 1}.get(operation)


class Waiting(Sleeping):
    """In wait_event, for what never comes."""

    def block(self, operation: str, file: File) -> Any:
        note(f"{operation} began", file)
        try:
            file.wait_event(lambda: False)
        except InterruptedError:
            note(f"{operation} interrupted", file)
            raise


class Async(Sleeping):
    """In the event loop."""

    async def block(self, operation: str, file: File) -> Any:
        note(f"{operation} began", file)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note(f"{operation} interrupted", file)
            raise


class Stubborn(Sleeping):
    """In the event loop, whatever is cancelled."""

    async def block(self, operation: str, file: File) -> Any:
        note(f"{operation} began", file)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                note(f"{operation} interrupted", file)


class Jammed(Sleeping):
    """In an ``async def`` that does not await: the event loop is lost."""

    async def block(self, operation: str, file: File) -> Any:
        note(f"{operation} began", file)
        while True:
            time.sleep(3600)
