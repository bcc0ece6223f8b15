"""Blocks of registers that are made of a description: what SystemRDL and CMSIS-SVD have in common."""

import itertools
import keyword
import math
import re
import types
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mapdev.errors import UsageError
from mapdev.registers.access import Access, Effects, OnRead, OnWrite
from mapdev.registers.block import TAKEN, RegisterBlock
from mapdev.registers.declared import ByteOrder, Field, Register, RegisterArray
from mapdev.registers.value import NOT_FIELDS

_MOST = 1 << 16
"""More registers than that are taken for a mistake: each takes room in Python."""


def access_of(readable: bool, on_write: OnWrite, on_read: OnRead) -> Access:
    """The access type with these effects."""
    return Effects(readable, on_write, on_read if readable else "").name


@dataclass(frozen=True, slots=True)
class Part:
    """A step of the path to a register: a name, and for an array its dimensions as (number, bytes apart)."""

    name: str
    dimensions: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A register as a description has it, at byte `offset` for the first element of all arrays on its path."""

    path: Sequence[Part]
    offset: int
    width: int
    reset: int
    access: Access
    fields: dict[str, Field]
    byteorder: ByteOrder
    description: str = ""


@dataclass(slots=True)
class Description:
    """A block as a description has it. ``size`` in bytes; ``memories``: which bytes are memory, by name."""

    name: str
    size: int
    registers: list[Described] = field(default_factory=list)
    memories: dict[str, range] = field(default_factory=dict)
    address: int = 0
    """Where it lies, if that is said."""


def make_block(description: Description, file: Path) -> type[RegisterBlock]:
    """The class for it. Its accesses are trapped where they can be. Raises ``UsageError`` for one without registers.

    Names on the path are joined by "_". An array stays one; of several in a path only the innermost, and the others
    become numbers in the names. A name that Python or every block has gets a "_" at its end. A register that cannot
    be is in ``left_out``: one that overlaps an earlier one, unless the one can only be loaded and the other stored to.
    """
    body: dict[str, object] = {"__doc__": f"{description.name} of {file.name}.", "__module__": __name__}
    taken: dict[int, list[Register | RegisterArray]] = {}
    left_out: dict[str, str] = {}
    number = sum(math.prod(n for part in each.path for n, _ in part.dimensions) for each in description.registers)
    if number > _MOST:
        raise UsageError(f"{file}: {description.name} has {number} registers, more than {_MOST}: name a part of it")
    for described in description.registers:
        for joined, register in _registers(described):
            name = python_name(joined, body)
            try:
                register.declare(name, RegisterBlock)
            except ValueError as error:
                left_out[name] = str(error).partition(": ")[2]
                continue
            reached = [at for offset in register.offsets() for at in range(offset, offset + register.nbytes)]
            others = {id(other): other for at in reached for other in taken.get(at, ())}
            if others and not (len(others) == 1 and _alone(taken, reached) and
                               register.is_beside(next(iter(others.values())))):  # fmt: skip
                left_out[name] = f"{next(iter(others.values())).name} is at {register.offset:#x}, too"
                continue
            if reached[-1] >= description.size:
                left_out[name] = f"it is beyond the {description.size:#x} bytes of {description.name}"
                continue
            for at in reached:
                taken.setdefault(at, []).append(register)
            body[name] = register
    if not taken and not description.memories:
        raise UsageError(f"{file}: {description.name} has no registers")
    body["memories"] = {python_name(name): where for name, where in description.memories.items()}
    body["left_out"] = left_out
    body["address"] = description.address
    block = types.new_class(
        python_name(description.name),
        (RegisterBlock,),
        {"size": description.size, "trap": True},
        lambda namespace: namespace.update(body),
    )
    assert issubclass(block, RegisterBlock)
    return block


def _alone(taken: dict[int, list[Register | RegisterArray]], reached: list[int]) -> bool:
    return all(len(taken.get(at, ())) == 1 for at in reached)


def python_name(name: str, taken: Container[str] = ()) -> str:
    """An attribute's name for `name`, and none of those that are taken."""
    name = re.sub(r"\W", "_", name)
    if not name or name[0].isdigit() or name.startswith("__"):
        name = f"R{name}"
    if keyword.iskeyword(name) or name in TAKEN:
        name += "_"
    if name in taken:
        name = next(f"{name}_{n}" for n in itertools.count(2) if f"{name}_{n}" not in taken)
    return name


def field_name(name: str) -> str:
    """An attribute's name for the field `name`."""
    name = re.sub(r"\W", "_", name)
    if not name or name[0].isdigit():
        name = f"F{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in NOT_FIELDS else name


def _registers(described: Described) -> Iterator[tuple[str, Register | RegisterArray]]:
    path = [Part(part.name, _flat(part.dimensions)) for part in described.path]
    inner = max((number for number, part in enumerate(path) if part.dimensions), default=None)
    kept = None if inner is None else path[inner].dimensions[-1]
    choices = []
    for number, part in enumerate(path):
        dimensions = part.dimensions[:-1] if number == inner else part.dimensions
        choices.append([
            (part.name + "_".join(map(str, indexes)), sum(i * s for i, (_, s) in zip(indexes, dimensions, strict=True)))
            for indexes in itertools.product(*(range(count) for count, _ in dimensions))
        ])  # fmt: skip
    for chosen in itertools.product(*choices):
        name = "_".join(word for word, _ in chosen if word)
        offset = described.offset + sum(shift for _, shift in chosen)
        if kept is None:
            yield name, Register(offset, width=described.width, reset=described.reset, fields=described.fields,
                                 access=described.access, byteorder=described.byteorder,
                                 description=described.description)  # fmt: skip
        else:
            yield name, RegisterArray(offset, kept[0], stride=kept[1], width=described.width, reset=described.reset,
                                      fields=described.fields, access=described.access, byteorder=described.byteorder,
                                      description=described.description)  # fmt: skip


def _flat(dimensions: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Dimensions that lie without a gap are one."""
    flat: list[tuple[int, int]] = []
    for count, stride in dimensions:
        if flat and flat[-1][1] == count * stride:
            flat[-1] = (flat[-1][0] * count, stride)
        else:
            flat.append((count, stride))
    return tuple(flat)
