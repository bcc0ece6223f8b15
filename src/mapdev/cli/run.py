"""``mapdev run``."""

import os
from functools import partial
from typing import TYPE_CHECKING

import click

from mapdev.errors import UsageError

if TYPE_CHECKING:
    from mapdev.faults import Fault
    from mapdev.trace import Trace


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--device", "devices", metavar="PATH=TARGET", multiple=True,
              help="A device, and where the program finds it, such as /dev/uio0=timer.py:Timer.")  # fmt: skip
@click.option("--file", "files", metavar="PATH=FILE", multiple=True,
              help="A real file (or directory), and where it is found, such as /etc/board=board.txt.")  # fmt: skip
@click.option("--chardev", is_flag=True, help="Let stat(2) say that the devices are character devices (by seccomp; it "
              "is implied by devices that have a number). Programs then cannot gain privileges (sudo).")  # fmt: skip
@click.option("--trace", is_flag=True, help="Show each callback as it happens, on standard error.")
@click.option("--trace-file", metavar="FILE", type=click.Path(dir_okay=False),
              help="Append each callback to FILE as a line of JSON.")  # fmt: skip
@click.option("--trap", is_flag=True, help="Let every load and store of mapped devices come here, also where the "
              "device does not ask for it: --trace then shows each. Costs microseconds an access.")  # fmt: skip
@click.option("--trace-only", metavar="PATTERN", multiple=True, help="Of the trace, only what is called so: a "
              "register, an operation (store), a device; * and ? as in file names. May be repeated.")  # fmt: skip
@click.option("--count", is_flag=True, help="At the end, a table on standard error: loads and stores by register.")
@click.option("--fault", "faults", metavar="SPEC", multiple=True, help="What goes wrong on purpose: read#3=EIO, "
              "ioctl@0x4600=EFAULT, load@STATUS=stuck0:3 (see docs/faults.md). May be repeated.")  # fmt: skip
@click.option("--fault-seed", metavar="N", type=int, default=0, help="Of the faults that strike at random.")
@click.option("--memory", type=click.Choice(["shared", "on-demand"]), default="shared",
              help="How the program gets at the memory: the best way to try; default: the best there is.")  # fmt: skip
@click.argument("program", metavar="PROGRAM [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    devices: tuple[str, ...], files: tuple[str, ...], chardev: bool, trace: bool, trace_file: str | None, trap: bool,
    trace_only: tuple[str, ...], count: bool, faults: tuple[str, ...], fault_seed: int, memory: str,
    program: tuple[str, ...],
) -> None:  # fmt: skip
    """Run PROGRAM with devices that only it can see. No root needed.

    The exit code is the program's; 127 if there is no such program, 126 if it cannot be executed.

    \b
    Example:  mapdev run --device /dev/uio0=timer.py:Timer -- ./driver --verbose
              mapdev run --trap --trace --device /dev/mem0=ram:64K -- ./driver
              mapdev run --device /proc/lkmc_mmap=lkmc_mmap --fault read#2=EIO -- cat /proc/lkmc_mmap
    """
    from mapdev.run.launcher import run
    from mapdev.run.request import Request

    if trace_only and not trace and trace_file is None:
        raise UsageError("--trace-only needs a trace: add --trace or --trace-file FILE")
    if not devices and not files:
        raise UsageError("nothing to run it with: name a device (--device PATH=TARGET) or a file (--file PATH=FILE)")
    request = Request(_pairs("--device", devices), _pairs("--file", files), list(program),
                      partial(_trace, trace, trace_file, trace_only), chardev, memory == "shared", trap, count,
                      _parsed(faults), fault_seed)  # fmt: skip
    # not sys.exit: all is done and nothing is buffered, and the interpreter would take ten milliseconds to tidy up
    os._exit(run(request))


def _trace(lines: bool, file: str | None, patterns: tuple[str, ...]) -> "Trace | None":
    from pathlib import Path  # all this in the host: the launcher needs nothing of it

    from mapdev.cli.tracing import make_trace

    return make_trace(lines, None if file is None else Path(file), patterns)


def _parsed(texts: tuple[str, ...]) -> "list[Fault]":
    if not texts:
        return []  # and nothing of it is imported
    from mapdev.faults import parse

    return [parse(text) for text in texts]


def _pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not equals or not path or not value:
            raise UsageError(f"{option} {word!r} is not PATH=..., such as /dev/uio0=timer.py:Timer")
        if path in pairs:
            raise UsageError(f"{path} is named twice")
        pairs[path] = value
    return pairs
