"""What happened, as events: each callback of a device with its arguments, its answer and its time.

A device without a trace has no code of this file on its way (see ``Dispatch``): off costs nothing. With one, a program
waits for its event: it is made, formatted and written before the program has its answer, so that the last line says
what the device did last, also of a host that was killed.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from io import TextIOWrapper, UnsupportedOperation
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import NamedTuple, TextIO, TypeAlias

log = logging.getLogger("mapdev.trace")


class Callback(NamedTuple):
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


class Access(NamedTuple):
    """One load or store of a program (``op``): ``args`` says it as people read it. It has all that a callback has.

    ``register``: its name, or empty; ``offset`` in the device and ``width``, in bytes; ``value``: its bytes as a
    number, the least first; ``pc``: the address of the instruction; ``where``: its place in the source, or empty.
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
    register: str
    offset: int
    width: int
    value: int
    pc: int
    where: str


Event: TypeAlias = Callback | Access

Trace: TypeAlias = Callable[[Event], None]
"""Where events go. Called from many threads; must not block for long, and must not raise."""


class JsonLines:
    """One JSON object a line, to a file; written at once, so that it can be followed.

    A line is one write(2) at the end of the file: those of several processes do not mix. What cannot be written, as on
    a full disk, is missing in the file, which is logged once; the device goes on.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``OSError`` if the file cannot be written."""
        self._file = path.open("ab", buffering=0)
        self._fd = self._file.fileno()
        self._fails = False
        self._before = b""
        """Ends a line of which only a part could be written."""

    def __call__(self, event: Event) -> None:
        line = self._before + format_json(event)
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                self._before = b"\n"
                written += os.write(self._fd, line[written:])
        except OSError as error:
            if not self._fails:
                log.error("%s: %s; the trace lacks what happens now", self._file.name, error.strerror)
            self._fails = True
        else:
            self._before, self._fails = b"", False

    def close(self) -> None:
        """Idempotent. No event may come afterwards."""
        self._file.close()


class Lines:
    """A line of text for each event: in colours on a terminal, plain elsewhere."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._show = self._print
        if stream.isatty():
            from rich.console import Console  # only a terminal pays for the import

            self._console = Console(file=stream, highlight=False)
            self._show = self._print_in_colours
        elif isinstance(stream, TextIOWrapper) and (stream.line_buffering or stream.write_through):
            with suppress(UnsupportedOperation):
                self._fd = stream.fileno()
                self._show = self._write  # the stream keeps no line back that has to go first

    def __call__(self, event: Event) -> None:
        try:
            self._show(event)
        except OSError:
            pass  # the reader of the trace is gone; the devices are not

    def _write(self, event: Event) -> None:
        left = f"{format_event(event)}\n".encode(self._stream.encoding, "backslashreplace")
        while left:
            left = left[os.write(self._fd, left) :]

    def _print(self, event: Event) -> None:
        with self._lock:
            self._stream.write(format_event(event) + "\n")
            self._stream.flush()

    def _print_in_colours(self, event: Event) -> None:
        style = "red" if event.errno else "cyan" if event.op == "log" else "green"
        with self._lock:
            self._console.print(format_event(event), style=style, markup=False, soft_wrap=True)


def only(trace: Trace, patterns: Sequence[str]) -> Trace:
    """Let through what one of `patterns` (``*`` and ``?`` as in file names) is the name of: an operation, a register,
    a device."""

    @lru_cache(maxsize=1 << 12)
    def wanted(*names: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    def filtered(event: Event) -> None:
        at = (event.register, f"{event.offset:#x}") if isinstance(event, Access) else ()
        if wanted(event.op, event.device, *at):
            trace(event)

    return filtered


def format_event(event: Event) -> str:
    """One line without colours."""
    second = int(event.time)
    clock = f"{_clock(second)}.{int((event.time - second) * 1e6):06d}"
    who = f"{event.device}#{event.file}" if event.file else event.device
    if event.op == "log":
        return f"{clock} {who}: {event.args}"
    if isinstance(event, Access):
        failed = f" = {event.result}" if event.result else ""
        return f"{clock} {who} {event.args}{failed}  {event.where}  [{event.took * 1e6:.0f} us, pid {event.pid}]"
    return f"{clock} {who} {event.op}({event.args}) = {event.result}  [{event.took * 1e6:.0f} us, pid {event.pid}]"


def format_json(event: Event) -> bytes:
    """One line: a JSON object of all attributes; ``time`` to the microsecond, ``took`` to 100 ns.

    Not by ``json.dumps``, which takes longer than all else that is done for an event.
    """
    more = ""
    if isinstance(event, Access):
        at, device, file, pid, op, args, result, errno, took, register, offset, width, value, pc, where = event
        more = (
            f', "register": {_quoted(register)}, "offset": {offset}, "width": {width}, "value": {value}, "pc": {pc}, '
            f'"where": {_quoted(where)}'
        )
    else:
        at, device, file, pid, op, args, result, errno, took = event
    second = int(at)
    return (
        f'{{"time": {second}.{int((at - second) * 1e6):06d}, "device": {_quoted(device)}, "file": {file}, '
        f'"pid": {pid}, "op": {_quoted(op)}, "args": {_quoted(args)}, "result": {_quoted(result)}, '
        f'"errno": {errno}, "took": {took:.7f}{more}}}\n'
    ).encode()


@lru_cache(maxsize=1)
def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))
