"""How like a file of tmpfs is a served device? ``python -m lab.fidelity`` (make fidelity) writes docs/fidelity.md.

The same device, a ram, is looked at by `mapdev verify` wherever it can be served: over FUSE on this machine, and by
the kernel module in guests of every kernel of the lab.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from lab import console
from lab.boot import boot
from lab.check import Check
from lab.kernels import REPOSITORY
from lab.process import main
from lab.sources import kernel_named, names
from mapdev.devices import Ram
from mapdev.errors import HostError
from mapdev.hosts.fuse.host import FuseHost
from mapdev.hosts.fuse.session import Mode

PAGE = REPOSITORY / "docs" / "fidelity.md"
SIZE = 32 << 10  # less than `mapdev verify` reads in search of an end

_BODY = f"""
import subprocess, sys
from mapdev.devices import Ram
from mapdev.hosts.kmod.host import KmodHost

subprocess.run(["insmod", "/lab/modules/mapdev.ko"], check=True)
with KmodHost({{"ram": Ram({SIZE})}}):
    verify = [sys.executable, "-m", "mapdev", "verify", "--json", "--timeout", "60", "/dev/ram"]
    said = subprocess.run(verify, stdout=subprocess.PIPE, text=True, timeout=1500).stdout
print("fidelity " + " ".join(said.split()))
print("ok verify has run")
""".encode()
_CHECK = Check(body="fidelity.py", modules=("kmod",), python=True, timeout=1800)


@dataclass(frozen=True)
class Column:
    """What `mapdev verify` says of one way to serve: (verdict, evidence) by the name of the check."""

    title: str
    results: dict[str, tuple[str, str]]


def parse(title: str, text: str) -> Column:
    """The JSON of `mapdev verify`. Raises ``HostError`` for what is none."""
    try:
        results = json.loads(text)["results"]
        return Column(title, {each["name"]: (each["verdict"], each["evidence"]) for each in results})
    except (ValueError, KeyError, TypeError) as error:
        raise HostError(f"{title}: `mapdev verify --json` has not given its results: {error}") from None


def verified(title: str, path: str | Path) -> Column:
    """Of a path of this machine."""
    command = [sys.executable, "-m", "mapdev", "verify", "--json", "--timeout", "60", str(path)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=900, check=False
    )
    return parse(title, done.stdout)


def here() -> Iterable[Column]:
    """tmpfs, and the user-space host in each of its modes that this machine has."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(SIZE)
        yield verified("tmpfs", file.name)
    for mode, title in ((Mode.SHARED, "FUSE, shared memory"), (Mode.ON_DEMAND, "FUSE, on demand")):
        with (
            tempfile.TemporaryDirectory() as directory,
            FuseHost(Path(directory), {"ram": Ram(SIZE)}, mode=mode) as host,
        ):
            if host.mode is mode:
                yield verified(title, Path(directory) / "ram")
            else:
                console.warn(f"{title} cannot be had here: be root, on Linux 6.9 or newer")


def page(columns: list[Column], about: str) -> str:
    """The document."""
    checks = list(dict.fromkeys(name for column in columns for name in column.results))
    lines = [
        "# How like a file of tmpfs a served device is",
        "",
        f"Written by `make fidelity`, and not by hand: what `mapdev verify` says of one device, `ram:{SIZE >> 10}K`,",
        f"served in every way, beside a file of tmpfs. {about}",
        "",
        "| check | " + " | ".join(column.title for column in columns) + " |",
        "|" + " --- |" * (len(columns) + 1),
    ]
    reference = columns[0]
    notes: list[str] = []
    for name in checks:
        cells = []
        for column in columns:
            verdict, evidence = column.results.get(name, ("not run", ""))
            cell = {"pass": "yes", "fail": "**NO**"}.get(verdict, verdict)
            if verdict != reference.results.get(name, ("", ""))[0]:
                if evidence not in notes:
                    notes.append(evidence)
                cell += f" ({notes.index(evidence) + 1})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    if notes:
        lines += ["Differences:", "", *(f"{number}. {note}." for number, note in enumerate(notes, 1))]
    else:
        lines.append("There is no difference.")
    lines += [
        "",
        "What these checks do not see: to `stat` a device is a regular file over FUSE, and a character device by the",
        "module; Python sees a store of a program at once in shared memory and by the module, on demand at msync,",
        "munmap or `pull()`. Past the end of a device, mmap(2) is EINVAL by the module; over FUSE, as in tmpfs, it",
        "succeeds, and an access is SIGBUS.",
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--kernels", default="all", show_default=True, help="Names out of kernels.toml, with spaces between.")
@click.option("--check", "compare", is_flag=True, help="Write nothing: exit code 1 if the page would change.")
def command(kernels: str, compare: bool) -> None:
    """Write docs/fidelity.md anew. Takes some minutes."""
    columns = list(here())

    async def guests() -> None:
        for name in names(kernels):
            kernel = await kernel_named(name)
            with console.doing(f"{name}: mapdev verify by the module"):
                run = await boot(kernel, _CHECK, "fidelity", _BODY)
            found = [line for line in run.result.splitlines() if line.startswith("fidelity ")]
            if not found:
                raise HostError(f"{name}: no result; its log is {run.logs / 'result'}")
            columns.append(parse(f"module, Linux {name}", found[0].removeprefix("fidelity ")))

    main(guests())
    release = ".".join(platform.release().split(".")[:2])
    text = page(columns, f"tmpfs and FUSE are those of Linux {release}; the module ran in virtual machines.")
    if compare:
        if not PAGE.exists() or PAGE.read_text() != text:
            raise HostError(f"{PAGE.relative_to(REPOSITORY)} would change: python -m lab.fidelity")
        return
    PAGE.write_text(text)
    console.say(f"wrote {PAGE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    console.entry(command)
