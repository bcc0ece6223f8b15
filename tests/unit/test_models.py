"""The ready models: physical memory, UIO, a screen; without a kernel, and served to programs."""

import errno
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mapdev import targets
from mapdev.devices import DevMem, Framebuffer, Uio
from mapdev.devices.devmem import ADDRESSES
from mapdev.devices.uio import UIO_IRQ_NONE
from mapdev.errors import HostError, TargetError
from mapdev.file import File
from mapdev.hosts.fuse.host import FuseHost
from mapdev.hosts.fuse.session import Mode
from mapdev.ioctl import IoctlArg
from mapdev.libc import PAGE_SIZE
from mapdev.registers import Register, RegisterBlock, place
from mapdev.surroundings import Attribute, Surroundings, Symlink
from mapdev.testing import BusError, MemoryHost, OpenFile
from tests.clients.programs import need
from tests.conftest import DeviceFile, NewClient, Serve
from tests.hosts.client import Client
from tests.hosts.devices.beaglebone import BeagleBone
from tests.hosts.devices.uio_timer import Timer
from tests.people import Person


def raises(number: int, call: Callable[[], Any]) -> bool:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno == number


def do(program: Client, statement: str) -> None:
    """The program does it; nothing may come out of it, not an errno either."""
    assert program.ask(statement) == "None"


def shown(found: Surroundings, path: str) -> str | bytes:
    """What a program reads in this file."""
    content = found[path]
    if isinstance(content, Attribute):
        assert content.show is not None
        content = content.show
    assert not isinstance(content, Symlink)
    return content() if callable(content) else content


def stored(found: Surroundings, path: str, data: bytes) -> None:
    """A program writes to this file."""
    attribute = found[path]
    assert isinstance(attribute, Attribute)
    assert attribute.store is not None
    attribute.store(data)


# -- /dev/mem -------------------------------------------------------------------------------------------------


class Block(RegisterBlock, size=0x1000):
    ID = Register(0x10, reset=0x1234_5678)


class Board(DevMem):
    far = place(1 << 40, Block)
    near = place(0x1000, Block, "near registers")
    beside = place(0x2000, 0x800)


def test_addresses_up_to_the_last_one_are_there_and_cost_what_is_touched() -> None:
    board = Board()
    with MemoryHost(board) as host, host.open() as file:
        at = os.fstat(board.pages.fd)
        assert at.st_size == ADDRESSES == 1 << 41
        assert file.mmap(PAGE_SIZE, offset=1 << 40)[0x10:0x14] == bytes.fromhex("78563412")
        file.mmap(PAGE_SIZE, offset=ADDRESSES - PAGE_SIZE)[0:4] = b"last"
        assert board.pages[ADDRESSES - PAGE_SIZE :][:4] == b"last"
        with pytest.raises(BusError):
            file.mmap(PAGE_SIZE, offset=ADDRESSES)[0:1]
    # the two blocks of registers and the last page; a file of 2 TiB with holes
    assert os.fstat(board.pages.fd).st_blocks * 512 == 3 * PAGE_SIZE


def test_read_and_write_reach_registers_at_their_addresses() -> None:
    board = Board()
    with MemoryHost(board) as host, host.open() as file:
        assert file.read(4, pos=(1 << 40) + 0x10) == bytes.fromhex("78563412")
        assert file.write(b"\1\0\0\0", pos=0x1010) == 4
        assert [(store.name, store.value) for store in board.near.settle()] == [("ID", 1)]
        board.far.ID = 2
        file.lseek((1 << 40) + 0x10)
        assert file.read(4) == b"\2\0\0\0"
        assert file.position == (1 << 40) + 0x14
        assert file.write(b"z", pos=0x27FF) == 1  # the last byte of the last place below
        assert file.read(1, pos=0x27FF) == b"z"


@pytest.mark.parametrize(
    ("pos", "count"), [(0, 1), (0xFFF, 1), (0xFFF, 2), (0x27FF, 2), (0x2800, 1), ((1 << 40) - 1, 2), (1 << 41, 1)]
)
def test_read_and_write_fail_where_any_byte_is_nothing_and_store_nothing(pos: int, count: int) -> None:
    board = Board()
    with MemoryHost(board) as host, host.open() as file:
        assert raises(errno.EFAULT, lambda: file.read(count, pos))
        assert raises(errno.EFAULT, lambda: file.write(b"x" * count, pos))
        assert file.read(0x1800, 0x1000) == bytes(0x10) + bytes.fromhex("78563412") + bytes(0x17EC)


def test_without_a_place_all_is_ram_and_a_look_at_it_allocates_none() -> None:
    memory = DevMem()
    with MemoryHost(memory) as host, host.open() as file:
        assert file.read(1 << 20, pos=1 << 40) == bytes(1 << 20)
        assert os.fstat(memory.pages.fd).st_blocks == 0
        assert file.write(b"abc", pos=ADDRESSES - 3) == 3
        assert file.read(3, pos=ADDRESSES - 3) == b"abc"
        assert raises(errno.EFAULT, lambda: file.read(4, pos=ADDRESSES - 3))
        assert raises(errno.EFAULT, lambda: file.write(b"abcd", pos=ADDRESSES - 3))


def test_iomem_lists_what_is_placed_by_address() -> None:
    assert shown(Board().surroundings("/dev/mem"), "/proc/iomem") == (
        "00001000-00001fff : near registers\n00002000-000027ff : beside\n10000000000-10000000fff : far\n"
    )


def test_places_that_overlap_or_lie_beyond_the_last_address_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Bad\.b: overlaps a at 0x1ffc"):
        type("Bad", (DevMem,), {"b": place(0x1FFC, 8), "a": place(0x1000, Block)})
    with pytest.raises(ValueError, match=r"Bad\.a: 0x20000000fff is beyond 0x1ffffffffff"):
        type("Bad", (DevMem,), {"a": place(1 << 41, Block)})


def bcd(data: bytes) -> int:
    (number,) = struct.unpack("<I", data)
    return int(f"{number:x}")


def beaglebone_time(area: Callable[[int], bytes]) -> datetime:
    year, month, day, hour, minute, second = (bcd(area(at)) for at in (0x14, 0x10, 0x0C, 0x08, 0x04, 0x00))
    return datetime(2000 + year, month, day, hour, minute, second)


def test_the_clock_of_the_beaglebone_shows_the_time_while_it_is_open() -> None:
    board = BeagleBone()
    with MemoryHost(board) as host, host.open() as file:
        before = datetime.now().replace(microsecond=0)
        area = file.mmap(PAGE_SIZE, offset=0x44E3_E000)
        assert before - timedelta(seconds=1) <= beaglebone_time(lambda at: area[at : at + 4]) <= datetime.now()
        first = area[0:4]
        until = time.monotonic() + 20
        while area[0:4] == first:
            assert time.monotonic() < until, "the clock stands still"
            time.sleep(0.05)


def test_programs_see_registers_ram_and_a_running_clock(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve(person, f"mem={device_file(person, 'beaglebone.py')}:BeagleBone")
    program = client(person, served.path("mem"))
    do(program, "fd = os.open(path, os.O_RDWR | os.O_SYNC)")
    do(program, "control, rtc = mapped(fd, offset=0x44e10000), mapped(fd, offset=0x44e3e000)")
    assert program.ask("load(control + 0x7f4)") == repr((0x0451_6141).to_bytes(4, "little"))
    do(program, "store(rtc + 0x68, bytes.fromhex('efbeadde'))")
    assert program.ask("os.pread(fd, 4, 0x44e3e068).hex()") == "'efbeadde'"
    do(program, "ram = mapped(fd, offset=0x8000_0000 + (511 << 20)); store(ram, b'in ram')")
    assert program.ask("os.pread(fd, 6, 0x8000_0000 + (511 << 20))") == "b'in ram'"
    assert program.ask("os.pread(fd, 1, 0)") == "EFAULT"
    first, until = program.ask("load(rtc)"), time.monotonic() + 20
    while program.ask("load(rtc)") == first:
        assert time.monotonic() < until, "the clock stands still"
        time.sleep(0.1)


def test_a_store_at_2_to_the_40_costs_the_server_next_to_nothing(
    person: Person, serve: Serve, client: NewClient
) -> None:
    served = serve(person, "mem")
    one, other = client(person, served.path("mem")), client(person, served.path("mem"))
    for program in (one, other):
        do(program, "fd = os.open(path, os.O_RDWR); area = mapped(fd, offset=1 << 40)")
    do(one, "store(area, b'far away')")
    assert other.ask("load(area, 8)") == "b'far away'"
    assert one.ask("os.fstat(fd).st_size") == str(1 << 41)
    status = Path(f"/proc/{served.process.pid}/status").read_text().split()
    assert int(status[status.index("RssShmem:") + 1]) < 1024  # kB


# -- UIO ------------------------------------------------------------------------------------------------------


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def opened(timer: Timer) -> Iterator[OpenFile]:
    with MemoryHost(timer) as host, host.open() as file:
        yield file


def test_a_read_waits_for_an_interrupt_and_gives_the_number_of_them(timer: Timer, opened: OpenFile) -> None:
    threading.Timer(0.1, timer.raise_interrupt).start()
    assert opened.read(4) == struct.pack("=I", 1)
    timer.raise_interrupt()
    timer.raise_interrupt()
    assert opened.read(4) == struct.pack("=I", 3)


def test_every_open_waits_for_what_itself_has_not_seen(timer: Timer) -> None:
    with MemoryHost(timer) as host:
        one = host.open()
        timer.raise_interrupt()
        late = host.open(flags=os.O_RDWR | os.O_NONBLOCK)
        assert raises(errno.EAGAIN, lambda: late.read(4))
        assert one.read(4) == struct.pack("=I", 1)
        timer.raise_interrupt()
        assert one.read(4) == late.read(4) == struct.pack("=I", 2)


def test_poll_tells_of_an_interrupt_until_it_is_read(timer: Timer, opened: OpenFile) -> None:
    assert opened.poll() == 0
    threading.Timer(0.1, timer.raise_interrupt).start()
    assert opened.poll(select.POLLIN, timeout=20) == select.POLLIN
    assert opened.poll() == select.POLLIN | select.POLLRDNORM
    opened.read(4)
    assert opened.poll() == 0


def test_what_programs_write_comes_to_irqcontrol_as_a_number() -> None:
    heard = []

    class Plain(Uio):
        def irqcontrol(self, irq_on: int) -> None:
            if irq_on == 7:
                raise OSError(errno.EBUSY, "not now")
            heard.append(irq_on)

    with MemoryHost(Plain()) as host, host.open() as file:
        assert file.write(struct.pack("=i", 1)) == 4
        assert file.write(struct.pack("=i", -1)) == 4
        assert raises(errno.EBUSY, lambda: file.write(struct.pack("=i", 7)))
    assert heard == [1, -1]


@pytest.mark.parametrize("count", [0, 1, 3, 5, 8])
def test_reads_and_writes_of_another_size_are_einval(timer: Timer, opened: OpenFile, count: int) -> None:
    timer.raise_interrupt()
    assert raises(errno.EINVAL, lambda: opened.read(count))
    assert raises(errno.EINVAL, lambda: opened.write(bytes(count)))


def test_without_irqcontrol_write_is_enosys_without_an_interrupt_all_is_eio() -> None:
    class Silent(Uio):
        irq = UIO_IRQ_NONE

    with MemoryHost({"uio0": Uio(), "uio1": Silent()}) as host:
        assert raises(errno.ENOSYS, lambda: host.open("uio0").write(bytes(4)))
        silent = host.open("uio1")
        assert raises(errno.EIO, lambda: silent.read(4))
        assert raises(errno.EIO, lambda: silent.write(bytes(4)))
        assert raises(errno.EINVAL, lambda: silent.read(5))
        assert silent.poll() == select.POLLERR
        assert raises(errno.EINVAL, lambda: silent.mmap(PAGE_SIZE))


def test_map_n_is_at_page_n_and_begins_at_its_offset_in_the_page(timer: Timer, opened: OpenFile) -> None:
    regs, log = opened.mmap(PAGE_SIZE), opened.mmap(3 * PAGE_SIZE, offset=PAGE_SIZE)
    assert regs[0x104:0x108] == (1000).to_bytes(4, "little")
    timer.log[0x2FFC:] = b"last"
    assert log[0x2FFC:] == b"last"
    log[0:5] = b"first"
    assert timer.log[:5] == b"first"
    assert timer.size == 4 * PAGE_SIZE
    with pytest.raises(BusError):
        opened.mmap(PAGE_SIZE, offset=4 * PAGE_SIZE)[0:1]


def test_maps_that_no_linear_file_can_show_are_refused() -> None:
    one, two = place(0x1000, 0x1000), place(0x2000, 0x1004)
    with pytest.raises(ValueError, match=r"Bad\.a: map 0 reaches beyond one page, where map 1 lies"):
        type("Bad", (Uio,), {"a": two, "b": one})
    assert type("Good", (Uio,), {"a": one, "b": two})().size == 3 * PAGE_SIZE
    with pytest.raises(ValueError, match=r"Bad\.a: map 0 reaches beyond one page"):
        type("Bad", (Uio,), {"a": place(0x1FFC, 8), "b": place(0x1000, 4)})
    with pytest.raises(ValueError, match="Bad: UIO has at most 5 maps, not 6"):
        type("Bad", (Uio,), {name: place(0, 4) for name in "abcdef"})


def test_sys_shows_a_uio_device_as_the_kernel_does(timer: Timer) -> None:
    found = timer.surroundings("/dev/uio3")
    assert timer.devt is not None
    timer.raise_interrupt()
    device = "{}:{}".format(*timer.devt)
    top = "/sys/class/uio/uio3"
    assert {path: shown(found, path) for path in found if path.startswith(top)} == {
        f"{top}/name": "timer\n",
        f"{top}/version": "2.1\n",
        f"{top}/event": "1\n",
        f"{top}/dev": f"{device}\n",
        f"{top}/maps/map0/name": "regs\n",
        f"{top}/maps/map0/addr": "0x0000000048002000\n",
        f"{top}/maps/map0/size": "0x0000000000001000\n",
        f"{top}/maps/map0/offset": "0x100\n",
        f"{top}/maps/map1/name": "log\n",
        f"{top}/maps/map1/addr": "0x0000000048100000\n",
        f"{top}/maps/map1/size": "0x0000000000003000\n",
        f"{top}/maps/map1/offset": "0x0\n",
    }
    assert found[f"/sys/dev/char/{device}"] == Symlink("../../class/uio/uio3")
    assert timer.devt != Timer().devt


def test_a_program_starts_the_timer_in_its_registers_and_waits_for_its_interrupt(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve(person, f"uio0={device_file(person, 'uio_timer.py')}:Timer")
    program = client(person, served.path("uio0"))
    do(program, "fd = os.open(path, os.O_RDWR); regs = mapped(fd) + 0x100; log = mapped(fd, 3 * 4096, 4096)")
    assert program.ask("int.from_bytes(load(regs + 4), 'little')") == "1000"
    assert program.ask("polled(fd, select.POLLIN, 0)") == "0"
    assert program.ask("os.read(fd, 8)") == "EINVAL"
    assert program.ask("os.write(fd, b'12345')") == "EINVAL"
    # period 50 ms, start, "count anew" into a register that nobody reads back
    do(program, "store(regs + 8, bytes([9])); store(regs + 4, bytes([50, 0])); store(regs, bytes([1]))")
    do(program, "store(regs + 12, bytes([1]))")
    for count in (1, 2):
        assert program.ask("os.write(fd, (1).to_bytes(4, sys.byteorder))") == "4"
        assert program.ask("polled(fd, select.POLLIN, 20)") == str(select.POLLIN)
        assert program.ask("int.from_bytes(os.read(fd, 4), sys.byteorder)") == str(count)
        assert program.ask("int.from_bytes(load(regs + 8), 'little')") == str(count)
        assert program.ask("load(regs + 12)") == repr(bytes(4))
    assert program.ask("load(log + 0x2000, 7)") == "b'expired'"
    # the position does not matter, and a read that waits does not hold up a write through another open
    do(program, "one = (1).to_bytes(4, sys.byteorder); other = os.open(path, os.O_RDWR)")
    do(program, "threading.Timer(0.2, os.pwrite, [other, one, 4096]).start()")
    assert program.ask("int.from_bytes(os.pread(fd, 4, 0), sys.byteorder)") == "3"


@pytest.mark.parametrize("way", ["stream_open", "nonseekable_open"])
def test_a_device_with_shared_memory_can_be_opened_without_a_position(
    way: str, root: Person, serve: Serve, place: Callable[[Person], Path], client: NewClient
) -> None:
    file = place(root) / "plain.py"
    file.write_text(
        f"from mapdev.devices import Ram\nclass Plain(Ram):\n    def open(self, file):\n        file.{way}()\n"
    )
    program = client(root, serve(root, file).path("plain"))
    do(program, "fd = os.open(path, os.O_RDWR)")


def test_errno_of_a_write_that_nobody_handles_reaches_the_program(
    user: Person, serve: Serve, place: Callable[[Person], Path], client: NewClient
) -> None:
    file = place(user) / "plain.py"
    file.write_text("from mapdev.devices import Uio\nclass Plain(Uio):\n    pass\n")
    program = client(user, serve(user, file).path("plain"))
    do(program, "fd = os.open(path, os.O_RDWR)")
    assert program.ask("os.write(fd, bytes(4))") == "ENOSYS"
    assert program.ask("os.write(fd, bytes(4))") == "ENOSYS"


# -- the screen -----------------------------------------------------------------------------------------------

GET_VAR, PUT_VAR, GET_FIX, PAN, BLANK = 0x4600, 0x4601, 0x4602, 0x4606, 0x4611
ACTIVATE = 21  # its place among the 40 numbers of struct fb_var_screeninfo
TEST = 2


def var(file: OpenFile) -> list[int]:
    buffer = bytearray(160)
    assert file.ioctl(GET_VAR, buffer) == 0
    return list(struct.unpack("=40I", buffer))


def put(file: OpenFile, *screen: int, activate: int = 0, cmd: int = PUT_VAR) -> list[int]:
    numbers = [*screen, *[0] * (40 - len(screen))]
    numbers[ACTIVATE] = activate
    buffer = bytearray(struct.pack("=40I", *numbers))
    assert file.ioctl(cmd, buffer) == 0
    return list(struct.unpack("=40I", buffer))


@pytest.fixture
def screen() -> Framebuffer:
    return Framebuffer(20, 10)


@pytest.fixture
def fb(screen: Framebuffer) -> Iterator[OpenFile]:
    with MemoryHost(screen) as host, host.open() as file:
        yield file


def test_a_program_can_set_a_mode_the_memory_has_room_for(fb: OpenFile) -> None:
    assert var(fb)[:20] == [20, 10, 20, 20, 0, 0, 32, 0, 16, 8, 0, 8, 8, 0, 0, 8, 0, 0, 0, 0]
    # 15 bits are rounded up to 16; the virtual screen grows to hold the picture
    answer = put(fb, 30, 12, 0, 0, 2, 3, 15)
    assert answer[:20] == [30, 12, 32, 15, 2, 3, 16, 0, 11, 5, 0, 5, 6, 0, 0, 5, 0, 0, 0, 0]
    assert var(fb) == answer


def test_a_mode_that_is_only_tested_is_answered_and_not_set(fb: OpenFile) -> None:
    assert put(fb, 10, 10, 10, 10, 0, 0, 16, activate=TEST)[:7] == [10, 10, 10, 10, 0, 0, 16]
    assert var(fb)[:7] == [20, 10, 20, 20, 0, 0, 32]


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        ((0, 10, 0, 0, 0, 0, 32), errno.EINVAL),
        ((20, 0, 0, 0, 0, 0, 32), errno.EINVAL),
        ((20, 10, 0, 0, 0, 0, 33), errno.EINVAL),
        ((64, 17, 0, 0, 0, 0, 32), errno.ENOMEM),
        ((0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0, 16), errno.ENOMEM),
    ],
)
def test_a_mode_that_cannot_be_is_refused_and_the_old_one_stays(
    fb: OpenFile, mode: tuple[int, ...], number: int
) -> None:
    before = var(fb)
    assert raises(number, lambda: put(fb, *mode))
    assert var(fb) == before


def test_the_smallest_screen_has_a_pixel_clock_too(fb: OpenFile) -> None:
    assert put(fb, 1, 1, 0, 0, 0, 0, 32)[25] == 0xFFFFFFFF


def test_fix_tells_the_memory_and_the_length_of_a_line(fb: OpenFile) -> None:
    for bits in (32, 16):
        put(fb, 20, 10, 24, 10, 0, 0, bits)
        fix = bytearray(80)
        fb.ioctl(GET_FIX, fix)
        name, start, length, kind, aux, visual = struct.unpack_from("=16sQ4I", fix)
        assert (name.rstrip(b"\0"), start, length, kind, aux, visual) == (b"mapdev", 0, PAGE_SIZE, 0, 0, 2)
        assert struct.unpack_from("=3H", fix, 40) == (1, 1, 0)
        assert struct.unpack_from("=I", fix, 48) == (24 * bits // 8,)


def test_pan_moves_within_the_virtual_screen(fb: OpenFile) -> None:
    put(fb, 20, 10, 0, 0, 0, 10, 32, cmd=PAN)
    assert var(fb)[4:6] == [0, 10]
    assert raises(errno.EINVAL, lambda: put(fb, 20, 10, 0, 0, 0, 11, 32, cmd=PAN))
    assert raises(errno.EINVAL, lambda: put(fb, 20, 10, 0, 0, 1, 0, 32, cmd=PAN))
    assert var(fb)[4:6] == [0, 10]


def test_an_unknown_command_is_enotty(fb: OpenFile) -> None:
    assert raises(errno.ENOTTY, lambda: fb.ioctl(0x4604, bytearray(160)))


def test_pixels_are_read_and_written_up_to_the_end(fb: OpenFile, screen: Framebuffer) -> None:
    end = screen.pages.nbytes
    assert fb.write(b"12345678", pos=end - 4) == 4
    assert fb.read(100, pos=end - 6) == b"\0\0001234"
    assert fb.read(1, pos=end) == b""
    assert fb.write(b"", pos=end) == 0
    assert raises(errno.ENOSPC, lambda: fb.write(b"1", pos=end))
    assert raises(errno.EFBIG, lambda: fb.write(b"1", pos=end + 1))


@given(
    st.integers(0, 19),
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 10),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_a_snapshot_has_each_pixel_where_and_as_it_was_drawn(
    x: int, y: int, xoffset: int, yoffset: int, colour: tuple[int, int, int]
) -> None:
    screen = Framebuffer(20, 10)
    red, green, blue = colour
    with MemoryHost(screen) as host, host.open() as file:
        put(file, 20, 10, 24, 20, xoffset, yoffset, 32)
        area = file.mmap(screen.pages.nbytes)
        at = ((y + yoffset) * 24 + x + xoffset) * 4
        area[at : at + 4] = bytes([blue, green, red, 0xAA])  # the fourth byte is not looked at
        shot = screen.snapshot()
        assert (shot.mode, shot.size) == ("RGB", (20, 10))
        wanted = Image.new("RGB", (20, 10))
        wanted.putpixel((x, y), colour)
        assert shot.tobytes() == wanted.tobytes()
        # the same in RGB565: the upper bits of each colour
        area[:] = bytes(screen.pages.nbytes)
        put(file, 20, 10, 24, 20, xoffset, yoffset, 16)
        at = ((y + yoffset) * 24 + x + xoffset) * 2
        area[at : at + 2] = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).to_bytes(2, "little")
        pixel = screen.snapshot().getpixel((x, y))
        assert isinstance(pixel, tuple)
        assert [value >> bits for value, bits in zip(pixel, (3, 2, 3), strict=True)] == [
            red >> 3,
            green >> 2,
            blue >> 3,
        ]


def test_a_blanked_screen_is_black_until_it_is_unblanked(fb: OpenFile, screen: Framebuffer) -> None:
    fb.write(b"\xff" * screen.pages.nbytes)
    white = screen.snapshot().tobytes()
    assert white == b"\xff" * 600
    for how in (1, 4, 99):
        fb.ioctl(BLANK, how)
        assert screen.snapshot().tobytes() == bytes(600)
    assert screen.blanked == 4
    fb.ioctl(BLANK, 0)
    assert screen.snapshot().tobytes() == white


def test_a_snapshot_is_saved_as_a_png(fb: OpenFile, screen: Framebuffer, tmp_path: Path) -> None:
    fb.write(bytes([0, 0, 255, 0]))
    shot = screen.snapshot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as image:
        assert image.format == "PNG"
        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert image.tobytes() == shot.tobytes()


def test_without_pillow_a_snapshot_says_what_to_install(screen: Framebuffer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(HostError, match="a snapshot needs Pillow: pip install pillow"):
        screen.snapshot()


def test_sys_shows_the_screen_and_takes_pan_and_blank(fb: OpenFile, screen: Framebuffer) -> None:
    found = screen.surroundings("/dev/fb0")
    top = "/sys/class/graphics/fb0"
    stored(found, f"{top}/pan", b"0,7\n")
    stored(found, f"{top}/blank", b"1\n")
    assert (var(fb)[4:6], screen.blanked) == ([0, 7], 1)
    for path, text in [("pan", b"0,11"), ("pan", b"0"), ("pan", b"-1,0"), ("blank", b"on"), ("blank", b"")]:
        assert raises(errno.EINVAL, lambda path=path, text=text: stored(found, f"{top}/{path}", text))  # type: ignore[misc]
    put(fb, 16, 8, 20, 10, 0, 0, 16)
    assert {path: shown(found, path) for path in found if path.startswith(top)} == {
        f"{top}/bits_per_pixel": "16\n",
        f"{top}/blank": "",
        f"{top}/dev": "29:0\n",
        f"{top}/mode": "U:16x8p-60\n",
        f"{top}/modes": "U:16x8p-60\n",
        f"{top}/name": "mapdev\n",
        f"{top}/pan": "0,0\n",
        f"{top}/stride": "40\n",
        f"{top}/virtual_size": "20,10\n",
    }
    assert found["/sys/dev/char/29:0"] == Symlink("../../class/graphics/fb0")
    assert shown(found, "/proc/fb") == "0 mapdev\n"


def test_the_parameter_is_a_size_and_perhaps_a_depth() -> None:
    _, device = targets.load("fb0=framebuffer:320x200-16")
    assert isinstance(device, Framebuffer)
    assert device.screen == (320, 200, 320, 400, 0, 0, 16)
    _, device = targets.load("framebuffer")
    assert isinstance(device, Framebuffer)
    assert device.screen == (800, 600, 800, 1200, 0, 0, 32)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("big", "'big' is not a screen: write its size in pixels, such as 800x600"),
        ("800x", "'800x' is not a screen"),
        ("800x600-24", "a pixel has 16 or 32 bits, not 24"),
        ("0x600", "a screen has 1 to 16384 pixels each way, not 0x600"),
        ("800x16385", "a screen has 1 to 16384 pixels each way, not 800x16385"),
    ],
)
def test_a_parameter_that_is_no_screen_is_one_line(parameter: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.load(f"framebuffer:{parameter}")
    assert str(caught.value).startswith(message)


PROGRAM_IN_C = r"""
#include <fcntl.h>
#include <linux/fb.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
    struct fb_fix_screeninfo fix;
    struct fb_var_screeninfo var;
    int fd = open(argv[argc - 1], O_RDWR);

    if (ioctl(fd, FBIOGET_FSCREENINFO, &fix) || ioctl(fd, FBIOGET_VSCREENINFO, &var))
        return 1;
    printf("%s %u %u %u %u %u\n", fix.id, fix.smem_len, fix.visual == FB_VISUAL_TRUECOLOR, fix.xpanstep,
           fix.ypanstep, fix.line_length);
    printf("%ux%u %ux%u+%u+%u %u\n", var.xres, var.yres, var.xres_virtual, var.yres_virtual, var.xoffset,
           var.yoffset, var.bits_per_pixel);
    printf("%u/%u %u/%u %u/%u %u/%u\n", var.red.length, var.red.offset, var.green.length, var.green.offset,
           var.blue.length, var.blue.offset, var.transp.length, var.transp.offset);
    var.yoffset = 200;
    if (ioctl(fd, FBIOPAN_DISPLAY, &var) || ioctl(fd, FBIOBLANK, FB_BLANK_UNBLANK))
        return 2;
    var.bits_per_pixel = 16;
    if (ioctl(fd, FBIOPUT_VSCREENINFO, &var) || ioctl(fd, FBIOGET_VSCREENINFO, &var))
        return 3;
    printf("%u %u %u %u\n", var.yoffset, var.bits_per_pixel, var.green.length, var.pixclock);
    return 0;
}
"""


def test_a_program_in_c_finds_everything_where_linux_fb_h_has_it(
    person: Person, serve: Serve, place: Callable[[Person], Path]
) -> None:
    compiler = need("gcc", "gcc")
    binary = place(person) / "fb"
    subprocess.run([compiler, "-xc", "-o", binary, "-"], input=PROGRAM_IN_C, text=True, check=True, timeout=60)
    served = serve(person, "fb0=framebuffer:320x200")
    done = person.run(binary, served.path("fb0"))
    assert done.returncode == 0
    pixclock = 10**12 // (320 * 200 * 60)
    assert done.stdout.splitlines() == [
        "mapdev 512000 1 1 1 1280",
        "320x200 320x400+0+0 32",
        "8/16 8/8 8/0 0/0",
        f"200 16 6 {pixclock}",
    ]


@pytest.mark.parametrize("mode", [Mode.SHARED, Mode.ON_DEMAND])
def test_a_snapshot_shows_what_a_program_drew_through_its_mapping(
    mode: Mode,
    dev_fuse: None,  # noqa: ARG001
    client: NewClient,
    place: Callable[[Person], Path],
) -> None:
    me = Person("me", os.geteuid())
    screen = Framebuffer(64, 32)
    with FuseHost(place(me), {"fb0": screen}, mode=mode) as host:
        program = client(me, host.directory / "fb0")
        do(program, "fd = os.open(path, os.O_RDWR); area = mapped(fd, 64 * 4 * 64)")
        do(program, "for y in range(8, 16): store(area + (y * 64 + 16) * 4, bytes([0, 0, 255, 0]) * 32)")
        shot = screen.snapshot()
        box = shot.getbbox()
        assert box == (16, 8, 48, 16)
        assert shot.crop(box).getcolors() == [(32 * 8, (255, 0, 0))]
        program.close()


def test_on_demand_what_an_operation_stored_outlives_older_pages_that_come_in_before_it_ends(
    dev_fuse: None,  # noqa: ARG001
    client: NewClient,
    place: Callable[[Person], Path],
) -> None:
    going_on = threading.Event()

    class Storing(Framebuffer):
        def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> None:  # noqa: ARG002
            self.pages[8:12] = b"mine"  # not pushed before this operation ends
            self.pages.pull()
            assert going_on.wait(20)

    me = Person("me", os.geteuid())
    screen = Storing(64, 32)
    with FuseHost(place(me), {"fb0": screen}, mode=Mode.ON_DEMAND) as host:
        program = client(me, host.directory / "fb0")
        do(program, "fd = os.open(path, os.O_RDWR); area = mapped(fd); store(area, b'theirs: ......')")
        do(program, "thread = threading.Thread(target=fcntl.ioctl, args=(fd, 0x4611, 0)); thread.start()")
        until = time.monotonic() + 20
        while screen.pages[:14] != b"theirs: mine..":
            assert time.monotonic() < until, f"memory holds {screen.pages[:14]!r}"
            time.sleep(0.01)
        do(program, "store(area, b'now')")
        assert program.ask("msync(area)") == "0"
        assert screen.pages[:14] == b"nowirs: mine.."
        going_on.set()
        do(program, "thread.join()")
        assert program.ask("load(area, 14)") == "b'nowirs: mine..'"
        program.close()
