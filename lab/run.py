"""Every check on every kernel, and a table. ``python -m lab.run`` (make lab)."""

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab import cache, check, console
from lab.boot import boot
from lab.fetch import Fetched
from lab.process import Unavailable, main
from lab.report import Verdict
from lab.sources import kernel_named, names
from mapdev.errors import MapdevError

_WIDTH = 200  # of what is not a terminal
_GUESTS = min(2, len(os.sched_getaffinity(0)))  # at once; one guest keeps one processor busy


@dataclass(frozen=True)
class Cell:
    """One check on one kernel. `logs` is None if it came to no boot."""

    verdict: Verdict
    logs: Path | None = None
    detail: str = ""
    unavailable: bool = False
    """Nothing was tried, as something that it takes cannot be had here."""

    @classmethod
    def of(cls, error: MapdevError) -> "Cell":
        """One that came to no boot."""
        return cls(Verdict(failed=[str(error)]), detail=error.detail, unavailable=isinstance(error, Unavailable))


async def one(kernel: Fetched, name: str) -> Cell:
    """Run a check on a kernel. What goes wrong, in the guest or before, is in the answer."""
    try:
        run = await boot(kernel, check.load(name), name)
    except MapdevError as error:
        return Cell.of(error)
    return Cell(run.verdict, run.logs)


async def every(kernels: list[str], checks: list[str]) -> tuple[dict[tuple[str, str], Cell], dict[str, str]]:
    """All checks on all kernels, at most two guests at once; and the releases of the kernels."""
    guests = asyncio.Semaphore(_GUESTS)
    cells: dict[tuple[str, str], Cell] = {}
    releases: dict[str, str] = {}

    async def kernel_of(name: str) -> Fetched | MapdevError:
        try:
            return await kernel_named(name)
        except MapdevError as error:
            return error

    async def cell(kernel: Fetched, name: str) -> None:
        async with guests:
            found = await one(kernel, name)
        cells[kernel.name, name] = found
        console.note(f"{kernel.name} {name}: {summary(found)}")

    async def on(name: str) -> None:
        kernel = await kernel_of(name)
        if isinstance(kernel, MapdevError):
            for each in checks:
                cells[name, each] = Cell.of(kernel)
            return
        releases[name] = kernel.release
        async with asyncio.TaskGroup() as group:
            for each in checks:
                group.create_task(cell(kernel, each))

    async with asyncio.TaskGroup() as group:
        for name in kernels:
            group.create_task(on(name))
    return {key: cells[key] for key in sorted(cells, key=lambda key: kernels.index(key[0]))}, releases


def summary(cell: Cell) -> str:
    """A cell of the table: how many things were looked at, and how long it took."""
    verdict = cell.verdict
    skipped = f", {len(verdict.skipped)} skipped" if verdict.skipped else ""
    if verdict.good:
        return f"{len(verdict.ok)} ok{skipped}  {verdict.seconds:.1f} s"
    return "not to be had" if cell.unavailable else f"FAILED ({len(verdict.failed)}){skipped}"


def below(cells: dict[tuple[str, str], Cell]) -> list[str]:
    """The lines below the table: what was skipped and what failed, each with its reason, and where the logs are."""
    lines, skipped = [], dict[str, list[str]]()
    for (kernel, name), cell in cells.items():
        for reason in cell.verdict.skipped:
            skipped.setdefault(f"{name}: skipped: {reason}", []).append(kernel)
        what = "cannot be tried here" if cell.unavailable else "FAILED"
        lines += [f"{kernel} {name}: {what}: {reason}" for reason in cell.verdict.failed]
        if cell.detail:
            lines += ["    " + line for line in cell.detail.strip().splitlines()[-20:]]
        if cell.verdict.failed and cell.logs:
            lines.append(f"{kernel} {name}: the logs are {cell.logs}/result and console")
    return [f"{', '.join(kernels)} {what}" for what, kernels in skipped.items()] + lines


def exit_code(cells: Iterable[Cell]) -> int:
    """What the command ends with."""
    bad = [cell for cell in cells if not cell.verdict.good]
    if not bad:
        return 0
    return Unavailable.exit_code if all(cell.unavailable for cell in bad) else 1


def show(cells: dict[tuple[str, str], Cell], releases: dict[str, str], rows: list[str], checks: list[str]) -> None:
    """Print the table; in a file or a pipe each kernel is one line."""
    terminal = Console(highlight=False)
    if not terminal.is_terminal:
        terminal.width = _WIDTH
    grid = Table("kernel", "release", *checks, box=box.ROUNDED if terminal.is_terminal else None, pad_edge=False)
    for row in rows:
        grid.add_row(row, releases.get(row, "none"), *(_styled(cells[row, name]) for name in checks))
    terminal.print(grid, crop=False)


def _styled(cell: Cell) -> Text:
    return Text(summary(cell), style="green" if cell.verdict.good else "red")


@click.command()
@click.option("--kernels", default="", help="Names out of kernels.toml, or sanitize; default: all of kernels.toml.")
@click.option("--checks", default="", help="Names of checks; default: all.")
@click.option("--list", "listing", is_flag=True, help="Say which kernels and checks there are.")
def command(kernels: str, checks: str, listing: bool) -> None:
    """Run checks in guests of many kernels.

    Exit code 1 if one failed; 3 if none did, but some could not be tried, as a program, a kernel's packages or a
    namespace cannot be had on this machine.
    """
    if listing:
        console.say("kernels: " + " ".join(names("")) + "\nchecks: " + " ".join(check.names()))
        return
    wanted = checks.replace(",", " ").split() or check.names()
    for name in wanted:
        check.load(name)
    rows = names(kernels)
    started = time.monotonic()
    cells, releases = main(every(rows, wanted))
    cache.prune()
    show(cells, releases, rows, wanted)
    for line in below(cells):
        console.say(line)
    console.note(f"in {time.monotonic() - started:.0f} s")
    raise SystemExit(exit_code(cells.values()))


if __name__ == "__main__":
    console.entry(command)
