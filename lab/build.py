"""Build kernel modules, and static programs, in the root of a kernel's own suite. ``python -m lab.build KERNEL DIR``.

The host's compiler is not used: a kernel's build programs want the C library that they were made with.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from lab import cache, console
from lab.fetch import Fetched
from lab.kernels import REPOSITORY
from lab.process import CommandError, main
from lab.root import enter
from lab.sources import kernel_named, names
from mapdev.errors import UsageError

_BUILD_TIMEOUT = 600
_LEFT_BY_BUILDS = shutil.ignore_patterns(
    "*.o", "*.ko", "*.mod", "*.mod.c", ".*.cmd", ".*.d", "*.order", "Module.symvers", "__pycache__", ".*.o.d", "*.pyc"
)
FOR_32_BITS = (
    "-m32", "-ffreestanding", "-nostdlib", "-fno-pie", "-no-pie", "-idirafter", "/usr/include/x86_64-linux-gnu",
)  # fmt: skip
"""Flags for a 32-bit program that needs no C library; the kernel's headers are the same."""
_HARMLESS = (
    "the compiler differs from the one used to build the kernel",  # an update of gcc within the suite
    "Skipping BTF generation",
)


@dataclass(frozen=True)
class Built:
    """The modules of one source directory."""

    modules: tuple[Path, ...]
    output: str
    """What the compiler said; nothing that is a warning, as these are errors."""


def warnings(output: str) -> list[str]:
    """The lines of a build that are warnings, those of kbuild about its surroundings left out."""
    lines = [line for line in output.splitlines() if re.search(r"\bwarning\b", line, re.IGNORECASE)]
    return [line for line in lines if not any(text in line for text in _HARMLESS)]


def digest(directory: Path, *more: str) -> str:
    """A name for what is in a directory, and for `more`."""
    found = hashlib.sha256("\0".join(more).encode())
    for path in _files(directory):
        found.update(f"{path.relative_to(directory)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:24]


def _files(directory: Path) -> Iterator[Path]:
    for path, directories, files in os.walk(directory):
        ignored = _LEFT_BY_BUILDS(path, [*directories, *files])
        directories[:] = sorted(name for name in directories if name not in ignored)
        yield from (Path(path, name) for name in sorted(files) if name not in ignored)


async def modules(kernel: Fetched, source: Path) -> Built:
    """The modules that the Kbuild of a directory makes, from the cache if nothing changed; W=1, warnings are errors.

    Raises ``UsageError``, or ``CommandError`` with what the compiler said.
    """
    source = source.resolve()
    if not any((source / name).is_file() for name in ("Kbuild", "Makefile")):
        raise UsageError(f"{source} has neither a Kbuild nor a Makefile: it is no directory of a module")

    async def make(directory: Path) -> None:
        shutil.copytree(source, directory / "build", ignore=_LEFT_BY_BUILDS)
        try:
            output = await enter(
                f"building {source.name} for {kernel.release}", kernel.root, directory / "build",
                # W=1 also checks kernel-doc comments, with programs that are not in the root: left out
                ["make", "-C", kernel.headers, "M=/build", "W=1", "KCFLAGS=-Werror", "cmd_checkdoc=", "modules"],
                timeout=_BUILD_TIMEOUT,
            )  # fmt: skip
        except CommandError as error:
            raise CommandError(str(error), error.detail.replace("/build/", f"{source}/")) from None
        output = output.replace("/build/", f"{source}/")
        if found := warnings(output):
            raise CommandError(f"building {source.name} for {kernel.release}: {len(found)} warnings", output)
        (directory / "output").write_text(output)

    # the whole path: a kernel `sanitize` of another configuration is another kernel, and its root is called "root", too
    key = digest(source, str(kernel.root))
    place = await cache.complete(cache.place() / "modules" / f"{kernel.name}-{source.name}-{key}", make)
    found = tuple(sorted(place.glob("build/*.ko")))
    if not found:
        raise UsageError(f"{source} builds no module")
    return Built(found, (place / "output").read_text())


async def program(kernel: Fetched, source: Path, target: Path, flags: Sequence[str] = ()) -> None:
    """Compile one C file of the repository, statically, to `target`; warnings are errors. Raises ``CommandError``."""
    inside = f"/source/{source.resolve().relative_to(REPOSITORY)}"
    warn = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    await enter(
        f"compiling {source.name} for {kernel.name}", kernel.root, target.parent,
        ["gcc", *warn, *flags, "-o", f"/build/{target.name}", inside],
        timeout=_BUILD_TIMEOUT,
    )  # fmt: skip


@click.command()
@click.argument("kernel")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
def command(kernel: str, source: Path) -> None:
    """Build the module in the directory SOURCE for KERNEL (or "all"), and show what the compiler says."""

    async def work() -> None:
        for name in names(kernel):
            fetched = await kernel_named(name)
            with console.doing(f"building {source} for {fetched.release}"):
                built = await modules(fetched, source)
            console.say(built.output.rstrip())
            for path in built.modules:
                console.say(str(path))

    main(work())


if __name__ == "__main__":
    console.entry(command)
