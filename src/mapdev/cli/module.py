"""``mapdev module``."""

import os
from pathlib import Path

import click

from mapdev import module
from mapdev.cli.permissions import permission_options, permissions
from mapdev.errors import UsageError
from mapdev.hosts.base import Permissions
from mapdev.hosts.kmod import control, uapi
from mapdev.hosts.kmod.uapi import CreateFlag, MemoryKind
from mapdev.libc import PAGE_SIZE
from mapdev.sizes import parse_size

_KINDS = ("array", "vmalloc", "contiguous", "dma")


@click.group()
def command() -> None:
    """The kernel module: with it, devices are real character devices in /dev, or files in /proc.

    \b
    Example:  mapdev module build
              sudo mapdev module load
              sudo mapdev serve lkmc_mmap --host kernel
    """


@command.command()
@click.option("--kernel", metavar="RELEASE", help="As uname -r names it; default: the kernel that runs.")
def build(kernel: str | None) -> None:
    """Build the module for a kernel whose headers are installed.

    \b
    Example:  mapdev module build
              mapdev module build --kernel 6.12.117+deb13-amd64
    """
    click.echo(module.build(kernel or module.running()))


@command.command()
@click.option("--kernel", metavar="RELEASE", help="As uname -r names it; default: the kernel that runs.")
def install(kernel: str | None) -> None:
    """Hand the module to DKMS, which builds it now, and again for each new kernel.

    \b
    Example:  sudo mapdev module install
    """
    click.echo(module.install(kernel or module.running()).rstrip())
    click.echo("installed; `mapdev module load` loads it")


@command.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def load(file: Path | None) -> None:
    """Load the module: FILE, or what was built or installed for the kernel that runs.

    \b
    Example:  sudo mapdev module load
    """
    click.echo(f"loaded {module.load(file)}")


@command.command()
def unload() -> None:
    """Unload the module.

    \b
    Example:  sudo mapdev module unload
    """
    module.unload()
    click.echo("unloaded")


@command.command()
def status() -> None:
    """Say whether the module is built, loaded and usable. Exit code 1 if devices cannot be served with it.

    \b
    Example:  mapdev module status
    """
    release = module.running()
    click.echo(f"kernel   {release}")
    click.echo(f"sources  {module.find_sources() or 'not in this installation'}")
    click.echo(f"built    {module.built(release) or 'no'}")
    click.echo(f"loaded   {'yes' if module.is_loaded() else 'no'}")
    with control.control() as fd:
        version = control.version(fd)
        kinds = [kind.name.lower() for kind in MemoryKind if kind and version.memory_kinds >> kind & 1]
        click.echo(f"version  {version.major}.{version.minor} of {control.CONTROL}")
        click.echo(f"devices  {len(control.devices(fd))}")
        click.echo(f"memory   {version.used_bytes} of {version.max_bytes} bytes; kinds: {', '.join(kinds)}")


@command.command("list")
def list_() -> None:
    """Show the devices of the module.

    \b
    Example:  mapdev module list
    """
    with control.control() as fd:
        devices = control.devices(fd)
    rows = [("PATH", "NUMBER", "MODE", "MEMORY", "OPEN", "SERVED BY"), *map(_row, devices)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(info: uapi.Info) -> tuple[str, ...]:
    proc = bool(info.flags & CreateFlag.PROC)
    memory = f"{info.length} {control.kind_name(info.kind)}" if info.kind else "-"
    if info.flags & CreateFlag.PER_OPEN:
        memory += " for each open"
    who = "nobody (persists)" if info.flags & CreateFlag.PERSIST else f"pid {info.pid}" if info.pid else "?"
    return (
        control.path_of(os.fsdecode(info.name), proc), "-" if proc else f"{info.major}:{info.minor}",
        f"{info.mode:04o}", memory, str(info.files), who,
    )  # fmt: skip


@command.command()
@click.argument("name")
@click.option("--size", default=str(PAGE_SIZE), show_default=True, metavar="SIZE", help="Such as 64K; whole pages.")
@click.option("--kind", type=click.Choice(_KINDS), default="vmalloc", show_default=True,
              help="Where the pages come from: an array with a page for each entry when it is touched, one virtually "
              "contiguous buffer, physically contiguous pages, memory for DMA.")  # fmt: skip
@click.option("--text", help="What the memory begins with.")
@click.option("--init", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="A file that the memory begins with.")  # fmt: skip
@click.option("--per-open", is_flag=True, help="Each open has memory of its own.")
@click.option("--proc", is_flag=True, help="As /proc/NAME, not /dev/NAME.")
@permission_options
def create(
    name: str, size: str, kind: str, text: str | None, init: Path | None, per_open: bool, proc: bool,
    mode: int | None, owner: str | None, group: str | None,
) -> None:  # fmt: skip
    """Make a device of memory that no program serves: it stays until `remove`, or until the module is unloaded.

    \b
    Example:  sudo mapdev module create scratch --size 64K --text asdf --mode 0666
              sudo mapdev module create frames --kind contiguous --size 1M --per-open
    """
    if text is not None and init is not None:
        raise UsageError("--text and --init both say what the memory begins with: give one")
    try:
        length = parse_size(size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if length < 1 or length % PAGE_SIZE:
        raise UsageError(f"a size of {length} bytes is not a multiple of the page size, {PAGE_SIZE}")
    data = _content(text, init)
    if len(data) > min(length, uapi.MAX_TRANSFER):
        raise UsageError(f"{len(data)} bytes to begin with are more than {min(length, uapi.MAX_TRANSFER)}")
    allowed = permissions(mode, owner, group) or Permissions(0o600, os.geteuid(), os.getegid())
    flags = CreateFlag.PER_OPEN if per_open else 0
    request = control.request(name, allowed, proc=proc, flags=flags, size=length)
    request.memory.kind, request.memory.length = MemoryKind[kind.upper()], length
    with control.control() as fd:
        control.create_persistent(fd, request, data)
    number = "" if proc else f" (c {request.major}:{request.minor})"
    click.echo(f"created {control.path_of(name, proc)}{number}")


def _content(text: str | None, init: Path | None) -> bytes:
    if init is None:
        return os.fsencode(text or "")
    try:
        with init.open("rb") as file:
            return file.read(uapi.MAX_TRANSFER + 1)
    except OSError as error:
        raise UsageError(f"{init} cannot be read: {error.strerror}") from None


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--proc", is_flag=True, help="/proc/NAME, not /dev/NAME.")
def remove(names: tuple[str, ...], proc: bool) -> None:
    """Remove devices that persist.

    \b
    Example:  sudo mapdev module remove scratch
    """
    with control.control() as fd:
        for name in names:
            control.remove(fd, name, proc)
            click.echo(f"removed {control.path_of(name, proc)}")
