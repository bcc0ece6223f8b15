"""The command line: one file a command, each imported only when it runs (start-up time is felt)."""

import importlib
import sys
from typing import Any

import click

from mapdev.errors import MapdevError

_COMMANDS = {
    "demo": "serve lkmc_mmap and run its two-mappings test against it",
    "devices": "list the built-in devices",
    "module": "build, load and look at the kernel module",
    "pagemap": "show what physical page is behind an address of a process",
    "registers": "show the registers that a file describes",
    "run": "run a program with devices that only it can see",
    "serve": "serve devices as files of a directory",
    "verify": "check how a mapping of a path behaves",
}


class _Lazy(click.Group):
    """A group whose commands are the modules beside this one, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"mapdev.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MapdevError as error:
            if error.detail:
                click.echo(error.detail.rstrip(), err=True)
            click.echo(f"mapdev: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mapdev", message="%(prog)s %(version)s")
def main() -> None:
    """Linux devices written in Python, which any program can open, read, write, ioctl, poll and mmap.

    \b
    Example:  mapdev demo
              mapdev serve lkmc_mmap --mount ./dev --trace

    Completion for bash:  eval "$(_MAPDEV_COMPLETE=bash_source mapdev)"   (also zsh_source, fish_source)
    """
