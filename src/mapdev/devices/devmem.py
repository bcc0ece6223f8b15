"""``mem``: physical memory with registers in it, as /dev/mem shows it (mem(4); char 1:1 in
Documentation/admin-guide/devices.txt).
"""

import errno
import os
from typing import Final

from mapdev.device import Device
from mapdev.file import File, Vma
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, page_array
from mapdev.registers import Bus, places
from mapdev.surroundings import Surroundings

ADDRESSES: Final = 1 << 41


class DevMem(Device):
    """Sparse physical memory of 2^41 bytes; a subclass puts registers and RAM at their addresses.

        class Board(DevMem):
            dram = place(0x8000_0000, 512 << 20, "System RAM")
            rtc = place(0x44E3_E000, Rtc)

        board.rtc.SECONDS = 0x59
        board.pages[0x8000_0000:0x8000_0004] = b"boot"

    read(2) and write(2) reach what is placed, and fail with EFAULT where any byte of theirs is nothing (without a
    place, all is RAM). Mappings reach every address: a hole is zeros that keep what is stored, where a board may
    have a bus error. No privilege is asked for, and /proc/iomem shows its addresses to everybody.

    Where accesses can be trapped, mappings that reach a block with methods are (see ``RegisterBlock.trapped``); to
    read(2) and write(2) such a block is registers in any case.
    """

    name = "mem"
    size = ADDRESSES
    devt = (1, 1)

    def __init_subclass__(cls) -> None:
        """Raises ``ValueError`` for places that overlap, or lie beyond the last address."""
        super().__init_subclass__()
        end, before = 0, ""
        for place in sorted(places(cls), key=lambda place: place.address):
            if place.address < end:
                raise ValueError(f"{cls.__name__}.{place.attribute}: overlaps {before} at {place.address:#x}")
            if place.last >= ADDRESSES:
                raise ValueError(f"{cls.__name__}.{place.attribute}: {place.last:#x} is beyond {ADDRESSES - 1:#x}")
            end, before = place.last + 1, place.attribute

    def __init__(self) -> None:
        self.pages = page_array(ADDRESSES // PAGE_SIZE)
        self._places = sorted(places(type(self)), key=lambda place: place.address)
        self._bus = Bus(self.pages, [place.make(self, self.pages, place.address) for place in self._places])

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        self._check(pos, count)
        if self._bus.traps(pos, count):
            return self._bus.load(pos, count)
        # not a slice of the pages: to load from a hole would allocate it
        return os.pread(self.pages.fd, count, pos)

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        self._check(pos, len(buf))
        if self._bus.traps(pos, len(buf)):
            self._bus.store(pos, buf)
        else:
            self.pages[pos : pos + len(buf)] = buf
        return len(buf)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages

    def load(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return self._bus.load(pos, count)

    def store(self, file: File, data: bytes, pos: int) -> None:  # noqa: ARG002
        self._bus.store(pos, data)

    def traps(self, pos: int, length: int) -> bool:
        own = type(self).load is not DevMem.load or type(self).store is not DevMem.store
        return own or self._bus.traps(pos, length)

    def surroundings(self, path: str) -> Surroundings:  # noqa: ARG002
        return {"/proc/iomem": "".join(f"{p.address:08x}-{p.last:08x} : {p.name}\n" for p in self._places)}

    def _check(self, pos: int, count: int) -> None:
        end = pos + count if not self._places and pos + count <= ADDRESSES else pos
        for place in self._places:
            if place.address <= end <= place.last:
                end = place.last + 1
        if end < pos + count:
            raise OSError(errno.EFAULT, f"nothing is at {end:#x}")
