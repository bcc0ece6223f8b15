"""The system calls of one access in two calls of ctypes: ``look`` at a stopped thread, and ``go`` on.

An access costs a handful of system calls, and each of them costs several times as much by the way through Python. So
two pieces of machine code do them in a row. They are the calls of ``ptrace`` and ``areas``, which do all that is rare.

Sources: ptrace(2), wait4(2), ``<linux/fs.h>`` (PROCMAP_QUERY); System V ABI for x86-64, section A.2.1.
"""

import ctypes
import errno
import mmap
import os
import struct
from typing import Final

from mapdev.run.trap import areas, ptrace

_SIZE: Final = 4096
_INFO_AT, _WORD_AT, _QUERY_AT, _TID_AT, _MAPS_AT, _STATUS_AT, _CODE_AT = 0, 128, 192, 320, 328, 336, 512
_LOOK: Final = struct.Struct("=8xi4xQ 104xQ 80xQQQ8xQQII")
_IOCTL, _WAIT4, _PTRACE = 16, 61, 101
_RAX, _RDI, _RSI, _RDX, _R10 = 0, 7, 6, 2, 10
_ALL: Final = (1 << 64) - 1

_Argument = tuple[bool, int]
"""Whether it is a place in memory, and the place (as an address) or the number itself."""


class Stops:
    """For the one thread that traces. ``registers_at``: our address for the registers of a thread."""

    def __init__(self, registers_at: int) -> None:
        self._memory = mmap.mmap(-1, _SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        base = self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.info_at = base + _INFO_AT
        self.word_at = base + _WORD_AT
        self._numbers = (ctypes.c_int64 * (_CODE_AT // 8)).from_buffer(self._memory)
        self._memory[_QUERY_AT : _QUERY_AT + areas.QUERY.size] = areas.QUERY.pack(areas.QUERY.size, *(0,) * 14)
        tid, maps = (True, base + _TID_AT), (True, base + _MAPS_AT)
        rip_at = registers_at + 16 * 8
        look = (
            self._call(_PTRACE, (False, ptrace.GETSIGINFO), tid, (False, 0), (False, self.info_at)),
            self._call(_PTRACE, (False, ptrace.GETREGS), tid, (False, 0), (False, registers_at)),
            self._copy(self.info_at + 16, base + _QUERY_AT + 16),
            self._call(_PTRACE, (False, ptrace.PEEKTEXT), tid, (True, rip_at), (False, self.word_at)),
            self._call(_IOCTL, maps, (False, areas.PROCMAP_QUERY), (False, base + _QUERY_AT)),
        )
        options = ptrace.WALL | ptrace.WNOTHREAD
        go = (
            self._call(_PTRACE, (False, ptrace.SETREGS), tid, (False, 0), (False, registers_at)),
            self._call(_PTRACE, (False, ptrace.CONT), tid, (False, 0), (False, 0)),
            self._call(_WAIT4, (False, _ALL), (False, base + _STATUS_AT), (False, options), (False, 0)),
        )
        look_code, go_code = self._joined(look), self._joined(go)
        self._memory[_CODE_AT : _CODE_AT + len(look_code)] = look_code
        go_at = _CODE_AT + len(look_code)
        self._memory[go_at : go_at + len(go_code)] = go_code
        self._look = ctypes.PYFUNCTYPE(ctypes.c_long)(base + _CODE_AT)
        self._go = ctypes.CFUNCTYPE(ctypes.c_long)(base + go_at)  # it blocks: other threads of Python run meanwhile

    def look(self, tid: int, maps: int) -> tuple[int, int, int, int, int, int, int, int, int, int] | None:
        """si_code and si_addr of the signal that it has stopped for, the word at its instruction pointer; of the area
        at si_addr: start, end, flags, offset, inode, major, minor. The registers are at ``registers_at`` then.

        `maps`: as of ``Areas``. None: some of it cannot be had so. Raises ``OSError`` ESRCH.
        """
        self._numbers[_TID_AT // 8] = tid
        self._numbers[_MAPS_AT // 8] = maps
        result = self._look()
        if not result:
            return _LOOK.unpack_from(self._memory)
        if result == -errno.ESRCH:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        return None

    def go(self, tid: int) -> tuple[int, int]:
        """Give a thread the registers at ``registers_at``, let it go on, and wait: for which thread, and its status.

        Raises ``ChildProcessError``: there is none left.
        """
        self._numbers[_TID_AT // 8] = tid
        result = self._go()
        if result > 0:
            return result, self._numbers[_STATUS_AT // 8] & 0xFFFFFFFF
        if result == -errno.ECHILD:
            raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
        return wait()  # the thread is gone, or a signal has come

    # -- machine code -------------------------------------------------------------------------------------

    def _call(self, number: int, *arguments: _Argument) -> bytes:
        """mov each argument; mov eax, number; syscall."""
        code = b""
        for register, (is_place, value) in zip((_RDI, _RSI, _RDX, _R10), arguments, strict=False):
            if is_place:  # mov rax, address; mov register, [rax]
                code += b"\x48\xb8" + value.to_bytes(8, "little")
                code += bytes([0x48 | register >> 3 << 2, 0x8B, (register & 7) << 3])
            else:
                code += bytes([0x48 | register >> 3, 0xB8 | register & 7]) + value.to_bytes(8, "little")
        return code + b"\xb8" + number.to_bytes(4, "little") + b"\x0f\x05"

    def _copy(self, source: int, target: int) -> bytes:
        """mov rax, source; mov rcx, [rax]; mov rax, target; mov [rax], rcx; xor eax, eax."""
        return (
            b"\x48\xb8" + source.to_bytes(8, "little") + b"\x48\x8b\x08"
            b"\x48\xb8" + target.to_bytes(8, "little") + b"\x48\x89\x08\x31\xc0"
        )  # fmt: skip

    def _joined(self, pieces: tuple[bytes, ...]) -> bytes:
        """One after the other, until one fails: test rax, rax; js end. The result of the last one is left in rax."""
        code, left = b"", sum(len(piece) + 9 for piece in pieces)
        for piece in pieces:
            left -= len(piece) + 9
            code += piece + b"\x48\x85\xc0\x0f\x88" + left.to_bytes(4, "little")
        return code + b"\xc3"


def wait() -> tuple[int, int]:
    """Wait for any thread that is traced from here. Raises ``ChildProcessError``: there is none."""
    return os.waitpid(-1, ptrace.WALL | ptrace.WNOTHREAD)
