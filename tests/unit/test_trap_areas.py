"""What is mapped where, and which calls are stopped."""

import ctypes
import mmap
import os
import struct
import tempfile

import pytest

from mapdev.run.trap import filter as calls
from mapdev.run.trap.areas import READ, SHARED, WRITE, Areas

ALLOW, TRACE = 0x7FFF0000, 0x7FF00000
X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ANONYMOUS, PRIVATE, MINUS_ONE = 0x20, 0x2, (1 << 64) - 1


@pytest.mark.parametrize("asks", [True, False])
def test_an_area_is_what_was_mapped(asks: bool) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 20)
        found = os.fstat(file.fileno())
        area = mmap.mmap(file.fileno(), 8192, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=4096 * 3)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        areas = Areas(os.getpid())
        areas.asks = asks
        seen = areas.at(start + 5000)
        assert seen is not None
        assert (seen.start, seen.end, seen.offset, seen.inode) == (start, start + 8192, 4096 * 3, found.st_ino)
        assert seen.flags == READ | WRITE | SHARED
        assert areas.at(8) is None
        areas.close()


def run(code: bytes, nr: int, arch: int, args: tuple[int, ...]) -> int:
    """The kernel's interpreter of classic BPF, as far as the filter goes (Documentation/networking/filter.rst)."""
    data = struct.pack("=iIQ6Q", nr - (1 << 32) if nr >> 31 else nr, arch, 0, *args)
    instructions = list(struct.iter_unpack("=HBBI", code))
    accumulator, at = 0, 0
    while True:
        op, yes, no, k = instructions[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x15:
            at += yes if accumulator == k else no
        elif op == 0x45:
            at += yes if accumulator & k else no
        else:
            assert op == 0x06
            return int(k)


@pytest.mark.parametrize(
    ("nr", "arch", "args", "action"),
    [
        (9, X86_64, (0, 4096, 3, 1, 5, 0), TRACE),
        (9, X86_64, (0, 4096, 3, PRIVATE, 0, 0), TRACE),
        (9, X86_64, (0, 4096, 3, PRIVATE | ANONYMOUS, MINUS_ONE, 0), ALLOW),
        (9, X86_64, (0, 4096, 3, PRIVATE | ANONYMOUS, 5, 0), ALLOW),
        (9, X86_64, (0, 4096, 3, PRIVATE, MINUS_ONE, 0), ALLOW),
        (9, X86_64, (0, 4096, 3, PRIVATE, 0xFFFFFFFF, 0), ALLOW),
        (216, X86_64, (0,) * 6, TRACE),
        (0x40000009, X86_64, (0, 4096, 3, 1, 5, 0), TRACE),
        (0, X86_64, (0,) * 6, ALLOW),
        (90, X86_64, (0,) * 6, ALLOW),
        (192, X86_64, (0,) * 6, ALLOW),
        (192, I386, (0, 4096, 3, 1, 5, 0), TRACE),
        (192, I386, (0, 4096, 3, PRIVATE | ANONYMOUS, 0xFFFFFFFF, 0), ALLOW),
        (90, I386, (0,) * 6, TRACE),
        (257, I386, (0,) * 6, TRACE),
        (9, I386, (0,) * 6, ALLOW),
        (9, AARCH64, (0, 4096, 3, 1, 5, 0), ALLOW),
    ],
)
def test_which_calls_are_stopped(nr: int, arch: int, args: tuple[int, ...], action: int) -> None:
    assert run(calls.filter_program(), nr, arch, args) == action
