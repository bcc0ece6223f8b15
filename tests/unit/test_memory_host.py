"""The host without a kernel, and through it the contract of every operation."""

import asyncio
import errno
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mapdev import IO, IOR, IOW, IOWR, Device, File, IoctlArg, Pages, Vma, VmFault, signal_pending, zeroed_pages
from mapdev.devices import Array, Contiguous, LkmcMmap, Ram, Vmalloc
from mapdev.libc import MAP_PRIVATE, PAGE_SIZE, PROT_READ, PROT_WRITE
from mapdev.testing import BusError, MemoryHost, SegmentationFault
from mapdev.trace import Event


def raises(number: int, call: Callable[[], Any]) -> bool:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno == number


def test_the_two_mappings_test_of_lkmc_mmap() -> None:
    events: list[Event] = []
    with MemoryHost(LkmcMmap(), events.append) as host, host.open(flags=os.O_RDWR | os.O_SYNC) as file:
        one, other = file.mmap(PAGE_SIZE), file.mmap(PAGE_SIZE)
        assert one[:4] == other[:4] == b"asdf"
        one[0:4] = b"qwer"
        assert other[0:4] == b"qwer"
        assert file.read(4) == b"qwer"
        assert file.read(4) == b""
        assert file.write(b"zxcv") == 4
        assert one[:4] == other[:4] == b"zxcv"
        one.munmap()
        other.munmap()
    assert [e.op for e in events if e.op != "log"] == ["open", "mmap", "mmap", "read", "read", "write", "release"]


def test_a_mapping_holds_the_file_until_munmap() -> None:
    events: list[Event] = []
    with MemoryHost(LkmcMmap(), events.append) as host:
        file = host.open()
        area = file.mmap(PAGE_SIZE)
        file.close()
        assert events[-1].op == "mmap"
        assert area[:4] == b"asdf"
        area.munmap()
        assert events[-1].op == "release"
        with pytest.raises(SegmentationFault):
            area[:1]


def test_what_a_device_does_not_define_answers_as_the_kernel_does() -> None:
    with MemoryHost(Device()) as host, host.open("device") as file:
        assert raises(errno.EINVAL, lambda: file.read(1))
        assert raises(errno.EINVAL, lambda: file.write(b"x"))
        assert raises(errno.ENOTTY, lambda: file.ioctl(1))
        assert raises(errno.ENODEV, lambda: file.mmap(PAGE_SIZE))
        assert file.poll() == select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
        file.fsync()


def test_access_modes_and_arguments_are_checked_before_the_device_is_reached() -> None:
    with MemoryHost(Ram()) as host:
        read, write = host.open(flags=os.O_RDONLY), host.open(flags=os.O_WRONLY)
        assert raises(errno.EBADF, lambda: read.write(b"x"))
        assert raises(errno.EBADF, lambda: write.read(1))
        assert raises(errno.EACCES, lambda: read.mmap(PAGE_SIZE))
        assert raises(errno.EACCES, lambda: write.mmap(PAGE_SIZE))
        assert raises(errno.EACCES, lambda: read.mmap(PAGE_SIZE, PROT_READ).mprotect(PROT_READ | PROT_WRITE))
        assert raises(errno.EINVAL, lambda: read.mmap(0, PROT_READ))
        assert raises(errno.EINVAL, lambda: read.mmap(PAGE_SIZE, PROT_READ, offset=1))
        area = read.mmap(PAGE_SIZE, PROT_READ)
        with pytest.raises(SegmentationFault):
            area[0:1] = b"x"
        assert raises(errno.ENOENT, lambda: host.open("nonesuch"))


def test_map_private_copies_on_write() -> None:
    with MemoryHost(Ram()) as host, host.open() as file:
        file.write(b"asdf", 0)
        shared, private = file.mmap(2 * PAGE_SIZE), file.mmap(2 * PAGE_SIZE, flags=MAP_PRIVATE)
        private[2:4] = b"XY"
        assert (private[:4], shared[:4], file.read(4, 0)) == (b"asXY", b"asdf", b"asdf")
        shared[PAGE_SIZE : PAGE_SIZE + 4] = b"late"
        assert private[PAGE_SIZE : PAGE_SIZE + 4] == b"late"


@pytest.mark.parametrize("cls", [Array, Vmalloc, Contiguous])
def test_pages_come_from_where_the_device_says_and_end_where_it_ends(cls: type[Device]) -> None:
    device = cls.with_parameter("16K")
    with MemoryHost(device) as host, host.open() as file:
        area = file.mmap(4 * PAGE_SIZE)
        assert [area[n * PAGE_SIZE : n * PAGE_SIZE + 6] for n in range(4)] == [b"page %d" % n for n in range(4)]
        assert file.mmap(PAGE_SIZE, offset=2 * PAGE_SIZE)[:6] == b"page 2"
        area[PAGE_SIZE - 2 : PAGE_SIZE + 2] = b"span"
        assert file.read(4, PAGE_SIZE - 2) == b"span"
        if cls is Array:
            with pytest.raises(BusError):
                file.mmap(PAGE_SIZE, offset=4 * PAGE_SIZE)[:1]
        else:
            assert raises(errno.EINVAL, lambda: file.mmap(PAGE_SIZE, offset=4 * PAGE_SIZE))


def test_ram_ends_with_enospc() -> None:
    with MemoryHost(Ram(PAGE_SIZE)) as host, host.open() as file:
        assert file.write(b"12345", PAGE_SIZE - 3) == 3
        assert raises(errno.ENOSPC, lambda: file.write(b"x", PAGE_SIZE))
        assert raises(errno.ENOSPC, lambda: file.write(b"x", 1 << 62))
        assert file.read(100, PAGE_SIZE - 3) == b"123"
        assert file.read(100, 1 << 62) == b""


POINT = struct.Struct("<ii")


class Calls(Device):
    """ioctls of every kind."""

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int | bytes | None:  # noqa: ARG002
        if cmd == IO("m", 1):
            return int(arg) + 1
        if cmd == IOR("m", 2, POINT):
            return POINT.pack(3, 4)
        if cmd == IOW("m", 3, POINT):
            x, y = POINT.unpack(bytes(arg))
            return int(x * y)
        if cmd == IOWR("m", 4, POINT):
            x, y = POINT.unpack(arg.copy_from_user())
            arg.copy_to_user(POINT.pack(y, x))
            return None
        if cmd == 0x4600:  # not encoded: the caller's memory
            x, y = POINT.unpack(arg.copy_from_user(POINT.size))
            arg.copy_to_user(POINT.pack(-x, -y))
            return 0
        raise OSError(errno.ENOTTY, "unknown")


def test_ioctl_moves_bytes_as_the_command_says_and_else_through_the_callers_memory() -> None:
    with MemoryHost(Calls()) as host, host.open() as file:
        assert file.ioctl(IO("m", 1), 41) == 42
        data = bytearray(POINT.size)
        assert file.ioctl(IOR("m", 2, POINT), data) == 0
        assert POINT.unpack(data) == (3, 4)
        assert file.ioctl(IOW("m", 3, POINT), POINT.pack(6, 7)) == 42
        data = bytearray(POINT.pack(1, 2))
        file.ioctl(IOWR("m", 4, POINT), data)
        assert POINT.unpack(data) == (2, 1)
        file.ioctl(0x4600, data)
        assert POINT.unpack(data) == (-2, -1)
        assert raises(errno.ENOTTY, lambda: file.ioctl(0x4601, data))
        assert raises(errno.EFAULT, lambda: file.ioctl(0x4600, 16))


class Queue(Device):
    """A read waits for what a write brings; plain."""

    def __init__(self) -> None:
        self.items: list[bytes] = []

    def open(self, file: File) -> None:
        file.stream_open()

    def read(self, file: File, count: int, pos: int) -> bytes:
        assert pos == 0
        file.wait_event(lambda: self.items, timeout=5)
        return self.items.pop(0)[:count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        self.items.append(buf)
        self.wake()
        return len(buf)

    def poll(self, file: File) -> int:  # noqa: ARG002
        return select.POLLOUT | (select.POLLIN if self.items else 0)


class AsyncQueue(Queue):
    """The same with coroutines."""

    def __init__(self) -> None:
        super().__init__()
        self.come = asyncio.Event()

    async def read(self, file: File, count: int, pos: int) -> bytes:  # type: ignore[override]  # noqa: ARG002
        await asyncio.wait_for(self.come.wait(), 5)
        self.come.clear()
        return self.items.pop(0)[:count]

    async def write(self, file: File, buf: bytes, pos: int) -> int:  # type: ignore[override]  # noqa: ARG002
        self.items.append(buf)
        self.come.set()
        self.wake()
        return len(buf)


@pytest.mark.parametrize("cls", [Queue, AsyncQueue])
def test_a_read_that_blocks_holds_up_nobody_and_poll_wakes(cls: type[Queue]) -> None:
    with MemoryHost(cls()) as host:
        reader, writer = host.open(), host.open()
        got: list[bytes] = []
        waiting = threading.Thread(target=lambda: got.append(reader.read(10)), daemon=True)
        waiting.start()
        time.sleep(0.05)
        assert writer.poll() == select.POLLOUT
        assert writer.write(b"first") == 5
        waiting.join(5)
        assert got == [b"first"]
        threading.Timer(0.05, writer.write, [b"second"]).start()
        assert reader.poll(select.POLLIN, timeout=5) == select.POLLIN
        assert raises(errno.ESPIPE, lambda: reader.lseek(0))


def test_a_nonblocking_file_does_not_wait_and_a_wait_can_time_out() -> None:
    with MemoryHost(Queue()) as host:
        assert raises(errno.EAGAIN, lambda: host.open(flags=os.O_RDWR | os.O_NONBLOCK).read(1))
        file = File("queue", 1, os.O_RDWR, 0, 0, 0)
        assert raises(errno.ETIMEDOUT, lambda: file.wait_event(lambda: False, timeout=0.02))
        assert not signal_pending()


Method = Callable[..., Any]


def broken(operation: str, method: Method) -> Device:
    return type("Broken", (Device,), {operation: method, "size": PAGE_SIZE})()  # type: ignore[no-any-return]


NONSENSE: list[tuple[str, Any, Callable[[Any], Any]]] = [
    ("read", "text", lambda f: f.read(10)),
    ("read", None, lambda f: f.read(10)),
    ("read", b"too much", lambda f: f.read(3)),
    ("write", None, lambda f: f.write(b"abc")),
    ("write", 4, lambda f: f.write(b"abc")),
    ("write", -1, lambda f: f.write(b"abc")),
    ("ioctl", "text", lambda f: f.ioctl(1)),
    ("ioctl", -5, lambda f: f.ioctl(1)),
    ("ioctl", 1 << 31, lambda f: f.ioctl(1)),
    ("poll", None, lambda f: f.poll()),
    ("poll", 1 << 16, lambda f: f.poll()),
    ("mmap", None, lambda f: f.mmap(PAGE_SIZE)),
    ("mmap", b"bytes", lambda f: f.mmap(PAGE_SIZE)),
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(("operation", "answer", "call"), NONSENSE, ids=[f"{o}-{a!r}" for o, a, _ in NONSENSE])
def test_nonsense_is_eio_and_one_line_of_blame(
    caplog: pytest.LogCaptureFixture, operation: str, answer: Any, call: Callable[[Any], Any], asynchronous: bool
) -> None:
    async def coroutine(*_: object) -> Any:
        return answer

    method = coroutine if asynchronous else lambda *_: answer
    with MemoryHost(broken(operation, method)) as host, host.open() as file:
        assert raises(errno.EIO, lambda: call(file))
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage() == f"{operation} of broken#1 failed; the program gets EIO"


@pytest.mark.parametrize("page", [None, "text", b"short", bytes(PAGE_SIZE + 1), 5])
def test_a_nonsense_page_is_a_bus_error(caplog: pytest.LogCaptureFixture, page: Any) -> None:
    with MemoryHost(broken("fault", lambda *_: page)) as host, host.open() as file:
        area = file.mmap(PAGE_SIZE)
        with pytest.raises(BusError):
            area[:1]
    assert [r.getMessage() for r in caplog.records] == ["fault of broken#1 failed; the program gets SIGBUS"]


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), SystemExit(3), KeyboardInterrupt(), OSError("x"), OSError(512, "")]
)
def test_any_exception_but_an_errno_is_eio_with_the_authors_traceback(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def read(*_: object) -> bytes:
        raise error

    with MemoryHost(broken("read", read)) as host, host.open() as file:
        assert raises(errno.EIO, lambda: file.read(1))
        assert raises(errno.EIO, lambda: file.read(1))
    text = logging.Formatter().formatException(caplog.records[0].exc_info or (None, None, None))
    assert len(caplog.records) == 2
    assert "test_memory_host.py" in text
    assert "dispatch.py" not in text


def test_an_errno_is_that_errno_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def read(*_: object) -> bytes:
        raise OSError(errno.EREMOTEIO, "")

    with MemoryHost(broken("read", read)) as host, host.open() as file:
        assert raises(errno.EREMOTEIO, lambda: file.read(1))
    assert not caplog.records


def test_fault_without_size_is_told_to_the_author(caplog: pytest.LogCaptureFixture) -> None:
    class Endless(Device):
        def fault(self, file: File, vmf: VmFault) -> bytes:  # noqa: ARG002
            return bytes(PAGE_SIZE)

    with MemoryHost(Endless()) as host, host.open() as file:
        assert raises(errno.EIO, lambda: file.mmap(PAGE_SIZE))
    assert "size (in bytes) is needed" in str(caplog.records[0].exc_info)


def test_the_vma_says_what_is_mapped() -> None:
    seen: list[Vma] = []

    class Seen(Device):
        def open(self, file: File) -> None:
            file.private_data = zeroed_pages(4)

        def mmap(self, file: File, vma: Vma) -> Pages:
            seen.append(vma)
            pages: Pages = file.private_data
            return pages

    with MemoryHost(Seen()) as host, host.open() as file:
        file.mmap(2 * PAGE_SIZE, PROT_READ, MAP_PRIVATE, PAGE_SIZE)
    assert seen == [Vma(1, 2 * PAGE_SIZE, PROT_READ, False)]
