"""mmap(2) of a trapped device: stopped by a seccomp filter (``filter``), and done with the offset of a closed mapping.

A 32-bit program gets ENODEV for a trapped device: its instructions are of another kind.

Sources: mmap(2), remap_file_pages(2); ``<asm/unistd.h>``.
"""

import errno
import logging
import struct
from typing import Any, Final

from mapdev.libc import PAGE_SHIFT, process_vm_readv
from mapdev.run.trap.areas import Areas
from mapdev.run.trap.blocks import CLOSED, POSITION, Blocks
from mapdev.run.trap.filter import I386_MMAP2, I386_OLD_MMAP, MMAP, X32
from mapdev.run.trap.x86_64 import CS, ORIG_RAX, R8, R9, R10, RAX, RBP, RBX, RCX, RDI, RSI, USER_CS

log = logging.getLogger("mapdev.trap")

_OLD_MMAP: Final = struct.Struct("=6I")
_M64: Final = (1 << 64) - 1
_M32: Final = (1 << 32) - 1


def on_call(tid: int, registers: Any, blocks: Blocks) -> tuple[int, int] | None:
    """A thread has stopped before one of these calls: change its `registers`, if need be.

    Returns a register and its value, to be put back when the call returns; None: nothing was changed that shows.
    """
    number = registers[ORIG_RAX]
    if registers[CS] != USER_CS or number & X32:
        _refuse_short(tid, registers, blocks)
        return None
    try:
        if number == MMAP:
            offset = blocks.closed_offset(tid, _int(registers[R8]), registers[R9], registers[RSI])
            if offset is None:
                return None
            kept = R9, registers[R9]
            registers[R9] = offset
            return kept
        offset = _offset_at(tid, registers[RDI])
        if offset is None:
            return None
        kept = R10, registers[R10]
        registers[R10] = ((offset & ~POSITION) >> PAGE_SHIFT) | registers[R10] & (POSITION >> PAGE_SHIFT)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        if isinstance(error, PermissionError):
            log.warning("pid %d runs a program that this user may execute but not read: what it maps cannot be looked "
                        "at, and its mmap gets %s", tid, errno.errorcode.get(error.errno or 0))  # fmt: skip
        _fail(registers, error.errno or errno.EIO)
        return None
    return kept


def _offset_at(tid: int, address: int) -> int | None:
    """The offset of the area at `address`, if that is closed."""
    areas = Areas(tid)
    try:
        area = areas.at(address)
    finally:
        areas.close()
    return area.offset if area is not None and area.offset & CLOSED else None


def _refuse_short(tid: int, registers: Any, blocks: Blocks) -> None:
    """A call of a 32-bit program."""
    number = registers[ORIG_RAX]
    try:
        if number == I386_OLD_MMAP:
            arguments = process_vm_readv(tid, registers[RBX] & _M32, _OLD_MMAP.size)
            _, length, _, _, fd, offset = _OLD_MMAP.unpack(arguments)
        elif number == I386_MMAP2:
            fd, length, offset = registers[RDI], registers[RCX] & _M32, (registers[RBP] & _M32) << PAGE_SHIFT
        elif number == X32 | MMAP:
            fd, length, offset = registers[R8], registers[RSI], registers[R9]
        else:
            _fail(registers, errno.ENOSYS)
            return
        wanted = blocks.closed_offset(tid, _int(fd), offset, length) is not None
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        _fail(registers, error.errno or errno.EIO)
        return
    if wanted:
        log.warning("pid %d is a 32-bit program: its accesses cannot be trapped, and its mmap gets ENODEV", tid)
        _fail(registers, errno.ENODEV)


def _fail(registers: Any, number: int) -> None:
    """The call is not done, and returns -`number`."""
    registers[ORIG_RAX] = _M64
    registers[RAX] = -number & _M64


def _int(register: int) -> int:
    low = register & _M32
    return low - (1 << 32) if low >> 31 else low
