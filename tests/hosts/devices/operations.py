"""Devices that use each operation as drivers do: commands, waiting, memory that changes under the programs."""

import asyncio
import errno
import select
import struct
import threading
import time

import numpy as np

from mapdev import (
    IO,
    IOR,
    IOW,
    IOWR,
    PAGE_SIZE,
    Device,
    File,
    IoctlArg,
    OnDemandPages,
    Pages,
    Vma,
    VmFault,
    on_demand_pages,
    zeroed_pages,
)

MAX_SIZE = (1 << 14) - 1
NUMBER = IO("m", 0)
GET_VSCREENINFO, PUT_VSCREENINFO, GET_CMAP, DEFER = 0x4600, 0x4601, 0x4604, 0x4605
"""As those of a framebuffer: the number does not say how much is moved."""


def pattern(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


class Commands(Device):
    """ioctls of every kind. The sizes of the encoded ones are those of the request."""

    def __init__(self) -> None:
        self.taken = b""
        self.screen = pattern(160)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int | bytes | None:  # noqa: ARG002
        size = cmd >> 16 & MAX_SIZE
        if cmd == NUMBER:
            return int(arg) + 1
        if cmd == IOR("m", 1, size):
            return pattern(size)
        if cmd == IOW("m", 2, size):
            self.taken = bytes(arg)
            return None
        if cmd == IOWR("m", 3, size):
            arg.copy_to_user(bytes(arg)[::-1])
            return 3  # a result besides the bytes
        if cmd == IOR("m", 4, 8):
            return struct.pack("=Q", sum(self.taken) << 16 | len(self.taken))
        return self._unencoded(cmd, arg)

    def _unencoded(self, cmd: int, arg: IoctlArg) -> int:
        if cmd == GET_VSCREENINFO:
            arg.copy_to_user(self.screen)
            return 0
        if cmd == PUT_VSCREENINFO:
            self.screen = arg.copy_from_user(160)
            return 0
        if cmd == GET_CMAP:  # a structure that points to another place: a start, a length, a pointer
            start, length, pointer = struct.unpack("=IIQ", arg.copy_from_user(16))
            arg.copy_to_user(self.screen[start : start + length], pointer)
            return int(length)
        raise OSError(errno.ENOTTY, "no such command")


class AsyncCommands(Commands):
    async def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int | bytes | None:  # type: ignore[override]
        await asyncio.sleep(0.001)
        return super().ioctl(file, cmd, arg)


class Events(Device):
    """Events come from a thread of the device, as interrupts do. A write of a number asks for so many, one by one.

    Each open reads how many there were since its last read, and waits if there were none.
    """

    def __init__(self) -> None:
        self.count = 0

    def open(self, file: File) -> None:
        file.stream_open()
        file.private_data = self.count

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        threading.Thread(target=self._happen, args=(int(buf),), daemon=True).start()
        return len(buf)

    def _happen(self, times: int) -> None:
        for _ in range(times):
            time.sleep(0.01)
            self.count += 1
            self.wake()

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        file.wait_event(lambda: self.count > file.private_data)
        return self._news(file)[:count]

    def _news(self, file: File) -> bytes:
        now = self.count
        news = now - file.private_data
        file.private_data = now
        return struct.pack("=Q", news)

    def poll(self, file: File) -> int:
        return select.POLLOUT | (select.POLLIN | select.POLLRDNORM if self.count > file.private_data else 0)


class AsyncEvents(Events):
    """The same in one event loop: reads that wait hold no thread."""

    async def read(self, file: File, count: int, pos: int) -> bytes:  # type: ignore[override]  # noqa: ARG002
        while self.count == file.private_data:
            if file.nonblock:
                raise BlockingIOError(errno.EAGAIN, "nothing yet")
            await asyncio.sleep(0.005)
        return self._news(file)[:count]

    async def poll(self, file: File) -> int:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().poll(file)


class Gate(Device):
    """At position 0 a read waits until the gate is opened by a write; elsewhere it answers at once."""

    def __init__(self) -> None:
        self.is_open = threading.Event()

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        if pos == 0:
            self.is_open.wait(60)
            return b"through"[:count]
        return b"at once"[:count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        self.is_open.set()
        return len(buf)


class SizedGate(Gate):
    """The same with an st_size, as sysfs gives its files."""

    size = PAGE_SIZE


class AsyncGate(Gate):
    async def read(self, file: File, count: int, pos: int) -> bytes:  # type: ignore[override]  # noqa: ARG002
        if pos == 0:
            while not self.is_open.is_set():
                await asyncio.sleep(0.005)
            return b"through"[:count]
        return b"at once"[:count]


SLICE, NUMPY, VIEW, LATER, LOOK, AWAIT = (IO("r", number) for number in range(6))


class Registers(Device):
    """Two pages that both sides store to. The argument of a command is the value, a byte repeated 8 times at 64.

    SLICE, NUMPY, VIEW store in the call, each in another way; LATER in a thread, which then wakes who polls. LOOK
    answers the 8 bytes there as a number. AWAIT has a thread look for the value and wake who polls when it is there.
    """

    def __init__(self) -> None:
        self.pages = zeroed_pages(2)
        self.ready = False

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int | bytes | None:  # noqa: ARG002
        value = bytes([int(arg)] * 8)
        if cmd == SLICE:
            self.pages[64:72] = value
        elif cmd == NUMPY:
            np.frombuffer(self.pages, np.uint8)[64:72] = int(arg)
            self.pages.push(64, 8)
        elif cmd == VIEW:
            memoryview(self.pages)[64:72] = value
            self.pages.push()
        elif cmd == LATER:
            threading.Thread(target=self._store, args=(value,), daemon=True).start()
        elif cmd == AWAIT:
            threading.Thread(target=self._look_for, args=(value,), daemon=True).start()
        elif cmd == LOOK:
            return int(self.pages[64])
        else:
            raise OSError(errno.ENOTTY, "no such command")
        return None

    def _store(self, value: bytes) -> None:
        self.pages[64:72] = value
        self._say_ready()

    def _look_for(self, value: bytes) -> None:
        until = time.monotonic() + 15  # the kernel writes back by itself after 30
        while self.pages[64:72] != value:
            self.pages.pull(64, 8)
            if time.monotonic() > until:
                return
            time.sleep(0.01)
        self._say_ready()

    def _say_ready(self) -> None:
        self.ready = True
        self.wake()

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return self.pages[pos : pos + count]

    def poll(self, file: File) -> int:  # noqa: ARG002
        return select.POLLIN if self.ready else 0

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages


SWAP, SWAP_LATER, FAULTS = (IO("b", number) for number in range(3))


class Banks(Device):
    """Two banks of pages behind one window of 4 pages: a swap takes the pages back, and the next touch faults."""

    def __init__(self) -> None:
        self.window: OnDemandPages = on_demand_pages(4)
        self.banks = [zeroed_pages(4), zeroed_pages(4)]
        for number, bank in enumerate(self.banks):
            for pgoff in range(4):
                bank[pgoff * PAGE_SIZE : pgoff * PAGE_SIZE + 8] = b"bank %d.%d" % (number, pgoff)
        self.bank = 0
        self.faults = 0
        self.swapped = False

    def mmap(self, file: File, vma: Vma) -> OnDemandPages:  # noqa: ARG002
        return self.window

    def fault(self, file: File, vmf: VmFault) -> memoryview:  # noqa: ARG002
        self.faults += 1
        return self.banks[self.bank].page(vmf.pgoff)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:  # noqa: ARG002
        if cmd == SWAP:
            self._swap()
        elif cmd == SWAP_LATER:
            threading.Thread(target=self._swap, daemon=True).start()
        elif cmd != FAULTS:
            raise OSError(errno.ENOTTY, "no such command")
        return self.faults

    def _swap(self) -> None:
        self.bank = 1 - self.bank
        self.window.unmap_mapping_range()
        self.swapped = True
        self.wake()

    def poll(self, file: File) -> int:  # noqa: ARG002
        return select.POLLIN if self.swapped else 0
