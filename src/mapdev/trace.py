"""What happened, as events: each callback of a device with its arguments, its answer and its time.

A device without a trace has no code of this file on its way (see ``Dispatch``): off costs nothing.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO, TypeAlias


@dataclass(frozen=True, slots=True)
class Event:
    """One callback, or one line that a device logged itself (``op`` is then "log").

    ``time``: seconds since the epoch when it ended; ``took``: seconds; ``file``: the id of the open file, 0 for none;
    ``errno``: 0 or what it failed with; ``args`` and ``result`` as people read them.
    """

    time: float
    device: str
    file: int
    pid: int
    op: str
    args: str
    result: str
    errno: int
    took: float


@dataclass(frozen=True, slots=True)
class Access(Event):
    """One load or store of a program (``op``): ``args`` says it as people read it.

    ``register``: its name, or empty; ``offset`` in the device and ``width``, in bytes; ``value``: its bytes as a
    number, the least first; ``pc``: the address of the instruction; ``where``: its place in the source, or empty.
    """

    register: str
    offset: int
    width: int
    value: int
    pc: int
    where: str


Trace: TypeAlias = Callable[[Event], None]
"""Where events go. Called from many threads; must not block for long, and must not raise."""


class JsonLines:
    """One JSON object a line, to a file; flushed with each, so that it can be followed."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError`` if the file cannot be written."""
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        record: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
        record["took"] = round(event.took, 7)
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


class Lines:
    """A line of text for each event: in colours on a terminal, plain elsewhere."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._console = None
        if stream.isatty():
            from rich.console import Console  # only a terminal pays for the import

            self._console = Console(file=stream, highlight=False)

    def __call__(self, event: Event) -> None:
        line = format_event(event)
        with self._lock:
            try:
                if self._console is None:
                    self._stream.write(line + "\n")
                    self._stream.flush()
                else:
                    style = "red" if event.errno else "cyan" if event.op == "log" else "green"
                    self._console.print(line, style=style, markup=False, soft_wrap=True)
            except OSError:
                pass  # the reader of the trace is gone; the devices are not


def only(trace: Trace, patterns: Sequence[str]) -> Trace:
    """Let through what one of `patterns` (``*`` and ``?`` as in file names) is the name of: an operation, a register,
    a device."""

    def filtered(event: Event) -> None:
        names = [event.op, event.device]
        if isinstance(event, Access):
            names += [event.register, f"{event.offset:#x}"]
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            trace(event)

    return filtered


def format_event(event: Event) -> str:
    """One line without colours."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time)) + f".{int(event.time % 1 * 1e6):06d}"
    who = f"{event.device}#{event.file}" if event.file else event.device
    if event.op == "log":
        return f"{clock} {who}: {event.args}"
    if isinstance(event, Access):
        failed = f" = {event.result}" if event.result else ""
        return f"{clock} {who} {event.args}{failed}  {event.where}  [{event.took * 1e6:.0f} us, pid {event.pid}]"
    return f"{clock} {who} {event.op}({event.args}) = {event.result}  [{event.took * 1e6:.0f} us, pid {event.pid}]"
