# ruff: noqa: E501 - tables
"""What instructions access, and what they do to registers and a copy of their operand. (The CPU as the judge of all of
them is in tests/clients/test_trap_differential.py.)"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

if os.uname().machine != "x86_64":
    pytest.skip("instructions of x86-64", allow_module_level=True)

from mapdev.run.trap import string, x86_64
from mapdev.run.trap.x86_64 import DivideError, Executor, Instruction, Kind, SimdError, decode

M64 = (1 << 64) - 1


def decoded(code: str) -> Instruction:
    instruction = decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert instruction is not None
    return instruction


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


@pytest.mark.parametrize(
    ("code", "text", "width", "loads", "stores"),
    [
        ("8b07", "mov eax,[rdi]", 4, True, False),
        ("488907", "mov [rdi],rax", 8, False, True),
        ("66c7070100", "mov word ptr [rdi],1", 2, False, True),
        ("0fb607", "movzx eax,byte ptr [rdi]", 1, True, False),
        ("f00fc107", "lock xadd [rdi],eax", 4, True, True),
        ("8607", "xchg al,[rdi]", 1, True, True),
        ("3907", "cmp [rdi],eax", 4, True, False),
        ("0f9407", "sete byte ptr [rdi]", 1, False, True),
        ("0f2807", "movaps xmm0,[rdi]", 16, True, False),
        ("c5fe7f07", "vmovdqu ymmword ptr [rdi],ymm0", 32, False, True),
        ("62f17c481007", "vmovups zmm0,[rdi]", 64, True, False),
        ("f20f1007", "movsd xmm0,qword ptr [rdi]", 8, True, False),
        ("db3f", "fstp tbyte ptr [rdi]", 10, False, True),
        ("480fc70f", "cmpxchg16b [rdi]", 16, True, True),
        ("a18877665544332211", "mov eax,[1122334455667788h]", 4, True, False),
    ],
)
def test_width_and_direction(code: str, text: str, width: int, loads: bool, stores: bool) -> None:
    instruction = decoded(code)
    assert (instruction.text, instruction.kind) == (text, Kind.OPERAND)
    assert (instruction.width, instruction.loads, instruction.stores) == (width, loads, stores)
    assert instruction.length == len(bytes.fromhex(code))


@pytest.mark.parametrize(
    "code",
    [
        "0fae07", "0fae27", "d937", "ff17", "ff27", "c4e26d2c07", "62f17e4f6f07", "660f38f807", "0f0107", "8e07", "0fb407", "d7",
        "0fae17", "660ff7c1", "c4e2f5920400",
    ],
)  # fmt: skip
def test_what_cannot_be_done_on_a_copy_is_refused(code: str) -> None:
    instruction = decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert instruction is None or instruction.kind is Kind.REFUSED


@pytest.mark.parametrize(
    ("code", "registers", "address"),
    [
        ("8b4708", {x86_64.RDI: 0x1000}, 0x1008),
        ("8b44cf10", {x86_64.RDI: 0x1000, x86_64.RCX: 3}, 0x1028),
        ("8b47f0", {x86_64.RDI: 0x1000}, 0xFF0),
        ("8b04cd00100000", {x86_64.RCX: M64}, 0xFF8),
        ("678b4708", {x86_64.RDI: 0xFFFFFFFF_FFFFFFFC}, 4),
        ("8b0510000000", {x86_64.RIP: 0x400000}, 0x400016),
        ("64488b0425280000", {x86_64.FS_BASE: 0x7000}, None),
        ("65678b4708", {x86_64.RDI: 0x10, x86_64.GS_BASE: 0x5000_0000_0000}, 0x5000_0000_0018),
        ("0fa307", {x86_64.RDI: 0x1000, x86_64.RAX: 100}, 0x100C),
        ("480fa307", {x86_64.RDI: 0x1000, x86_64.RAX: M64}, 0xFF8),
        ("8f442408", {x86_64.RSP: 0x2000}, 0x2010),
    ],
)
def test_addresses(code: str, registers: dict[int, int], address: int | None) -> None:
    numbers = [0] * 27
    for place, value in registers.items():
        numbers[place] = value
    if address is not None:
        assert decoded(code).address(numbers) == address


@given(st.binary(min_size=15, max_size=15))
def test_any_bytes_are_decoded_refused_or_nothing(code: bytes) -> None:
    instruction = decode(code)
    assert instruction is None or 1 <= instruction.length <= 15


@given(st.binary(min_size=15, max_size=15))
def test_what_is_decoded_needs_no_more_than_its_length(code: bytes) -> None:
    """So instructions can be told apart by their first bytes."""
    instruction = decode(code)
    if instruction is not None:
        again = decode(code[: instruction.length])
        assert again is not None
        assert (again.text, again.length) == (instruction.text, instruction.length)


@given(st.integers(0, M64), st.integers(0, M64), st.booleans())
def test_adc_sets_flags_as_arithmetic_says(left: int, right: int, carry: bool) -> None:
    executor = _EXECUTOR
    executor.registers[x86_64.RAX] = left
    executor.registers[x86_64.EFLAGS] = 0x202 | carry
    executor.registers[x86_64.RIP] = 100
    executor.operand[:8] = right.to_bytes(8, "little")
    executor.execute(decoded("481307"))  # adc rax, [rdi]
    total = left + right + carry
    assert executor.registers[x86_64.RAX] == total & M64
    flags = executor.registers[x86_64.EFLAGS]
    assert bool(flags & x86_64.CF) == (total > M64)
    assert bool(flags & x86_64.ZF) == (total & M64 == 0)
    assert bool(flags & x86_64.SF) == bool(total >> 63 & 1)
    assert flags & 0x200  # what is no arithmetic flag stays
    assert executor.registers[x86_64.RIP] == 103


@given(st.integers(0, 255), st.integers(0, 255))
def test_string_compares_set_the_flags_of_cmp(left: int, right: int) -> None:
    registers = [0] * 27
    registers[x86_64.RAX], registers[x86_64.EFLAGS] = left, 0x202
    string.string(decoded("ae"), registers, _Bytes(bytes([right])))  # scasb
    executor = _EXECUTOR
    executor.registers[x86_64.RAX], executor.registers[x86_64.EFLAGS] = left, 0x202
    executor.operand[0] = right
    executor.execute(decoded("3a07"))  # cmp al, [rdi]
    assert registers[x86_64.EFLAGS] == executor.registers[x86_64.EFLAGS]
    assert registers[x86_64.RDI] == 1


class _Bytes:
    """Memory of which all but the first bytes is open."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.log: list[tuple[str, int, int]] = []

    def load(self, address: int, count: int) -> bytes:
        self.log.append(("load", address, count))
        return bytes(self.data[address : address + count])

    def store(self, address: int, data: bytes) -> None:
        self.log.append(("store", address, len(data)))
        self.data[address : address + len(data)] = data

    def is_closed(self, address: int) -> bool:
        return address < 8


_EXECUTOR = Executor()


def test_a_repeated_store_ends_where_the_cpu_can_go_on_itself() -> None:
    registers = [0] * 27
    registers[x86_64.RAX], registers[x86_64.RCX], registers[x86_64.RIP] = 0x11223344, 5, 1000
    memory = _Bytes(bytes(32))
    string.string(decoded("f3ab"), registers, memory)  # rep stosd
    assert memory.log == [("store", 0, 4), ("store", 4, 4)]
    assert (registers[x86_64.RCX], registers[x86_64.RDI], registers[x86_64.RIP]) == (3, 8, 1000)


def test_a_repeated_move_that_fails_in_the_middle_can_be_begun_again() -> None:
    class Failing(_Bytes):
        def store(self, address: int, data: bytes) -> None:
            if address == 6:
                raise ZeroDivisionError
            super().store(address, data)

    registers = [0] * 27
    registers[x86_64.RSI], registers[x86_64.RDI], registers[x86_64.RCX], registers[x86_64.RIP] = 16, 0, 5, 1000
    with pytest.raises(ZeroDivisionError):
        string.string(decoded("f366a5"), registers, Failing(bytes(32)))  # rep movsw
    assert [registers[place] for place in (x86_64.RSI, x86_64.RDI, x86_64.RCX, x86_64.RIP)] == [22, 6, 2, 1000]


@pytest.mark.parametrize(("code", "width", "rax", "rdx", "divisor"), [
    ("f737", 4, 7, 0, 0), ("f737", 4, 0, 5, 5), ("48f737", 8, 1, 1, 1), ("f637", 1, 0x500, 0, 5), ("f73f", 4, 0x80000000, M64, M64),
])  # fmt: skip
def test_division_that_the_cpu_refuses(
    executor: Executor, code: str, width: int, rax: int, rdx: int, divisor: int
) -> None:
    executor.registers[x86_64.RAX], executor.registers[x86_64.RDX], executor.registers[x86_64.RIP] = rax, rdx, 9
    executor.operand[:width] = (divisor & (1 << 8 * width) - 1).to_bytes(width, "little")
    with pytest.raises(DivideError):
        executor.execute(decoded(code))
    assert (executor.registers[x86_64.RAX], executor.registers[x86_64.RDX], executor.registers[x86_64.RIP]) == (
        rax,
        rdx,
        9,
    )


@given(st.integers(0, M64), st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 32) - 1), st.booleans())
def test_division(rax: int, rdx: int, divisor: int, signed: bool) -> None:
    executor = _EXECUTOR
    executor.registers[x86_64.RAX], executor.registers[x86_64.RDX] = rax, rdx
    executor.operand[:4] = divisor.to_bytes(4, "little")
    dividend = rdx << 32 | rax & 0xFFFFFFFF
    if signed:
        dividend -= dividend >> 63 << 64
        divisor -= divisor >> 31 << 32
    quotient = abs(dividend) // abs(divisor) * (1 if (dividend < 0) == (divisor < 0) else -1)
    fits = -(1 << 31) <= quotient < 1 << 31 if signed else quotient < 1 << 32
    try:
        executor.execute(decoded("f73f" if signed else "f737"))
    except DivideError:
        assert not fits
    else:
        assert fits
        assert executor.registers[x86_64.RAX] == quotient & 0xFFFFFFFF
        assert executor.registers[x86_64.RDX] == dividend - quotient * divisor & 0xFFFFFFFF


def test_unmasked_floating_point_exceptions_are_told(executor: Executor) -> None:
    executor.xstate[:1024] = bytes(1024)
    executor.xstate[24:28] = (0x1F80 & ~0x200).to_bytes(4, "little")  # division by zero is unmasked
    executor.xstate[512] = 3
    executor.operand[:8] = bytes(8)
    executor.xstate[160:168] = b"\0\0\0\0\0\0\xf0\x3f"  # 1.0
    with pytest.raises(SimdError) as caught:
        executor.execute(decoded("f20f5e07"))  # divsd xmm0, [rdi]
    assert caught.value.args == (4,)


def test_code_is_made_anew_when_there_is_no_room() -> None:
    executor = Executor()
    for number in range(3000):
        instruction = decode(b"\x8b\x87" + number.to_bytes(4, "little"))
        assert instruction is not None
        executor.operand[:4] = number.to_bytes(4, "little")
        executor.execute(instruction)
        assert executor.registers[x86_64.RAX] == number
