"""Accesses as events of the trace, and counted. Who asks for neither has no code of this file on the way."""

import errno
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from mapdev import registers
from mapdev.run.trap.source import Sources
from mapdev.trace import Access, Trace

if TYPE_CHECKING:
    from mapdev.device import Device
    from mapdev.run.trap.areas import Areas
    from mapdev.run.trap.blocks import Block


class Report:
    """What is told of the accesses of one run. ``seen`` is called by the thread that traces."""

    def __init__(self, trace: Trace | None, counts: bool) -> None:
        self._trace = trace
        self._counts: Counter[tuple[str, str, str]] | None = Counter() if counts else None
        self._sources = Sources()

    def seen(
        self, tid: int, areas: "Areas", block: "Block", position: int, data: bytes, is_store: bool, pc: int,
        took: float, failed: int = 0,
    ) -> None:  # fmt: skip
        """One access: `data` of it at byte `position` of the device, by the instruction at `pc`; `failed`: an errno."""
        device, name, op = block.dispatch.device, block.dispatch.name, "store" if is_store else "load"
        register = _register(device, position)
        if self._counts is not None:
            self._counts[name, register or f"{position:#x}", op] += 1
        if self._trace is None:
            return
        value = int.from_bytes(data, "little")
        text = registers.describe(device, position, data, is_store)
        if text is None:
            text = f"{position:#x} {'<-' if is_store else '->'} {value:#0{2 + 2 * len(data)}x}"
        result = f"-{errno.errorcode.get(failed, failed)}" if failed else ""
        where = self._sources.where(tid, areas, pc)
        self._trace(
            Access(
                time.time(), name, block.file.id, tid, op, text, result, failed, took,
                register, position, len(data), value, pc, where,
            )
        )  # fmt: skip

    def end(self) -> None:
        """Print the table of counts, if there is one."""
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


def _register(device: "Device", position: int) -> str:
    """The name of the register at this byte, or nothing."""
    found = registers.find(device, position)
    if found is None:
        return ""
    named = [name for name, block in registers.blocks(device).items() if block.registers]
    prefix = f"{found.block}." if len(named) > 1 else ""
    return prefix + found.register + (f"[{found.element}]" if found.element is not None else "")


def _order(key: tuple[str, str, str]) -> tuple[str, int, str]:
    name, register, _ = key
    return name, int(register, 16) if register.startswith("0x") else -1, register
