"""The kernel host against a module that is played here: requests, notices, memory, signals, nonsense."""

import asyncio
import errno
import logging
import os
import random
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mapdev import (
    IO,
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
from mapdev.devices import LkmcMmap, Ram
from mapdev.hosts.kmod import uapi
from mapdev.hosts.kmod.uapi import Opcode, ReplyFlag, op
from tests.unit.fake_module import TIMEOUT, FakeModule

Play = Callable[[Device], FakeModule]


@pytest.fixture
def play() -> Iterator[Play]:
    """A function that serves a device to a module that is played."""
    made: list[FakeModule] = []

    def start(device: Device) -> FakeModule:
        made.append(FakeModule(device))
        return made[-1]

    yield start
    for module in made:
        module.close()


def raises(number: int, call: Callable[[], object]) -> bool:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno == number


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.005)


def test_only_what_the_author_defines_is_asked_for(play: Play) -> None:
    always = op(Opcode.OPEN) | op(Opcode.RELEASE)
    assert play(Device()).session.ops == always
    ram = always | op(Opcode.READ) | op(Opcode.WRITE) | op(Opcode.MMAP)
    assert play(Ram(PAGE_SIZE)).session.ops == ram
    assert play(Window()).session.ops & op(Opcode.FAULT)
    assert not play(Ram(PAGE_SIZE)).session.ops & op(Opcode.PAGE_MKWRITE)


def test_the_two_mappings_of_an_open_are_one_memory_and_each_open_has_its_own(play: Play) -> None:
    module = play(LkmcMmap())
    module.open(5)
    module.open(6)
    first, second, other = module.mmap(5), module.mmap(5), module.mmap(6)
    assert first == second != other
    assert module.count(uapi.IOC_MEMORY) == 2
    kind, memfd, length, *_ = module.called[0][1]
    assert (kind, length) == (uapi.MemoryKind.MEMFD, PAGE_SIZE)
    assert memfd >= 0
    # the module has the very pages, not a copy
    assert os.pread(module.memfds[first], 4, 0) == b"asdf"
    os.pwrite(module.memfds[first], b"qwer", 0)
    assert module.read(5, 0, 4) == b"qwer"
    assert module.read(6, 0, 4) == b"asdf"
    assert module.write(5, 4, b"zxcv") == 4
    assert os.pread(module.memfds[first], 4, 0) == b"zxcv"


def test_memory_is_put_when_the_last_file_that_uses_it_is_released(play: Play) -> None:
    ram = Ram(PAGE_SIZE)
    module = play(ram)
    for file in (1, 2):
        module.open(file)
        module.mmap(file)
    assert module.count(uapi.IOC_MEMORY) == 1
    module.send(Opcode.RELEASE, 1)
    eventually(lambda: 1 not in module.session.files)
    assert module.count(uapi.IOC_PUT) == 0
    module.send(Opcode.RELEASE, 2)
    eventually(lambda: module.count(uapi.IOC_PUT) == 1)
    module.open(3)
    assert module.mmap(3) == 2  # it is given again


def test_files_know_who_opened_them_and_what_fcntl_changed(play: Play) -> None:
    seen: list[tuple[int, ...]] = []

    class Who(Device):
        def open(self, file: File) -> None:
            file.stream_open()

        def read(self, file: File, count: int, pos: int) -> bytes:
            seen.append((file.id, file.pid, file.uid, file.gid, file.flags, pos, count))
            return b""

    module = play(Who())
    assert module.open(9, os.O_RDONLY) == ReplyFlag.STREAM
    module.ask(Opcode.READ, 9, uapi.ReadIn(100, 7), flags=os.O_NONBLOCK)
    assert seen == [(9, 77, 1000, 1001, os.O_NONBLOCK, 0, 7)]


class Window(Device):
    """Four pages, each handed over as it is touched, and a command to change the first in Python."""

    def __init__(self) -> None:
        self.window = on_demand_pages(4)
        self.bank = zeroed_pages(4)
        self.bank[PAGE_SIZE : PAGE_SIZE + 4] = b"bank"
        self.areas: list[str] = []
        self.written: list[int] = []
        self.faults = 0

    def mmap(self, file: File, vma: Vma) -> OnDemandPages:  # noqa: ARG002
        self.areas.append(f"mmap {vma}")
        return self.window

    def fault(self, file: File, vmf: VmFault) -> memoryview:  # noqa: ARG002
        self.faults += 1
        if vmf.pgoff == 3:
            raise OSError(errno.ENXIO, "no")
        return self.bank.page(vmf.pgoff)

    def page_mkwrite(self, file: File, vmf: VmFault) -> None:  # noqa: ARG002
        self.written.append(vmf.pgoff)

    def vm_open(self, file: File, vma: Vma) -> None:  # noqa: ARG002
        self.areas.append("vm_open")

    def vm_close(self, file: File, vma: Vma) -> None:  # noqa: ARG002
        self.areas.append("vm_close")

    def release(self, file: File) -> None:  # noqa: ARG002
        self.areas.append("release")

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:  # noqa: ARG002
        return self.bank[PAGE_SIZE]

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return self.bank[pos : pos + count]


def test_a_page_is_asked_for_once_and_copied_both_ways(play: Play) -> None:
    device = Window()
    module = play(device)
    module.open(1)
    memory = module.mmap(1, 0, 4 * PAGE_SIZE)
    assert module.fault(1, memory, 1)[:4] == b"bank"
    assert module.fault(1, memory, 1)[:4] == b"bank"  # of a module that has dropped it
    assert device.faults == 1
    kernel = module.backing[memory]
    device.bank[PAGE_SIZE : PAGE_SIZE + 4] = b"push"
    device.window.push(PAGE_SIZE, 2)
    assert os.pread(kernel, 4, PAGE_SIZE) == b"punk"
    # what a program stores is seen by every operation that comes after it
    os.pwrite(kernel, b"stored", PAGE_SIZE)
    assert module.read(1, PAGE_SIZE, 6) == b"stored"
    os.pwrite(kernel, b"again!", PAGE_SIZE)
    assert module.ioctl_(1, IO("w", 0)) == (ord("a"), b"")
    # a page that nobody touched is never touched by us
    os.pwrite(kernel, b"never", 0)
    device.window.pull()
    device.window.push()
    assert device.bank[:5] == bytes(5)
    assert os.pread(kernel, 5, 0) == b"never"


def test_pages_are_taken_back_write_protected_and_refused(play: Play) -> None:
    device = Window()
    module = play(device)
    module.open(1)
    memory = module.mmap(1)
    module.fault(1, memory, 1)
    os.pwrite(module.backing[memory], b"last", PAGE_SIZE)
    device.window.unmap_mapping_range(PAGE_SIZE, PAGE_SIZE)
    assert module.called[-1] == (uapi.IOC_REVOKE, (memory, PAGE_SIZE, PAGE_SIZE))
    assert device.bank[PAGE_SIZE : PAGE_SIZE + 4] == b"last"
    module.fault(1, memory, 1)
    assert device.faults == 2
    device.window.wp_shared_mapping_range()
    assert module.called[-1] == (uapi.IOC_WRPROTECT, (memory, 0, 4 * PAGE_SIZE))
    module.ask(Opcode.PAGE_MKWRITE, 1, uapi.FaultIn(memory, 2, 0, 1))
    assert device.written == [2]
    assert raises(errno.ENXIO, lambda: module.fault(1, memory, 3))
    assert raises(errno.EFAULT, lambda: module.fault(1, memory, 4))
    assert raises(errno.EIO, lambda: module.fault(1, memory + 1, 0))


def test_shared_memory_can_be_write_protected_too(play: Play) -> None:
    class Watched(Ram):
        def page_mkwrite(self, file: File, vmf: VmFault) -> None: ...

    device = Watched(4 * PAGE_SIZE)
    module = play(device)
    module.open(1)
    memory = module.mmap(1)
    device.pages.wp_shared_mapping_range(PAGE_SIZE)
    assert module.called[-1] == (uapi.IOC_WRPROTECT, (memory, PAGE_SIZE, 3 * PAGE_SIZE))
    with pytest.raises(ValueError):
        device.pages.wp_shared_mapping_range(5 * PAGE_SIZE)


def test_a_page_that_the_module_did_not_take_is_not_pushed_to(play: Play) -> None:
    device = Window()
    module = play(device)
    module.open(1)
    memory = module.mmap(1)
    module.gone.add(3)  # the third request: its program was killed
    module.send(Opcode.FAULT, 1, uapi.FaultIn(memory, 1, 0, 0))
    eventually(lambda: device.faults)
    module.read(1, 0, 1)
    device.window.push()
    assert os.pread(module.backing[memory], 4, PAGE_SIZE) == bytes(4)


def test_notices_of_a_file_come_in_their_order_whoever_reads_them(play: Play) -> None:
    device = Window()
    module = play(device)
    area = uapi.VmaIn(1, 0x1000, PAGE_SIZE, 0, 11)
    for file in range(1, 21):
        device.areas.clear()
        module.open(file)
        module.mmap(file)
        for opcode in (Opcode.VM_OPEN, Opcode.VM_CLOSE, Opcode.VM_OPEN, Opcode.VM_CLOSE, Opcode.VM_CLOSE):
            module.send(opcode, file, area)
        module.send(Opcode.RELEASE, file)
        eventually(lambda: device.areas[-1] == "release")
        # the first vm_open is that of mmap
        assert device.areas[1:] == ["vm_open"] + 2 * ["vm_open", "vm_close"] + ["vm_close", "release"]
    assert device.areas[0] == f"mmap {Vma(0, PAGE_SIZE, 3, True)}"


def test_an_mmap_whose_program_was_killed_has_its_vm_close(play: Play) -> None:
    device = Window()
    module = play(device)
    module.open(1)
    module.gone.add(2)
    module.send(Opcode.MMAP, 1, uapi.VmaIn(0, 0, PAGE_SIZE, 0, 11))
    eventually(lambda: device.areas[1:] == ["vm_open", "vm_close"])


def test_first_touches_of_shared_memory_are_told_if_the_author_defines_vm_fault(play: Play) -> None:
    class Touched(Ram):
        touched: tuple[int, ...] = ()

        def vm_fault(self, file: File, vmf: VmFault) -> None:
            if vmf.pgoff == 3:
                raise OSError(errno.EPERM, "no")
            self.touched += (file.id, vmf.pgoff)

    device = Touched(4 * PAGE_SIZE)
    module = play(device)
    assert module.session.ops & op(Opcode.VM_FAULT)
    assert not play(Ram(PAGE_SIZE)).session.ops & op(Opcode.VM_FAULT)
    module.open(7)
    memory = module.mmap(7, 0, 4 * PAGE_SIZE)
    reply, payload = module.ask(Opcode.VM_FAULT, 7, uapi.FaultIn(memory, 2, 1 << 20, 0))
    assert (reply.value, reply.flags, payload) == (0, 0, b"")
    assert device.touched == (7, 2)
    assert raises(errno.EPERM, lambda: module.ask(Opcode.VM_FAULT, 7, uapi.FaultIn(memory, 3, 1 << 20, 0)))


def test_ioctls_reach_the_memory_of_the_caller_through_the_module(play: Play) -> None:
    class Commands(Device):
        def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int | bytes:  # noqa: ARG002
            if cmd == IOWR("c", 1, 8):
                return bytes(arg)[::-1]
            if cmd == 1:
                (at,) = struct.unpack("=Q", arg.copy_from_user(8))
                arg.copy_to_user(b"there", at)
                return 7
            if cmd == 3:
                return arg.compat
            raise OSError(errno.ENOTTY, "no")

    module = play(Commands())
    module.open(1)
    module.user[:8] = b"abcdefgh"
    assert module.ioctl_(1, IOWR("c", 1, 8)) == (0, b"hgfedcba")
    module.user[:8] = struct.pack("=Q", 4096 + 100)
    assert module.ioctl_(1, 1) == (7, b"")
    assert module.user[100:105] == b"there"
    assert raises(errno.EFAULT, lambda: module.ioctl_(1, 1, 4))
    assert raises(errno.ENOTTY, lambda: module.ioctl_(1, 2))
    assert [module.ioctl_(1, 3, flags=flags)[0] for flags in (0, uapi.IOCTL_COMPAT)] == [0, 1]


def test_a_wake_tells_the_module_once_somebody_has_polled(play: Play) -> None:
    class Ready(Device):
        def poll(self, file: File) -> int:  # noqa: ARG002
            return select.POLLIN | select.POLLNVAL | 0x8000

    device = Ready()
    module = play(device)
    module.open(4)
    device.wake()
    assert module.count(uapi.IOC_WAKE) == 0
    assert module.ask(Opcode.POLL, 4, uapi.PollIn(1))[0].value == select.POLLIN
    device.wake()
    assert module.called[-1] == (uapi.IOC_WAKE, (4, uapi.POLL_MASK, 0))


class Slow(Device):
    """Reads wait for an event that never comes: from 0 by wait_event, from 1 in a coroutine (see AsyncSlow)."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.released: list[int] = []

    def read(self, file: File, count: int, pos: int) -> bytes:
        if pos:
            return b"now"[:count]
        self.waiting.set()
        file.wait_event(lambda: False)
        return b""

    def release(self, file: File) -> None:
        self.released.append(file.id)


class AsyncSlow(Slow):
    async def read(self, file: File, count: int, pos: int) -> bytes:  # type: ignore[override]  # noqa: ARG002
        if pos:
            return b"now"[:count]
        self.waiting.set()
        await asyncio.sleep(3600)
        return b""


@pytest.mark.parametrize("device", [Slow(), AsyncSlow()], ids=["plain", "async"])
def test_a_signal_ends_an_operation_that_waits_and_no_other(play: Play, device: Slow) -> None:
    module = play(device)
    module.open(1)
    waiting = module.send(Opcode.READ, 1, uapi.ReadIn(0, 8))
    assert device.waiting.wait(TIMEOUT)
    assert module.read(1, 1, 8) == b"now"  # served meanwhile
    assert not module.has_answered(waiting)
    module.send(Opcode.INTERRUPT, 1, uapi.InterruptIn(waiting))
    assert module.answer(waiting)[0].error == -errno.EINTR
    module.send(Opcode.INTERRUPT, 1, uapi.InterruptIn(waiting))  # that has been answered
    assert module.read(1, 1, 8) == b"now"


def test_an_open_whose_program_was_killed_is_released(play: Play) -> None:
    device = Slow()
    module = play(device)
    module.gone.add(1)
    module.send(Opcode.OPEN, 1)
    eventually(lambda: device.released == [1])
    assert not module.session.files


def test_closing_releases_what_is_open_and_leaves_a_method_that_never_ends(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    class Stuck(Slow):
        def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
            self.waiting.set()
            gate.wait()
            return len(buf)

    device = Stuck()
    module = play(device)
    module.open(1)
    module.open(2)
    module.send(Opcode.WRITE, 1, uapi.ReadIn(0, 1), b"x")
    assert device.waiting.wait(TIMEOUT)
    try:
        module.channel.stop(0.05)
        module.channel.release()
        assert sorted(device.released) == [1, 2]
    finally:
        gate.set()
    assert module._socket.recv(1) == b""  # the control is closed though its thread has not ended
    assert not caplog.records


@pytest.mark.parametrize("answer", [b"too long", 5, None, "text"])
def test_an_answer_that_is_none_is_eio_and_a_traceback(
    play: Play, caplog: pytest.LogCaptureFixture, answer: object
) -> None:
    class Wrong(Device):
        def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
            return answer  # type: ignore[return-value]

        def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
            return answer  # type: ignore[return-value]

    module = play(Wrong())
    module.open(1)
    assert raises(errno.EIO, lambda: module.read(1, 0, 4))
    assert raises(errno.EIO, lambda: module.mmap(1))
    assert len(caplog.records) == 2
    assert all(record.name == "mapdev.device" for record in caplog.records)


def test_requests_for_a_file_that_nobody_opened_are_ebadf(play: Play) -> None:
    module = play(Ram(PAGE_SIZE))
    assert raises(errno.EBADF, lambda: module.read(99, 0, 1))
    assert raises(errno.EBADF, lambda: module.mmap(99))
    module.send(Opcode.RELEASE, 99)
    module.open(1)
    assert module.read(1, 0, 1) == b"\0"


def test_nonsense_is_answered_with_an_error_or_nothing_and_the_host_serves_on(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mapdev.kmod")
    chance = random.Random(20260)
    module = play(Window())
    module.open(1)
    memory = module.mmap(1)
    for number in range(300):
        length = chance.choice((0, 3, 40, 48, 64, 72, 100, 500))
        body = bytearray(chance.randbytes(length))
        unique = 0
        if length >= uapi.REQUEST_SIZE:
            unique = chance.choice((0, 1_000_000 + number))
            opcode = chance.randrange(0, 16)
            struct.pack_into(
                "=IIQQ", body, 0, chance.choice((length, length + 1)), opcode, unique, chance.choice((1, 2))
            )
            if chance.random() < 0.3 and length >= uapi.REQUEST_SIZE + 8:
                struct.pack_into("=Q", body, uapi.REQUEST_SIZE, memory)
        if not length:
            continue  # the end of a file
        module.raw(bytes(body))
        if unique:
            reply, _ = module.answer(unique)
            assert reply.error <= 0
        module.user[:8] = bytes(8)
    module.open(2)
    assert module.read(2, PAGE_SIZE, 4) == b"bank"
