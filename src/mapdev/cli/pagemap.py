"""``mapdev pagemap``: what physical page is behind an address of a process."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from mapdev.errors import HostError, ProcessError, UsageError
from mapdev.libc import PAGE_SIZE

if TYPE_CHECKING:  # at run time it brings numpy, which would be felt in --help
    from mapdev.pagemap import Frames, FrameSummary, Pagemap, Region, Run

    _Parts = list[tuple[Region, int, int]]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Rows are written as they are read: a table that fits its columns would first need all of a process, which
# may be a million rows.
_ROW = "  {:<29} {:>9}  {:<27} {:<23} {:<6} {}"
_COLUMNS = 6


@click.command(short_help="show what physical page is behind an address of a process")
@click.argument("pid", metavar="PID")
@click.argument("address", metavar="[ADDRESS", required=False)
@click.argument("length", metavar="[LENGTH]]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line; addresses are in bytes.")
def command(pid: str, address: str | None, length: str | None, as_json: bool) -> None:
    """Show what physical page is behind an address of a process.

    PID is a process, or `self` for mapdev's own. ADDRESS is 0x.. or decimal and stands for the page it is
    in. LENGTH is in bytes, or with K, M or G; one page if it is left out. Without ADDRESS: the whole process.

    Each region has a heading, as in /proc/PID/maps, and a row for every stretch of pages that continue each
    other both in virtual memory and in physical memory (or in swap). "mapped" is how often its frames are
    mapped, by any process (/proc/kpagecount), and "frame" is what the kernel knows of them
    (/proc/kpageflags), with ~NAME where it holds for some of them only.

    Root (CAP_SYS_ADMIN) sees all of that; other users see their own processes, without frame numbers.

    \b
    Example:  mapdev pagemap self
              mapdev pagemap 1234 0x7f5a3c000000
              mapdev pagemap 1234 0x7f5a3c000000 2M --json | jq .physical
    """
    who = _pid(pid)
    wanted = None if address is None else _page_range(address, length)

    from mapdev.pagemap import Frames, Pagemap

    with ExitStack() as files:
        pagemap = files.enter_context(Pagemap(who))
        frames = None
        if not pagemap.frames_hidden:
            try:
                frames = files.enter_context(Frames())
            except HostError:
                pass  # they have a guard of their own, the mode of the files; the rest is still worth a look
        lines = _json_lines if as_json else _text_lines
        for line in lines(pagemap, frames, _parts(pagemap, wanted)):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _pid(text: str) -> int | Literal["self"]:
    if text == "self":
        return "self"
    if not re.fullmatch("[0-9]{1,19}", text):
        raise UsageError(f"PID {text!r} is neither the number of a process nor `self`")
    return int(text)


_NUMBER = "0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}"


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


def _page_range(address: str, length: str | None) -> tuple[int, int]:
    """The range of addresses, from the start of its first page to the end of its last."""
    if not re.fullmatch(_NUMBER, address):
        raise UsageError(f"ADDRESS {address!r} is not a 64-bit number: give hexadecimal as 0x.., or decimal")
    start, size = _number(address), 1
    if length is not None:
        match = re.fullmatch(f"({_NUMBER})([KMG]?)", length.upper())
        if match is None:
            raise UsageError(f"LENGTH {length!r} is not a size: give bytes, or a number with K, M or G")
        size = _number(match[1]) * _UNITS[match[2]]
        if not size:
            raise UsageError("LENGTH is 0: nothing to show")
    if start + size > 1 << 64:
        raise UsageError(f"{size} bytes from {start:#x} go past the end of 64-bit addresses")
    return start // PAGE_SIZE * PAGE_SIZE, -(-(start + size) // PAGE_SIZE) * PAGE_SIZE


def _parts(pagemap: "Pagemap", wanted: tuple[int, int] | None) -> "_Parts":
    """The regions to show, each with the range of it that was asked for."""
    regions = pagemap.regions()
    if wanted is None:
        return [(region, region.start, region.end) for region in regions]
    start, end = wanted
    parts = [
        (region, max(start, region.start), min(end, region.end))
        for region in regions
        if region.start < end and start < region.end
    ]
    if not parts:
        raise ProcessError(
            f"{start:#x}-{end:#x} is in no region of process {pagemap.pid}: see /proc/{pagemap.pid}/maps"
        )
    return parts


def _text_lines(pagemap: "Pagemap", frames: "Frames | None", parts: "_Parts") -> Iterator[str]:
    if pagemap.frames_hidden:
        yield "Frame numbers and places in swap are hidden: only root (CAP_SYS_ADMIN) is shown them."
    yield _row("virtual", "pages", "physical", "flags", *(("mapped", "frame") if frames else ()))
    for region, start, end in parts:
        yield _printable(str(region))
        shown = start
        for run in pagemap.runs(start, end - start):
            yield _run_row(run, frames.summary(run) if frames else None)
            shown = run.end
        if shown < end:  # [vsyscall]
            yield _row(f"{shown:#x}-{end:#x}", (end - shown) // PAGE_SIZE, "not told by the kernel")


def _row(*cells: str | int) -> str:
    return _ROW.format(*cells, *("",) * (_COLUMNS - len(cells))).rstrip()


def _run_row(run: "Run", summary: "FrameSummary | None") -> str:
    physical, flags = "-", " ".join(run.flags).replace("_", "-") or "absent"
    if run.frames:
        start, end = run.frames.start * PAGE_SIZE, run.frames.stop * PAGE_SIZE
        physical = f"{start:#x}-{end:#x}" if len(run.frames) == run.pages else f"{start:#x} for all"
    elif run.swap:
        swap_type, offset = run.swap
        physical = f"swap {swap_type}, page {offset}"
    elif run.frames_hidden and not {"present", "swapped"}.isdisjoint(run.flags):
        physical = "hidden"
    cells: list[str | int] = [f"{run.start:#x}-{run.end:#x}", run.pages, physical, flags]
    if summary is not None:
        low, high = summary.count_min, summary.count_max
        everywhere, somewhere = _frame_names(summary)
        cells.append(str(low) if low == high else f"{low}-{high}")
        cells.append(" ".join([*everywhere, *(f"~{name}" for name in somewhere)]))
    return _row(*cells)


def _frame_names(summary: "FrameSummary") -> tuple[list[str], list[str]]:
    """The names of flags that all frames have, and of those that only some have."""
    from mapdev.pagemap import flag_names

    return flag_names(summary.flags_all), flag_names(summary.flags_any & ~summary.flags_all)


def _printable(text: str) -> str:
    """A path may hold anything: escape what would reach the terminal as more than a character."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _json_lines(pagemap: "Pagemap", frames: "Frames | None", parts: "_Parts") -> Iterator[str]:
    pid = os.getpid() if pagemap.pid == "self" else pagemap.pid
    hidden = pagemap.frames_hidden
    yield json.dumps({"kind": "process", "pid": pid, "page_size": PAGE_SIZE, "frames_hidden": hidden})
    for region, start, end in parts:
        yield json.dumps({"kind": "region", **asdict(region)})
        for run in pagemap.runs(start, end - start):
            yield json.dumps(_run_object(run, frames.summary(run) if frames else None))


def _run_object(run: "Run", summary: "FrameSummary | None") -> dict[str, object]:
    values: dict[str, object] = {
        "kind": "run",
        "start": run.start,
        "end": run.end,
        "pages": run.pages,
        "flags": run.flags,
        "physical": None if run.pfn is None else run.pfn * PAGE_SIZE,
        "frames": len(run.frames),
        "swap": run.swap and dict(zip(("type", "offset"), run.swap, strict=True)),
    }
    if summary is not None:
        everywhere, somewhere = _frame_names(summary)
        values["kpageflags"] = {"all": everywhere, "some": somewhere}
        values["kpagecount"] = {"min": summary.count_min, "max": summary.count_max}
    return values
