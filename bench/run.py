"""What `mapdev run` costs, beside running directly: the start, and single calls. Ratios count, times are for scale.

    make bench        or: python bench/run.py [--rounds N] [--json]

Everything is pinned to one CPU, and the variants take turns, so that what else the machine does hits all alike.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
DEVICE = "/dev/bench"
RUN = [sys.executable, "-m", "mapdev", "run", "--device", f"{DEVICE}=ram:1M"]

# the set-up alone: from the call in a process that has everything loaded to the first instruction of the program
SETUP = """
import subprocess, sys, time
from mapdev.run.host import Request
from mapdev.run.launcher import run
import mapdev.targets
program = [sys.executable, "-S", "-c", "import time; print(time.time())"]
began = time.time()
print(began, flush=True)
if sys.argv[1] == "direct":
    subprocess.run(program)
else:
    run(Request({"/dev/bench": "ram:1M"}, {}, program, lambda: None, look=sys.argv[1] == "chardev"))
"""


def command_ms(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, timeout=60)
    return (time.perf_counter() - began) * 1e3


def setup_ms(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", SETUP, how], check=True, timeout=60, capture_output=True, text=True)
    began, first = map(float, done.stdout.split())
    return (first - began) * 1e3


def calls_ns(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def starts(rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in {
            "true": ["true"],
            "python -c pass": [sys.executable, "-c", "pass"],
            "mapdev run -- true": [*RUN, "--", "true"],
            "mapdev run --chardev -- true": [*RUN, "--chardev", "--", "true"],
        }.items():
            times.setdefault(name, []).append(command_ms(command))
        for how in ("direct", "run", "chardev"):
            times.setdefault(f"set-up alone: {how}", []).append(setup_ms(how))
    return times


def per_call(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Call -> variant -> nanoseconds, one for each round."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        program, plain = Path(place) / "calls", Path(place) / "plain"
        subprocess.run(["gcc", "-O2", "-o", program, HERE / "calls.c"], check=True, timeout=60)
        plain.write_bytes(bytes(4096))
        for _ in range(rounds):
            for variant, command in {
                "direct, tmpfs": [str(program), str(plain)],
                "run": [*RUN, "--", str(program), DEVICE],
                "run --chardev": [*RUN, "--chardev", "--", str(program), DEVICE],
            }.items():
                for name, value in calls_ns(command).items():
                    found.setdefault(name, {}).setdefault(variant, []).append(value)
    return found


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    begun, calls = starts(arguments.rounds), per_call(max(2, arguments.rounds // 2))
    machine = f"Linux {platform.release()}, Python {platform.python_version()}, uid {os.geteuid()}, one CPU"
    if arguments.json:
        print(json.dumps({"machine": machine, "start_ms": begun, "call_ns": calls}))  # noqa: T201
        return
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table("start, ms", "median", "least", "most", title=machine)
    for name, times in begun.items():
        table.add_row(name, *(f"{value:.1f}" for value in (statistics.median(times), min(times), max(times))))
    console.print(table)
    variants = list(next(iter(calls.values())))
    table = Table("call, ns", *variants, *(f"{v} / direct" for v in variants[1:]))
    for name, by_variant in calls.items():
        values = [statistics.median(by_variant[v]) for v in variants]
        table.add_row(name, *(f"{v:.0f}" for v in values), *(f"{v / values[0]:.1f}" for v in values[1:]))
    console.print(table)


if __name__ == "__main__":
    main()
