"""What is behind the memory of a device: blocks of registers, and plain memory between them."""

import errno
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mapdev.pages import BytesLike, Pages
from mapdev.registers.block import RegisterBlock
from mapdev.registers.declared import ByteOrder
from mapdev.registers.value import Cell


class Bus:
    """Accesses of programs to `pages` with `blocks` in them: what a device's ``load``, ``store`` and ``traps`` do.

    ::

        class Board(mapdev.Device):
            def __init__(self):
                self.pages = mapdev.zeroed_pages(2)
                self.timer, self.uart = Timer(self.pages), Uart(self.pages, 0x1000)
                self.bus = Bus(self.pages, [self.timer, self.uart])

            def mmap(self, file, vma):
                return self.pages

            def load(self, file, count, pos):
                return self.bus.load(pos, count)

            def store(self, file, data, pos):
                self.bus.store(pos, data)

            def traps(self, pos, length):
                return self.bus.traps(pos, length)
    """

    def __init__(self, pages: Pages, blocks: Iterable[RegisterBlock]) -> None:
        self.pages = pages
        self.blocks = sorted((block for block in blocks if block.registers), key=lambda block: block.offset)
        self._starts = [block.offset for block in self.blocks]

    def traps(self, pos: int, length: int) -> bool:
        """Whether any of these bytes is in a block whose accesses should be trapped."""
        return any(
            block.trapped and pos < block.offset + block.nbytes and block.offset < pos + length
            for block in self.blocks
        )

    def load(self, pos: int, count: int) -> bytes:
        """What a program gets that loads `count` bytes at byte `pos`. Raises ``OSError``: EFAULT beyond the pages."""
        number = bisect_right(self._starts, pos) - 1
        if number >= 0:
            block = self.blocks[number]
            offset = pos - block.offset
            if offset + count <= block.nbytes:
                return block.bus_load(offset, count)
        return b"".join(
            self._plain_load(start, stop - start) if block is None
            else block.bus_load(start - block.offset, stop - start)
            for block, start, stop in self._pieces(pos, count)
        )  # fmt: skip

    def store(self, pos: int, data: BytesLike) -> None:
        """A program stores `data` at byte `pos`. Raises ``OSError``: EFAULT beyond the pages."""
        number = bisect_right(self._starts, pos) - 1
        if number >= 0:
            block = self.blocks[number]
            offset = pos - block.offset
            if offset + len(data) <= block.nbytes:
                block.bus_store(offset, data)
                return
        for reached, start, stop in self._pieces(pos, len(data)):
            piece = data[start - pos : stop - pos]
            if reached is None:
                self.pages[start:stop] = piece
            else:
                reached.bus_store(start - reached.offset, piece)

    def _plain_load(self, pos: int, count: int) -> bytes:
        self.pages.pull(pos, count)
        return os.pread(self.pages.fd, count, pos)  # a slice of the pages would allocate those that are a hole

    def _pieces(self, pos: int, count: int) -> Iterator[tuple[RegisterBlock | None, int, int]]:
        """(block, from, to) for each block that these bytes reach, and for what lies between (None)."""
        end = pos + count
        if pos < 0 or end > self.pages.nbytes:
            raise OSError(errno.EFAULT, f"no {count} bytes at {pos:#x} of {self.pages!r}")
        at = pos
        for block in self.blocks[max(0, bisect_right(self._starts, pos) - 1) :]:
            if block.offset >= end:
                break
            if at < block.offset:
                yield None, at, block.offset
                at = block.offset
            stop = min(end, block.offset + block.nbytes)
            if at < stop:
                yield block, at, stop
                at = stop
        if at < end:
            yield None, at, end


def blocks(device: object) -> dict[str, RegisterBlock]:
    """The blocks that are attributes of this device, by name, in the order of their offsets."""
    found = {name: value for name, value in vars(device).items() if isinstance(value, RegisterBlock)}
    return dict(sorted(found.items(), key=lambda item: item[1].offset))


class Found(NamedTuple):
    """Where a byte of a device lies: ``element`` of a ``RegisterArray`` (else None), ``byte`` of the register."""

    block: str
    register: str
    element: int | None
    byte: int


def find(device: object, pos: int) -> Found | None:
    """The register at byte `pos` of the device; None where there is none."""
    for name, block in blocks(device).items():
        offset = pos - block.offset
        if 0 <= offset < block.nbytes:
            ((cell, start, _),) = block._pieces(offset, 1)
            if cell is not None:
                element = cell.index if cell.register.is_array else None
                return Found(name, cell.register.name, element, start - cell.offset)
    return None


def locate(device: object, name: str) -> tuple[int, int, ByteOrder]:
    """First and last byte of a register of the device, and its byte order: ``CTRL``, ``timer.CTRL``, ``MATCH[2]``.

    Raises ``LookupError`` that names those there are.
    """
    found: dict[str, tuple[int, int, ByteOrder]] = {}
    for block_name, block in blocks(device).items():
        for cell in block._cells.values():
            place = block.offset + cell.offset, block.offset + cell.offset + cell.nbytes - 1, cell.byteorder
            found.setdefault(cell.name, place)
            found[f"{block_name}.{cell.name}"] = place
    if name not in found:
        known = ", ".join(each for each in list(found)[:100] if "." not in each) or "none"
        raise LookupError(f"there is {known}")
    return found[name]


_SHOWN = 4
"""As many registers of one access are shown."""


def describe(device: object, pos: int, data: BytesLike, is_store: bool) -> str | None:
    """One access, as people read it; None where the device has no block.

    ``CTRL <- 0x21 (START|MODE=2)``, ``MATCH[2] -> 0x10``; ``FIFO.1:3 <- 0xff`` for bytes 1 and 2 of a register,
    ``+0x14`` for memory between registers. Several registers are separated by commas; with several blocks their names
    are in front.
    """
    named = {name: block for name, block in blocks(device).items() if block.registers}
    end = pos + len(data)
    arrow = "<-" if is_store else "->"
    parts = []
    for name, block in named.items():
        first, last = max(pos, block.offset), min(end, block.offset + block.nbytes)
        if first >= last:
            continue
        prefix = f"{name}." if len(named) > 1 else ""
        for cell, start, stop in block._pieces(first - block.offset, last - first):
            at = block.offset + start - pos
            piece = bytes(data[at : at + stop - start])
            reached = cell.twin or cell if cell is not None and is_store else cell
            parts.append(prefix + _described(reached, start, stop, piece, arrow, block.byteorder))
    return ", ".join(parts[:_SHOWN]) + (f", ... ({len(parts)})" if len(parts) > _SHOWN else "") if parts else None


def _described(cell: Cell | None, start: int, stop: int, piece: bytes, arrow: str, byteorder: str) -> str:
    if cell is None:
        return f"+{start:#x} {arrow} {int.from_bytes(piece, 'big' if byteorder == 'big' else 'little'):#x}"
    low, high = start - cell.offset, stop - cell.offset
    name = cell.name if high - low == cell.nbytes else f"{cell.name}.{low}" if high - low == 1 else (
        f"{cell.name}.{low}:{high}")  # fmt: skip
    number = int.from_bytes(piece, cell.byteorder)
    shift = 8 * (low if cell.byteorder == "little" else cell.nbytes - high)
    whole, covered = number << shift, (1 << 8 * (high - low)) - 1 << shift
    fields = []
    for field_name, field in cell.register.fields.items():
        value = (whole & field.mask) >> field.low
        if field.mask & ~covered or not value or field.nbits == cell.register.width:  # the last says it again
            continue
        fields.append(field_name if field.nbits == 1 else f"{field_name}={value}")
    return f"{name} {arrow} {number:#x}" + (f" ({'|'.join(fields)})" if fields else "")


def lost_without_trapping(device: object) -> str | None:
    """What this device lacks where accesses of programs are not trapped, in one line; None if it lacks nothing."""
    lacks = []
    for name, block in blocks(device).items():
        if not block.trapped:
            continue
        methods = sorted(
            {m for read, write, reads, writes in block._hooks.values() for m in (read, write) if m}
            | {hook.method for _, _, reads, writes in block._hooks.values() for hook in (*reads, *writes)}
        )
        changing = [each.name for each in block.registers.values() if each.on_read]
        others = [each.name for each in block.registers.values() if not each.simple and not each.on_read]
        said = []
        if methods:
            said.append(f"{_some(methods)} {'is' if len(methods) == 1 else 'are'} not called")
        if changing:
            said.append(f"reading {_some(changing)} changes nothing")
        if others:
            said.append(f"{_some(others)} {'keeps' if len(others) == 1 else 'keep'} what is stored")
        if said:
            lacks.append(f"{name}: " + ", ".join(said))
    if not lacks:
        return None
    return "accesses are not trapped, its registers are plain memory until settle() is called: " + "; ".join(lacks)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
