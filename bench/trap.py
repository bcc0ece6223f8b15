"""What a trapped access costs, beside one of plain memory, and what else the program pays. Ratios count.

    python bench/trap.py [--rounds N] [--json]

Everything is pinned to one CPU, and the variants take turns. "a tracer in C" does the least that any tracer has to do
at an access: it is what the kernel and this machine cost.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
DEVICE = """
import mapdev

class Plain(mapdev.Device):
    size = mapdev.PAGE_SIZE

    def __init__(self):
        self.pages = mapdev.zeroed_pages(1)

    def mmap(self, file, vma):
        return self.pages

class Trapped(Plain):
    def load(self, file, count, pos):
        return bytes(count)

    def store(self, file, data, pos):
        pass
"""


def measured(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        client, floor, model = Path(place) / "trap", Path(place) / "trap_floor", Path(place) / "model.py"
        for program in (client, floor):
            subprocess.run(["gcc", "-O2", "-o", program, HERE / f"{program.name}.c"], check=True, timeout=60)
        model.write_text(DEVICE)
        run = [sys.executable, "-m", "mapdev", "run", "--device"]
        variants = {
            "plain": [*run, f"/dev/bench={model}:Plain", "--", str(client), "/dev/bench", "1000000"],
            "trapped": [*run, f"/dev/bench={model}:Trapped", "--", str(client), "/dev/bench", "2000"],
            "a tracer in C": [str(floor), str(Path(place) / "file")],
        }
        for _ in range(arguments.rounds):
            for variant, command in variants.items():
                for name, value in measured(command).items():
                    found.setdefault(name, {}).setdefault(variant, []).append(value)
    machine = f"Linux {platform.release()}, Python {platform.python_version()}, uid {os.geteuid()}, one CPU"
    if arguments.json:
        print(json.dumps({"machine": machine, "ns": found}))  # noqa: T201
        return
    table = Table("ns", *variants, "trapped / plain", "trapped / C", title=machine)
    for name, by_variant in found.items():
        least = {variant: min(values) for variant, values in by_variant.items()}
        middle = {variant: statistics.median(values) for variant, values in by_variant.items()}
        floor_of = least.get("a tracer in C")
        table.add_row(
            name,
            *(f"{least[v]:.1f} ({middle[v]:.1f})" if v in least else "" for v in variants),
            f"{least['trapped'] / least['plain']:.1f}",
            f"{least['trapped'] / floor_of:.1f}" if floor_of else "",
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print("least of all rounds (median of the rounds)")


if __name__ == "__main__":
    main()
