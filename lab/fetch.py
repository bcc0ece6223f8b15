"""Fetch kernels, their headers and compilers, and the user space of the guests. ``python -m lab.fetch [NAME...]``."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from lab import apt, cache, console
from lab.kernels import Kernel, table
from lab.process import main
from lab.root import enter, furnish
from mapdev.errors import HostError

IMAGE = "linux-image-cloud-amd64"
_OF_THE_IMAGE = ("linux-image-", "linux-binary-", "linux-modules-", "linux-base-")
TOOLS = (
    "gcc", "libc6-dev", "make", "dash", "bash", "coreutils", "sed", "grep", "mawk", "findutils", "diffutils", "tar",
    "gzip", "perl-base",
)  # fmt: skip
_USERLAND = (
    "busybox-static",
    "python3-minimal",
    "libpython3-stdlib",
    "python3-click",
    "python3-rich",
    "python3-numpy",
)
PROGRAMS = ("stress-ng",)
"""The packages that checks ask for: fetched with the kernels, so that the lab then works without a network."""

COMPILE = ("python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
"""Compile what the arguments after it name; the sources' times need not survive then."""
_COMPILE_TIMEOUT = 300
_LOADER = "/lib64/ld-linux-x86-64.so.2"
_LIBRARIES_TIMEOUT = 60


@dataclass(frozen=True)
class Fetched:
    """A kernel in the cache."""

    name: str
    release: str
    """What uname -r says in the guest."""
    packages: tuple[str, ...]
    """The packages that it was unpacked from, each as NAME=VERSION."""
    image: Path
    """A directory with vmlinuz, and usr/lib/modules."""
    root: Path
    """A root directory with headers and the suite's compiler, to chroot into."""

    slowness: int = 1
    """How much longer things take than on a stock kernel; what a check may take is multiplied by it."""

    def config(self) -> str:
        """The kernel's configuration: in /boot, or since 7.x beside its modules."""
        found = [*self.image.glob("boot/config-*"), *self.image.glob("usr/lib/modules/*/config")]
        if len(found) != 1:
            raise HostError(f"{len(found)} configurations in {self.image}; there should be one")
        return found[0].read_text()

    @property
    def headers(self) -> str:
        """Where the headers are, inside the root."""
        return f"/usr/src/linux-headers-{self.release}"


def moved_on(kernel: Kernel, release: str) -> str | None:
    """What to say when the suite has another kernel than its name in the table."""
    if release.startswith(kernel.name + "."):
        return None
    return f"{kernel.suite} has {release} now: it is no {kernel.name}; edit its line in lab/kernels.toml"


def vmlinuz(image: Path) -> Path:
    """The kernel in what was unpacked: /boot/vmlinuz-V, or since 7.x usr/lib/modules/V/vmlinuz."""
    found = [*image.glob("boot/vmlinuz-*"), *image.glob("usr/lib/modules/*/vmlinuz")]
    if len(found) != 1:
        raise HostError(f"{len(found)} kernels in the packages that were unpacked to {image}; there should be one")
    return found[0]


async def fetch(kernel: Kernel, update: bool = False) -> Fetched:
    """The kernel, from the cache or the mirror; `update`: look for a newer package of the same suite.

    Raises ``HostError``. May take minutes for the first time; other runs that want the same wait for it.
    """
    note = cache.place() / "kernels" / f"{kernel.name}.json"
    if not update and (known := _read(note)):
        return known
    async with cache.locked(note):
        if not update and (known := _read(note)):
            return known
        fetched = await _fetch(kernel)
        content = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(fetched).items()}
        cache.write(note, json.dumps(content, indent=1).encode())
    return fetched


def _read(note: Path) -> Fetched | None:
    try:
        content = json.loads(note.read_text())
    except FileNotFoundError:
        return None
    fetched = Fetched(
        content["name"], content["release"], tuple(content["packages"]), Path(content["image"]), Path(content["root"])
    )
    return fetched if fetched.image.exists() and fetched.root.exists() else None


async def _fetch(kernel: Kernel) -> Fetched:
    place = cache.place()
    source = apt.Apt(kernel.suite, place / "apt" / kernel.suite)
    async with cache.locked(source.directory):
        with console.doing(f"{kernel.name}: asking what {kernel.suite} has"):
            await source.update()
            image = [p for p in await source.resolve(IMAGE) if p.name.startswith(_OF_THE_IMAGE) and p.name != IMAGE]
        named = [p for p in image if p.name.startswith(("linux-image-", "linux-binary-"))]
        if not named:
            raise HostError(f"{kernel.suite} has no kernel package behind {IMAGE}")
        release = named[0].name.split("-", 2)[2]
        if warning := moved_on(kernel, release):
            console.warn(warning)
        key = f"{release}_{named[0].version.replace(':', '_')}"

        async def unpack_image(directory: Path) -> None:
            with console.doing(f"{kernel.name}: fetching {release}"):
                await _unpack(source, image, directory)
                vmlinuz(directory).rename(directory / "vmlinuz")

        tools: Sequence[apt.Package] = []

        async def unpack_root(directory: Path) -> None:
            with console.doing(f"{kernel.name}: fetching headers and gcc of {kernel.suite}"):
                await _unpack(source, tools, directory)
                furnish(directory)

        await cache.complete(place / "images" / key, unpack_image)
        tools = await source.resolve(f"linux-headers-{release}", *TOOLS)
        await cache.complete(place / "roots" / key, unpack_root)
    packages = tuple(f"{p.name}={p.version}" for p in [*image, *tools])
    return Fetched(kernel.name, release, packages, place / "images" / key, place / "roots" / key)


async def userland(update: bool = False) -> Path:
    """A root directory with Python, what mapdev imports, and busybox, for the guests. Raises ``HostError``."""
    suite = table().userland
    place = cache.place() / "userland" / suite
    if update:
        async with cache.locked(place):
            cache.remove(place)
            cache.remove(cache.place() / "programs")

    async def make(directory: Path) -> None:
        source = apt.Apt(suite, cache.place() / "apt" / suite)
        async with cache.locked(source.directory):
            with console.doing(f"fetching Python and busybox of {suite} for the guests"):
                await source.update()
                packages = await source.resolve(*_USERLAND)
                await _unpack(source, packages, directory)
                (directory / "packages").write_text("".join(f"{p.name}={p.version}\n" for p in packages))
                furnish(directory)
                # compiling costs the guests, which are emulated, a second for every import
                await enter("compiling Python's modules", directory, directory / "tmp", [*COMPILE, "/usr/lib"],
                            timeout=_COMPILE_TIMEOUT)  # fmt: skip

    return await cache.complete(place, make)


async def program(package: str) -> Path:
    """A root directory with the program /usr/bin/PACKAGE of the guests' suite, and the libraries that it is linked to.

    Raises ``HostError``. What the libraries load later is not in it.
    """
    suite = table().userland
    named = f"/usr/bin/{package}"

    async def make(directory: Path) -> None:
        whole = directory / "whole"
        source = apt.Apt(suite, cache.place() / "apt" / suite)
        async with cache.locked(source.directory):
            with console.doing(f"fetching {package} of {suite} for the guests"):
                await source.update()
                await _unpack(source, await source.resolve(package), whole)
        furnish(whole)
        linked = await enter(
            f"asking which libraries {package} is linked with", whole, whole / "tmp", [_LOADER, "--list", named],
            timeout=_LIBRARIES_TIMEOUT,
        )  # fmt: skip
        for path in (_LOADER, named, *re.findall(r"(/\S+) \(0x", linked)):
            # /lib is in /usr; what is a link there is a file here
            target = directory / "usr" / path.removeprefix("/").removeprefix("usr/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / path.removeprefix("/"), target)
        cache.remove(whole)

    return await cache.complete(cache.place() / "programs" / f"{suite}-{package}", make)


async def _unpack(source: apt.Apt, packages: Sequence[apt.Package], directory: Path) -> None:
    debs = await source.download(*packages)
    await apt.unpack(debs, directory)
    for deb in debs:
        deb.unlink()


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--update", is_flag=True, help="Ask the mirror for newer packages, even if there are some in the cache."
)
def command(names: tuple[str, ...], update: bool) -> None:
    """Fetch kernels with their headers and compilers, all of kernels.toml or those with these NAMES."""

    async def work() -> None:
        for kernel in table().pick(" ".join(names)):
            fetched = await fetch(kernel, update)
            console.say(f"{kernel.name}: {fetched.release} of {kernel.suite}, {len(fetched.packages)} packages")
        await userland(update)
        for package in PROGRAMS:
            await program(package)
        console.say(f"in {cache.place()}")

    main(work())


if __name__ == "__main__":
    console.entry(command)
