"""What a register holds, as a number with fields; and one register in a block's memory."""

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

if TYPE_CHECKING:
    from mapdev.pages import Pages
    from mapdev.registers.block import RegisterBlock
    from mapdev.registers.declared import Declared, RegisterArray


class Value(int):
    """What a register held when it was read: an int, with the register's fields as attributes.

    Storing into a field loads, changes and stores the *register*; this value stays what was read.
    """

    _cell: "Cell"

    def __new__(cls, number: int, cell: "Cell") -> Self:
        self = super().__new__(cls, number)
        self.__dict__["_cell"] = cell
        return self

    def __getattr__(self, name: str) -> int:
        if name == "_cell":  # not there yet: a copy is being made
            raise AttributeError(name)
        field = self._cell.register.field(name)
        return self >> field.low & field.ones

    def __setattr__(self, name: str, number: int) -> None:
        self._cell.store_field(name, number)

    def replace(self, **fields: int) -> int:
        """This number with some fields changed; nothing is stored. Raises ``ValueError`` for what does not fit."""
        return self._cell.register.replaced(self, fields)

    def __repr__(self) -> str:
        fields = "".join(f" {name}={getattr(self, name)}" for name in self._cell.register.fields)
        return f"<{self._cell.name} {self:#x}{fields}>"

    __str__ = int.__repr__


NOT_FIELDS: Final = frozenset(dir(Value)) | {"_cell"}


class Elements:
    """The registers of a ``RegisterArray`` by number. Raises ``IndexError``."""

    def __init__(self, block: "RegisterBlock", registers: "RegisterArray") -> None:
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

    def _cell(self, index: int) -> "Cell":
        if not 0 <= index < len(self):
            raise IndexError(f"{self._registers.name} has {len(self)} registers; there is no {index}")
        return self._block._named[self._registers.name][index]


class Hook(NamedTuple):
    """A method of a block that is called at an access: ``read_X`` or ``write_X``, for the bits of `mask`."""

    mask: int
    low: int
    method: str


class Cell:
    """One register in one block's memory: loads and stores of the device (plain), and those of programs (``bus_...``).

    ``settled``: what it held when the device, or an access that was trapped, last stored here, or it was settled.
    ``twin``: the register that stores go to, if this one at the same address can only be loaded.
    """

    __slots__ = (
        "args", "block", "byteorder", "end", "field_reads", "field_writes", "index", "memory", "name", "nbytes",
        "offset", "plain_load", "read", "register", "settled", "start", "twin", "write", "written",
    )  # fmt: skip

    def __init__(self, block: "RegisterBlock", register: "Declared", index: int) -> None:
        self.block = block
        self.register = register
        self.index = index
        self.args = (index,) if register.is_array else ()
        self.name = register.name + (f"[{index}]" if register.is_array else "")
        self.nbytes = register.nbytes
        self.byteorder = register.byteorder
        self.offset = register.offset + index * register.stride
        self.start = block.offset + self.offset
        self.end = self.start + self.nbytes
        hooks = block._hooks.get(register.name, _NONE)
        self.read, self.write, self.field_reads, self.field_writes = hooks
        self.memory: Pages | bytearray = block.pages
        self.twin: Cell | None = None
        self.plain_load = not (self.read or self.field_reads or register.on_read or register.unreadable)
        self.settled = 0
        self.written = 0
        """The bits of a write-once register that a program has stored."""

    def hide(self) -> None:
        """Be the twin of a register that is loaded from the same address: hold the value elsewhere."""
        self.memory, self.start, self.end = bytearray(self.nbytes), 0, self.nbytes

    def held(self) -> int:
        return int.from_bytes(self.memory[self.start : self.end], self.byteorder)

    def load(self) -> Value:
        return Value(self.held(), self)

    def store(self, value: int) -> None:
        if not 0 <= value < 1 << self.register.width:
            raise ValueError(f"{self.name} has {self.register.width} bits: {value:#x} does not fit")
        with self.block.lock:
            self._put(value)
            self.settled = int(value)

    def store_field(self, name: str, number: int) -> None:
        with self.block.lock:
            settled = self.settled
            self._put(self.register.replaced(self.load(), {name: number}))
            # what programs have stored into other fields is still to be found by settle
            self.settled = self.register.replaced(settled, {name: number})

    def reset(self) -> None:
        self.store(self.register.reset)
        self.written = 0

    # -- an access of a program, which holds the block's lock; `covered`: the bits that it reaches ----------------

    def bus_load(self, covered: int) -> int:
        """What a program gets; the effects of reading are applied once."""
        register, block = self.register, self.block
        whole = getattr(block, self.read)(*self.args) if self.read is not None else None
        parts = [(hook, getattr(block, hook.method)(*self.args)) for hook in self.field_reads if hook.mask & covered]
        held = self.held()
        if whole is None:
            value = held & ~register.unreadable | register.reset & register.unreadable
        else:
            value = self._number(whole, str(self.read), register.width)
        for (mask, low, method), answer in parts:
            if answer is not None:
                value = value & ~mask | self._number(answer, method, mask.bit_length() - low) << low
        if register.on_read:
            after = register.after_load(held, covered)
            if after != held:
                self.store(after)
        return value

    def bus_store(self, stored: int, covered: int) -> None:
        """`stored`, of which the bits that are not `covered` do not matter, comes from a program."""
        before = self.held()
        register = self.register
        if register.simple:
            stored = after = before & ~covered | stored & covered
        else:
            after = register.after_store(before, stored, covered & ~self.written)
            stored = stored & covered | register.neutral(before) & ~covered
            self.written |= covered & register.once
        self._put(after)
        self.settled = after
        self.block._stores.append((self, stored, before))
        if self.write is not None or self.field_writes:
            self._tell(stored, before, covered)

    def settle(self) -> None:
        """As ``bus_store``, for what a program has stored on a page that no access to is seen."""
        value, before = self.held(), self.settled
        if value == before:
            return
        if self.twin is not None:
            self.store(before)
            self.twin.bus_store(value, self.register.every)
            return
        register = self.register
        after = register.after_store(before, value, register.every & ~self.written)
        self.written |= register.once & (value ^ before)
        if after != value:
            self.store(after)
        self.settled = after
        self.block._stores.append((self, value, before))
        if self.write is not None or self.field_writes:
            self._tell(value, before, register.every)
        if register.commands:  # the same command stored again is to be seen again
            self.store(self.held() & ~register.commands | register.reset & register.commands)

    def _tell(self, stored: int, before: int, covered: int) -> None:
        """Call the block's methods for a store; what they answer is held from now on."""
        for mask, low, method in self.field_writes:
            if mask & covered:
                answer = getattr(self.block, method)(*self.args, (stored & mask) >> low, (before & mask) >> low)
                if answer is not None:
                    number = self._number(answer, method, mask.bit_length() - low)
                    self.store(self.held() & ~mask | number << low)
        if self.write is not None:
            answer = getattr(self.block, self.write)(*self.args, Value(stored, self), Value(before, self))
            if answer is not None:
                self.store(self._number(answer, self.write, self.register.width))

    def _number(self, answer: Any, method: str, bits: int) -> int:
        number = operator.index(answer)  # TypeError names the type that came instead
        if not 0 <= number < 1 << bits:
            name = f"{type(self.block).__name__}.{method}"
            raise ValueError(f"{name} answered {number:#x}, which does not fit into {bits} bits")
        return number

    def _put(self, value: int) -> None:
        self.memory[self.start : self.end] = value.to_bytes(self.nbytes, self.byteorder)


Hooks = tuple[str | None, str | None, tuple[Hook, ...], tuple[Hook, ...]]
"""The methods of one register: read, write, those of its fields."""

_NONE: Final[Hooks] = (None, None, (), ())
