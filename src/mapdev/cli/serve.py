"""``mapdev serve``."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from mapdev.cli.permissions import permission_options, permissions
from mapdev.errors import HostError, UsageError
from mapdev.libc import PAGE_SIZE

if TYPE_CHECKING:
    from mapdev.device import Device
    from mapdev.hosts.base import Permissions
    from mapdev.hosts.fuse.host import FuseHost
    from mapdev.hosts.kmod.host import KmodHost
    from mapdev.trace import Trace


if TYPE_CHECKING:
    _StrParam = click.ParamType[str]
else:
    _StrParam = click.ParamType  # before click 8.4 it takes no parameter


class _Target(_StrParam):
    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        from mapdev.devices import BUILTIN

        items = [CompletionItem(name) for name in sorted(BUILTIN) if name.startswith(incomplete)]
        return items or [CompletionItem(incomplete, type="file")]


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True, type=_Target())
@click.option("--mount", "directory", metavar="DIR", type=click.Path(path_type=Path),
              help="An empty directory; each device appears in it as a file.")  # fmt: skip
@click.option("--host", "host_name", type=click.Choice(["fuse", "kernel"]), default="fuse",
              help="kernel: as character devices in /dev, by the kernel module (see `mapdev module`).")  # fmt: skip
@click.option("--proc", is_flag=True, help="With --host kernel: in /proc, not in /dev.")
@click.option("--trace", is_flag=True, help="Show each callback as it happens, on standard error.")
@click.option("--trace-file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Append each callback to FILE as a line of JSON.")  # fmt: skip
@click.option("--fault", "faults", metavar="SPEC", multiple=True, help="Something that goes wrong on purpose, such as "
              "read#3=EIO or fault@0x2000=SIGBUS: see docs/faults.md. May be repeated.")  # fmt: skip
@permission_options
@click.option("--memory", type=click.Choice(["shared", "on-demand", "page-cache"]), default="shared",
              help="How programs get at the memory: the best way to try; default: the best there is.")  # fmt: skip
@click.option("--via", type=click.Choice(["mount", "fusermount", "namespace"]),
              help="How to mount; default: the best that works.")  # fmt: skip
def command(
    targets: tuple[str, ...], directory: Path | None, host_name: str, proc: bool, trace: bool,
    trace_file: Path | None, faults: tuple[str, ...], mode: int | None, owner: str | None, group: str | None,
    memory: str, via: str | None,
) -> None:  # fmt: skip
    """Serve devices as files of a directory, or by the kernel module as real devices, until SIGINT or SIGTERM.

    TARGET is a built-in device (see `mapdev devices`), FILE.py or FILE.py:Class, or package.module:Class.
    NAME=TARGET serves it under another file name.

    \b
    Example:  mkdir dev
              mapdev serve lkmc_mmap ram:64M fb=framebuffer.py:Fb --mount ./dev --trace
              mapdev serve timer.py --mount /srv/dev --mode 0660 --group dialout
              mapdev serve lkmc_mmap --host kernel --proc
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
    allowed = permissions(mode, owner, group)
    devices = _with_faults(load_all(targets), faults)
    if host_name == "kernel":
        if directory is not None or via is not None or memory != "shared":
            raise UsageError("--mount, --via and --memory say how FUSE serves: they cannot go with --host kernel")
        _serve_by_module(devices, proc, allowed, make_trace(trace, trace_file), stop)
        return
    if directory is None:
        raise UsageError("name a directory for the devices: --mount DIR (or --host kernel)")
    if proc:
        raise UsageError("--proc needs --host kernel: FUSE cannot add files to /proc (`mapdev run` can show them)")
    tracing = make_trace(trace, trace_file)
    best = {"shared": Mode.SHARED, "on-demand": Mode.ON_DEMAND, "page-cache": Mode.PAGE_CACHE}[memory]
    with FuseHost(
        directory, devices, permissions=allowed, mode=best,
        way=Way(via) if via else None, trace=tracing,
    ) as host:  # fmt: skip
        _announce(host)
        while not stop.wait(0.5) and not host.wait(0):
            pass
        if host.wait(0):
            raise HostError(f"{directory} was unmounted by somebody else; nothing is served any more")


def _with_faults(devices: "dict[str, Device]", texts: tuple[str, ...]) -> "dict[str, Device]":
    from mapdev.faults import inject, parse

    faults = [parse(text) for text in texts]
    for fault in faults:
        if fault.operation in ("load", "store"):
            raise UsageError(f"{fault.text!r}: single accesses are trapped by `mapdev run` only")
    for name, its in inject(faults, devices).items():
        devices[name].injected = its
    return devices


def _serve_by_module(
    devices: "dict[str, Device]", proc: bool, allowed: "Permissions | None", trace: "Trace | None",
    stop: threading.Event,
) -> None:  # fmt: skip
    from mapdev.hosts.kmod.host import KmodHost

    with KmodHost(devices, proc=proc, permissions=allowed, trace=trace) as host:
        _announce_kernel(host)
        while not stop.wait(0.5) and not host.wait(0):
            pass
        if host.wait(0):
            raise HostError("one of these devices was removed by somebody else; nothing is served any more")


def _announce_kernel(host: "KmodHost") -> None:
    """The same line, of what the module made."""
    shown = [
        f"{path} ({f'c {devt[0]}:{devt[1]}, ' if devt is not None else ''}{memory})"
        for path, devt, memory in host.served
    ]
    click.echo(f"ready: {', '.join(shown)}")
    sys.stdout.flush()


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
    for dispatch in host.dispatches:
        lost = _lost_untrapped(dispatch.device)
        if lost is not None:
            click.echo(f"mapdev: {dispatch.name}: {lost}", err=True)


def _lost_untrapped(device: "Device") -> str | None:
    """What a device that wants accesses to be trapped lacks where they are not, in one line; None: nothing."""
    if not device.traps(0, device.size or PAGE_SIZE):
        return None
    from mapdev.registers import lost_without_trapping

    methods = " and ".join(name for name in ("load", "store") if device.defines(name)) or "each access"
    return lost_without_trapping(device) or (
        f"plain memory: {methods} of this device cannot be called here; `mapdev run` traps accesses, and calls them"
    )
