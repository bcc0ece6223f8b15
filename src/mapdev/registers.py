"""Registers by name: the register table of a data sheet, as a class.

    class Timer(RegisterBlock):
        CTRL = Register(0x00, fields={"START": 0, "IRQ_EN": 1, "MODE": (4, 7)})
        COUNT = Register(0x04, access="ro", reset=0xFFFF)
        MATCH = RegisterArray(0x10, 4)

    timer = Timer(pages)                # from byte 0 of the pages that the device maps; reset values are stored
    timer.CTRL = 0x31                   # one store of the register's width; every program that maps it sees it
    timer.CTRL.MODE = 2                 # load, change the field, store
    timer.CTRL = timer.CTRL.replace(START=1, MODE=3)      # two fields in one store
    if timer.CTRL.START: ...            # a register reads as an int that has its fields as attributes
    timer.MATCH[2] += 1

**It is plain memory.** No code runs when a program loads or stores, so nothing here is enforced at that moment:
a program can store into a register that is ``ro``, and load one that is ``wo``. ``settle`` finds by comparison what
programs have stored since it was last called, and applies the access then:

* ``rw``: the new value stays;
* ``ro``: the old value is put back;
* ``wo``: the register goes back to its reset value, so that the same command stored again is seen again;
* ``w1c``: the bits that were stored as 1 are cleared, the others keep their old value.

What comparison cannot see: a store of the very value that is there already (so writing a ``w1c`` register back as it
was read clears nothing), and all but the last of several stores.

**What a host that traps every single access adds** later needs no change in a file written for this one. Such a host
finds the register of an offset in ``RegisterBlock.registers`` and applies ``after_store`` at each store; ``settle``
then returns every store in order. Methods called at an access would be new ones, which a file has or has not.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, NoReturn, Self, TypeAlias, TypeVar, overload

from mapdev.pages import BytesLike, Pages

Access: TypeAlias = Literal["rw", "ro", "wo", "w1c"]
ByteOrder: TypeAlias = Literal["little", "big"]
Bits: TypeAlias = int | tuple[int, int]
"""Which bits a field has, 0 the least significant: one, or the first and the last of several."""


class _Declared:
    """What ``Register`` and ``RegisterArray`` have in common."""

    name: str
    byteorder: ByteOrder

    def __init__(
        self, offset: int, count: int, stride: int | None, width: int, reset: int, fields: Mapping[str, Bits] | None,
        access: Access, byteorder: ByteOrder | None,
    ) -> None:  # fmt: skip
        self.offset = offset
        self.count = count
        self.nbytes = width // 8
        self.stride = self.nbytes if stride is None else stride
        self.width = width
        self.reset = reset
        self.access = access
        self.fields: dict[str, tuple[int, int]] = {}
        """Name -> (lowest bit, number of bits)."""
        for name, bits in (fields or {}).items():
            low, high = (bits, bits) if isinstance(bits, int) else sorted(bits)
            self.fields[name] = (low, high - low + 1)
        self._byteorder = byteorder

    def offsets(self) -> range:
        """Where in the block each element begins, in bytes."""
        return range(self.offset, self.offset + self.count * self.stride, self.stride)

    def after_store(self, before: int, stored: int) -> int:
        """What a register that holds `before` holds after a program has stored `stored`."""
        match self.access:
            case "ro":
                return before
            case "wo":
                return self.reset
            case "w1c":
                return before & ~stored
            case "rw":
                return stored

    def replaced(self, value: int, fields: Mapping[str, int]) -> int:
        """`value` with these fields instead. Raises ``AttributeError`` for a name, ``ValueError`` for a number."""
        for name, number in fields.items():
            low, bits = self.field(name)
            if not 0 <= number < 1 << bits:
                raise ValueError(f"{self.name}.{name} has {bits} bits: {number:#x} does not fit")
            value = value & ~((1 << bits) - 1 << low) | number << low
        return value

    def field(self, name: str) -> tuple[int, int]:
        try:
            return self.fields[name]
        except KeyError:
            known = ", ".join(self.fields) or "none"
            raise AttributeError(f"{self.name} has no field {name!r}; it has {known}") from None

    def declare(self, name: str, block: type["RegisterBlock"]) -> None:
        """Named in the body of `block`: raises ``ValueError`` for what no register can be."""
        self.name = name
        self.byteorder = self._byteorder or block.byteorder
        wrong = self._wrong()
        if name in {"pages", "offset"} or hasattr(RegisterBlock, name):
            wrong = "that name is taken: every block of registers has it"
        if wrong:
            raise ValueError(f"{block.__name__}.{name}: {wrong}")

    def _wrong(self) -> str | None:
        if self.width not in (8, 16, 32, 64):
            return f"a register has 8, 16, 32 or 64 bits, not {self.width}"
        if self.access not in ("rw", "ro", "wo", "w1c"):
            return f"access is rw, ro, wo or w1c, not {self.access!r}"
        if self.byteorder not in ("little", "big"):
            return f"byteorder is little or big, not {self.byteorder!r}"
        if self.offset < 0 or self.offset % self.nbytes or self.stride % self.nbytes:
            return f"offset {self.offset:#x}, stride {self.stride}: not a multiple of its {self.nbytes} bytes"
        if self.count < 1 or self.stride < self.nbytes:
            return f"{self.count} registers that are {self.stride} bytes apart cannot be"
        if not 0 <= self.reset < 1 << self.width:
            return f"the reset value {self.reset:#x} does not fit into {self.width} bits"
        taken = 0
        for field, (low, bits) in self.fields.items():
            mask = (1 << bits) - 1 << max(low, 0)
            if low < 0 or low + bits > self.width:
                return f"field {field} lies outside of its {self.width} bits"
            if mask & taken:
                return f"field {field} overlaps another field"
            if not field.isidentifier() or field in _NOT_FIELDS:
                return f"a field cannot be called {field!r}: it is to be an attribute, and not one that every int has"
            taken |= mask
        return None


class Register(_Declared):
    """A register of a block, `offset` bytes from its start; of a block's instance it is the ``Value``.

    `width` in bits; `fields`: their names and bits; `byteorder`: if it is not the block's. For `access` see the module.
    What cannot be is refused when the class is made (``ValueError``): overlaps, misalignment, fields outside the width.
    """

    def __init__(
        self, offset: int, *, width: int = 32, reset: int = 0, fields: Mapping[str, Bits] | None = None,
        access: Access = "rw", byteorder: ByteOrder | None = None,
    ) -> None:  # fmt: skip
        super().__init__(offset, 1, None, width, reset, fields, access, byteorder)

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: "RegisterBlock", owner: type) -> "Value": ...
    def __get__(self, block: "RegisterBlock | None", owner: type) -> "Self | Value":
        return self if block is None else _Cell(block, self, 0).load()

    def __set__(self, block: "RegisterBlock", value: int) -> None:
        _Cell(block, self, 0).store(value)


class RegisterArray(_Declared):
    """`count` registers alike, `stride` bytes apart (default: their width); of an instance: ``Elements``."""

    def __init__(
        self, offset: int, count: int, *, stride: int | None = None, width: int = 32, reset: int = 0,
        fields: Mapping[str, Bits] | None = None, access: Access = "rw", byteorder: ByteOrder | None = None,
    ) -> None:  # fmt: skip
        super().__init__(offset, count, stride, width, reset, fields, access, byteorder)

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: "RegisterBlock", owner: type) -> "Elements": ...
    def __get__(self, block: "RegisterBlock | None", owner: type) -> "Self | Elements":
        return self if block is None else Elements(block, self)

    def __set__(self, block: "RegisterBlock", value: Any) -> NoReturn:
        raise AttributeError(f"{self.name} is {self.count} registers: store into {self.name}[0] and so on")


class Value(int):
    """What a register held when it was read: an int, with the register's fields as attributes.

    Storing into a field loads, changes and stores the *register*; this value stays what was read.
    """

    _cell: "_Cell"

    def __new__(cls, number: int, cell: "_Cell") -> Self:
        self = super().__new__(cls, number)
        self.__dict__["_cell"] = cell
        return self

    def __getattr__(self, name: str) -> int:
        if name == "_cell":  # not there yet: a copy is being made
            raise AttributeError(name)
        low, bits = self._cell.register.field(name)
        return self >> low & (1 << bits) - 1

    def __setattr__(self, name: str, number: int) -> None:
        self._cell.store_field(name, number)

    def replace(self, **fields: int) -> int:
        """This number with some fields changed; nothing is stored. Raises ``ValueError`` for what does not fit."""
        return self._cell.register.replaced(self, fields)

    def __repr__(self) -> str:
        fields = "".join(f" {name}={getattr(self, name)}" for name in self._cell.register.fields)
        return f"<{self._cell.name} {self:#x}{fields}>"

    __str__ = int.__repr__


class Elements:
    """The registers of a ``RegisterArray`` by number. Raises ``IndexError``."""

    def __init__(self, block: "RegisterBlock", registers: RegisterArray) -> None:
        self._block = block
        self._registers = registers

    def __len__(self) -> int:
        return self._registers.count

    def __getitem__(self, index: int) -> Value:
        return self._cell(index).load()

    def __setitem__(self, index: int, value: int) -> None:
        self._cell(index).store(value)

    def __iter__(self) -> Iterator[Value]:
        return (self[index] for index in range(len(self)))

    def _cell(self, index: int) -> "_Cell":
        if not 0 <= index < len(self):
            raise IndexError(f"{self._registers.name} has {len(self)} registers; there is no {index}")
        return _Cell(self._block, self._registers, index)


_NOT_FIELDS: Final = frozenset(dir(Value)) | {"_cell"}


@dataclass(frozen=True, slots=True)
class _Cell:
    """One register in one block's memory."""

    block: "RegisterBlock"
    register: _Declared
    index: int

    @property
    def name(self) -> str:
        return self.register.name + (f"[{self.index}]" if isinstance(self.register, RegisterArray) else "")

    @property
    def offset(self) -> int:
        return self.register.offset + self.index * self.register.stride

    def load(self) -> Value:
        data = self.block[self.offset : self.offset + self.register.nbytes]
        return Value(int.from_bytes(data, self.register.byteorder), self)

    def store(self, value: int) -> None:
        if not 0 <= value < 1 << self.register.width:
            raise ValueError(f"{self.name} has {self.register.width} bits: {value:#x} does not fit")
        with self.block._lock:
            self._put(value)
            self.block._settled[self.offset] = int(value)

    def store_field(self, name: str, number: int) -> None:
        with self.block._lock:
            settled = self.block._settled[self.offset]
            self._put(self.register.replaced(self.load(), {name: number}))
            # what programs have stored into other fields is still to be found by settle
            self.block._settled[self.offset] = self.register.replaced(settled, {name: number})

    def _put(self, value: int) -> None:
        data = value.to_bytes(self.register.nbytes, self.register.byteorder)
        self.block[self.offset : self.offset + self.register.nbytes] = data


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
    """Registers in a part of a device's memory. Subclass it with a body of ``Register`` and ``RegisterArray``.

    Class keywords: ``size`` in bytes (default: up to the end of the last register); ``byteorder`` (default: little).
    ``block[a:b]`` are bytes, counted from the block's start: loads, and stores as of a program.
    """

    nbytes: ClassVar[int]
    byteorder: ClassVar[ByteOrder] = "little"
    registers: ClassVar[Mapping[str, Register | RegisterArray]] = {}
    """By name, those of base classes first."""

    def __init_subclass__(cls, *, size: int | None = None, byteorder: ByteOrder | None = None) -> None:
        super().__init_subclass__()
        cls.byteorder = byteorder or cls.byteorder
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Register | RegisterArray)}
        for name, register in own.items():
            register.declare(name, cls)
        cls.registers = {**cls.registers, **own}
        end, last = 0, ""
        elements = [(offset, each) for each in cls.registers.values() for offset in each.offsets()]
        for offset, register in sorted(elements, key=lambda element: element[0]):
            if offset < end:
                raise ValueError(f"{cls.__name__}.{register.name}: overlaps {last} at offset {offset:#x}")
            end, last = offset + register.nbytes, register.name
        cls.nbytes = size if size is not None else max(end, getattr(cls, "nbytes", 0))
        if cls.nbytes < max(end, 1):
            raise ValueError(f"{cls.__name__}: its registers need {end} bytes, and its size is {cls.nbytes}")

    def __init__(self, pages: Pages, offset: int = 0) -> None:
        """From byte `offset` of `pages` on. Raises ``ValueError`` if it does not fit there or is not aligned."""
        widest = max((register.nbytes for register in self.registers.values()), default=1)
        if offset % widest:
            raise ValueError(f"{type(self).__name__} at {offset:#x}: not a multiple of its widest register, {widest}")
        if not 0 <= offset <= pages.nbytes - self.nbytes:
            raise ValueError(f"{type(self).__name__} has {self.nbytes} bytes: no room at {offset:#x} of {pages!r}")
        self.pages = pages
        self.offset = offset
        self._lock = threading.RLock()
        self._cells = [
            _Cell(self, register, index) for register in self.registers.values() for index in range(register.count)
        ]
        self._settled: dict[int, int] = {}
        """Offset -> what the register held when it was last stored to here, or settled."""
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
        with self._lock:
            for cell in self._cells:
                cell.store(cell.register.reset)

    def pull(self) -> None:
        """Before registers are read: what programs have stored through mappings (see ``Pages.pull``)."""
        self.pages.pull(self.offset, self.nbytes)

    def settle(self) -> list[Store]:
        """What programs have stored since the last call, in the order of the declaration; see the module for
        what that cannot see. Afterwards each register holds what its access makes of it. Pulls first.

        A store that a program makes while this runs may be found now, found by the next call, or be lost.
        """
        with self._lock:
            self.pull()
            stores = []
            for cell in self._cells:
                value, settled = cell.load(), self._settled[cell.offset]
                if value != settled:
                    stores.append(Store(cell.register.name, cell.index, value, Value(settled, cell)))
                    after = cell.register.after_store(settled, value)
                    if after != value:
                        cell.store(after)
                    self._settled[cell.offset] = after
            return stores


B = TypeVar("B", bound=RegisterBlock)


class Place(Generic[B]):
    """A block at an address of a device, as declared in the body of its class by ``place``."""

    attribute: str

    def __init__(self, address: int, block: type[B], name: str | None) -> None:
        self.address = address
        self.block = block
        self._name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    @property
    def name(self) -> str:
        """As shown to people, in /proc/iomem or /sys."""
        return self._name or self.attribute

    @property
    def last(self) -> int:
        """The address of its last byte."""
        return self.address + self.block.nbytes - 1

    def make(self, device: object, pages: Pages, offset: int) -> None:
        """The block of this `device`: from now on its attribute."""
        device.__dict__[self.attribute] = self.block(pages, offset)

    @overload
    def __get__(self, device: None, owner: type) -> Self: ...
    @overload
    def __get__(self, device: object, owner: type) -> B: ...
    def __get__(self, device: object | None, owner: type) -> Self | B:
        if device is None:
            return self
        # only reached before `make`: afterwards the instance's own attribute comes first
        raise AttributeError(f"{owner.__name__}.{self.attribute} is not there yet: call super().__init__() first")


@overload
def place(address: int, what: type[B], name: str | None = None) -> Place[B]: ...
@overload
def place(address: int, what: int, name: str | None = None) -> Place[RegisterBlock]: ...
def place(address: int, what: type[RegisterBlock] | int, name: str | None = None) -> Place[Any]:
    """In the body of a device: registers, or so many bytes of memory, at a physical address.

    The attribute is the block. `name`: as shown to people (default: the attribute's). Raises ``ValueError`` for a
    size or an address that cannot be.
    """
    if address < 0:
        raise ValueError(f"{address:#x} is not an address")
    if isinstance(what, type):
        return Place(address, what, name)

    class Memory(RegisterBlock, size=what):
        """Bytes without registers."""

    return Place(address, Memory, name)


def places(device: type) -> list[Place[Any]]:
    """What is placed in the body of this class and its bases, in the order of declaration."""
    found: dict[str, Place[Any]] = {}
    for cls in reversed(device.__mro__):
        found.update({name: value for name, value in vars(cls).items() if isinstance(value, Place)})
    return list(found.values())
