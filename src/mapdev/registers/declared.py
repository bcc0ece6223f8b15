"""``Register``, ``RegisterArray`` and ``Field``: what the body of a block declares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, TypeAlias, overload

from mapdev.registers.access import EFFECTS, Access, Effects, neutral_bits, stored_bits
from mapdev.registers.value import NOT_FIELDS, Elements, Value

if TYPE_CHECKING:
    from mapdev.registers.block import RegisterBlock

ByteOrder: TypeAlias = Literal["little", "big"]

_WIDTHS: Final = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Field:
    """Bits of a register, 0 the least significant: `first` to `last` (default: that one).

    `access`: if it is not the register's; `reset`: if it is not what the register's reset value has there;
    `description`: for people.
    """

    first: int
    last: int | None = None
    access: Access | None = None
    reset: int | None = None
    description: str = ""

    @property
    def low(self) -> int:
        return self.first if self.last is None else min(self.first, self.last)

    @property
    def nbits(self) -> int:
        return 1 if self.last is None else abs(self.last - self.first) + 1

    @property
    def ones(self) -> int:
        """The largest number that fits."""
        return (1 << self.nbits) - 1

    @property
    def mask(self) -> int:
        return self.ones << max(self.low, 0)


Bits: TypeAlias = int | tuple[int, int] | Field
"""Which bits a field has, 0 the least significant: one, the first and the last of several, or more said of them."""


class Declared:
    """What ``Register`` and ``RegisterArray`` have in common."""

    name: str
    byteorder: ByteOrder
    is_array: bool

    def __init__(
        self, offset: int, count: int, stride: int | None, width: int, reset: int, fields: Mapping[str, Bits] | None,
        access: Access, byteorder: ByteOrder | None, description: str,
    ) -> None:  # fmt: skip
        self.offset = offset
        self.count = count
        self.nbytes = width // 8
        self.stride = self.nbytes if stride is None else stride
        self.width = width
        self.reset = reset
        self.access = access
        self.description = description
        self.fields: dict[str, Field] = {}
        for name, bits in (fields or {}).items():
            if isinstance(bits, Field):
                self.fields[name] = bits
            else:
                self.fields[name] = Field(bits) if isinstance(bits, int) else Field(bits[0], bits[1])
        self._byteorder = byteorder

    def offsets(self) -> range:
        """Where in the block each element begins, in bytes."""
        return range(self.offset, self.offset + self.count * self.stride, self.stride)

    def access_of(self, field: str) -> Access:
        """The access of this field."""
        return self.fields[field].access or self.access

    # what the accesses of its bits come to, set by `declare`
    every: int
    """All of its bits."""
    simple: bool
    """Every bit is stored as it comes."""
    unreadable: int
    """The bits of which a load gives the reset value."""
    commands: int
    """Those of them that a program can store into."""
    on_read: int
    """The bits that change when they are loaded."""
    storable: int
    """The bits that a store can change."""
    once: int
    """The bits that a program can store once after a reset."""

    def is_beside(self, other: "Declared") -> bool:
        """Whether both can be at one address: one can only be loaded, the other only be stored to."""
        alike = [(each.offset, each.count, each.stride, each.nbytes) for each in (self, other)]
        loaded, stored = (other, self) if other.storable == 0 else (self, other)
        return alike[0] == alike[1] and loaded.storable == 0 and stored.unreadable == stored.every

    def after_load(self, held: int, covered: int) -> int:
        """What the register holds after a program has loaded the bits `covered`."""
        for mask, effects in self._effects:
            if effects.on_read:
                held = held & ~(mask & covered) if effects.on_read == "rc" else held | mask & covered
        return held

    def after_store(self, before: int, stored: int, covered: int) -> int:
        """What it holds after a program has stored `stored` into the bits `covered`, when it held `before`."""
        after = before
        for mask, effects in self._effects:
            reached = mask & covered
            after = after & ~reached | stored_bits(effects.on_write, before, stored) & reached
        return after

    def neutral(self, before: int) -> int:
        """What a store could have had in the bits that it does not reach."""
        number = 0
        for mask, effects in self._effects:
            number |= neutral_bits(effects.on_write, before) & mask
        return number

    def replaced(self, value: int, fields: Mapping[str, int]) -> int:
        """`value` with these fields instead. Raises ``AttributeError`` for a name, ``ValueError`` for a number."""
        for name, number in fields.items():
            field = self.field(name)
            if not 0 <= number <= field.ones:
                raise ValueError(f"{self.name}.{name} has {field.nbits} bits: {number:#x} does not fit")
            value = value & ~field.mask | number << field.low
        return value

    def field(self, name: str) -> Field:
        try:
            return self.fields[name]
        except KeyError:
            known = ", ".join(self.fields) or "none"
            raise AttributeError(f"{self.name} has no field {name!r}; it has {known}") from None

    def declare(self, name: str, block: type["RegisterBlock"]) -> None:
        """Named in the body of `block`: raises ``ValueError`` for what no register can be."""
        from mapdev.registers.block import TAKEN

        self.name = name
        self.byteorder = self._byteorder or block.byteorder
        wrong = self._wrong()
        if name in TAKEN:
            wrong = "that name is taken: every block of registers has it"
        if wrong:
            raise ValueError(f"{block.__name__}.{name}: {wrong}")
        masks: dict[Effects, int] = {}
        rest = self.every = (1 << self.width) - 1
        for field_name, field in self.fields.items():
            effects = EFFECTS[self.access_of(field_name)]
            masks[effects] = masks.get(effects, 0) | field.mask
            rest &= ~field.mask
            if field.reset is not None:
                self.reset = self.reset & ~field.mask | field.reset << field.low
        if rest:
            effects = EFFECTS[self.access]
            masks[effects] = masks.get(effects, 0) | rest
        self._effects = tuple((mask, effects) for effects, mask in masks.items())
        self.simple = all(effects.on_write == "store" for effects in masks)
        self.unreadable = sum(mask for effects, mask in masks.items() if not effects.readable)
        self.commands = sum(m for effects, m in masks.items() if not effects.readable and effects.on_write)
        self.on_read = sum(mask for effects, mask in masks.items() if effects.on_read)
        self.storable = sum(mask for effects, mask in masks.items() if effects.on_write)
        self.once = sum(mask for effects, mask in masks.items() if effects.on_write == "once")

    def _wrong(self) -> str | None:
        if self.width not in _WIDTHS:
            return f"a register has 8, 16, 32, 64 (up to 512) bits, not {self.width}"
        if self.access not in EFFECTS:
            return f"access is {_ACCESSES}, not {self.access!r}"
        if self.byteorder not in ("little", "big"):
            return f"byteorder is little or big, not {self.byteorder!r}"
        unit = min(self.nbytes, 4)  # chips have 64-bit registers at every fourth byte, too
        if self.offset < 0 or self.offset % unit or self.stride % unit:
            return f"offset {self.offset:#x}, stride {self.stride}: not a multiple of its {unit} bytes"
        if self.count < 1 or self.stride < self.nbytes:
            return f"{self.count} registers that are {self.stride} bytes apart cannot be"
        if not 0 <= self.reset < 1 << self.width:
            return f"the reset value {self.reset:#x} does not fit into {self.width} bits"
        taken = 0
        for name, field in self.fields.items():
            if field.low < 0 or field.low + field.nbits > self.width:
                return f"field {name} lies outside of its {self.width} bits"
            if field.mask & taken:
                return f"field {name} overlaps another field"
            if not name.isidentifier() or name in NOT_FIELDS:
                return f"a field cannot be called {name!r}: it is to be an attribute, and not one that every int has"
            if self.access_of(name) not in EFFECTS:
                return f"field {name}: access is {_ACCESSES}, not {field.access!r}"
            if field.reset is not None and not 0 <= field.reset <= field.ones:
                return f"field {name}: the reset value {field.reset:#x} does not fit into {field.nbits} bits"
            taken |= field.mask
        return None


_ACCESSES: Final = "rw, ro, wo, w1c or another of docs/registers.md"


class Register(Declared):
    """A register of a block, `offset` bytes from its start; of a block's instance it is the ``Value``.

    `width` in bits; `fields`: their names and bits; `byteorder`: if it is not the block's. `access` is that of all bits
    whose field has none; `description` is for people. What cannot be is refused when the class is made
    (``ValueError``): overlaps, misalignment, fields outside the width.
    """

    is_array = False

    def __init__(
        self, offset: int, *, width: int = 32, reset: int = 0, fields: Mapping[str, Bits] | None = None,
        access: Access = "rw", byteorder: ByteOrder | None = None, description: str = "",
    ) -> None:  # fmt: skip
        super().__init__(offset, 1, None, width, reset, fields, access, byteorder, description)

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: "RegisterBlock", owner: type) -> Value: ...
    def __get__(self, block: "RegisterBlock | None", owner: type) -> "Self | Value":
        return self if block is None else block._named[self.name][0].load()

    def __set__(self, block: "RegisterBlock", value: int) -> None:
        block._named[self.name][0].store(value)


class RegisterArray(Declared):
    """`count` registers alike, `stride` bytes apart (default: their width); of an instance: ``Elements``."""

    is_array = True

    def __init__(
        self, offset: int, count: int, *, stride: int | None = None, width: int = 32, reset: int = 0,
        fields: Mapping[str, Bits] | None = None, access: Access = "rw", byteorder: ByteOrder | None = None,
        description: str = "",
    ) -> None:  # fmt: skip
        super().__init__(offset, count, stride, width, reset, fields, access, byteorder, description)

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: "RegisterBlock", owner: type) -> Elements: ...
    def __get__(self, block: "RegisterBlock | None", owner: type) -> "Self | Elements":
        return self if block is None else Elements(block, self)

    def __set__(self, block: "RegisterBlock", value: Any) -> NoReturn:
        raise AttributeError(f"{self.name} is {self.count} registers: store into {self.name}[0] and so on")
