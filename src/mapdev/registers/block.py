"""``RegisterBlock``: registers in a part of a device's memory."""

import errno
import inspect
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mapdev.pages import BytesLike, Pages
from mapdev.registers.declared import ByteOrder, Declared, Register, RegisterArray
from mapdev.registers.value import Cell, Hook, Hooks, Value

_KEPT: Final = 4096
"""As many stores are kept for ``settle``, the last ones."""


@dataclass(frozen=True, slots=True)
class Store:
    """What ``settle`` found that programs had stored: ``value``, into a register that held ``before``.

    ``index`` is the number of the register in a ``RegisterArray``; else 0.
    """

    name: str
    index: int
    value: Value
    before: Value


class RegisterBlock:
    """Registers in a part of a device's memory. Subclass it with a body of ``Register`` and ``RegisterArray``, and of
    methods that are called when a program loads and stores (see the package).

    Class keywords: ``size`` in bytes (default: up to the end of the last register); ``byteorder`` (default: little);
    ``trap``: whether accesses of programs should be trapped where that can be (default: if it has such methods, or a
    register that changes when it is read). ``block[a:b]`` are bytes, counted from the block's start: loads, and stores
    without an effect.
    """

    nbytes: ClassVar[int]
    byteorder: ClassVar[ByteOrder] = "little"
    registers: ClassVar[Mapping[str, Register | RegisterArray]] = {}
    """By name, those of base classes first."""
    trapped: ClassVar[bool] = False
    """Whether accesses should be trapped."""

    device: Any = None
    """The device that it was placed in by ``place``: for methods that raise an interrupt, or reach for memory."""

    address: ClassVar[int] = 0
    """Where a description says that it is."""
    memories: ClassVar[Mapping[str, range]] = {}
    """Memory between the registers that has a name in a description, by it: which bytes."""
    left_out: ClassVar[Mapping[str, str]] = {}
    """Registers of a description that this block does not have, by name: why."""

    _hooks: ClassVar[Mapping[str, Hooks]] = {}
    _trap: ClassVar[bool | None] = None

    def __init_subclass__(
        cls, *, size: int | None = None, byteorder: ByteOrder | None = None, trap: bool | None = None
    ) -> None:
        super().__init_subclass__()
        cls.byteorder = byteorder or cls.byteorder
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Register | RegisterArray)}
        for name, register in own.items():
            register.declare(name, cls)
        cls.registers = {**cls.registers, **own}
        end, last, beside = 0, None, False
        elements = [(offset, each) for each in cls.registers.values() for offset in each.offsets()]
        for offset, register in sorted(elements, key=lambda element: element[0]):
            taken = last is not None and offset < end
            if last is not None and taken and (beside or not register.is_beside(last)):
                raise ValueError(f"{cls.__name__}.{register.name}: overlaps {last.name} at offset {offset:#x}")
            end, last, beside = offset + register.nbytes, register, taken
        cls.nbytes = size if size is not None else max(end, getattr(cls, "nbytes", 0))
        if cls.nbytes < max(end, 1):
            raise ValueError(f"{cls.__name__}: its registers need {end} bytes, and its size is {cls.nbytes}")
        cls._hooks = _hooks(cls)
        cls._trap = trap if trap is not None else cls._trap
        changing = any(register.on_read for register in cls.registers.values())
        cls.trapped = cls._trap if cls._trap is not None else bool(cls._hooks) or changing

    def __init__(self, pages: Pages, offset: int = 0) -> None:
        """From byte `offset` of `pages` on. Raises ``ValueError`` if it does not fit there or is not aligned."""
        widest = max((register.nbytes for register in self.registers.values()), default=1)
        if offset % widest:
            raise ValueError(f"{type(self).__name__} at {offset:#x}: not a multiple of its widest register, {widest}")
        if not 0 <= offset <= pages.nbytes - self.nbytes:
            raise ValueError(f"{type(self).__name__} has {self.nbytes} bytes: no room at {offset:#x} of {pages!r}")
        self.pages = pages
        self.offset = offset
        self.lock = threading.RLock()
        """Held while one of its methods runs, and at each access: one program at a time, as on a bus. The blocks of a
        device that were placed by ``place`` have one lock together."""
        self._named = {
            register.name: [Cell(self, register, index) for index in range(register.count)]
            for register in self.registers.values()
        }
        self._cells: dict[int, Cell] = {}
        for cell in (cell for cells in self._named.values() for cell in cells):
            other = self._cells.setdefault(cell.offset, cell)
            if other is not cell:
                loaded, stored = (other, cell) if other.register.storable == 0 else (cell, other)
                stored.hide()
                loaded.twin = stored
                self._cells[cell.offset] = loaded
        self._starts = sorted(self._cells)
        self._stores: deque[tuple[Cell, int, int]] = deque(maxlen=_KEPT)
        self.reset()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.offset:#x}>"

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self.nbytes)
        return self.pages[self.offset + start : self.offset + stop]

    def __setitem__(self, key: slice, data: BytesLike) -> None:
        start, stop, _ = key.indices(self.nbytes)
        self.pages[self.offset + start : self.offset + stop] = data

    def reset(self) -> None:
        """Every register gets its reset value."""
        with self.lock:
            for cells in self._named.values():
                for cell in cells:
                    cell.reset()

    def pull(self) -> None:
        """Before registers are read: what programs have stored through mappings (see ``Pages.pull``)."""
        self.pages.pull(self.offset, self.nbytes)

    def settle(self) -> list[Store]:
        """What programs have stored since the last call: on plain pages as far as a comparison shows it, in the order
        of the declaration; where accesses are trapped every store, in their order (at most the last 4096).

        On plain pages each register holds afterwards what its access makes of it, and its methods have been called.
        Pulls first. A store that a program makes while this runs may be found now, found by the next call, or be lost.
        """
        with self.lock:
            self.pull()
            for cell in tuple(self._cells.values()):
                cell.settle()
            stores = [
                Store(cell.register.name, cell.index, Value(value, cell), Value(before, cell))
                for cell, value, before in self._stores
            ]
            self._stores.clear()
            return stores

    # -- accesses of programs ---------------------------------------------------------------------------------

    def bus_load(self, offset: int, count: int) -> bytes:
        """A program loads `count` bytes at byte `offset` of the block: what it gets, and the effects that it has.

        Each register that the access reaches is read once, the lowest first, also if it is reached in part. Between
        registers there is plain memory. Raises ``OSError`` EFAULT beyond the end, and what the block's methods raise.
        """
        cell = self._cells.get(offset)
        if cell is not None and cell.nbytes == count:
            with self.lock:
                if cell.plain_load:
                    return self.pages[cell.start : cell.end]
                return cell.bus_load(cell.register.every).to_bytes(count, cell.byteorder)
        self._check(offset, count)
        data = bytearray(count)
        with self.lock:
            for cell, start, stop in self._pieces(offset, count):
                if cell is None:
                    piece = self[start:stop]
                else:
                    covered, low, high = _covered(cell, start, stop)
                    piece = cell.bus_load(covered).to_bytes(cell.nbytes, cell.byteorder)[low:high]
                data[start - offset : stop - offset] = piece
        return bytes(data)

    def bus_store(self, offset: int, data: BytesLike) -> None:
        """A program stores `data` at byte `offset` of the block. As ``bus_load``: bits that the access does not reach
        are not written, so that those of a ``w1c`` register, say, stay."""
        count = len(data)
        cell = self._cells.get(offset)
        if cell is not None and cell.nbytes == count:
            with self.lock:
                (cell.twin or cell).bus_store(int.from_bytes(data, cell.byteorder), cell.register.every)
            return
        self._check(offset, count)
        with self.lock:
            for cell, start, stop in self._pieces(offset, count):
                piece = data[start - offset : stop - offset]
                if cell is None:
                    self[start:stop] = piece
                else:
                    covered, low, high = _covered(cell, start, stop)
                    whole = bytes(low) + bytes(piece) + bytes(cell.nbytes - high)
                    (cell.twin or cell).bus_store(int.from_bytes(whole, cell.byteorder), covered)

    def _pieces(self, offset: int, count: int) -> list[tuple[Cell | None, int, int]]:
        """(register, from, to) for each register that these bytes reach, and for what lies between (None)."""
        pieces: list[tuple[Cell | None, int, int]] = []
        at, end = offset, offset + count
        number = max(0, bisect_right(self._starts, offset) - 1)
        while at < end:
            cell = self._cells[self._starts[number]] if number < len(self._starts) else None
            if cell is None or end <= cell.offset:
                pieces.append((None, at, end))
                break
            if at < cell.offset:
                pieces.append((None, at, cell.offset))
                at = cell.offset
            if at < cell.offset + cell.nbytes:
                stop = min(end, cell.offset + cell.nbytes)
                pieces.append((cell, at, stop))
                at = stop
            number += 1
        return pieces

    def _check(self, offset: int, count: int) -> None:
        if not 0 <= offset <= self.nbytes - count:
            name = type(self).__name__
            raise OSError(errno.EFAULT, f"{name} has {self.nbytes:#x} bytes: there are no {count} at {offset:#x}")


def _covered(cell: Cell, start: int, stop: int) -> tuple[int, int, int]:
    """(the bits of the register that bytes `start` to `stop` of its block are, the first of these bytes, the last)."""
    low, high = start - cell.offset, stop - cell.offset
    first = low if cell.byteorder == "little" else cell.nbytes - high
    return (1 << 8 * (high - low)) - 1 << 8 * first, low, high


# -- which methods there are --------------------------------------------------------------------------------------

TAKEN: Final = frozenset(dir(RegisterBlock)) | {"pages", "offset", "lock", "_cells", "_named", "_starts", "_stores"}
"""What no register can be called."""


def _hooks(cls: type[RegisterBlock]) -> dict[str, Hooks]:
    """The methods called at an access, by register. Raises ``ValueError`` for one that never would be."""
    found: dict[str, list[tuple[str, str | None, str]]] = {}
    for method in sorted(name for name in dir(cls) if name.startswith(("read_", "write_"))):
        function = inspect.getattr_static(cls, method)
        if not inspect.isfunction(function):
            continue
        kind, _, target = method.partition("_")
        register, field = _target(cls, method, target)
        arguments: tuple[str, ...] = ("index",) if register.is_array else ()
        arguments += ("value", "before") if kind == "write" else ()
        try:
            inspect.signature(function).bind(None, *arguments)
        except TypeError:
            raise ValueError(f"{cls.__name__}.{method} is to take ({', '.join(('self', *arguments))})") from None
        if inspect.iscoroutinefunction(function):
            raise ValueError(f"{cls.__name__}.{method}: a plain method, not an async one, is called at an access")
        found.setdefault(register.name, []).append((kind, field, method))
    return {name: _hooks_of(cls.registers[name], methods) for name, methods in found.items()}


def _target(cls: type[RegisterBlock], method: str, target: str) -> tuple[Declared, str | None]:
    """The register, or the register and its field, that ``read_TARGET`` or ``write_TARGET`` is for."""
    if target in cls.registers:  # also if it could be a field: that is part of what the method of its register sees
        return cls.registers[target], None
    fields = [
        (register, field)
        for register in cls.registers.values()
        for field in register.fields
        if f"{register.name}_{field}" == target
    ]
    if len(fields) == 1:
        return fields[0]
    if fields:
        both = " or ".join(f"{register.name}.{field}" for register, field in fields)
        raise ValueError(f"{cls.__name__}.{method}: is that {both}? Use the method of the whole register instead")
    known = ", ".join(cls.registers) or "no register"
    raise ValueError(f"{cls.__name__}.{method}: there is no such register, and no such field; it has {known}")


def _hooks_of(register: Declared, methods: list[tuple[str, str | None, str]]) -> Hooks:
    whole = {kind: method for kind, field, method in methods if field is None}
    parts: dict[str, list[Hook]] = {"read": [], "write": []}
    for kind, name, method in methods:
        if name is not None:
            field = register.fields[name]
            parts[kind].append(Hook(field.mask, field.low, method))
    reads, writes = (tuple(sorted(parts[kind], key=lambda hook: hook.low)) for kind in ("read", "write"))
    return whole.get("read"), whole.get("write"), reads, writes
