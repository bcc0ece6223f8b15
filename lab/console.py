"""What the lab says while it works, and how its commands end."""

import contextlib
import sys
import time
from collections.abc import Iterator

import click

from mapdev.errors import MapdevError


def say(line: str) -> None:
    """A line of a result, to standard output."""
    click.echo(line)


def note(line: str) -> None:
    """A line of progress, to standard error."""
    click.echo(line, err=True)


def warn(line: str) -> None:
    """A line that somebody should act upon."""
    click.echo(f"lab: {line}", err=True)


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what is done and, when it is done, how long it took."""
    started = time.monotonic()
    note(f"{what} ...")
    yield
    note(f"{what}: {time.monotonic() - started:.1f} s")


def entry(command: click.Command) -> None:
    """Run a command; an error for people is one line after what a program printed."""
    try:
        command()
    except MapdevError as error:
        if error.detail:
            click.echo(error.detail.rstrip(), err=True)
        click.echo(f"lab: {error}", err=True)
        sys.exit(error.exit_code)
