"""``python -m bench``: measure, and show."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from bench import growth, jobs, memory, page, plots, run
from bench.contenders import PEERS_PYTHON, ROOT, Absent, Build, raise_file_limit
from bench.jobs import Sizes
from bench.result import Result, machine, machine_line, progress
from bench.tables import STYLES, Table, tables

PARTS = ("touch", "calls", "two-cpus", "trace", "run", "memory", "growth")
DOCS = ROOT / "docs"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What mapdev costs, beside its peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: under a minute")
    parser.add_argument("--only", metavar="PART", action="append", choices=PARTS, help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument(
        "--load", type=Path, metavar="FILE", help="show what was measured before, and measure nothing"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the curves (SVG)")
    parser.add_argument("--docs", action="store_true", help="put plots and tables into docs/bench and docs/bench.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers end and are unmounted
    try:
        if arguments.load is not None:
            result = Result.from_json(arguments.load.read_text(encoding="utf-8"))
        else:
            sizes = Sizes.quick() if arguments.quick else Sizes()
            if arguments.rounds is not None:
                sizes = replace(sizes, rounds=max(1, arguments.rounds))
            result = measured(sizes, arguments.only or PARTS, arguments.quick)
        if arguments.json is not None:
            arguments.json.write_text(result.to_json(), encoding="utf-8")
        found = tables(result)
        show(result, found)
        if arguments.plots is not None or arguments.docs:
            plots.draw(result, arguments.plots or DOCS / "bench")
        if arguments.docs:
            text = (DOCS / "bench.md").read_text(encoding="utf-8")
            (DOCS / "bench.md").write_text(page.filled(text, result, found), encoding="utf-8")
    except (Absent, OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: interrupted; everything has been unmounted\n")
        return 130
    return 0


def measured(sizes: Sizes, parts: Sequence[str], quick: bool) -> Result:
    """One run. Raises ``Absent`` if nothing can be measured at all."""
    result = Result(machine(PEERS_PYTHON if PEERS_PYTHON.exists() else None),
                    {name: getattr(sizes, name) for name in sizes.__slots__})  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mapdev-bench-", dir="/dev/shm") as directory:
        place = Path(directory)
        build = Build.make(place)
        raise_file_limit()
        jobs.measure(result, build, place, sizes, parts)
        if "run" in parts:
            run.measure(result, sizes.rounds)
        if "memory" in parts:
            memory.measure(result, build, place, sizes)
        if "growth" in parts:
            growth.measure(result, build, place, sizes, quick)
    progress("")
    return result


def show(result: Result, found: list[Table]) -> None:
    """Tables on the terminal."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(machine_line(result.machine), style="bold", highlight=False)
    for table in found:
        shown = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*row, style=STYLES.get(row[-1], ""))
        console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
