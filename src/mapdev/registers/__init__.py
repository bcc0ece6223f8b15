"""Registers by name: the register table of a data sheet, as a class, and what the registers do, as its methods.

    class Timer(RegisterBlock):
        CTRL = Register(0x00, fields={"START": 0, "IRQ_EN": 1, "MODE": Field(4, 7, reset=2)})
        STATUS = Register(0x04, access="w1c", fields={"DONE": 0, "RUNNING": Field(1, access="ro")})
        COUNT = Register(0x08, access="ro", reset=0xFFFF)
        MATCH = RegisterArray(0x10, 4)

        def write_CTRL_START(self, value, before):      # a program stores into that field
            self.STATUS.RUNNING = value

        def read_COUNT(self):                           # a program loads the register: what it gets
            return self.device.clock.ticks(1e6)

    timer = Timer(pages)                # from byte 0 of the pages that the device maps; reset values are stored
    timer.CTRL = 0x31                   # one store of the register's width; every program that maps it sees it
    timer.CTRL.MODE = 2                 # load, change the field, store
    timer.CTRL = timer.CTRL.replace(START=1, MODE=3)      # two fields in one store
    if timer.CTRL.START: ...            # a register reads as an int that has its fields as attributes
    timer.MATCH[2] += 1

Loads and stores in Python, as these, are the hardware's own: they have no effect but the obvious one. What happens when
a *program* loads and stores depends on whether its accesses are trapped.

**Trapped** (`mapdev run` does it for blocks that are ``trapped``; ``mapdev.testing`` too), each access is seen: the
register's access type is applied (``mapdev.registers.access``), and the block's methods are called, with its ``lock``
held, one access after the other:

* ``read_X(self)`` at a load: an int is what the program gets, None means what the register holds;
* ``write_X(self, value, before)`` at a store: ``value`` is what was stored, ``before`` what the register held. It holds
  by then what its access has made of it; an int that is answered is what it holds from now on, None changes nothing;
* ``read_X_F``, ``write_X_F``: the same for a field F of X, with ints; called if the access reaches a bit of it. At a
  store those of fields come first, at a load that of the register, and what fields answer is put into its number;
* of a ``RegisterArray`` each takes the ``index`` first: ``write_MATCH(self, index, value, before)``.

X_F is the register of that name, if there is one. What a method raises is SIGBUS to the program. In a plain
``mapdev.Device`` it takes these lines (``Uio`` and ``DevMem`` have them; for several blocks see ``Bus``)::

        def load(self, file, count, pos): return self.timer.bus_load(pos, count)
        def store(self, file, data, pos): self.timer.bus_store(pos, data)
        def traps(self, pos, length): return pos < self.timer.nbytes

**On plain pages** it is memory. No code runs when a program loads or stores, so nothing is enforced at that moment: a
program can store into a register that is ``ro``, and load one that is ``wo``. ``settle`` finds by comparison what
programs have stored since it was last called, applies the access and calls the methods then:

* ``rw``: the new value stays;
* ``ro``: the old value is put back;
* ``wo``: the register goes back to its reset value, so that the same command stored again is seen again;
* ``w1c``: the bits that were stored as 1 are cleared, the others keep their old value.

What comparison cannot see: a store of the very value that is there already (so writing a ``w1c`` register back as it
was read clears nothing), all but the last of several stores, and every load.

docs/registers.md tells all of it.
"""

from typing import TYPE_CHECKING, Any

from mapdev.registers.access import Access
from mapdev.registers.block import RegisterBlock, Store
from mapdev.registers.bus import Bus, Found, blocks, describe, find, locate, lost_without_trapping
from mapdev.registers.declared import Bits, ByteOrder, Field, Register, RegisterArray
from mapdev.registers.places import Place, place, places
from mapdev.registers.value import Elements, Value

if TYPE_CHECKING:
    from mapdev.registers.rdl import from_rdl
    from mapdev.registers.svd import from_svd

__all__ = [
    "Access",
    "Bits",
    "Bus",
    "ByteOrder",
    "Elements",
    "Field",
    "Found",
    "Place",
    "Register",
    "RegisterArray",
    "RegisterBlock",
    "Store",
    "Value",
    "blocks",
    "describe",
    "find",
    "from_rdl",
    "from_svd",
    "locate",
    "lost_without_trapping",
    "place",
    "places",
]


def __getattr__(name: str) -> Any:
    # what reads files is imported when it is asked for: every start would feel it
    if name == "from_rdl":
        from mapdev.registers.rdl import from_rdl

        return from_rdl
    if name == "from_svd":
        from mapdev.registers.svd import from_svd

        return from_svd
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
