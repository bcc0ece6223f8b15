"""Registers and their fields as memory; what cannot be a register; what programs stored, found by ``settle``."""

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, zeroed_pages
from mapdev.registers import Access, ByteOrder, Register, RegisterArray, RegisterBlock, place, places


class Timer(RegisterBlock, size=0x40):
    CTRL = Register(0x00, reset=0x8000_0000, fields={"START": 0, "IRQ_EN": 1, "MODE": (4, 7), "ON": 31})
    COUNT = Register(0x04, access="ro", reset=0xFFFF)
    COMMAND = Register(0x08, access="wo")
    STATUS = Register(0x0C, access="w1c", fields={"OVERFLOW": 0, "MATCH": (1, 4)})
    MATCH = RegisterArray(0x10, 3, stride=8, width=16, fields={"ENABLE": 15, "AT": (0, 14)})
    LEVEL = Register(0x28, width=8, reset=7)
    STAMP = Register(0x30, width=64)


class Network(RegisterBlock, byteorder="big"):
    ID = Register(0, width=16, reset=0x1234)
    PORT = Register(2, width=16, reset=0x5678, byteorder="little")
    LENGTH = Register(4, reset=1)


@pytest.fixture
def timer() -> Timer:
    return Timer(zeroed_pages(2), PAGE_SIZE)


def test_reset_values_lie_at_their_offsets_and_nothing_else_is_touched(timer: Timer) -> None:
    expected = bytearray(timer.pages.nbytes)
    struct.pack_into("<II", expected, PAGE_SIZE, 0x8000_0000, 0xFFFF)
    expected[PAGE_SIZE + 0x28] = 7
    assert timer.pages[:] == expected


def test_byte_order_is_the_blocks_unless_a_register_has_its_own() -> None:
    network = Network(zeroed_pages(1))
    assert network[:] == bytes.fromhex("1234 7856 00000001")
    network.LENGTH = 0x0102_0304
    assert network[4:8] == bytes([1, 2, 3, 4])
    assert (network.ID, network.PORT, network.LENGTH) == (0x1234, 0x5678, 0x0102_0304)


def test_a_register_reads_as_a_number_and_is_stored_by_assignment(timer: Timer) -> None:
    timer.STAMP = 0x0102_0304_0506_0708
    assert timer.pages[PAGE_SIZE + 0x30 : PAGE_SIZE + 0x38] == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    timer.pages[PAGE_SIZE + 4 : PAGE_SIZE + 8] = (41).to_bytes(4, "little")
    timer.COUNT += 1
    assert timer.COUNT == 42
    assert f"{timer.COUNT} {timer.COUNT:#x} {timer.COUNT!s}" == "42 0x2a 42"


def test_a_field_is_stored_alone_and_read_values_stay_what_they_were(timer: Timer) -> None:
    before = timer.CTRL
    timer.CTRL.MODE = 0xA
    timer.CTRL.START = True
    assert timer.CTRL == 0x8000_00A1
    assert (timer.CTRL.MODE, timer.CTRL.START, timer.CTRL.IRQ_EN, timer.CTRL.ON) == (10, 1, 0, 1)
    assert before == 0x8000_0000
    assert before.MODE == 0
    assert repr(timer.CTRL) == "<CTRL 0x800000a1 START=1 IRQ_EN=0 MODE=10 ON=1>"


def test_replace_is_a_number_and_stores_nothing(timer: Timer) -> None:
    number = timer.CTRL.replace(START=1, MODE=3)
    assert (number, timer.CTRL) == (0x8000_0031, 0x8000_0000)


def test_arrays_have_their_stride_and_end(timer: Timer) -> None:
    timer.MATCH[1] = 0x1234
    timer.MATCH[2].ENABLE = 1
    timer.MATCH[2] += 5
    assert timer[0x10:0x28] == struct.pack("<HxxxxxxHxxxxxxHxxxxxx", 0, 0x1234, 0x8005)
    assert list(timer.MATCH) == [0, 0x1234, 0x8005]
    assert len(timer.MATCH) == 3
    assert repr(timer.MATCH[2]) == "<MATCH[2] 0x8005 ENABLE=1 AT=5>"
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"MATCH has 3 registers; there is no {index}"):
            timer.MATCH[index] = 0
    with pytest.raises(AttributeError, match=r"store into MATCH\[0\]"):
        timer.MATCH = 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CTRL", 1 << 32, "CTRL has 32 bits: 0x100000000 does not fit"),
        ("LEVEL", 256, "LEVEL has 8 bits"),
        ("COUNT", -1, "COUNT has 32 bits: -0x1 does not fit"),
    ],
)
def test_a_number_that_does_not_fit_is_refused_and_nothing_is_stored(
    timer: Timer, name: str, value: int, message: str
) -> None:
    before = timer[:]
    with pytest.raises(ValueError, match=message):
        setattr(timer, name, value)
    assert timer[:] == before


def test_a_field_that_does_not_fit_or_is_not_there_is_refused_and_nothing_is_stored(timer: Timer) -> None:
    before = timer[:]
    with pytest.raises(ValueError, match=r"CTRL\.MODE has 4 bits: 0x10 does not fit"):
        timer.CTRL.MODE = 16
    with pytest.raises(AttributeError, match="CTRL has no field 'SPEED'; it has START, IRQ_EN, MODE, ON"):
        timer.CTRL.SPEED = 1
    with pytest.raises(AttributeError, match="COUNT has no field 'START'; it has none"):
        assert timer.COUNT.START
    assert timer[:] == before


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, dict[str, tuple[int, int]]]:
    """The width of a register, and fields that fit into it: name -> (first bit, last bit)."""
    width = draw(st.sampled_from([8, 16, 32, 64]))
    cuts = sorted(draw(st.sets(st.integers(0, width), min_size=2)))
    runs = list(itertools.pairwise(cuts))
    kept = draw(st.lists(st.sampled_from(runs), unique=True, min_size=1))
    return width, {f"F{start}": (start, end - 1) for start, end in kept}


@given(layouts(), st.data())
def test_fields_are_bits_whatever_the_layout(
    layout: tuple[int, dict[str, tuple[int, int]]], data: st.DataObject
) -> None:
    width, fields = layout
    byteorder: ByteOrder = data.draw(st.sampled_from(["little", "big"]))
    register = Register(0, width=width, fields=fields)
    block: Any = type("Block", (RegisterBlock,), {"R": register}, byteorder=byteorder)(zeroed_pages(1))
    number = data.draw(st.integers(0, (1 << width) - 1))
    block.R = number
    bits = f"{number:0{width}b}"[::-1]  # bits[n] is bit n
    for name, (first, last) in fields.items():
        assert getattr(block.R, name) == int(bits[first : last + 1][::-1], 2)
        value = data.draw(st.integers(0, (1 << last + 1 - first) - 1))
        setattr(block.R, name, value)
        bits = bits[:first] + f"{value:0{last + 1 - first}b}"[::-1] + bits[last + 1 :]
        assert f"{block.R:0{width}b}"[::-1] == bits
    assert block[:] == int(bits[::-1], 2).to_bytes(width // 8, byteorder)


def test_a_block_of_another_has_its_registers_and_more() -> None:
    class Wider(Timer):
        EXTRA = Register(0x40, reset=9)

    wider = Wider(zeroed_pages(1))
    assert (wider.LEVEL, wider.EXTRA, wider.nbytes) == (7, 9, 0x44)
    assert list(Wider.registers) == [*Timer.registers, "EXTRA"]
    assert Timer.nbytes == 0x40


def refused(
    name: str = "Block", bases: tuple[type, ...] = (RegisterBlock,), /, size: int | None = None, **body: Any
) -> str:
    with pytest.raises(ValueError) as caught:
        type(name, bases, body, size=size)
    return str(caught.value)


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({"A": Register(2)}, "Block.A: offset 0x2, stride 4: not a multiple of its 4 bytes"),
        ({"A": Register(-4)}, "Block.A: offset -0x4, stride 4: not a multiple of its 4 bytes"),
        ({"A": Register(0), "B": Register(0)}, "Block.B: overlaps A at offset 0x0"),
        ({"A": Register(2, width=16), "B": Register(0)}, "Block.A: overlaps B at offset 0x2"),
        ({"A": Register(8), "B": RegisterArray(0, 3)}, "Block.B: overlaps A at offset 0x8"),
        ({"A": Register(0, width=12)}, "Block.A: a register has 8, 16, 32, 64 (up to 512) bits, not 12"),
        ({"A": Register(0, width=0)}, "Block.A: a register has 8, 16, 32, 64 (up to 512) bits, not 0"),
        ({"A": Register(0, reset=1 << 32)}, "Block.A: the reset value 0x100000000 does not fit into 32 bits"),
        ({"A": Register(0, width=8, fields={"F": 8})}, "Block.A: field F lies outside of its 8 bits"),
        ({"A": Register(0, fields={"F": (30, 32)})}, "Block.A: field F lies outside of its 32 bits"),
        ({"A": Register(0, fields={"F": (-1, 3)})}, "Block.A: field F lies outside of its 32 bits"),
        ({"A": Register(0, fields={"F": (4, 7), "G": 7})}, "Block.A: field G overlaps another field"),
        ({"A": Register(0, fields={"real": 0})}, "Block.A: a field cannot be called 'real'"),
        ({"A": Register(0, fields={"two words": 0})}, "Block.A: a field cannot be called 'two words'"),
        ({"A": Register(0, access="rx")}, "access is rw, ro, wo, w1c or another of docs/registers.md, not 'rx'"),  # type: ignore[arg-type]
        ({"A": Register(0, byteorder="me")}, "Block.A: byteorder is little or big"),  # type: ignore[arg-type]
        ({"A": RegisterArray(0, 0)}, "Block.A: 0 registers that are 4 bytes apart cannot be"),
        ({"A": RegisterArray(0, 2, stride=6)}, "Block.A: offset 0x0, stride 6: not a multiple of its 4 bytes"),
        ({"A": RegisterArray(0, 2, stride=0)}, "Block.A: 2 registers that are 0 bytes apart cannot be"),
        ({"reset": Register(0)}, "Block.reset: that name is taken"),
        ({"pages": Register(0)}, "Block.pages: that name is taken"),
        ({}, "Block: its registers need 0 bytes, and its size is 0"),
    ],
)  # fmt: skip
def test_what_no_data_sheet_can_have_is_refused_when_the_class_is_made(
    registers: dict[str, Any], message: str
) -> None:
    assert message in refused(**registers)


def test_a_block_too_small_for_its_registers_is_refused() -> None:
    assert refused(size=6, A=Register(4)) == "Block: its registers need 8 bytes, and its size is 6"
    assert refused("More", (Timer,), B=Register(0x04)) == "More.B: overlaps COUNT at offset 0x4"


@pytest.mark.parametrize("offset", [-8, PAGE_SIZE - 0x38, PAGE_SIZE])
def test_a_block_that_does_not_fit_into_the_memory_is_refused(offset: int) -> None:
    with pytest.raises(ValueError, match="Timer has 64 bytes: no room at"):
        Timer(zeroed_pages(1), offset)


def test_a_block_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of its widest register, 8"):
        Timer(zeroed_pages(1), 4)


# -- what programs stored -------------------------------------------------------------------------------------


def program(block: RegisterBlock, offset: int, value: int) -> None:
    """A program stores 32 bits: not through the block's registers."""
    block.pages[block.offset + offset : block.offset + offset + 4] = value.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("access", "before", "stored", "after"),
    [
        ("rw", 0b1100, 0b1010, 0b1010),
        ("ro", 0b1100, 0b1010, 0b1100),
        ("wo", 0b0101, 0b1010, 0b0001),
        ("w1c", 0b1100, 0b1010, 0b0100),
    ],
)
def test_settle_makes_of_a_store_what_the_access_says_and_tells_it_once(
    access: Access, before: int, stored: int, after: int
) -> None:
    class Block(RegisterBlock):
        R = Register(8, access=access, reset=0b0001)

    block = Block(zeroed_pages(1))
    block.R = before
    program(block, 8, stored)
    (store,) = block.settle()
    assert (store.name, store.index, store.value, store.before) == ("R", 0, stored, before)
    assert int(block.R) == after
    assert block.settle() == []


def test_the_same_command_stored_again_into_a_wo_register_is_found_again(timer: Timer) -> None:
    for _ in range(2):
        program(timer, 8, 3)
        assert [(store.name, store.value) for store in timer.settle()] == [("COMMAND", 3)]


def test_a_w1c_register_written_back_as_it_was_read_is_not_found(timer: Timer) -> None:
    """The limit that the module tells of: there is nothing to compare."""
    timer.STATUS = 0b101
    program(timer, 0x0C, timer.STATUS)
    assert timer.settle() == []
    assert timer.STATUS == 0b101


def test_stores_are_told_in_the_order_of_the_declaration_with_index_and_fields(timer: Timer) -> None:
    program(timer, 0x18, 0x8009)
    program(timer, 0x00, 0x0000_0051)
    first, second = timer.settle()
    assert (first.name, first.index, first.value.MODE, first.before.ON) == ("CTRL", 0, 5, 1)
    assert (second.name, second.index, second.value.ENABLE, second.before) == ("MATCH", 1, 1, 0)


def test_what_the_model_stores_itself_is_no_store_of_a_program(timer: Timer) -> None:
    timer.CTRL = 5
    timer.COUNT = 6
    timer.MATCH[0].AT = 7
    assert timer.settle() == []
    assert (timer.CTRL, timer.COUNT, timer.MATCH[0]) == (5, 6, 7)


def test_a_field_stored_by_the_model_does_not_hide_what_a_program_stored_into_another(timer: Timer) -> None:
    program(timer, 0x00, 0x8000_0031)
    timer.CTRL.IRQ_EN = 1
    (store,) = timer.settle()
    assert (store.before, store.value) == (0x8000_0002, 0x8000_0033)


def test_reset_forgets_what_programs_stored(timer: Timer) -> None:
    program(timer, 0x00, 3)
    timer.reset()
    assert timer.settle() == []
    assert timer.CTRL == 0x8000_0000


class KernelCopy:
    """A kernel that keeps a copy of the memory, as on demand: ``content`` is what programs see and store into."""

    def __init__(self, memory: Pages) -> None:
        self.memory = memory
        self.content = bytearray(memory)
        memory.attach(self)

    def push(self, offset: int, length: int) -> None:
        self.content[offset : offset + length] = self.memory[offset : offset + length]

    def pull(self, offset: int, length: int) -> None:
        self.memory.store(offset, memoryview(self.content)[offset : offset + length])

    def invalidate(self, offset: int, length: int) -> None:
        raise NotImplementedError

    def write_protect(self, offset: int, length: int) -> None:
        raise NotImplementedError


def test_on_demand_each_store_is_pushed_and_settle_pulls_and_pushes_what_it_puts_back(timer: Timer) -> None:
    kernel = KernelCopy(timer.pages)
    at = PAGE_SIZE
    timer.CTRL.MODE = 2
    assert kernel.content[at : at + 4] == (0x8000_0020).to_bytes(4, "little")
    kernel.content[at : at + 8] = struct.pack("<II", 0x11, 0x22)
    assert timer.CTRL == 0x8000_0020  # not pulled yet
    assert [store.name for store in timer.settle()] == ["CTRL", "COUNT"]
    assert timer.CTRL == 0x11
    assert kernel.content[at : at + 8] == struct.pack("<II", 0x11, 0xFFFF)
    kernel.content[at : at + 4] = (0x10).to_bytes(4, "little")
    timer.pull()
    assert timer.CTRL.MODE == 1
    assert kernel.content == timer.pages[:]


# -- places ---------------------------------------------------------------------------------------------------


def test_places_are_those_of_the_bases_first_in_their_order_and_become_attributes() -> None:
    class Board:
        first = place(0x2000, Timer)
        memory = place(0x0, 0x100, "System RAM")

        def __init__(self) -> None:
            self.pages = zeroed_pages(3)
            for each in places(type(self)):
                each.make(self, self.pages, each.address)

    class Larger(Board):
        second = place(0x1000, Timer)
        first = place(0x1800, Timer)

    found = places(Larger)
    assert [each.attribute for each in found] == ["first", "memory", "second"]
    assert [each.name for each in found] == ["first", "System RAM", "second"]
    assert [(each.address, each.last) for each in found] == [(0x1800, 0x183F), (0, 0xFF), (0x1000, 0x103F)]
    board = Larger()
    board.first.LEVEL = 3
    board.memory[4:8] = b"boot"
    assert board.pages[0x1828] == 3
    assert board.pages[4:8] == b"boot"
    assert board.memory[:10] == bytes(4) + b"boot" + bytes(2)
    assert board.memory.settle() == []


def test_a_place_that_is_not_made_yet_says_what_is_missing() -> None:
    class Board:
        timer = place(0, Timer)

    with pytest.raises(AttributeError, match=r"Board\.timer is not there yet: call super\(\)\.__init__\(\) first"):
        assert Board().timer


def test_no_address_is_below_0_and_no_memory_empty() -> None:
    with pytest.raises(ValueError, match="-0x1 is not an address"):
        place(-1, Timer)
    with pytest.raises(ValueError, match="its size is 0"):
        place(0, 0)
