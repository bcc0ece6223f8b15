"""String instructions, push and pop: those that access memory twice or many times, each element by its own access.

They are done here one element after the other, as the manual describes them, and their registers are brought up to date
after each: so an error in the middle leaves what the CPU would leave, and the instruction can be begun again.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (MOVS, STOS, LODS, CMPS, SCAS, REP).
"""

from typing import Final, Protocol

from iced_x86 import Mnemonic, OpKind, Register

from mapdev.run.trap.x86_64 import (
    AF,
    ARITHMETIC,
    CF,
    DF,
    EFLAGS,
    FS_BASE,
    GS_BASE,
    OF,
    PF,
    RAX,
    RCX,
    RDI,
    RIP,
    RSI,
    RSP,
    SF,
    ZF,
    Instruction,
    Registers,
)

_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1


class Memory(Protocol):
    """The memory of a program, that of devices among it. What it raises ends an instruction where it is."""

    def load(self, address: int, count: int) -> bytes: ...

    def store(self, address: int, data: bytes) -> None: ...

    def is_closed(self, address: int) -> bool:
        """Whether it is a device's, and the CPU cannot get at it itself."""
        ...


_MOVS: Final = {Mnemonic.MOVSB, Mnemonic.MOVSW, Mnemonic.MOVSD, Mnemonic.MOVSQ}
_STOS: Final = {Mnemonic.STOSB, Mnemonic.STOSW, Mnemonic.STOSD, Mnemonic.STOSQ}
_LODS: Final = {Mnemonic.LODSB, Mnemonic.LODSW, Mnemonic.LODSD, Mnemonic.LODSQ}
_CMPS: Final = {Mnemonic.CMPSB, Mnemonic.CMPSW, Mnemonic.CMPSD, Mnemonic.CMPSQ}
_SCAS: Final = {Mnemonic.SCASB, Mnemonic.SCASW, Mnemonic.SCASD, Mnemonic.SCASQ}
_SHORT: Final = {OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_SEG_EDI}


def string(instruction: Instruction, registers: Registers, memory: Memory) -> None:
    """Carry it out as long as it touches closed memory. If that ends before the instruction does, the instruction
    pointer stays on it, and the CPU does the rest."""
    decoded, width = instruction.decoded, instruction.width
    assert decoded is not None
    r, mnemonic = registers, decoded.mnemonic
    mask = _M32 if _SHORT & {decoded.op_kind(number) for number in range(decoded.op_count)} else _M64
    repeats = decoded.has_rep_prefix or decoded.has_repne_prefix
    segment = {Register.FS: FS_BASE, Register.GS: GS_BASE}.get(decoded.segment_prefix)
    uses_source = mnemonic in _MOVS | _LODS | _CMPS
    uses_target = mnemonic not in _LODS
    step = -width if r[EFLAGS] & DF else width
    first = True
    while not repeats or r[RCX] & mask:
        source = ((r[RSI] & mask) + (r[segment] if segment is not None else 0)) & _M64
        target = r[RDI] & mask
        if not first and not (
            (uses_source and memory.is_closed(source)) or (uses_target and memory.is_closed(target))
        ):
            return
        first = False
        if mnemonic in _MOVS:
            memory.store(target, memory.load(source, width))
        elif mnemonic in _STOS:
            memory.store(target, (r[RAX] & ((1 << 8 * width) - 1)).to_bytes(width, "little"))
        elif mnemonic in _LODS:
            _set_rax(r, memory.load(source, width))
        elif mnemonic in _CMPS:
            left = int.from_bytes(memory.load(source, width), "little")
            _compare(r, left, int.from_bytes(memory.load(target, width), "little"), 8 * width)
        else:
            left = r[RAX] & ((1 << 8 * width) - 1)
            _compare(r, left, int.from_bytes(memory.load(target, width), "little"), 8 * width)
        if uses_source:
            _put(r, RSI, (r[RSI] + step) & mask)
        if uses_target:
            _put(r, RDI, (r[RDI] + step) & mask)
        if not repeats:
            break
        _put(r, RCX, (r[RCX] - 1) & mask)
        if mnemonic in _CMPS | _SCAS and bool(r[EFLAGS] & ZF) == decoded.has_repne_prefix:
            break
    _put(r, RIP, (r[RIP] + instruction.length) & _M64)


def stack(instruction: Instruction, registers: Registers, memory: Memory) -> None:
    """push or pop of a memory operand."""
    r, width = registers, instruction.width
    address = instruction.address(r)
    if instruction.loads:
        memory.store((r[RSP] - width) & _M64, memory.load(address, width))
        _put(r, RSP, (r[RSP] - width) & _M64)
    else:
        memory.store(address, memory.load(r[RSP], width))
        _put(r, RSP, (r[RSP] + width) & _M64)
    _put(r, RIP, (r[RIP] + instruction.length) & _M64)


def _put(registers: Registers, place: int, value: int) -> None:
    registers[place] = value  # type: ignore[index]


def _set_rax(registers: Registers, data: bytes) -> None:
    value, width = int.from_bytes(data, "little"), len(data)
    if width < 4:
        value |= registers[RAX] & ~((1 << 8 * width) - 1)
    _put(registers, RAX, value)


def _compare(registers: Registers, left: int, right: int, bits: int) -> None:
    """The flags of left minus right."""
    result = (left - right) & ((1 << bits) - 1)
    flags = CF if left < right else 0
    flags |= ZF if not result else 0
    flags |= SF if result >> (bits - 1) else 0
    flags |= OF if ((left ^ right) & (left ^ result)) >> (bits - 1) & 1 else 0
    flags |= AF if (left ^ right ^ result) & 0x10 else 0
    flags |= PF if not (result & 0xFF).bit_count() & 1 else 0
    _put(registers, EFLAGS, registers[EFLAGS] & ~ARITHMETIC | flags)
