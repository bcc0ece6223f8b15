"""Instructions of 64-bit x86: what one accesses, and its execution by this process on a copy of its operand.

Decoding needs no process: ``decode`` makes an ``Instruction`` of bytes. An ``Executor`` holds the registers of a
stopped thread, and lets the CPU do to them what the instruction does: so flags, sign extension, upper halves, rounding
and all else are what they are, and nothing is modelled. For that the instruction is encoded anew with an operand of
ours in the place of its memory operand, between code that loads and stores the registers.

What is modelled is what the CPU cannot do on a copy: string instructions, push and pop (see ``string.py``), which
access memory more than once, and the refusal of a division.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volumes 1 (XSAVE) and 2; ``<sys/user.h>``.
"""

import ctypes
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from iced_x86 import (
    Code,
    CpuidFeature,
    Decoder,
    Encoder,
    FlowControl,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
    UsedMemory,
)
from iced_x86 import Instruction as Decoded

MACHINE: Final = "x86_64"
MAX_LENGTH: Final = 15
"""Of an instruction, in bytes."""

Registers: TypeAlias = "Sequence[int] | ctypes.Array[ctypes.c_uint64]"
"""A struct user_regs_struct as 27 numbers; the names below are its places."""

R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI = range(15)
ORIG_RAX, RIP, CS, EFLAGS, RSP, SS, FS_BASE, GS_BASE = range(15, 23)
_COUNT: Final = 27
USER_CS: Final = 0x33
"""Of 64-bit code; 32-bit code has another."""

CF, PF, AF, ZF, SF, DF, OF = 0x1, 0x4, 0x10, 0x40, 0x80, 0x400, 0x800
ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF
_RF: Final = 0x10000
_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1

_BY_NUMBER: Final = (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15)
"""The general registers in the order of their encoding."""
_PLACES: Final = {Register.RAX + number: place for number, place in enumerate(_BY_NUMBER)}


class Kind(Enum):
    """How an instruction is carried out."""

    OPERAND = auto()
    """By the CPU, on a copy of its one memory operand."""
    STRING = auto()
    STACK = auto()
    """push or pop of a memory operand."""
    NOTHING = auto()
    """It touches the cache, not the device."""
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Instruction:
    """What one instruction does to memory.

    ``length`` of its code, ``width`` of an access (0: none), both in bytes; ``text`` as people read it. ``address``
    finds out where its operand is. ``if_equal``: it stores only if the zero flag is set in the end (cmpxchg).
    ``vector``: it needs the registers of x87, SSE or AVX; ``changes_vector``: and changes them. ``bit``: the register
    with the number of a bit that may be outside the operand (bt), or -1.
    """

    kind: Kind
    length: int
    text: str
    width: int = 0
    loads: bool = False
    stores: bool = False
    if_equal: bool = False
    address: Callable[[Registers], int] = lambda _: 0
    vector: bool = False
    changes_vector: bool = False
    x87: bool = False
    divides: int = 0
    bit: int = -1
    decoded: Decoded | None = None


# -- decoding -------------------------------------------------------------------------------------------------

_info: Final = InstructionInfoFactory()

# what is known to work on a copy, by the set of instructions that it came with: all that computes. Left out are those
# of systems, of transactions, of shadow stacks and tiles.
_SETS: Final = {
    getattr(CpuidFeature, name)
    for name in (
        "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "CPUID", "X64", "CMOV", "CX8", "CMPXCHG16B",
        "FPU", "FPU287", "FPU387", "MMX", "SSE", "SSE2", "SSE3", "SSSE3", "SSE4_1", "SSE4_2", "SSE4A",
        "AES", "PCLMULQDQ", "POPCNT", "LZCNT", "MOVBE", "BMI1", "BMI2", "ADX", "AVX", "AVX2", "FMA", "F16C", "SHA",
        "AVX512F", "AVX512VL", "AVX512BW", "AVX512DQ", "AVX512CD", "AVX512_IFMA", "AVX512_VBMI", "AVX512_VBMI2",
        "AVX512_VNNI", "AVX512_BITALG", "AVX512_VPOPCNTDQ", "GFNI", "VAES", "VPCLMULQDQ", "MOVDIRI",
        "MULTIBYTENOP", "PREFETCHW", "CLFLUSHOPT", "CLWB", "CLDEMOTE", "CLFSH",
    )
    if hasattr(CpuidFeature, name)
}  # fmt: skip

_X87: Final = {
    getattr(CpuidFeature, name) for name in ("FPU", "FPU287", "FPU387", "MMX") if hasattr(CpuidFeature, name)
}
_GENERAL: Final = {  # general registers and flags are all they know
    getattr(CpuidFeature, name)
    for name in (
        "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "CPUID", "X64", "CMOV", "CX8", "CMPXCHG16B",
        "POPCNT", "LZCNT", "MOVBE", "BMI1", "BMI2", "ADX", "MOVDIRI",
    )
    if hasattr(CpuidFeature, name)
}  # fmt: skip

# their operand is not one piece of memory, or they change more than the registers that are handed to and fro
_REFUSED: Final = {
    getattr(Mnemonic, name)
    for name in (
        "FLDCW", "FLDENV", "FRSTOR", "FNSAVE", "FNSTENV", "FSAVE", "FSTENV", "LDMXCSR", "VLDMXCSR", "LAR", "LDS",
        "LES", "LFS", "LGS", "LGDT", "LIDT", "LLDT", "LMSW", "LSL", "LSS", "LTR", "MASKMOVDQU", "MASKMOVQ", "SGDT",
        "SIDT", "SLDT", "SMSW", "STR", "VERR", "VERW",
        "VMASKMOVDQU", "VMASKMOVPD", "VMASKMOVPS", "VPMASKMOVD", "VPMASKMOVQ", "XLATB",
    )
    if hasattr(Mnemonic, name)
}  # fmt: skip
_CACHE: Final = {
    getattr(Mnemonic, name) for name in ("CLFLUSH", "CLFLUSHOPT", "CLWB", "CLDEMOTE") if hasattr(Mnemonic, name)
}
_BIT_TESTS: Final = {Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC}
_READS: Final = {OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
_WRITES: Final = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
_CHANGES: Final = _WRITES
_NO_ADDRESS: Final = {  # "mov eax, [64-bit address]": the same with an operand that can be moved
    Code.MOV_AL_MOFFS8: Code.MOV_R8_RM8, Code.MOV_AX_MOFFS16: Code.MOV_R16_RM16,
    Code.MOV_EAX_MOFFS32: Code.MOV_R32_RM32, Code.MOV_RAX_MOFFS64: Code.MOV_R64_RM64,
    Code.MOV_MOFFS8_AL: Code.MOV_RM8_R8, Code.MOV_MOFFS16_AX: Code.MOV_RM16_R16,
    Code.MOV_MOFFS32_EAX: Code.MOV_RM32_R32, Code.MOV_MOFFS64_RAX: Code.MOV_RM64_R64,
}  # fmt: skip


def decode(code: bytes) -> Instruction | None:
    """The instruction that `code` begins with; None if there is none, or if `code` is too short for it."""
    decoded = Decoder(64, code, ip=0).decode()
    if decoded.is_invalid:
        return None
    text = str(decoded)
    refused = Instruction(Kind.REFUSED, decoded.len, text)
    if decoded.is_string_instruction:
        return _string(decoded, refused)
    info = _info.info(decoded)
    if decoded.mnemonic in (Mnemonic.PUSH, Mnemonic.POP) and decoded.op0_kind == OpKind.MEMORY:
        return _stack(decoded, text)
    if decoded.mnemonic in _CACHE:
        return Instruction(Kind.NOTHING, decoded.len, text)
    used, changed = info.used_memory(), [use.register for use in info.used_registers() if use.access in _CHANGES]
    if (
        len(used) != 1
        or decoded.mnemonic in _REFUSED
        or not _SETS.issuperset(decoded.cpuid_features())
        or decoded.flow_control != FlowControl.NEXT
        or (decoded.is_privileged or decoded.is_stack_instruction or decoded.is_save_restore_instruction)
        or (decoded.is_vsib or decoded.op_mask != Register.NONE)
        or any(RegisterExt.is_segment_register(register) for register in changed)
    ):
        return refused
    memory = used[0]
    width = MemorySizeExt.size(memory.memory_size)
    if not 0 < width <= 64:
        return refused
    address = _address(decoded, memory)
    if address is None:
        return refused
    features = decoded.cpuid_features()
    touched = [use.register for use in info.used_registers()]
    x87 = not _X87.isdisjoint(features) or any(RegisterExt.is_mm(register) for register in touched)
    # also those that name no such register: the rounding of cvttsd2si is in MXCSR, and so are the flags it sets
    vector = x87 or not _GENERAL.issuperset(features)
    return Instruction(
        Kind.OPERAND,
        decoded.len,
        text,
        width,
        loads=memory.access in _READS,
        stores=memory.access in _WRITES,
        if_equal=memory.access == OpAccess.READ_COND_WRITE,
        address=address,
        vector=vector,
        changes_vector=x87 or any(RegisterExt.is_vector_register(each) or RegisterExt.is_k(each) for each in changed),
        x87=x87,
        divides={Mnemonic.DIV: 1, Mnemonic.IDIV: -1}.get(decoded.mnemonic, 0),
        bit=_bit(decoded),
        decoded=decoded,
    )


def _bit(decoded: Decoded) -> int:
    if decoded.mnemonic in _BIT_TESTS and decoded.op1_kind == OpKind.REGISTER:
        return _PLACES[RegisterExt.full_register(decoded.op1_register)]
    return -1


def _address(decoded: Decoded, memory: UsedMemory) -> Callable[[Registers], int] | None:
    """How the linear address of an operand comes about."""
    plain = (
        _ahead(decoded)
        if decoded.is_ip_rel_memory_operand
        else _sum(memory.base, memory.index, memory.scale, memory.displacement)
    )
    if plain is None:
        return None
    if _bit(decoded) >= 0:
        place, width = _bit(decoded), MemorySizeExt.size(memory.memory_size)
        return _segmented(_beside(plain, place, width), memory.segment)
    return _segmented(plain, memory.segment)


def _ahead(decoded: Decoded) -> Callable[[Registers], int]:
    """Relative to the instruction pointer. It was decoded at 0."""
    ahead = decoded.ip_rel_memory_address
    mask = _M32 if decoded.memory_base == Register.EIP else _M64
    return lambda r: (r[RIP] + ahead) & mask


def _segmented(plain: Callable[[Registers], int], segment: int) -> Callable[[Registers], int]:
    base = {int(Register.FS): FS_BASE, int(Register.GS): GS_BASE}.get(segment)
    if base is None:
        return plain
    return lambda r: (r[base] + plain(r)) & _M64


def _sum(base: Any, index: Any, scale: int, displacement: int) -> Callable[[Registers], int] | None:
    """Base plus index times scale plus displacement, in 64 bits or, by the names of the registers, in 32."""
    names = [register for register in (base, index) if register != Register.NONE]
    mask = _M32 if any(RegisterExt.is_gpr32(register) for register in names) else _M64
    b = _PLACES.get(RegisterExt.full_register(base), -1) if base else -1
    i = _PLACES.get(RegisterExt.full_register(index), -1) if index else -1
    if (base and b < 0) or (index and i < 0):
        return None
    if mask == _M32:
        low: Callable[[Registers], int] = _sum64(b, i, scale, displacement)
        return lambda r: low(r) & _M32
    return _sum64(b, i, scale, displacement)


def _sum64(b: int, i: int, scale: int, d: int) -> Callable[[Registers], int]:
    if b >= 0 and i >= 0:
        return lambda r: (r[b] + r[i] * scale + d) & _M64
    if b >= 0:
        return (lambda r: (r[b] + d) & _M64) if d else (lambda r: r[b])
    if i >= 0:
        return lambda r: (r[i] * scale + d) & _M64
    return lambda _: d & _M64


def _beside(plain: Callable[[Registers], int], place: int, width: int) -> Callable[[Registers], int]:
    """Of bt and its like with a register: the number of the bit, which is signed, reaches beyond the operand."""
    bits = width * 8

    def address(registers: Registers) -> int:
        number = registers[place] & ((1 << bits) - 1)
        if number >> (bits - 1):
            number -= 1 << bits
        return (plain(registers) + number // bits * width) & _M64

    return address


def _string(decoded: Decoded, refused: Instruction) -> Instruction:
    known = {Mnemonic.MOVSB, Mnemonic.MOVSW, Mnemonic.MOVSD, Mnemonic.MOVSQ, Mnemonic.STOSB, Mnemonic.STOSW,
             Mnemonic.STOSD, Mnemonic.STOSQ, Mnemonic.LODSB, Mnemonic.LODSW, Mnemonic.LODSD, Mnemonic.LODSQ,
             Mnemonic.CMPSB, Mnemonic.CMPSW, Mnemonic.CMPSD, Mnemonic.CMPSQ, Mnemonic.SCASB, Mnemonic.SCASW,
             Mnemonic.SCASD, Mnemonic.SCASQ}  # fmt: skip
    if decoded.mnemonic not in known:
        return refused
    width = MemorySizeExt.size(decoded.memory_size)
    return Instruction(Kind.STRING, decoded.len, refused.text, width, decoded=decoded)


def _stack(decoded: Decoded, text: str) -> Instruction:
    """The operand comes first; where pop finds it by rsp, it is told by what that is after the pop."""
    width = MemorySizeExt.size(decoded.memory_size)
    address = _address(decoded, _info.info(decoded).used_memory()[0])
    assert address is not None
    pops = decoded.mnemonic == Mnemonic.POP
    return Instruction(Kind.STACK, decoded.len, text, width, not pops, pops, address=address, decoded=decoded)


# -- execution ------------------------------------------------------------------------------------------------

_REGISTERS_AT, _OPERAND_AT, _STACK_AT, _XSTATE_AT, _OWN_AT, _CODE_AT = 0, 0x100, 0x200, 0x1000, 0x6000, 0xB000
_XSTATE_SIZE: Final = 0x5000
_POOL_SIZE: Final = 0x80000
_COMPONENTS: Final = 0xE7
"""x87, SSE, AVX and the three of AVX-512: what instructions of ``_SETS`` use (those the CPU has not are left out)."""
_FCW_AT, _FIP_AT, _FDP_AT, _MXCSR_AT, _XSTATE_BV_AT = 0, 8, 16, 24, 512
_MXCSR_MASKS: Final = 0x1F80
_MXCSR_FLAGS: Final = 0x3F
_FCW_MASKS: Final = 0x3F


class Unable(Exception):  # noqa: N818 - not an error of ours
    """This instruction cannot be carried out; the text says why."""


class DivideError(Exception):
    """The instruction divides by zero, or its quotient is too large (#DE)."""


class SimdError(Exception):
    """A floating-point exception that the program has unmasked (#XM): its flags in MXCSR."""


class Executor:
    """The registers of a stopped thread, and their change by one instruction. For one thread of ours.

    ``registers``: 27 numbers (struct user_regs_struct) at ``registers_at``. ``operand``: 64 bytes that stand for the
    memory operand. ``xstate_at``: ``xstate_size`` bytes for the other registers, as XSAVE and ptrace(2) have them.
    """

    def __init__(self) -> None:
        """``OSError`` where no memory may be executable."""
        self._pool = mmap.mmap(-1, _POOL_SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._pool))
        self.registers = (ctypes.c_uint64 * _COUNT).from_buffer(self._pool, _REGISTERS_AT)
        self.registers_at = self._base + _REGISTERS_AT
        self.operand = memoryview(self._pool)[_OPERAND_AT : _OPERAND_AT + 64]
        self.xstate = memoryview(self._pool)[_XSTATE_AT : _XSTATE_AT + _XSTATE_SIZE]
        self.xstate_at = self._base + _XSTATE_AT
        self.xstate_size = _XSTATE_SIZE
        self._code: dict[int, tuple[Instruction, Callable[[], None]]] = {}
        self._free = _CODE_AT

    def prepare(self, instruction: Instruction) -> Callable[[], None]:
        """Make the code that executes it once, on ``registers``, ``operand`` and, if it is ``vector``, ``xstate``."""
        if self._free + 1024 > _POOL_SIZE:
            self._code.clear()
            self._free = _CODE_AT
        code = self._assemble(instruction, self._base + self._free)
        self._pool[self._free : self._free + len(code)] = code
        run = ctypes.PYFUNCTYPE(None)(self._base + self._free)
        self._free += -(-len(code) // 16) * 16
        self._code[id(instruction)] = (instruction, run)  # holds it, so that its id is nobody else's
        return run

    def execute(self, instruction: Instruction) -> None:
        """Execute it; the instruction pointer is behind it then. Raises ``DivideError``, ``SimdError``,
        ``Unable``; the general registers are as they were then."""
        found = self._code.get(id(instruction))
        run = found[1] if found is not None else self.prepare(instruction)
        registers = self.registers
        if instruction.divides:
            self._check_quotient(instruction)
        if instruction.bit >= 0:
            kept = registers[instruction.bit]
            registers[instruction.bit] = kept & (instruction.width * 8 - 1)
            run()
            registers[instruction.bit] = kept
        elif instruction.vector:
            self._execute_vector(instruction, run)
        else:
            run()
        registers[RIP] += instruction.length
        registers[EFLAGS] &= ~_RF

    def _execute_vector(self, instruction: Instruction, run: Callable[[], None]) -> None:
        xstate = self.xstate
        mxcsr = int.from_bytes(xstate[_MXCSR_AT : _MXCSR_AT + 4], "little")
        if instruction.x87 and self._x87_unmasked():
            raise Unable("the program has unmasked exceptions of the x87")
        if mxcsr & _MXCSR_MASKS != _MXCSR_MASKS:
            quiet = (mxcsr | _MXCSR_MASKS) & ~_MXCSR_FLAGS
            xstate[_MXCSR_AT : _MXCSR_AT + 4] = quiet.to_bytes(4, "little")
            kept = bytes(self.registers)
            run()
            raised = int.from_bytes(xstate[_MXCSR_AT : _MXCSR_AT + 4], "little") & _MXCSR_FLAGS
            xstate[_MXCSR_AT : _MXCSR_AT + 4] = (mxcsr | raised).to_bytes(4, "little")
            if raised & ~(mxcsr >> 7):
                ctypes.memmove(self.registers_at, kept, len(kept))
                raise SimdError(raised & ~(mxcsr >> 7))
        else:
            run()
        if instruction.x87:  # pointers into us are nobody's business
            xstate[_FIP_AT : _FIP_AT + 8] = self.registers[RIP].to_bytes(8, "little")

    def _x87_unmasked(self) -> bool:
        (present,) = self.xstate[_XSTATE_BV_AT : _XSTATE_BV_AT + 1]
        control = int.from_bytes(self.xstate[_FCW_AT : _FCW_AT + 2], "little")
        return bool(present & 1) and control & _FCW_MASKS != _FCW_MASKS

    def mxcsr(self) -> bytes:
        """The control and status of SSE, which an instruction may change that changes nothing else."""
        return bytes(self.xstate[_MXCSR_AT : _MXCSR_AT + 4])

    def _check_quotient(self, instruction: Instruction) -> None:
        bits = instruction.width * 8
        low = self.registers[RAX] & ((1 << bits) - 1)
        high = self.registers[RDX] & ((1 << bits) - 1)
        if bits == 8:
            high = self.registers[RAX] >> 8 & 0xFF  # the dividend is ax
        dividend = high << bits | low
        divisor = int.from_bytes(self.operand[: instruction.width], "little")
        if not divisor:
            raise DivideError
        if instruction.divides > 0:
            if dividend // divisor >> bits:
                raise DivideError
            return
        dividend -= dividend >> (2 * bits - 1) << 2 * bits
        divisor -= divisor >> (bits - 1) << bits
        quotient = abs(dividend) // abs(divisor) * (1 if (dividend < 0) == (divisor < 0) else -1)
        if not -(1 << (bits - 1)) <= quotient < 1 << (bits - 1):
            raise DivideError

    # -- the code -----------------------------------------------------------------------------------------

    def _assemble(self, instruction: Instruction, at: int) -> bytes:
        code = bytearray(bytes.fromhex("53 55 41 54 41 55 41 56 41 57"))  # push rbx, rbp, r12 to r15
        uses_rsp = _touches_rsp(instruction)

        def beside(opcode: bytes, field: int, place: int) -> None:
            """`opcode` with REX.W, the register `field`, and the operand at `place` of the pool, relative to rip."""
            code.append(0x48 | (field >> 3) << 2)
            code.extend(opcode)
            code.append((field & 7) << 3 | 5)
            code.extend((self._base + place - (at + len(code) + 4)).to_bytes(4, "little", signed=True))

        def move(load: bool, number: int, place: int) -> None:
            beside(b"\x8b" if load else b"\x89", number, place)

        others = [(number, _REGISTERS_AT + 8 * _BY_NUMBER[number]) for number in range(16) if number != 4]
        move(False, 4, _STACK_AT)
        if instruction.vector:
            components = b"\xb8" + _COMPONENTS.to_bytes(4, "little") + b"\x31\xd2"  # mov eax, ...; xor edx, edx
            code += components
            beside(b"\x0f\xae", 4, _OWN_AT)  # xsave64
            beside(b"\x0f\xae", 5, _XSTATE_AT)  # xrstor64
        move(True, 0, _REGISTERS_AT + 8 * EFLAGS)
        code += (
            b"\x25" + ARITHMETIC.to_bytes(4, "little") + b"\x83\xc8\x02\x50\x9d"
        )  # and eax; or eax, 2; push; popfq
        for number, place in others:
            move(True, number, place)
        if uses_rsp:
            move(True, 4, _REGISTERS_AT + 8 * RSP)
        code += _moved(instruction, at + len(code), self._base + _OPERAND_AT)
        if uses_rsp:
            move(False, 4, _REGISTERS_AT + 8 * RSP)
        for number, place in others:
            move(False, number, place)
        move(True, 4, _STACK_AT)
        code += b"\x9c\x58\x25" + ARITHMETIC.to_bytes(4, "little")  # pushfq; pop rax; and eax
        move(True, 1, _REGISTERS_AT + 8 * EFLAGS)
        code += b"\x48\x81\xe1" + (~ARITHMETIC & _M32).to_bytes(4, "little") + b"\x48\x09\xc1"  # and rcx; or rcx, rax
        move(False, 1, _REGISTERS_AT + 8 * EFLAGS)
        if instruction.vector:
            code += components
            beside(b"\x0f\xae", 4, _XSTATE_AT)
            beside(b"\x0f\xae", 5, _OWN_AT)
        code += bytes.fromhex("41 5f 41 5e 41 5d 41 5c 5d 5b c3")
        return bytes(code)


def _touches_rsp(instruction: Instruction) -> bool:
    assert instruction.decoded is not None
    return any(
        RegisterExt.full_register(instruction.decoded.op_register(number)) == Register.RSP
        for number in range(instruction.decoded.op_count)
        if instruction.decoded.op_kind(number) == OpKind.REGISTER
    )


def _moved(instruction: Instruction, at: int, operand: int) -> bytes:
    """The instruction for the address `at`, with its memory operand at `operand`."""
    assert instruction.decoded is not None
    moved = instruction.decoded.copy()
    moved.code = _NO_ADDRESS.get(moved.code, moved.code)
    if moved.code != instruction.decoded.code:
        for number in range(2):
            kind = moved.op_kind(number)
            if kind != OpKind.REGISTER:
                moved.set_op_kind(number, OpKind.MEMORY)
    moved.memory_base = Register.RIP
    moved.memory_index = Register.NONE
    moved.memory_index_scale = 1
    moved.memory_displacement = operand
    moved.memory_displ_size = 8
    moved.segment_prefix = Register.NONE
    encoder = Encoder(64)
    encoder.encode(moved, at)
    return encoder.take_buffer()
