"""One access of a stopped thread, carried out.

The thread has been stopped by the SIGBUS of a touch. If that is one of a closed mapping, the answer here is what is to
become of it: 0, the instruction has been carried out, and the thread goes on behind it; or the signal that it gets.
"""

import ctypes
import errno
import logging
import signal
import struct
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from mapdev import libc
from mapdev.run.trap import ptrace
from mapdev.run.trap.areas import SHARED, WRITE, Area, Areas
from mapdev.run.trap.blocks import POSITION, Block, Blocks
from mapdev.run.trap.stops import Stops
from mapdev.run.trap.string import stack, string
from mapdev.run.trap.x86_64 import (
    CS,
    EFLAGS,
    MAX_LENGTH,
    RIP,
    USER_CS,
    ZF,
    DivideError,
    Executor,
    Instruction,
    Kind,
    SimdError,
    Unable,
    decode,
)

log = logging.getLogger("mapdev.trap")

Seen: TypeAlias = Callable[[int, Areas, Block, int, bytes, bool, int, float, int], None]
"""Told of each access: thread, its areas, block, position, data, whether it is a store, address of the instruction,
seconds that the device took,
the errno if it failed."""

_REMEMBERED: Final = 1 << 16
"""Instructions."""
_SIGINFO: Final = struct.Struct("=iii4xQ")  # si_signo, si_errno, si_code, si_addr
_ARITHMETIC_CODES: Final = ((1, 7), (4, 3), (8, 4), (0x12, 5), (0x20, 6))  # MXCSR flags, FPE_FLT*


class _Fault(Exception):  # noqa: N818 - the kernel's word
    """The access at ``address`` ends with a signal."""

    def __init__(self, number: int, address: int) -> None:
        super().__init__(number, address)
        self.signal, self.address = number, address


class Accesses:
    """Carries out accesses. For the one thread that traces."""

    def __init__(self, blocks: Blocks, seen: Seen | None) -> None:
        self._blocks = blocks
        self._seen = seen
        self.executor = Executor()
        self.registers = self.executor.registers
        self._stops = Stops(self.executor.registers_at)
        self.go = self._stops.go
        """``Stops.go``: a thread goes on with ``registers``, and the next one that stops is waited for."""
        self._info = (ctypes.c_uint64 * (ptrace.SIGINFO_SIZE // 8))()
        self._info_at = ctypes.addressof(self._info)
        self._word = ctypes.c_uint64()
        self._word_at = ctypes.addressof(self._word)
        self._short: dict[int, Instruction | None] = {}
        """Instructions by the eight bytes that they begin with; None: they are longer."""
        self._long: dict[bytes, Instruction | None] = {}
        self._complained: set[str] = set()

    def touched(self, tid: int, areas: Areas) -> int:
        """A thread got SIGBUS: 0, and it is to go on with ``registers``; or the signal that it is to get.

        Raises ``OSError`` ESRCH if it is gone.
        """
        seen = self._stops.look(tid, areas.maps) if areas.asks else None
        if seen is None:
            return self._touched_slowly(tid, areas)
        code, address, word, start, end, flags, offset, inode, major, minor = seen
        if code != ptrace.BUS_ADRERR:  # of kill(2), or of broken memory
            return signal.SIGBUS
        block = self._blocks.find(offset, (inode, major, minor))
        if block is None:
            return signal.SIGBUS
        instruction = self._short.get(word)
        if instruction is None or self.registers[CS] != USER_CS:
            return self._carry_out(tid, areas, Area(start, end, flags, offset, inode, major, minor), block, address)
        if instruction.kind is Kind.OPERAND:
            try:
                return self._operand(tid, areas, start, end, flags, offset, block, instruction, address)
            except Unable as error:
                return self._refuse(instruction.text, str(error))
        area = Area(start, end, flags, offset, inode, major, minor)
        return self._carry_out(tid, areas, area, block, address)

    def _touched_slowly(self, tid: int, areas: Areas) -> int:
        """The same by single calls."""
        ptrace.get_siginfo(tid, self._info_at)
        if self._info[1] & 0xFFFFFFFF != ptrace.BUS_ADRERR:
            return signal.SIGBUS
        address = self._info[2]
        area = areas.at(address)
        block = self._blocks.at(area) if area is not None else None
        if area is None or block is None:
            return signal.SIGBUS
        ptrace.get_registers(tid, self.executor.registers_at)
        return self._carry_out(tid, areas, area, block, address)

    def _carry_out(self, tid: int, areas: Areas, area: Area, block: Block, address: int) -> int:
        """The instruction that has touched `address`, of any kind."""
        registers = self.registers
        instruction = self._instruction(tid, registers[RIP]) if registers[CS] == USER_CS else None
        if instruction is None:
            return self._refuse("code that is not 64-bit code", "it cannot be read as an instruction")
        try:
            if instruction.kind is Kind.OPERAND:
                return self._operand(
                    tid, areas, area.start, area.end, area.flags, area.offset, block, instruction, address
                )
            if instruction.kind is Kind.REFUSED:
                return self._refuse(instruction.text, "it cannot be carried out on a device")
            if instruction.kind is Kind.NOTHING:
                registers[RIP] += instruction.length
            else:
                carry_out = string if instruction.kind is Kind.STRING else stack
                carry_out(instruction, registers, _Memory(tid, areas, self, registers[RIP]))
        except _Fault as fault:
            if instruction.kind is Kind.STRING:
                ptrace.set_registers(tid, self.executor.registers_at)  # what came before it is done
            code = ptrace.BUS_ADRERR if fault.signal == signal.SIGBUS else ptrace.SEGV_MAPERR
            return self._change_signal(tid, fault.signal, code, fault.address)
        except Unable as error:
            return self._refuse(instruction.text, str(error))
        return 0

    def _operand(
        self, tid: int, areas: Areas, start: int, end: int, flags: int, offset: int, block: Block,
        instruction: Instruction, touched: int,
    ) -> int:  # fmt: skip
        """By the CPU, on a copy of the operand, which lies in the area from `start` to `end`."""
        registers, executor, width = self.registers, self.executor, instruction.width
        address, pc = instruction.address(registers), registers[RIP]
        if not address <= touched < address + width:  # its code, or its stack, is in the device
            return self._refuse(instruction.text, "what it accesses is not its operand")
        if address < start or address + width > end:
            return self._refuse(instruction.text, "its operand lies half in one area and half in another")
        if instruction.stores and not flags & SHARED:
            return self._refuse(instruction.text, "a store to a MAP_PRIVATE mapping is not the device's")
        position = (offset & POSITION) + address - start
        if instruction.vector:
            size = ptrace.get_vector_registers(tid, executor.xstate_at, executor.xstate_size)
            mxcsr = executor.mxcsr()
        try:
            if instruction.loads:
                executor.operand[:width] = self.load(tid, areas, block, position, width, pc)
            executor.execute(instruction)
            if instruction.stores and (not instruction.if_equal or registers[EFLAGS] & ZF):
                self.store(tid, areas, block, position, bytes(executor.operand[:width]), pc)
        except OSError:
            return signal.SIGBUS
        except DivideError:
            return self._change_signal(tid, signal.SIGFPE, ptrace.FPE_INTDIV, pc)
        except SimdError as error:
            code = next(code for raised, code in _ARITHMETIC_CODES if error.args[0] & raised)
            return self._change_signal(tid, signal.SIGFPE, code, pc)
        if instruction.vector and (instruction.changes_vector or executor.mxcsr() != mxcsr):
            ptrace.set_vector_registers(tid, executor.xstate_at, size)
        return 0

    def load(self, tid: int, areas: Areas, block: Block, position: int, count: int, pc: int) -> bytes:
        """Of the device, and told. Raises ``OSError``: SIGBUS."""
        if self._seen is None:
            return block.load(position, count)
        began = time.perf_counter()
        try:
            data = block.load(position, count)
        except OSError as error:
            failed = error.errno or errno.EIO
            self._seen(tid, areas, block, position, bytes(count), False, pc, time.perf_counter() - began, failed)
            raise
        self._seen(tid, areas, block, position, data, False, pc, time.perf_counter() - began, 0)
        return data

    def store(self, tid: int, areas: Areas, block: Block, position: int, data: bytes, pc: int) -> None:
        """As ``load``."""
        if self._seen is None:
            block.store(position, data)
            return
        began, failed = time.perf_counter(), 0
        try:
            block.store(position, data)
        except OSError as error:
            failed = error.errno or errno.EIO
            raise
        finally:
            self._seen(tid, areas, block, position, data, True, pc, time.perf_counter() - began, failed)

    def _change_signal(self, tid: int, number: int, code: int, address: int) -> int:
        """The signal that is to be delivered instead of the SIGBUS."""
        data = _SIGINFO.pack(number, 0, code, address)
        ctypes.memset(self._info_at, 0, ptrace.SIGINFO_SIZE)
        ctypes.memmove(self._info_at, data, len(data))
        ptrace.set_siginfo(tid, self._info_at)
        return number

    def _refuse(self, text: str, why: str) -> int:
        if text not in self._complained:
            self._complained.add(text)
            log.warning("`%s`: %s; the program gets SIGBUS", text, why)
        return signal.SIGBUS

    def block_at(self, area: Area) -> Block | None:
        """What the area is closed for, if it is."""
        return self._blocks.at(area)

    # -- instructions -------------------------------------------------------------------------------------

    def _instruction(self, tid: int, address: int) -> Instruction | None:
        """The instruction at `address`. The bytes are read each time: the code may be another one by now."""
        if ptrace.peek(tid, address, self._word_at):
            found = self._short.get(self._word.value)
            if found is not None:
                return found
        code = self._code(tid, address)
        instruction = self._long.get(code)
        if instruction is None:
            if len(self._long) >= _REMEMBERED:  # a program that makes code
                self._long.clear()
                self._short.clear()
            instruction = self._long[code] = decode(code)
            if instruction is not None and instruction.length <= 8 <= len(code):
                self._short[int.from_bytes(code[:8], "little")] = instruction
        return instruction

    def _code(self, tid: int, address: int) -> bytes:
        """As many bytes as there are, up to the longest instruction; also of code that may only be executed.

        By words that lie in one page each. (/proc/PID/mem is closed to us once the program is not dumpable.)
        """
        begins, code = address & ~7, b""
        for word in range(begins, address + MAX_LENGTH, 8):
            if not ptrace.peek(tid, word, self._word_at):
                break
            code += self._word.value.to_bytes(8, "little")
        return code[address - begins :][:MAX_LENGTH]


class _Memory:
    """The memory of a stopped thread, for the instructions that access it in several places."""

    def __init__(self, tid: int, areas: Areas, accesses: Accesses, pc: int) -> None:
        self._tid, self._areas, self._accesses, self._pc = tid, areas, accesses, pc
        self._known: list[tuple[Area, Block | None]] = []

    def is_closed(self, address: int) -> bool:
        return self._at(address)[1] is not None

    def load(self, address: int, count: int) -> bytes:
        area, block = self._at(address)
        if block is None or area is None:
            return self._plain(address, lambda: libc.process_vm_readv(self._tid, address, count))
        if address + count > area.end:
            raise _Fault(signal.SIGBUS, address)
        try:
            return self._accesses.load(self._tid, self._areas, block, self._position(area, address), count, self._pc)
        except OSError:
            raise _Fault(signal.SIGBUS, address) from None

    def store(self, address: int, data: bytes) -> None:
        area, block = self._at(address)
        if block is None or area is None:
            self._plain(address, lambda: libc.process_vm_writev(self._tid, address, data))
            return
        if not area.flags & WRITE:
            raise _Fault(signal.SIGSEGV, address)
        if address + len(data) > area.end or not area.flags & SHARED:
            raise _Fault(signal.SIGBUS, address)
        try:
            self._accesses.store(self._tid, self._areas, block, self._position(area, address), data, self._pc)
        except OSError:
            raise _Fault(signal.SIGBUS, address) from None

    def _position(self, area: Area, address: int) -> int:
        return (area.offset & POSITION) + address - area.start

    def _plain(self, address: int, access: Callable[[], bytes | None]) -> bytes:
        try:
            return access() or b""
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise _Fault(signal.SIGSEGV, address) from None
            raise

    def _at(self, address: int) -> tuple[Area | None, Block | None]:
        for area, block in self._known:
            if area.start <= address < area.end:
                return area, block
        found = self._areas.at(address)
        if found is None:
            return None, None
        block = self._accesses.block_at(found)
        self._known.append((found, block))
        return found, block
