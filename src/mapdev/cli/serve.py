"""``mapdev serve``."""

import grp
import logging
import os
import pwd
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from mapdev.errors import HostError, UsageError

if TYPE_CHECKING:
    from mapdev.hosts.fuse.host import FuseHost
    from mapdev.hosts.fuse.nodes import Permissions


class _Target(click.ParamType[str]):
    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        from mapdev.devices import BUILTIN

        items = [CompletionItem(name) for name in sorted(BUILTIN) if name.startswith(incomplete)]
        return items or [CompletionItem(incomplete, type="file")]


class _Mode(click.ParamType[int]):
    """Permission bits in octal, as chmod takes them."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is not a mode such as 0660 or 666", param, ctx)
        return mode


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True, type=_Target())
@click.option("--mount", "directory", metavar="DIR", required=True, type=click.Path(path_type=Path),
              help="An empty directory; each device appears in it as a file.")  # fmt: skip
@click.option("--trace", is_flag=True, help="Show each callback as it happens, on standard error.")
@click.option("--trace-file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Append each callback to FILE as a line of JSON.")  # fmt: skip
@click.option("--mode", type=_Mode(), help="Permissions, such as 0660. Without it (and the next two) only "
              "the user who serves may open the devices.")  # fmt: skip
@click.option("--owner", metavar="USER", help="The owner of the device files (name or number).")
@click.option("--group", metavar="GROUP", help="Their group (name or number).")
@click.option("--memory", type=click.Choice(["shared", "on-demand", "page-cache"]), default="shared",
              help="How programs get at the memory: the best way to try; default: the best there is.")  # fmt: skip
@click.option("--via", type=click.Choice(["mount", "fusermount", "namespace"]),
              help="How to mount; default: the best that works.")  # fmt: skip
def command(
    targets: tuple[str, ...], directory: Path, trace: bool, trace_file: Path | None, mode: int | None,
    owner: str | None, group: str | None, memory: str, via: str | None,
) -> None:  # fmt: skip
    """Serve devices as files of a directory, until SIGINT or SIGTERM.

    TARGET is a built-in device (see `mapdev devices`), FILE.py or FILE.py:Class, or package.module:Class.
    NAME=TARGET serves it under another file name.

    \b
    Example:  mkdir dev
              mapdev serve lkmc_mmap ram:64M fb=framebuffer.py:Fb --mount ./dev --trace
              mapdev serve timer.py --mount /srv/dev --mode 0660 --group dialout
    """
    from mapdev.cli.tracing import make_trace
    from mapdev.hosts.fuse.host import FuseHost
    from mapdev.hosts.fuse.mount import Way
    from mapdev.hosts.fuse.session import Mode
    from mapdev.targets import load_all

    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    stop = threading.Event()
    # before the mount exists, so that no signal finds it without an owner
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: _stop(stop, _frame))
    tracing = make_trace(trace, trace_file)
    best = {"shared": Mode.SHARED, "on-demand": Mode.ON_DEMAND, "page-cache": Mode.PAGE_CACHE}[memory]
    with FuseHost(
        directory, load_all(targets), permissions=_permissions(mode, owner, group), mode=best,
        way=Way(via) if via else None, trace=tracing,
    ) as host:  # fmt: skip
        _announce(host)
        while not stop.wait(0.5) and not host.wait(0):
            pass
        if host.wait(0):
            raise HostError(f"{directory} was unmounted by somebody else; nothing is served any more")


def _stop(stop: threading.Event, frame: FrameType | None) -> None:  # noqa: ARG001
    stop.set()


def _announce(host: "FuseHost") -> None:
    """The one line that says: ready."""
    from mapdev.hosts.fuse.mount import Way
    from mapdev.hosts.fuse.session import Mode

    modes = host.modes().items()
    devices = ", ".join(f"{name} ({mode.value if mode is not None else 'no memory'})" for name, mode in modes)
    where = str(host.directory)
    if host.way is Way.NAMESPACE:
        where = f"/proc/{os.getpid()}/root{where} (a namespace of its own; install fuse3 to mount for all)"
    click.echo(f"ready: {where}: {devices}")
    sys.stdout.flush()
    if host.mode is Mode.PAGE_CACHE:
        click.echo(f"mapdev: {host.mode.value}: {host.mode.meaning}", err=True)


def _permissions(mode: int | None, owner: str | None, group: str | None) -> "Permissions | None":
    from mapdev.hosts.fuse.nodes import Permissions

    if mode is None and owner is None and group is None:
        return None
    uid = os.geteuid() if owner is None else _id(owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
    gid = os.getegid() if group is None else _id(group, "group", lambda name: grp.getgrnam(name).gr_gid)
    return Permissions(0o600 if mode is None else mode, uid, gid)


def _id(name: str, what: str, look_up: Any) -> int:
    try:
        return int(name) if name.isdecimal() else int(look_up(name))
    except KeyError:
        raise UsageError(f"there is no {what} {name!r}: name one that exists, or its number") from None
