"""What one run of the bench has measured: plain data, to JSON and back."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Self

Series = dict[str, dict[str, list[float]]]


@dataclass(slots=True)
class Result:
    """``series``: job -> contender -> nanoseconds per operation, one for each round. ``absent``: job -> contender
    -> why there is none. ``memory``: contender -> state -> bytes. ``growth``: curve -> line -> [[x, y], ...].
    """

    machine: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    series: Series = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    growth: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)

    def add(self, job: str, contender: str, value: float) -> None:
        self.series.setdefault(job, {}).setdefault(contender, []).append(value)

    def lacks(self, job: str, contender: str, why: str) -> None:
        """There is nothing to be compared, and what there was of other rounds is no whole."""
        self.series.get(job, {}).pop(contender, None)
        self.absent.setdefault(job, {})[contender] = why

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ``ValueError`` if it is no result of the bench."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"no result of the bench: {error}") from None


def machine(peers: Path | None) -> dict[str, str]:
    """Where it is measured, and with what."""
    found = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": f"{_cpu()}, {os.cpu_count()} CPUs",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"Linux {platform.release()} {platform.machine()}",
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "python": platform.python_version(),
        "mapdev": metadata.version("mapdev"),
        "libfuse": _output(["pkg-config", "--modversion", "fuse3"]) or "not here",
    }
    for name in ("pyfuse3", "mfusepy"):
        code = f"from importlib.metadata import version; print(version({name!r}))"
        found[name] = (_output([str(peers), "-c", code]) if peers is not None else "") or "not here"
    return found


def machine_line(found: dict[str, str]) -> str:
    """The same on one line."""
    versions = (f"{name} {found[name]}" for name in ("python", "mapdev", "libfuse", "pyfuse3", "mfusepy"))
    return f"{found['kernel']}, {found['cpu']}, {found['memory']}, as {found['user']}; " + ", ".join(versions)


def _cpu() -> str:
    return _after_colon(Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines(), "model name") or "unknown CPU"


def _after_colon(lines: Iterable[str], name: str) -> str:
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def progress(text: str) -> None:
    """What is being done now, for who watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text[:100]}")
        sys.stderr.flush()
