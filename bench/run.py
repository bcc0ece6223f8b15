"""What `mapdev run` costs, beside running directly: the start, and single calls."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.contenders import pin
from bench.jobs import cpus
from bench.result import Result, progress

HERE = Path(__file__).parent
DEVICE = "/dev/bench"
RUN = [sys.executable, "-m", "mapdev", "run", "--device", f"{DEVICE}=ram:1M"]

DIRECT = "direct, tmpfs"
START = "run: start"
SET_UP = "run: set-up alone"

# the set-up alone: from the call in a process that has everything loaded to a program that does nothing but say when
_SET_UP = """
import subprocess, sys, time
import mapdev.devices.ram, mapdev.run.chardev, mapdev.run.children, mapdev.run.host
from mapdev.run.launcher import run
from mapdev.run.request import Request
program = ["date", "+%s.%N"]
began = time.time()
print(began, flush=True)
if sys.argv[1] == "direct":
    subprocess.run(program)
else:
    run(Request({"/dev/bench": "ram:1M"}, {}, program, lambda: None, look=sys.argv[1] == "run --chardev"))
"""

# as mapdev is installed: with its bytecode, which the first start writes
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure(result: Result, rounds: int) -> None:
    """Series of `result`: "run: start" and "run: set-up alone" -> command, "run: CALL" -> variant."""
    _starts(Result())  # and nobody counts these
    for number in range(rounds):
        progress(f"mapdev run, round {number + 1} of {rounds}: starts")
        _starts(result)
    _calls(result, max(2, rounds // 2))


def _command_ns(command: list[str]) -> float:
    began = time.perf_counter_ns()
    subprocess.run(command, check=True, timeout=60, env=_ENVIRONMENT, preexec_fn=_first)
    return time.perf_counter_ns() - began


def _set_up_ns(how: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _SET_UP, how], check=True, timeout=60, capture_output=True, text=True,
        env=_ENVIRONMENT, preexec_fn=_first,
    )  # fmt: skip
    began, first = map(float, done.stdout.split())
    return (first - began) * 1e9


def _starts(result: Result) -> None:
    for name, command in {
        "true": ["true"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "mapdev run -- true": [*RUN, "--", "true"],
        "mapdev run --chardev -- true": [*RUN, "--chardev", "--", "true"],
    }.items():
        result.add(START, name, _command_ns(command))
    for how in ("direct", "run", "run --chardev"):
        result.add(SET_UP, how, _set_up_ns(how))


def _calls(result: Result, rounds: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        program, plain = Path(place) / "calls", Path(place) / "plain"
        subprocess.run(["gcc", "-O2", "-o", program, HERE / "calls.c"], check=True, timeout=60)
        plain.write_bytes(bytes(4096))
        for number in range(rounds):
            for variant, command in {
                DIRECT: [str(program), str(plain)],
                "run": [*RUN, "--", str(program), DEVICE],
                "run --chardev": [*RUN, "--chardev", "--", str(program), DEVICE],
            }.items():
                progress(f"mapdev run, round {number + 1} of {rounds}: calls, {variant}")
                done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True,
                                      preexec_fn=_pinned)  # fmt: skip
                for line in done.stdout.splitlines():
                    name, value = line.split()
                    result.add(f"run: {name}", variant, float(value))


def _pinned() -> None:
    pin({cpus()[0]})


def _first() -> None:
    """On all CPUs, as when a person starts it: a run has several processes."""
    pin(os.sched_getaffinity(0))
