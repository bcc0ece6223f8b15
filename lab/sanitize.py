"""A kernel of our own, with KASAN, lockdep, kmemleak and fault injection. ``python -m lab.sanitize [--jobs N]``.

Debian has no such kernel in its packages, so it is built from the source package, in a root with the suite's compiler.
That takes some ten minutes of two processors, once; it stays in the cache until its configuration changes.
"""

import hashlib
import os
import shutil
from pathlib import Path

import click

from lab import apt, cache, console
from lab.fetch import TOOLS, Fetched
from lab.kernels import table
from lab.process import main
from lab.root import enter, furnish
from mapdev.errors import HostError

NAME = "sanitize"
CONFIG = Path(__file__).with_name("sanitize.config")

_TOOLS = (*TOOLS, "flex", "bison", "bc", "libelf-dev", "xz-utils", "kmod")
_TREE = "usr/src/linux"
_BUILD_TIMEOUT = 4 * 3600
_SLOWNESS = 5
# Not needed to build modules, and most of the tree
_DROPPED = ("Documentation", "drivers", "sound", "fs", "net", "samples", "crypto", "tools/testing", "tools/perf")


def missing(wanted: str, config: str) -> list[str]:
    """The lines of `wanted` that are not in a kernel's configuration."""
    have = set(config.splitlines())
    return [line for line in wanted.splitlines() if line.startswith("CONFIG_") and line not in have]


async def kernel(jobs: int = 0, nice: int = 0) -> Fetched:
    """The kernel, from the cache or built: minutes, with `jobs` compilers at once (0: one a processor).

    Raises ``HostError``, and ``CommandError`` with the end of what the build said.
    """
    settings = table()
    build = _script(settings.sanitize_source, jobs or os.cpu_count() or 1, nice)
    same = "\0".join([CONFIG.read_text(), settings.sanitize_suite, *_script(settings.sanitize_source, 0, 0), *_TOOLS])
    key = hashlib.sha256(same.encode()).hexdigest()[:24]

    async def make(directory: Path) -> None:
        root, image = directory / "root", directory / "image"
        for path in (root, image):
            path.mkdir()
        source = apt.Apt(settings.sanitize_suite, cache.place() / "apt" / settings.sanitize_suite)
        async with cache.locked(source.directory):
            with console.doing(f"{NAME}: fetching {settings.sanitize_source} and a compiler"):
                await source.update()
                packages = await source.resolve(settings.sanitize_source, *_TOOLS)
                debs = await source.download(*packages)
                await apt.unpack(debs, root)
                for deb in debs:
                    deb.unlink()
                furnish(root)
        (directory / "packages").write_text("".join(f"{p.name}={p.version}\n" for p in packages))
        (directory / "work").mkdir()
        (directory / "work" / "fragment").write_text(CONFIG.read_text())
        with console.doing(f"{NAME}: building {settings.sanitize_source}"):
            await enter(f"building the kernel {NAME}", root, directory / "work", build,
                        timeout=_BUILD_TIMEOUT)  # fmt: skip
        tree = root / _TREE
        config = (tree / ".config").read_text()
        if lines := missing(CONFIG.read_text(), config):
            raise HostError("the kernel does not take these lines of lab/sanitize.config: " + " ".join(lines))
        release = (tree / "include/config/kernel.release").read_text().strip()
        (image / "boot").mkdir()
        (image / "boot" / f"config-{release}").write_text(config)
        shutil.copyfile(tree / "arch/x86/boot/bzImage", image / "vmlinuz")
        modules = image / "usr/lib/modules" / release
        modules.mkdir(parents=True)
        shutil.copyfile(tree / "modules.builtin", modules / "modules.builtin")
        for name in _DROPPED:
            cache.remove(tree / name)
        for path in tree.rglob("*.[oa]"):
            if "scripts" not in path.parts and "tools" not in path.parts:
                path.unlink()
        (root / f"usr/src/linux-headers-{release}").symlink_to("linux")
        (directory / "release").write_text(release)

    place = await cache.complete(cache.place() / "sanitize" / key, make)
    packages = tuple((place / "packages").read_text().split())
    return Fetched(
        NAME, (place / "release").read_text(), packages, place / "image", place / "root", slowness=_SLOWNESS
    )  # fmt: skip


def _script(source: str, jobs: int, nice: int) -> list[str]:
    lines = f"""
        set -e
        mkdir -p /{_TREE}
        tar -xf /usr/src/{source}.tar.xz -C /{_TREE} --strip-components=1
        rm /usr/src/{source}.tar.xz
        cd /{_TREE}
        make -s KCONFIG_ALLCONFIG=/build/fragment allnoconfig
        exec nice -n {nice} make -s -j{jobs} bzImage modules
    """
    return ["sh", "-c", lines]


@click.command()
@click.option("--jobs", default=0, help="Compilers at once; default: one a processor.")
@click.option("--nice", default=0, help="How much others go first: 0 to 19.")
def command(jobs: int, nice: int) -> None:
    """Build the kernel, if it is not in the cache."""
    built = main(kernel(jobs, nice))
    console.say(f"{NAME}: {built.release} in {built.image}")


if __name__ == "__main__":
    console.entry(command)
