"""Access types: what a load and a store of a program do to the bits of a register.

The names are those of UVM (IEEE 1800.2, ``uvm_reg_field``), in lower case, made complete by their own rule: what a
store does, then what a load does. SystemRDL (``sw``, ``onwrite``, ``onread``) and CMSIS-SVD (``access``,
``modifiedWriteValues``, ``readAction``) can each be said in them.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Access: TypeAlias = Literal[
    "rw", "ro", "wo", "na", "rc", "rs", "wrc", "wrs",
    "w1", "w1rc", "w1rs", "wc", "wcrc", "wcrs", "ws", "wsrc", "wsrs",
    "w1c", "w1crc", "w1crs", "w1s", "w1src", "w1srs", "w1t", "w1trc", "w1trs",
    "w0c", "w0crc", "w0crs", "w0s", "w0src", "w0srs", "w0t", "w0trc", "w0trs",
    "wo1", "woc", "wos", "wo1c", "wo1s", "wo1t", "wo0c", "wo0s", "wo0t",
]  # fmt: skip
"""See the table in docs/registers.md."""

OnWrite: TypeAlias = Literal["", "store", "once", "c", "s", "1c", "1s", "1t", "0c", "0s", "0t"]
OnRead: TypeAlias = Literal["", "rc", "rs"]


@dataclass(frozen=True, slots=True)
class Effects:
    """``on_write``: what becomes of a bit that is stored to; ``on_read``: of one that is loaded; ``readable``: whether
    a load gives what the bit holds (else its reset value)."""

    readable: bool
    on_write: OnWrite
    on_read: OnRead

    @property
    def name(self) -> Access:
        """As people write it."""
        return _NAMES[self]


def _effects(name: str) -> Effects:
    match name:
        case "na":
            return Effects(False, "", "")
        case "ro" | "rc" | "rs":
            return Effects(True, "", "" if name == "ro" else name)
        case "rw" | "wo":
            return Effects(name == "rw", "store", "")
    read: OnRead = "rc" if name.endswith("rc") else "rs" if name.endswith("rs") else ""
    name = name.removesuffix(read)
    readable = not name.startswith("wo")
    write = name[1:] if readable else name[2:]
    return Effects(readable, {"": "store", "1": "once"}.get(write, write), read)  # type: ignore[arg-type]


EFFECTS: Final[dict[str, Effects]] = {name: _effects(name) for name in get_args(Access)}

_NAMES: Final[dict[Effects, Access]] = {_effects(name): name for name in get_args(Access)}


def stored_bits(on_write: OnWrite, before: int, stored: int) -> int:
    """What bits that held `before` hold after `stored` was stored into them. May be negative: mask it."""
    match on_write:
        case "store" | "once":
            return stored
        case "c":
            return 0
        case "s":
            return -1
        case "1c":
            return before & ~stored
        case "1s":
            return before | stored
        case "1t":
            return before ^ stored
        case "0c":
            return before & stored
        case "0s":
            return before | ~stored
        case "0t":
            return before ^ ~stored
        case _:
            return before


def neutral_bits(on_write: OnWrite, before: int) -> int:
    """What can be stored into bits that hold `before` without changing them. May be negative: mask it."""
    if on_write[:1] == "0":
        return -1
    return 0 if on_write[:1] == "1" else before
