"""Where in the source of a program an instruction is: ``app.c:42``, or ``main+0x1c`` without debug information.

Of the program itself and of its shared libraries, wherever they are loaded. Nothing of this is imported by a run
without a trace. pyelftools reads the files; the source line is from .debug_line, the symbol from .symtab or .dynsym.
"""

import bisect
import os
from typing import Any, Final

from mapdev.run.trap.areas import Area, Areas

_FEW: Final = 256
"""Files that are remembered."""


class Sources:
    """For one thread. What is found out is remembered by file and offset, so it is true for every process."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int, int], _Image | None] = {}
        self._places: dict[tuple[int, int, int, int], str] = {}

    def where(self, tid: int, areas: Areas, pc: int) -> str:
        """The place of the instruction at `pc` of a stopped thread; empty if nothing is known of it."""
        area = areas.at(pc)
        if area is None or not area.inode:
            return ""
        file = (area.major, area.minor, area.inode)
        offset = area.offset + pc - area.start
        place = self._places.get((*file, offset))
        if place is None:
            if file not in self._files:
                if len(self._files) >= _FEW:
                    self.close()
                    self._places.clear()
                self._files[file] = _image(tid, areas, pc, area)
            image = self._files[file]
            place = self._places[(*file, offset)] = image.where(offset) if image is not None else ""
        return place

    def close(self) -> None:
        """Close the files that were read; they are opened again when they are asked for."""
        for image in self._files.values():
            if image is not None:
                image.close()
        self._files.clear()


class _Image:
    """One ELF file: its symbols at once, its lines when they are asked for."""

    def __init__(self, path: str, name: str) -> None:
        from elftools.elf.elffile import ELFFile

        self._name = os.path.basename(name)
        self._stream = open(path, "rb")  # noqa: SIM115 - read from later
        self._elf: Any = ELFFile(self._stream)
        self._segments = [
            (segment["p_offset"], segment["p_filesz"], segment["p_vaddr"])
            for segment in self._elf.iter_segments("PT_LOAD")
        ]
        self._symbols = sorted(_symbols(self._elf))
        self._lines: dict[int, list[tuple[int, str, bool]]] = {}
        self._units: list[tuple[int, int, Any]] | None = None

    def close(self) -> None:
        self._stream.close()

    def where(self, offset: int) -> str:
        address = next(
            (offset - at + vaddr for at, size, vaddr in self._segments if at <= offset < at + size), None
        )  # fmt: skip
        if address is None:
            return ""
        try:
            line = self._line(address)
        except Exception:  # debug information that the library does not read
            line = ""
        return line or self._symbol(address)

    def _symbol(self, address: int) -> str:
        place = bisect.bisect_right(self._symbols, (address, 1 << 62, "\U0010ffff")) - 1
        if place >= 0:
            start, size, name = self._symbols[place]
            if not size or address < start + size:
                return f"{name}+{address - start:#x}"
        return f"{self._name}+{address:#x}"

    def _line(self, address: int) -> str:
        if self._units is None:
            self._units = list(_units(self._elf))
        for low, high, unit in self._units:
            if low <= address < high:
                if unit.cu_offset not in self._lines:
                    self._lines[unit.cu_offset] = _line_table(unit)
                table = self._lines[unit.cu_offset]
                place = bisect.bisect_right(table, address, key=lambda row: row[0]) - 1
                if place >= 0 and not table[place][2]:
                    return table[place][1]
        return ""


def _image(tid: int, areas: Areas, pc: int, area: Area) -> _Image | None:
    named = areas.named(pc)
    if named is None or not named.path.startswith("/"):
        return None
    path = f"/proc/{tid}/root{named.path}"
    try:
        if os.stat(path).st_ino != area.inode:  # replaced since; overlayfs tells other numbers
            return None
        return _Image(path, named.path)
    except Exception:  # no ELF file, or not to be opened by us
        return None


def _symbols(elf: Any) -> "list[tuple[int, int, str]]":
    found = []
    for name in (".symtab", ".dynsym"):
        section = elf.get_section_by_name(name)
        if section is not None:
            found += [
                (symbol["st_value"], symbol["st_size"], symbol.name)
                for symbol in section.iter_symbols()
                if symbol["st_info"]["type"] in ("STT_FUNC", "STT_GNU_IFUNC") and symbol["st_value"]
            ]
            if found:
                break
    return found


def _units(elf: Any) -> "list[tuple[int, int, Any]]":
    """The compilation units by the addresses they cover."""
    if not elf.has_dwarf_info():
        return []
    dwarf = elf.get_dwarf_info()
    ranges = dwarf.get_aranges()
    if ranges is not None:
        return [
            (entry.begin_addr, entry.begin_addr + entry.length, dwarf.get_CU_at(entry.info_offset))
            for entry in ranges.entries
        ]
    return [(0, 1 << 64, unit) for unit in dwarf.iter_CUs()]


def _line_table(unit: Any) -> "list[tuple[int, str, bool]]":
    """(address, "file:line", whether nothing is here) in the order of addresses."""
    program = unit.dwarfinfo.line_program_for_CU(unit)
    if program is None:
        return []
    first = 0 if program["version"] >= 5 else 1
    files = program["file_entry"]
    rows = []
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        number = state.file - first
        name = os.path.basename(os.fsdecode(files[number].name)) if 0 <= number < len(files) else "?"
        rows.append((state.address, f"{name}:{state.line}", bool(state.end_sequence)))
    rows.sort(key=lambda row: (row[0], not row[2]))
    return rows
