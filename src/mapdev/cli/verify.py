"""``mapdev verify``: check how a mapping of a path behaves."""

import json
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from types import FrameType

import click

from mapdev.conformance import Facts, Verdict, inspect, verify
from mapdev.libc import PAGE_SIZE

_COLOURS: dict[str, str] = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.NOT_APPLICABLE: "yellow"}
_NAME, _VERDICT = 44, 16
"""Columns of the table."""
_NARROWEST = 30
"""Columns for the evidence, below which a terminal's own wrapping does better."""


@click.command(short_help="check how a mapping of a path behaves")
@click.argument("path", metavar="PATH")
@click.option("--read-only", is_flag=True, help="Make no stores: only the checks that do without run.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for each check; one without an answer fails.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: facts and results.")
def command(path: str, read_only: bool, timeout: float, as_json: bool) -> None:
    """Check how a mapping of PATH behaves: what is stored through one mapping must be seen by all others, by
    read(2) and by other processes; areas can be split, moved and protected; the end is the end.

    Any file will do: a device, a file of a file system, one that cannot be mapped at all. A row for each
    check: pass, fail, or why it is not applicable.

    It STORES to the first bytes of the first two pages and puts back what was there, also when it is
    interrupted. --read-only makes no stores.

    Exit code: 0 no check failed, 1 one failed, 2 PATH cannot be read, 130 or 143 interrupted.

    \b
    Example:  mapdev verify /dev/shm/x
              mapdev verify --read-only /dev/fb0
              mapdev verify --json ./dev/lkmc_mmap | jq '.results[] | select(.verdict == "fail")'
    """
    results = []
    try:
        with _signals_raise():
            facts = inspect(path, timeout=timeout)
            click.echo(f"{_about(facts)}\n{_intention(facts, read_only)}", err=as_json)
            if not as_json:
                click.echo("\n" + _row("check", "verdict", "evidence"))
            with closing(verify(path, read_only=read_only, timeout=timeout)) as coming:
                for result in coming:
                    results.append(result)
                    if not as_json:
                        click.echo(_row(result.name, result.verdict, result.evidence))
    except _Interrupted as interruption:
        click.echo("mapdev: interrupted; what was there before is there again", err=True)
        sys.exit(128 + interruption.number)
    count = {verdict: sum(result.verdict == verdict for result in results) for verdict in Verdict}
    if as_json:
        click.echo(json.dumps({"facts": asdict(facts), "results": [asdict(r) for r in results]}, indent=2))
    else:
        click.echo("\n" + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    sys.exit(1 if count[Verdict.FAIL] else 0)


class _Interrupted(Exception):  # noqa: N818 - not an error
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Leave by an exception when a signal comes, as a default SIGTERM does not: the content is put back."""

    def handler(number: int, _: FrameType | None) -> None:
        raise _Interrupted(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _about(facts: Facts) -> str:
    about = [f"{facts.type} on {facts.filesystem}", f"st_size {facts.size}", f"mode {facts.mode:04o}"]
    about.append(facts.unwritable or "writable")
    if facts.page != PAGE_SIZE:
        about.append(f"pages of {facts.page} bytes")
    return f"{click.format_filename(facts.path)}: {', '.join(about)}"


def _intention(facts: Facts, read_only: bool) -> str:
    shown = click.format_filename(facts.path)
    if facts.unmappable:
        return f"will not store to {shown}: {facts.unmappable}"
    if read_only or facts.unwritable:
        return f"will not store to {shown}: {'--read-only' if read_only else facts.unwritable}"
    return (
        f"will store to the first page(s) of {shown} and put back what was there (its times may change);"
        " --read-only makes no stores"
    )


def _row(name: str, verdict: str, evidence: str) -> str:
    """A line of the table; on a terminal the evidence is wrapped, elsewhere one line stays one line."""
    indent = _NAME + _VERDICT
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if columns >= indent + _NARROWEST:
        evidence = f"\n{'':{indent}}".join(textwrap.wrap(evidence, columns - indent))
    return f"{name:<{_NAME}}{click.style(f'{verdict:<{_VERDICT}}', fg=_COLOURS.get(verdict))}{evidence}"
