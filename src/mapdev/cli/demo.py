"""``mapdev demo``."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from mapdev.errors import FuseError, HostError
from mapdev.trace import Event, format_event

_TIMEOUT = 60


@click.command()
@click.option("--memory", type=click.Choice(["shared", "on-demand"]), default="shared",
              help="How the test gets at the device's page; default: the best way there is.")  # fmt: skip
@click.option("--host", "host_name", type=click.Choice(["fuse", "kernel"]), default="fuse",
              help="kernel: by the kernel module, as /proc/lkmc_mmap (see `mapdev module`).")  # fmt: skip
def command(memory: str, host_name: str) -> None:
    """Serve lkmc_mmap from Python, and run its two-mappings test against it in another process.

    \b
    Example:  mapdev demo
              sudo mapdev demo          as root physical addresses are seen too
              sudo mapdev demo --host kernel
    """
    events: list[Event] = []
    if host_name == "kernel":
        _by_module(events)
        return
    try:
        _by_fuse(events, memory)
    except FuseError as error:
        if not (Path(__file__).parents[3] / "lab" / "boot.py").exists():
            raise
        raise FuseError(f"{error}; or `make demo-kernel`, in a virtual machine") from None


def _by_module(events: list[Event]) -> None:
    from mapdev.devices import LkmcMmap
    from mapdev.hosts.kmod.host import KmodHost

    with KmodHost({"lkmc_mmap": LkmcMmap()}, proc=True, trace=events.append) as host:
        path = host.served[0].path
        click.echo(f"A device written in Python is served as {path} by the kernel module (zero-copy:")
        click.echo(f"programs map the very page that Python has). This is Linux {os.uname().release}.")
        click.echo("Another process opens it, maps it twice, and looks:\n")
        addresses = _client(Path(path))
    _tell(events, addresses, True)


def _by_fuse(events: list[Event], memory: str) -> None:
    from mapdev.devices import LkmcMmap
    from mapdev.hosts.fuse.host import FuseHost
    from mapdev.hosts.fuse.session import Mode

    best = Mode.SHARED if memory == "shared" else Mode.ON_DEMAND
    with (
        tempfile.TemporaryDirectory(prefix="mapdev-demo-") as directory,
        FuseHost(Path(directory), {"lkmc_mmap": LkmcMmap()}, mode=best, trace=events.append) as host,
    ):
        if host.mode is Mode.PAGE_CACHE:
            raise FuseError(
                f"the test needs Linux 6.6 or newer, and this is {os.uname().release}: here read and write of a mapped "
                "device do not reach Python"
            )
        click.echo(f"A device written in Python is served as {directory}/lkmc_mmap ({host.mode.value}:")
        click.echo(f"{host.mode.meaning}).")
        click.echo("Another process opens it, maps it twice, and looks:\n")
        addresses = _client(Path(directory) / "lkmc_mmap")
    _tell(events, addresses, host.mode is Mode.SHARED)


def _tell(events: list[Event], addresses: list[int | None], shared: bool) -> None:
    # the host has closed: the last callback, release, is in the trace too
    click.echo("\nMeanwhile, the callbacks of the device:\n")
    for event in events:
        click.echo("     " + format_event(event))
    click.echo("")
    click.echo(_verdict(addresses, events, shared))


def _client(path: Path) -> list[int | None]:
    """Run the test; the physical addresses that it found."""
    program = [sys.executable, "-m", "mapdev.two_mappings", "--json", str(path)]
    try:
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(f"the test did not end within {_TIMEOUT} s") from None
    lines = done.stdout.splitlines()
    for line in lines if done.returncode else lines[:-1]:
        click.echo("  " + line)
    if done.returncode:
        raise HostError("the two-mappings test failed; the line above says at which step")
    physical: list[int | None] = json.loads(lines[-1])["physical"]
    return physical


def _verdict(addresses: list[int | None], events: list[Event], shared: bool) -> str:
    text = "Two mappings, one page: "
    if addresses[0] is None:
        who = "root" if os.geteuid() else "CAP_SYS_ADMIN"
        return (
            text
            + f"a store through one was seen by the other, by read, and in Python ({who} sees the addresses too)."
        )
    text += f"both mappings lie at physical address {addresses[0]:#x}"
    told = next(
        (m for e in events if (m := re.search(r"physical address 0x([0-9a-f]+)", e.args))),
        None,
    )
    if told is not None and int(told[1], 16) == addresses[0]:
        return text + ", and so does the page of the Python device."
    if shared:
        raise HostError(text + ", but the device has its page elsewhere: this is a bug")
    return text + ", a copy that the kernel keeps of the device's page."
