"""How cost grows with the work: with the size of a device, the number of devices in a host, the number of clients."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import contenders as who
from bench.contenders import CONTENDERS, Absent, Build, Contender
from bench.jobs import Client, Sizes
from bench.memory import resident
from bench.result import Result, progress

BY_SIZE, BY_DEVICES, BY_CLIENTS = "by size of the device", "by number of devices", "by number of clients"
_PAGES = 1000
"""Touched of each size, evenly spread, in random order."""


_LIST = """
import os, sys, time
began = time.perf_counter()
names = os.listdir(sys.argv[1])
print((time.perf_counter() - began) / len(names) * 1e6)
"""


def measure(result: Result, build: Build, place: Path, sizes: Sizes, quick: bool) -> None:
    """Fills ``result.growth``: nanoseconds per operation (and seconds, bytes, where a line says so) by the work."""
    client = Client(build)
    rounds = 1 if quick else 3
    factor, largest = (256, 1 << 30) if quick else (4, 64 << 30)
    curves: dict[str, Callable[[], None]] = {
        BY_SIZE: lambda: _by_size(result, client, build, place, rounds, factor, largest),
        BY_DEVICES: lambda: _by_devices(
            result, client, build, place, rounds, 100 if quick else min(10_000, who.most_memories())
        ),
        BY_CLIENTS: lambda: _by_clients(result, client, build, place, rounds, 4 if quick else 64, sizes.calls),
    }
    for curve, draw in curves.items():
        try:
            draw()
        except Absent as absent:  # the points until there are kept
            result.lacks(curve, "mapdev", str(absent))


def _serving(name: str, *arguments: str) -> Contender:
    return Contender(name, lambda _build, mount, _size: who.mapdev_serve(mount, *arguments), memory="device")


def _point(result: Result, curve: str, line: str, x: float, y: float) -> None:
    result.growth.setdefault(curve, {}).setdefault(line, []).append([x, y])


def _by_size(result: Result, client: Client, build: Build, place: Path, rounds: int, factor: int, most: int) -> None:
    size = 4096
    while size <= most:
        for way in ("shared", "on-demand"):
            if way == "shared" and not who.IS_ROOT:
                continue
            progress(f"{BY_SIZE}: {size >> 10} KiB, {way}")
            ram = _serving(f"ram {way} {size}", f"device=ram:{size}", "--memory", way)
            with who.served(ram, build, place, size, client.server_cpu) as server:
                path = server.path("device")
                for name, job, arguments in (
                    ("first touch of a page, random", "touch-random", (size, _PAGES)),
                    ("the same pages once more", "touch-random", (size, _PAGES)),
                    ("open and close", "open", (300,)),
                    ("read 4 KiB", "read", (4096, 300)),
                ):
                    if job == "read" and size < 1 << 20:
                        continue  # the client reads at positions in the first MiB
                    times = [client.run(job, path, *arguments) for _ in range(1 if "touch" in job else rounds)]
                    _point(result, BY_SIZE, f"{way}: {name}", size, median(times))
        size *= factor


def _by_devices(result: Result, client: Client, build: Build, place: Path, rounds: int, most: int) -> None:
    for count in [count for count in (1, 10, 100, 1000) if count < most] + [most]:
        progress(f"{BY_DEVICES}: {count}")
        targets = [f"d{number}=ram:4K" for number in range(count)]
        many = _serving(f"{count} devices", *targets)
        began = time.perf_counter()
        with who.served(many, build, place, 4096, client.server_cpu) as server:
            _point(result, BY_DEVICES, "start of the host, ms", count, (time.perf_counter() - began) * 1e3)
            _point(
                result, BY_DEVICES, "memory of the host, KiB per device", count, resident(server.pid) / 1024 / count
            )
            for line, job, path, arguments in (
                ("first stat, us", "stat", server.directory, (count,)),
                ("open and close, us", "open", server.directory / f"d{count - 1}", (300,)),
            ):
                times = [client.run(job, path, *arguments) for _ in range(1 if job == "stat" else rounds)]
                _point(result, BY_DEVICES, line, count, median(times) / 1e3)
            listing: list[str | Path] = [sys.executable, "-S", "-c", _LIST, server.directory]
            said = subprocess.run(listing, capture_output=True, text=True, timeout=60, check=True,
                                  preexec_fn=lambda: who.pin({client.server_cpu})).stdout  # fmt: skip
            _point(result, BY_DEVICES, "readdir, us per name", count, float(said))


def _by_clients(
    result: Result, client: Client, build: Build, place: Path, rounds: int, most: int, calls: int
) -> None:
    for name in (who.SHARED if who.IS_ROOT else who.ON_DEMAND, who.C):
        try:
            with who.served(CONTENDERS[name], build, place, 1 << 20, client.server_cpu) as server:
                processes = 1
                while processes <= most:
                    progress(f"{BY_CLIENTS}: {processes}, {name}")
                    for cpus, on in {"one CPU": {client.server_cpu}, "two CPUs": set(client.cpus)}.items():
                        each = max(calls // processes, 50)
                        times = [client.run("clients", server.path("device"), 4096, each, processes, on=on)
                                 for _ in range(rounds)]  # fmt: skip
                        _point(result, BY_CLIENTS, f"{name}, {cpus}", processes, median(times))
                    processes *= 2
        except Absent:
            pass  # who is not here has no curve; the tables say why
