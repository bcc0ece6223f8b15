"""Accesses as events of the trace, and counted. Who asks for neither has no code of this file on the way."""

import errno
import sys
import time
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mapdev import registers
from mapdev.run.trap.source import Sources
from mapdev.trace import Access, Trace

if TYPE_CHECKING:
    from mapdev.dispatch import Dispatch
    from mapdev.run.trap.areas import Areas
    from mapdev.run.trap.blocks import Block


_REMEMBERED: Final = 1 << 12
"""Names of registers, and texts of accesses, as a driver that polls repeats itself. Registers stay where they are."""


class Report:
    """What is told of the accesses of one run. ``seen`` is called by the thread that traces."""

    def __init__(self, trace: Trace | None, counts: bool) -> None:
        self._trace = trace
        self._counts: Counter[tuple[str, str, str]] | None = Counter() if counts else None
        self._sources = Sources()
        self._register = lru_cache(maxsize=_REMEMBERED)(_register)
        self._text = lru_cache(maxsize=_REMEMBERED)(_text)

    def seen(
        self, tid: int, areas: "Areas", block: "Block", position: int, data: bytes, is_store: bool, pc: int,
        took: float, failed: int = 0,
    ) -> None:  # fmt: skip
        """One access: `data` of it at byte `position` of the device, by the instruction at `pc`; `failed`: an errno."""
        dispatch, op = block.dispatch, "store" if is_store else "load"
        register = self._register(dispatch, position)
        if self._counts is not None:
            self._counts[dispatch.name, register or f"{position:#x}", op] += 1
        if self._trace is None:
            return
        text = self._text(dispatch, position, data, is_store)
        value = int.from_bytes(data, "little")
        result = f"-{errno.errorcode.get(failed, failed)}" if failed else ""
        where = self._sources.where(tid, areas, pc)
        event = (
            time.time(), dispatch.name, block.file.id, tid, op, text, result, failed, took,
            register, position, len(data), value, pc, where,
        )  # fmt: skip
        self._trace(tuple.__new__(Access, event))  # Access(...) itself goes through a function in Python

    def end(self) -> None:
        """There are no accesses any more: print the table of counts, if there is one."""
        self._sources.close()
        if self._counts is None:
            return
        from rich.console import Console
        from rich.table import Table

        table = Table("device", "register", "loads", "stores", box=None)
        for name, register in dict.fromkeys(
            (name, register) for name, register, _ in sorted(self._counts, key=_order)
        ):
            loads, stores = (self._counts[name, register, op] for op in ("load", "store"))
            table.add_row(name, register, str(loads), str(stores))
        width = None if sys.stderr.isatty() else 100
        Console(file=sys.stderr, width=width, highlight=False).print(table, markup=False)
        sys.stderr.flush()


def make_report(trace: Trace | None, counts: bool) -> Report | None:
    """None if nothing is to be told."""
    return Report(trace, counts) if trace is not None or counts else None


def _register(dispatch: "Dispatch", position: int) -> str:
    """The name of the register at this byte, or nothing."""
    found = registers.find(dispatch.device, position)
    if found is None:
        return ""
    named = [name for name, block in registers.blocks(dispatch.device).items() if block.registers]
    prefix = f"{found.block}." if len(named) > 1 else ""
    return prefix + found.register + (f"[{found.element}]" if found.element is not None else "")


def _text(dispatch: "Dispatch", position: int, data: bytes, is_store: bool) -> str:
    """The access, as people read it."""
    text = registers.describe(dispatch.device, position, data, is_store)
    if text is not None:
        return text
    return f"{position:#x} {'<-' if is_store else '->'} {int.from_bytes(data, 'little'):#0{2 + 2 * len(data)}x}"


def _order(key: tuple[str, str, str]) -> tuple[str, int, str]:
    name, register, _ = key
    return name, int(register, 16) if register.startswith("0x") else -1, register
