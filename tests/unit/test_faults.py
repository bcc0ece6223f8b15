"""Faults on purpose, through the host without a kernel."""

import errno
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.device import Device
from mapdev.errors import UsageError
from mapdev.faults import OPERATIONS, Fault, Faults, parse
from mapdev.file import File, Vma
from mapdev.ioctl import IoctlArg
from mapdev.pages import Pages, zeroed_pages
from mapdev.registers import Register, RegisterArray, RegisterBlock
from mapdev.testing import BusError, MemoryHost


class Counting(Device):
    """Answers with bytes 0, 1, 2 and so on; keeps what was written."""

    def __init__(self, *faults: str, seed: int = 0) -> None:
        self.wrong = self.injected = Faults(faults, seed=seed)
        self.written: list[tuple[bytes, int]] = []

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return bytes((pos + n) % 256 for n in range(count))

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        self.written.append((buf, pos))
        return len(buf)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:  # noqa: ARG002
        return 0b1010

    async def fsync(self, file: File, datasync: bool) -> None:
        pass


def reads(device: Device, times: int) -> list[int]:
    """The errnos of so many reads."""
    found = []
    with MemoryHost(device) as host, host.open() as opened:
        for _ in range(times):
            try:
                opened.read(4)
                found.append(0)
            except OSError as error:
                found.append(error.errno or -1)
    return found


def test_a_device_without_faults_is_as_it_is() -> None:
    with MemoryHost(Counting()) as host, host.open() as opened:
        assert opened.read(4) == b"\0\1\2\3"


def test_every_read_fails() -> None:
    assert reads(Counting("read=EIO"), 3) == [errno.EIO] * 3


@pytest.mark.parametrize(
    ("when", "struck"),
    [("#1", "x...."), ("#3", "..x.."), ("#3-", "..xxx"), ("#2-4", ".xxx."), ("#100%", "xxxxx"), ("#0%", ".....")],
)
def test_it_strikes_the_calls_that_were_meant(when: str, struck: str) -> None:
    device = Counting(f"read{when}=ENXIO")
    assert reads(device, 5) == [errno.ENXIO if each == "x" else 0 for each in struck]
    assert list(device.wrong.struck.values()) == [struck.count("x")]


def test_chance_is_the_same_for_the_same_seed() -> None:
    first, again, other = (reads(Counting("read#30%=EIO", seed=seed), 200) for seed in (1, 1, 2))
    assert first == again != other
    assert 20 < sum(map(bool, first)) < 100


def test_only_what_touches_the_place_fails() -> None:
    with MemoryHost(Counting("read@0x10-0x13=EIO")) as host, host.open() as opened:
        assert opened.read(16, 0)
        assert opened.read(4, 0x14)
        for count, pos in ((17, 0), (1, 0x13), (4, 0x0F), (100, 0)):
            with pytest.raises(OSError, match="fault on purpose"):
                opened.read(count, pos)


def test_the_bits_of_a_place_are_wrong_whatever_part_of_it_is_read() -> None:
    with MemoryHost(Counting("read@8-11=stuck1:31", "read@8-11=flip:0")) as host, host.open() as opened:
        assert opened.read(4, 8) == bytes([9, 9, 10, 0x8B])
        assert opened.read(16, 0) == bytes([*range(8), 9, 9, 10, 0x8B, *range(12, 16)])
        assert opened.read(1, 11) == b"\x8b"
        assert opened.read(2, 9) == b"\x09\x0a"


class Chip(RegisterBlock):
    """Its device is not told of loads."""

    CTRL = Register(0, reset=0xC33CA55A)
    LEVEL = RegisterArray(4, 3, width=16, byteorder="big", reset=0x1234)


class Board(Device):
    """Plain memory: only its faults need its accesses trapped."""

    def __init__(self, *faults: str) -> None:
        self.wrong = self.injected = Faults(faults)
        self.pages = zeroed_pages(2)
        self.chip = Chip(self.pages)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages


@given(st.integers(0, 31), st.sampled_from(["stuck0", "stuck1", "flip"]))
def test_one_bit_of_a_register_is_wrong(bit: int, kind: str) -> None:
    with MemoryHost(Board(f"load@CTRL={kind}:{bit}")) as host, host.open() as opened:
        right = 0xC33CA55A
        wrong = {"stuck0": right & ~(1 << bit), "stuck1": right | 1 << bit, "flip": right ^ 1 << bit}[kind]
        assert opened.mmap(4096)[0:4] == wrong.to_bytes(4, "little")


def test_elements_of_an_array_and_the_byte_order_of_a_register_are_known() -> None:
    board = Board(
        "load@chip.LEVEL[1]=flip:0", "store@LEVEL[2]=value:0xabcd", "load@CTRL#2=SIGBUS", "store@0x1000=EIO"
    )
    with MemoryHost(board) as host, host.open() as opened:
        area = opened.mmap(8192)
        assert area[4:10] == bytes.fromhex("1234 1235 1234")
        area[8:10] = bytes(2)
        assert board.chip.LEVEL[2] == 0xABCD
        assert area[0:4] == bytes.fromhex("5aa53cc3")
        with pytest.raises(BusError):
            area[0:4]
        with pytest.raises(BusError):
            area[0x1000:0x1001] = b"x"
        area[0x1001:0x1002] = b"x"
    assert sorted(board.wrong.struck.values()) == [1, 1, 1, 1]


def test_what_is_written_arrives_wrong() -> None:
    device = Counting("write=value:0x2a")
    with MemoryHost(device) as host, host.open() as opened:
        assert opened.write(b"ab") == 2
    assert device.written == [(b"\x2a\0", 0)]


def test_an_ioctl_fails_by_its_number_and_another_is_wrong() -> None:
    with MemoryHost(Counting("ioctl@0x10=EFAULT", "ioctl@0x20=flip:0", "ioctl@0x30=value:7")) as host:
        opened = host.open()
        with pytest.raises(OSError, match="fault on purpose") as failed:
            opened.ioctl(0x10)
        assert failed.value.errno == errno.EFAULT
        assert [opened.ioctl(cmd) for cmd in (0x20, 0x30, 0x40)] == [0b1011, 7, 0b1010]


def test_it_takes_longer() -> None:
    with MemoryHost(Counting("read=delay:30ms", "fsync=delay:0.03s")) as host, host.open() as opened:
        for call in (lambda: opened.read(1), opened.fsync):
            began = time.monotonic()
            call()
            assert time.monotonic() - began >= 0.03


def test_an_async_operation_fails_too() -> None:
    with MemoryHost(Counting("fsync=ENOSPC")) as host, host.open() as opened, pytest.raises(OSError) as failed:
        opened.fsync()
    assert failed.value.errno == errno.ENOSPC


def test_an_open_is_refused_and_what_is_added_later_counts() -> None:
    device = Counting("open#2=EBUSY")
    with MemoryHost(device) as host:
        opened = host.open()
        with pytest.raises(OSError) as failed:
            host.open()
        assert failed.value.errno == errno.EBUSY
        fault = device.wrong.add("read=EIO")
        with pytest.raises(OSError):
            opened.read(1)
        device.wrong.clear()
        assert opened.read(1) == b"\0"
        assert device.wrong.struck[fault] == 1


def test_a_register_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match=r"'NIX' is no register: there is CTRL, LEVEL\[0\]"):
        MemoryHost(Board("load@NIX=EIO"))
    with pytest.raises(UsageError, match="'CTRL' is no register: there is none"):
        MemoryHost(Counting("load@CTRL=EIO"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no fault: write"),
        ("read", "is no fault: write"),
        ("reed=EIO", "reed is no operation; there are open, read"),
        ("read=EFOO", "'EFOO' is not what can go wrong: write an errno"),
        ("read=SIGBUS", "read fails with an errno"),
        ("read#0=EIO", "#0 is not which of the calls"),
        ("read#5-2=EIO", "#5-2 is not which of the calls"),
        ("read#200%=EIO", "#200% is not which of the calls"),
        ("poll@3=EIO", "poll is not at a place"),
        ("read@CTRL=EIO", "registers have names for load and store only"),
        ("ioctl@0x7-0x3=EIO", "is not a number"),
        ("read=delay:5", "is not what can go wrong"),
        ("read=delay:1.2.3s", "is not what can go wrong"),
        ("read=flip:x", "is not what can go wrong"),
        ("open=value:1", "open moves no value"),
    ],
)
def test_what_is_no_fault_is_refused_with_what_is(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=30))
def test_no_text_is_worse_than_refused(text: str) -> None:
    try:
        assert parse(text).operation in OPERATIONS
    except UsageError:
        pass


def test_what_a_fault_is_made_of() -> None:
    assert parse("/dev/uio0:store@CTRL.MODE#2-=flip:4") == Fault(
        "store", "flip", 4, place="CTRL.MODE", calls=(2, float("inf")), device="/dev/uio0"
    )
    assert parse("fault@0x2000=SIGBUS") == Fault("fault", "errno", errno.EIO, place="0x2000")
    assert parse("read#10%=delay:1.5us") == Fault("read", "delay", seconds=1.5e-6, chance=0.1)
