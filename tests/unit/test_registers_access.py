"""What programs do to registers, access by access: access types, parts and wide accesses, methods; without a kernel."""

import errno
import itertools
import logging
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mapdev
from mapdev.devices import DevMem, Uio
from mapdev.devices.devmem import ADDRESSES
from mapdev.file import File, Vma
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, zeroed_pages
from mapdev.registers import (
    Access,
    Bus,
    Field,
    Found,
    Register,
    RegisterArray,
    RegisterBlock,
    Value,
    blocks,
    describe,
    find,
    lost_without_trapping,
    place,
)
from mapdev.registers.access import EFFECTS
from mapdev.testing import BusError, MemoryHost


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def word(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


# -- access types ---------------------------------------------------------------------------------------------

RESET, BEFORE, STORED = 0b0001, 0b1100, 0b1010


@pytest.mark.parametrize(
    ("access", "after"),
    [
        ("rw", 0b1010),
        ("ro", 0b1100),
        ("wo", 0b1010),
        ("na", 0b1100),
        ("wc", 0),
        ("ws", 0xF),
        ("w1c", 0b0100),
        ("w1s", 0b1110),
        ("w1t", 0b0110),
        ("w0c", 0b1000),
        ("w0s", 0b1101),
        ("w0t", 0b1001),
        ("w1", 0b1010),
        ("wo1", 0b1010),
        ("woc", 0),
        ("wo1s", 0b1110),
    ],
)
def test_what_a_store_makes_of_each_access(access: Access, after: int) -> None:
    class Block(RegisterBlock):
        R = Register(0, width=8, reset=RESET, fields={"F": Field(0, 3, access=access), "REST": Field(4, 7)})

    block = Block(zeroed_pages(1))
    block.R = BEFORE | 0x50
    block.bus_store(0, bytes([STORED | 0x60]))
    assert after | 0x60 == block.R
    readable = not access.startswith("wo") and access != "na"
    assert block.bus_load(0, 1)[0] == (after if readable else RESET) | 0x60


@pytest.mark.parametrize(
    ("access", "loaded", "after"),
    [("rc", 0b1100, 0), ("rs", 0b1100, 0xF), ("wrc", 0b1100, 0), ("rw", 0b1100, 0b1100)],
)
def test_what_a_load_leaves_of_each_access(access: Access, loaded: int, after: int) -> None:
    class Block(RegisterBlock):
        R = Register(0, width=8, fields={"F": Field(2, 5, access=access)})

    block = Block(zeroed_pages(1))
    block.R = BEFORE << 2 | 0x81
    assert block.bus_load(0, 1)[0] == loaded << 2 | 0x81
    assert after << 2 | 0x81 == block.R
    block.bus_store(0, b"\0")
    assert (0 if access in ("wrc", "rw") else after << 2) == block.R


def test_a_register_that_is_written_once_stays_until_it_is_reset() -> None:
    class Block(RegisterBlock):
        LOCK = Register(0, access="w1", reset=7)

    block = Block(zeroed_pages(1))
    block.bus_store(1, b"\x12")  # a part: the other bits have not been written
    block.bus_store(0, word(0xAABBCCDD))
    assert block.LOCK == 0xAABB12DD
    block.bus_store(0, word(1))
    assert block.LOCK == 0xAABB12DD
    block.LOCK = 5  # the hardware may
    block.reset()
    assert block.LOCK == 7
    block.bus_store(0, word(1))
    assert block.LOCK == 1


def test_every_access_has_one_meaning_and_each_meaning_one_name() -> None:
    assert len(set(EFFECTS.values())) == len(EFFECTS)
    assert all(effects.name == name for name, effects in EFFECTS.items())


def test_a_store_of_a_part_does_not_touch_the_rest_of_a_w1c_register() -> None:
    class Block(RegisterBlock):
        STATUS = Register(0, access="w1c")
        ZERO = Register(4, access="w0c")

    block = Block(zeroed_pages(1))
    block.STATUS = block.ZERO = 0xFFFF_FFFF
    block.bus_store(2, b"\x0f")
    block.bus_store(5, b"\xfe")
    assert (block.STATUS, block.ZERO) == (0xFFF0_FFFF, 0xFFFF_FEFF)


def test_fields_have_resets_and_accesses_of_their_own() -> None:
    class Block(RegisterBlock):
        R = Register(0, reset=0xFF, access="ro", fields={"A": Field(0, 3, reset=5), "B": Field(11, 8, access="rw")})

    block = Block(zeroed_pages(1))
    assert block.R == 0xF5
    block.bus_store(0, word(0xFFFF_FFFF))
    assert block.R == 0xFF5
    assert (block.R.A, block.R.B) == (5, 15)


# -- any access against a model of single bytes ---------------------------------------------------------------------

ACCESSES: tuple[Access, ...] = ("rw", "ro", "w1c", "w1s", "w1t", "w0c", "rc", "wrc", "rs")


SIZE = 0x80
"""Room for any of the layouts: six registers, each of 8 bytes at most after a gap of 12."""


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Register]:
    """Registers of any widths, byte orders and accesses, with gaps."""
    registers, at = {}, 0
    for name in "ABCDEF"[: draw(st.integers(1, 6))]:
        width = draw(st.sampled_from([8, 16, 32, 64]))
        unit = min(width // 8, 4)
        at = -(-at // unit) * unit + unit * draw(st.integers(0, 3))
        registers[name] = Register(at, width=width, access=draw(st.sampled_from(ACCESSES)),
                                   byteorder=draw(st.sampled_from(["little", "big"])))  # fmt: skip
        at += width // 8
    return registers


def model_store(access: str, before: int, stored: int) -> int:
    table = {"rw": stored, "wrc": stored, "w1c": before & ~stored, "w1s": before | stored, "w1t": before ^ stored,
             "w0c": before & stored}  # fmt: skip
    return table.get(access, before)


@settings(max_examples=200)
@given(layouts(), st.data())
def test_an_access_of_any_offset_and_width_is_what_bytes_say(registers: dict[str, Register], data: Any) -> None:
    cls: Any = type("Block", (RegisterBlock,), dict(registers), size=SIZE)
    block = cls(zeroed_pages(1))
    content = bytearray(data.draw(st.binary(min_size=SIZE, max_size=SIZE)))
    block[:] = bytes(content)
    kind = ["gap"] * SIZE
    for register in registers.values():
        for at in range(register.offset, register.offset + register.nbytes):
            kind[at] = register.access
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16, 32]))
        offset = data.draw(st.integers(0, SIZE - count))
        if data.draw(st.booleans()):
            stored = data.draw(st.binary(min_size=count, max_size=count))
            block.bus_store(offset, stored)
            for at, byte in enumerate(stored, offset):
                content[at] = byte if kind[at] == "gap" else model_store(kind[at], content[at], byte) & 0xFF
        else:
            assert block.bus_load(offset, count) == content[offset : offset + count]
            for at in range(offset, offset + count):
                content[at] = {"rc": 0, "wrc": 0, "rs": 0xFF}.get(kind[at], content[at])
        assert block[:] == content


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Field]:
    """Fields of a register of 32 bits, each with an access of its own."""
    cuts = sorted(draw(st.sets(st.integers(0, 32), min_size=2, max_size=10)))
    names: Any = sorted(EFFECTS)
    return {
        f"F{first}": Field(first, last - 1, draw(st.sampled_from(names))) for first, last in itertools.pairwise(cuts)
    }


def bit_stored(access: str, before: int, stored: int, once: bool) -> int:
    """What a bit with this access holds after a store; `once`: it was stored to before."""
    write = access.removesuffix("rc").removesuffix("rs") if access not in ("rc", "rs") else "r"
    if write in ("ro", "na", "r"):
        return before
    kind = {"rw": "w", "wo": "w"}.get(write, "w" + write[2:] if write.startswith("wo") else write)
    table = {"w": stored, "w1": before if once else stored, "wc": 0, "ws": 1}
    if kind in table:
        return table[kind]
    hit = stored == int(kind[1])
    return {"c": 0, "s": 1, "t": 1 - before}[kind[2]] if hit else before


@settings(max_examples=200)
@given(fields(), st.sampled_from(["rw", "ro", "w1c"]), st.integers(0, 2**32 - 1), st.data())
def test_every_bit_does_what_the_access_of_its_field_says(
    layout: dict[str, Field], whole: Access, reset: int, data: Any
) -> None:
    cls: Any = type("Block", (RegisterBlock,), {"R": Register(0, fields=layout, access=whole, reset=reset)})
    block = cls(zeroed_pages(1))
    kinds: list[str] = [whole] * 32
    for field in layout.values():
        kinds[field.low : field.low + field.nbits] = [str(field.access)] * field.nbits
    held, once = [reset >> bit & 1 for bit in range(32)], [False] * 32
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.sampled_from([1, 2, 4]))
        offset = data.draw(st.integers(0, 4 - count))
        reached = range(8 * offset, 8 * (offset + count))
        if data.draw(st.booleans()):
            stored = data.draw(st.integers(0, 2 ** (8 * count) - 1))
            block.bus_store(offset, word(stored, count))
            for bit in reached:
                held[bit] = bit_stored(kinds[bit], held[bit], stored >> bit - 8 * offset & 1, once[bit])
                once[bit] = True
        else:
            loaded = number(block.bus_load(offset, count))
            for bit in reached:
                hidden = kinds[bit] == "na" or kinds[bit].startswith("wo")
                assert loaded >> bit - 8 * offset & 1 == (reset >> bit & 1 if hidden else held[bit])
                if kinds[bit].endswith(("rc", "rs")):
                    held[bit] = int(kinds[bit].endswith("rs"))
        assert int(block.R) == sum(value << bit for bit, value in enumerate(held))


# -- methods --------------------------------------------------------------------------------------------------------


class Chip(RegisterBlock, size=0x40):
    CTRL = Register(0x00, fields={"START": 0, "IRQ_EN": 1, "MODE": Field(4, 7, reset=2)})
    STATUS = Register(0x04, access="w1c", fields={"DONE": 0, "BUSY": Field(1, access="ro")})
    FIFO = Register(0x08)
    LEVEL = Register(0x0C, access="rc")
    MATCH = RegisterArray(0x10, 4, fields={"ON": 31})
    BIG = Register(0x20, byteorder="big")

    def __init__(self, pages: Pages, offset: int = 0) -> None:
        super().__init__(pages, offset)
        self.said: list[Any] = []
        self.queue = [1, 2, 3]

    def write_CTRL(self, value: Value, before: Value) -> int | None:
        self.said.append(("CTRL", int(value), int(before), value.MODE))
        return self.CTRL.replace(START=0) if value.START else None

    def write_CTRL_START(self, value: int, before: int) -> None:
        self.said.append(("START", value, before))

    def read_STATUS_BUSY(self) -> int:
        return 1

    def read_FIFO(self) -> int | None:
        return self.queue.pop(0) if self.queue else None

    def write_FIFO(self, value: int, before: int) -> int:
        self.queue.append(value)
        return before

    def write_MATCH(self, index: int, value: int, before: int) -> None:
        self.said.append(("MATCH", index, int(value), int(before)))

    def read_MATCH(self, index: int) -> int | None:
        return 0x100 + index if index == 3 else None

    def write_MATCH_ON(self, index: int, value: int, before: int) -> int:
        self.said.append(("ON", index, value, before))
        return 0

    def write_BIG(self, value: int, before: int) -> None:
        self.said.append(("BIG", int(value), int(before)))


@pytest.fixture
def chip() -> Chip:
    return Chip(zeroed_pages(2), PAGE_SIZE)


def test_a_store_calls_the_field_then_the_register_and_the_answer_is_what_it_holds(chip: Chip) -> None:
    chip.bus_store(0, word(0x31))
    assert chip.said == [("START", 1, 0), ("CTRL", 0x31, 0x20, 3)]
    assert chip.CTRL == 0x30


def test_a_store_of_a_part_calls_what_it_reaches_with_the_rest_as_it_was(chip: Chip) -> None:
    chip.CTRL = 0xAABB_CC50
    chip.bus_store(1, b"\x11")
    assert chip.said == [("CTRL", 0xAABB_1150, 0xAABB_CC50, 5)]
    chip.BIG = 0x0102_0304
    chip.bus_store(0x20, b"\xff")  # of a big-endian register: the highest bits
    assert chip.said[1:] == [("BIG", 0xFF02_0304, 0x0102_0304)]


def test_a_load_gets_what_the_method_says_each_time_once(chip: Chip) -> None:
    assert [number(chip.bus_load(8, 4)) for _ in range(2)] == [1, 2]
    assert chip.bus_load(9, 2) == b"\0\0"  # a part pops it, too
    chip.FIFO = 0x99
    assert number(chip.bus_load(8, 4)) == 0x99  # the method said None
    chip.bus_store(8, word(7))
    assert (chip.queue, chip.FIFO) == ([7], 0x99)
    assert number(chip.bus_load(4, 4)) == 0b10
    assert chip.STATUS == 0


def test_elements_of_an_array_have_their_number(chip: Chip) -> None:
    chip.bus_store(0x14, word(0x8000_0005))
    assert chip.said == [("ON", 1, 1, 0), ("MATCH", 1, 0x8000_0005, 0)]
    assert chip.MATCH[1] == 5
    assert [number(chip.bus_load(0x10 + 4 * i, 4)) for i in range(4)] == [0, 5, 0, 0x103]


def test_a_wide_access_reaches_each_register_once_the_lowest_first(chip: Chip) -> None:
    chip.LEVEL = 9
    assert chip.bus_load(0, 16) == word(0x20) + word(2) + word(1) + word(9)
    assert chip.queue == [2, 3]
    assert chip.LEVEL == 0
    chip.bus_store(0x0E, bytes(range(16)))
    assert [what[:2] for what in chip.said] == [("ON", 0), ("MATCH", 0), ("ON", 1), ("MATCH", 1), ("ON", 2),
                                                ("MATCH", 2), ("MATCH", 3)]  # fmt: skip
    assert chip.MATCH[0] == 0x05040302


def test_what_the_device_does_itself_calls_nothing(chip: Chip) -> None:
    chip.CTRL = 1
    chip.CTRL.START = 0
    chip.MATCH[2].ON = 1
    chip.FIFO += 1
    assert chip.said == []
    assert chip.queue == [1, 2, 3]
    assert (chip.MATCH[3], chip.LEVEL) == (0, 0)


def test_a_device_that_stores_into_its_register_in_the_method_has_the_last_word() -> None:
    class Clearing(Chip):
        def write_CTRL(self, value: Value, before: Value) -> None:  # noqa: ARG002
            assert value == self.CTRL
            self.CTRL.START = 0

    other = Clearing(zeroed_pages(1))
    other.bus_store(0, word(0xF1))
    assert other.CTRL == 0xF0


def test_beyond_the_block_is_efault(chip: Chip) -> None:
    for call in (lambda: chip.bus_load(0x3D, 4), lambda: chip.bus_store(-1, b"1"), lambda: chip.bus_load(0x40, 1)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EFAULT


@pytest.mark.parametrize(("answer", "error"), [(1 << 32, ValueError), (-1, ValueError), ("5", TypeError)])
def test_an_answer_that_fits_into_no_register_is_the_authors_error(answer: Any, error: type[Exception]) -> None:
    class Wrong(RegisterBlock):
        A = Register(0)

        def read_A(self) -> Any:
            return answer

        def write_A(self, value: int, before: int) -> Any:  # noqa: ARG002
            return answer

    block = Wrong(zeroed_pages(1))
    with pytest.raises(error, match=r"read_A answered|cannot be interpreted"):
        block.bus_load(0, 4)
    with pytest.raises(error, match=r"write_A answered|cannot be interpreted"):
        block.bus_store(0, word(3))


def test_settle_calls_the_methods_on_plain_pages_and_tells_of_each_store_where_they_are_trapped(chip: Chip) -> None:
    chip.pages[PAGE_SIZE : PAGE_SIZE + 4] = word(0x31)  # a program that nobody sees
    (store,) = chip.settle()
    assert (store.name, store.value, store.before) == ("CTRL", 0x31, 0x20)
    assert chip.said == [("START", 1, 0), ("CTRL", 0x31, 0x20, 3)]
    assert chip.CTRL == 0x30
    for value in (1, 1, 2):
        chip.bus_store(0x14, word(value))
    assert [(s.name, s.index, int(s.value)) for s in chip.settle()] == [
        ("MATCH", 1, 1),
        ("MATCH", 1, 1),
        ("MATCH", 1, 2),
    ]
    assert chip.settle() == []


def test_accesses_come_one_after_the_other() -> None:
    class Slow(Chip):
        inside = 0

        def read_FIFO(self) -> int:
            self.inside += 1
            assert self.inside == 1
            self.lock.acquire(timeout=0.001)
            self.lock.release()
            self.inside -= 1
            return 1

    slow = Slow(zeroed_pages(1))
    gone: list[BaseException] = []

    def hammer() -> None:
        try:
            for _ in range(300):
                slow.bus_load(8, 4)
                slow.bus_store(0x10, word(1))
        except BaseException as error:
            gone.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert gone == []
    assert len(slow.said) == 3 * 300 * 2


# -- what is refused when the class is made -------------------------------------------------------------------------


def made(**body: Any) -> str:
    with pytest.raises(ValueError) as caught:
        type("Block", (RegisterBlock,), body)
    return str(caught.value)


def method(arguments: str) -> Any:
    return eval(f"lambda {arguments}: None")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("read_B", "self", "read_B: there is no such register, and no such field; it has A, M, A_F"),
        ("write_A_G", "self, value, before", "write_A_G: there is no such register"),
        ("write_A", "self, value", "write_A is to take (self, value, before)"),
        ("read_M", "self", "read_M is to take (self, index)"),
        ("write_M", "self, value, before", "write_M is to take (self, index, value, before)"),
        ("write_A_F_G", "self, value, before",
         "write_A_F_G: is that A.F_G or A_F.G? Use the method of the whole register instead"),
    ],
)  # fmt: skip
def test_a_method_that_would_never_be_called_is_refused(name: str, arguments: str, message: str) -> None:
    body = {"A": Register(0, fields={"F": 0, "F_G": 1}), "M": RegisterArray(8, 2),
            "A_F": Register(0x20, fields={"G": 0}), name: method(arguments)}  # fmt: skip
    assert made(**body).startswith(f"Block.{message}")


def test_an_async_method_is_refused() -> None:
    async def read_A(self: Any) -> int:  # noqa: ARG001
        return 1

    assert made(A=Register(0), read_A=read_A).startswith("Block.read_A: a plain method")


def test_a_name_that_is_a_register_and_a_field_is_the_registers() -> None:
    class Block(RegisterBlock):
        INT = Register(0, fields={"CLR": 0})
        INT_CLR = Register(4)

        def read_INT_CLR(self) -> int:
            return 5

    block = Block(zeroed_pages(1))
    assert (number(block.bus_load(0, 4)), number(block.bus_load(4, 4))) == (0, 5)


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({"A": Register(0, fields={"F": Field(0, access="rx")})}, "field F: access is rw"),  # type: ignore[arg-type]
        ({"A": Register(0, fields={"F": Field(0, 1, reset=4)})}, "field F: the reset value 0x4 does not fit into 2"),
        ({"lock": Register(0)}, "Block.lock: that name is taken"),
        ({"bus_load": Register(0)}, "Block.bus_load: that name is taken"),
    ],
)
def test_what_no_field_can_be_is_refused(registers: dict[str, Any], message: str) -> None:
    assert message in made(**registers)


# -- devices --------------------------------------------------------------------------------------------------------


class Plain(RegisterBlock, size=0x20):
    A = Register(0, access="w1c")
    B = Register(4)


class Asked(Plain, size=0x20, trap=True):
    pass


class Board(DevMem):
    ram = place(0x1000, 0x1000, "System RAM")
    chip = place(0x2000, Chip)
    plain = place(0x3000, Plain)
    asked = place(0x2F00, Asked)


class Card(Uio):
    plain = place(0x4000_0F00, Plain)
    chip = place(0x5000_0100, Chip)


def test_only_pages_with_a_block_that_does_something_are_trapped() -> None:
    board = Board()
    pages = [page for page in range(5) if board.traps(page * PAGE_SIZE, PAGE_SIZE)]
    assert pages == [2]
    assert [board.traps(at, 4) for at in (0x2000, 0x203F, 0x2040, 0x2F1F, 0x2F20)] == [True, True, False, True, False]
    assert [Card().traps(page * PAGE_SIZE, PAGE_SIZE) for page in range(3)] == [False, True, False]
    assert not Uio().traps(0, PAGE_SIZE)

    class Quiet(Chip, trap=False):
        pass

    class Reading(RegisterBlock):
        A = Register(0, fields={"F": Field(1, access="rs")})

    assert (Quiet.trapped, Reading.trapped, Plain.trapped, Asked.trapped) == (False, True, False, True)


def test_one_access_can_reach_memory_and_blocks() -> None:
    board = Board()
    with MemoryHost(board) as host, host.open() as file:
        area = file.mmap(0x4000)
        assert area.trapped
        area[0x1FFC:0x2004] = b"boot" + word(0x51)
        assert board.ram[0xFFC:0x1000] == b"boot"
        assert board.chip.said == [("START", 1, 0), ("CTRL", 0x51, 0x20, 5)]
        board.chip.LEVEL = 3
        board.asked.A = 0xFF
        assert area[0x200C:0x2010] == word(3)
        assert area[0x200C:0x2010] == word(0)
        area[0x2038:0x2048] = bytes(range(16))  # its last bytes, and memory behind it
        assert area[0x203C:0x2044] == bytes(range(4, 12))
        area[0x2F00:0x2F01] = b"\x0f"
        assert board.asked.A == 0xF0
        with pytest.raises(BusError):
            file.mmap(2 * ADDRESSES, offset=0)[ADDRESSES - 2 : ADDRESSES + 2]


def test_a_mapping_without_such_a_block_is_memory() -> None:
    board = Board()
    with MemoryHost(board) as host, host.open() as file:
        area = file.mmap(0x1000, offset=0x3000)
        assert not area.trapped
        board.plain.A = 0xFF
        area[0:4] = word(0x0F)
        assert board.plain.A == 0x0F
        board.plain.settle()
        assert board.plain.A == 0xF0


def test_read_and_write_of_a_file_are_accesses_too() -> None:
    board = Board()
    with MemoryHost(board) as host, host.open() as file:
        assert file.read(4, 0x2008) == word(1)
        file.write(word(1), 0x2000)
        assert board.chip.said[0] == ("START", 1, 0)
        assert file.read(4, 0x1000) == bytes(4)


def test_the_registers_of_a_uio_map_lie_where_the_map_is() -> None:
    card = Card()
    with MemoryHost(card) as host, host.open() as file:
        area = file.mmap(PAGE_SIZE, offset=PAGE_SIZE)
        area[0x114:0x118] = word(4)
        assert card.chip.said == [("ON", 1, 0, 0), ("MATCH", 1, 4, 0)]
        assert card.chip.device is card
        assert card.chip.lock is card.plain.lock


class Alone(mapdev.Device):
    """The lines that a device without places takes."""

    def __init__(self) -> None:
        self.pages = zeroed_pages(1)
        self.chip = Chip(self.pages)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages

    def load(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return self.chip.bus_load(pos, count)

    def store(self, file: File, data: bytes, pos: int) -> None:  # noqa: ARG002
        self.chip.bus_store(pos, data)


def test_a_device_of_ones_own_has_it_in_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    device = Alone()
    with MemoryHost(device) as host, host.open() as file:
        area = file.mmap(PAGE_SIZE)
        assert [number(area[8:12]) for _ in range(3)] == [1, 2, 3]
        with caplog.at_level(logging.ERROR), pytest.raises(BusError):
            area[0x40:0x44]
        assert caplog.text == ""  # an errno is an answer, no bug


class Failing(Uio):
    class _Block(RegisterBlock):
        A = Register(0)

        def read_A(self) -> int:
            raise RuntimeError("of the author")

    regs = place(0, _Block)


def test_a_method_that_raises_is_a_bus_error_and_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with MemoryHost(Failing()) as host, host.open() as file:
        area = file.mmap(PAGE_SIZE)
        with caplog.at_level(logging.ERROR), pytest.raises(BusError):
            area[0:4]
        assert caplog.text.count("RuntimeError: of the author") == 1
        assert caplog.text.count("Traceback") == 1
        assert "src/mapdev" not in caplog.text


def test_a_bus_of_several_blocks() -> None:
    pages = zeroed_pages(2)
    first, second = Chip(pages), Chip(pages, PAGE_SIZE)
    bus = Bus(pages, [second, first])
    bus.store(PAGE_SIZE, word(5))
    assert (first.said, second.said[0][0]) == ([], "START")
    bus.store(0x800, b"between")
    assert bus.load(0x800, 7) == b"between"
    for pos in (2 * PAGE_SIZE - 2, -1):
        with pytest.raises(OSError):
            bus.load(pos, 4)


# -- for people -----------------------------------------------------------------------------------------------------


def test_an_access_is_described_by_names() -> None:
    device = Alone()

    def load(pos: int, data: bytes) -> str | None:
        return describe(device, pos, data, False)

    def store(pos: int, data: bytes) -> str | None:
        return describe(device, pos, data, True)

    assert store(0, word(0x23)) == "CTRL <- 0x23 (START|IRQ_EN|MODE=2)"
    assert store(0, word(0)) == "CTRL <- 0x0"
    assert load(0x18, word(0x10)) == "MATCH[2] -> 0x10"
    assert load(0x1B, b"\x80") == "MATCH[2].3 -> 0x80 (ON)"
    assert store(9, b"\x01\x02") == "FIFO.1:3 <- 0x201"
    assert store(0x21, b"\x01\x02") == "BIG.1:3 <- 0x102"
    assert store(0x0C, bytes(8)) == "LEVEL <- 0x0, MATCH[0] <- 0x0"
    assert store(0x24, b"\x05") == "+0x24 <- 0x5"
    assert load(0, bytes(32)) == ("CTRL -> 0x0, STATUS -> 0x0, FIFO -> 0x0, LEVEL -> 0x0, ... (8)")
    assert load(0x40, b"1") is None
    assert describe(Board(), 0x2000, word(1), True) == "chip.CTRL <- 0x1 (START)"
    assert describe(mapdev.Device(), 0, b"1", True) is None


def test_a_field_that_is_the_whole_register_is_not_said_twice() -> None:
    class Wide(RegisterBlock):
        ID = Register(0x00, fields={"VALUE": (0, 31)})

    device = Alone()
    device.chip = Wide(device.pages)  # type: ignore[assignment]
    assert describe(device, 0, word(0xACC0_0001), False) == "ID -> 0xacc00001"


@given(st.integers(0, 0x60), st.binary(min_size=1, max_size=64), st.booleans())
def test_any_access_can_be_described(pos: int, data: bytes, is_store: bool) -> None:
    said = describe(Alone(), pos, data, is_store)
    assert (said is None) == (pos >= 0x40)
    if said is not None and pos % 4 == 0 and len(data) == 4:
        assert said.partition(" ")[2].split(" ")[1] == hex(int.from_bytes(data, "big" if pos == 0x20 else "little"))


def test_the_register_of_an_offset_is_found() -> None:
    board = Board()
    assert list(blocks(board)) == ["ram", "chip", "asked", "plain"]
    assert find(board, 0x2016) == Found("chip", "MATCH", 1, 2)
    assert find(board, 0x3004) == Found("plain", "B", None, 0)
    assert find(board, 0x2024) is None
    assert find(board, 0x9000) is None


def test_what_plain_pages_lack_is_said_in_one_line() -> None:
    said = lost_without_trapping(Board())
    assert said == (
        "accesses are not trapped, its registers are plain memory until settle() is called: "
        "chip: read_FIFO, read_MATCH, read_STATUS_BUSY, write_BIG and 5 more are not called, reading LEVEL changes "
        "nothing, STATUS keeps what is stored; asked: A keeps what is stored"
    )
    assert lost_without_trapping(Uio()) is None

    class Simple(Uio):
        regs = place(0, Plain)

    assert lost_without_trapping(Simple()) is None
