"""The file system of a guest: busybox, Python, and what a check brings. The archives that checks share are cached."""

import hashlib
import lzma
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab import build, cache, newc
from lab.check import BODIES, Check
from lab.fetch import COMPILE, Fetched, program, userland
from lab.kernels import REPOSITORY
from lab.newc import Entry
from lab.process import run
from lab.root import enter
from mapdev.errors import HostError, UsageError

_INIT = Path(__file__).with_name("init.sh")
_PACKAGES = "usr/lib/python3/dist-packages"
_TIMEOUT = 120

_SKELETON = [
    *(
        newc.directory(name)
        for name in ("usr", "usr/bin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "etc", "run")
    ),
    *(newc.link(name, f"usr/{name}") for name in ("bin", "lib", "lib64")),
    newc.link("sbin", "usr/bin"),
    newc.directory("tmp", 0o1777),
    Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
    newc.file("etc/passwd", b"root:x:0:0:root:/tmp:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n"),
    newc.file("etc/group", b"root:x:0:\nuser:x:1000:\n"),
]

# Of the packages behind Python: what nothing in a guest uses
_LEFT_OUT = re.compile(
    r"(?!usr(/|$))"
    r"|usr/(share|sbin|libexec|games|src|include|local)(/|$)"
    r"|usr/bin/(?!python3)"
    r"|usr/lib/(?!python3|x86_64-linux-gnu)"
    r"|usr/lib/x86_64-linux-gnu/(gconv|perl|perl-base|python3-numpy|security|engines-3|ossl-modules|e2fsprogs)(/|$)"
    r"|usr/lib/x86_64-linux-gnu/lib(db-5|sqlite3|perl|pam|apt|systemd|udev|crypto|ssl)"
    r"|usr/lib/python3[^/]*/(test|ensurepip|idlelib|pydoc_data|turtledemo|tkinter)(/|$)"
    r"|usr/lib/python3/dist-packages/pygments/lexers/(__pycache__/)?(?!__init__|_mapping|python\b|special)[^/]*\.py"
    r"|.*/numpy/(f2py|distutils|_core/include)(/|$)"
    r"|usr/lib/python3/.*/tests(/|$)"
    r"|.*\.a$"
)


async def archive(kernel: Fetched, check: Check, body: bytes, target: Path, limit: float) -> None:
    """Write to `target` the file system of a guest of this kernel, in which `body` is run for a check.

    Raises ``MapdevError``. Builds what the check asks for, which may take minutes.
    """
    root = await userland()
    parts = [await _base(root)]
    if check.has_python:
        parts += [await _python(root), await _mapdev(root)]
    places = ("modules", "kernel", "bin", "files", "missing")
    entries = [newc.directory(name) for name in ("lab", *(f"lab/{name}" for name in places))]
    own_first: list[str] = []
    for name in check.kernel_modules:
        _kernel_module(kernel, name, own_first, entries)
    for source in check.modules:
        built = await build.modules(kernel, REPOSITORY / source)
        entries += [newc.file(f"lab/modules/{path.name}", path.read_bytes()) for path in built.modules]
    include = [f"-I/source/{name}" for name in check.include]
    for source in (*check.programs, *check.programs32):
        path = REPOSITORY / source
        compiled = target.with_name(path.stem)
        flags = build.FOR_32_BITS if source in check.programs32 else ()
        await build.program(kernel, path, compiled, [*include, *flags])
        entries.append(newc.file(f"lab/bin/{path.stem}", compiled.read_bytes(), 0o755))
    for name in check.packages:
        try:
            entries += _tree(await program(name), "")
        except HostError as error:
            entries.append(newc.file(f"lab/missing/{name}", f"{error}\n".encode()))
    for source in check.files:
        path = REPOSITORY / source
        entries += _tree(path, f"lab/files/{path.name}") if path.is_dir() else [_file(path, f"lab/files/{path.name}")]
    if check.has_python:
        entries.append(newc.file("lab/cases.py", (BODIES / "cases.py").read_bytes()))
    body_name = "body" + Path(check.body).suffix
    settings = f"LIMIT={limit:.0f}\nBODY={body_name}\nKERNEL_MODULES='{' '.join(own_first)}'\n"
    entries += [newc.file(f"lab/{body_name}", body), newc.file("lab/settings", settings.encode())]
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as shared:
                shutil.copyfileobj(shared, file)
        file.write(newc.pack(entries))


def _kernel_module(kernel: Fetched, name: str, loaded: list[str], entries: list[Entry]) -> None:
    """Add a module of the kernel's package, after those that it depends on; nothing if it is built in."""
    if name in loaded:
        return
    tree = kernel.image / "usr/lib/modules" / kernel.release
    pattern = name.replace("-", "_").replace("_", "[-_]")
    if re.search(rf"/{pattern}\.ko$", (tree / "modules.builtin").read_text(), re.MULTILINE):
        return
    found = [path for path in tree.rglob("*.ko*") if re.fullmatch(rf"{pattern}\.ko(\.xz)?", path.name)]
    if not found:
        raise UsageError(f"the kernel {kernel.release} has no module {name}")
    content = found[0].read_bytes()
    if found[0].suffix == ".xz":
        content = lzma.decompress(content)
    needs = re.search(rb"\0depends=([^\0]*)\0", content)
    for other in needs[1].decode().split(",") if needs and needs[1] else ():
        _kernel_module(kernel, other, loaded, entries)
    loaded.append(name)
    entries.append(newc.file(f"lab/kernel/{name}.ko", content))


def _file(path: Path, name: str) -> Entry:
    if path.is_symlink():
        return newc.link(name, os.readlink(path))
    return newc.file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode) | 0o444)


def _tree(top: Path, name: str, left_out: re.Pattern[str] | None = None) -> Iterator[Entry]:
    """The entries of a directory, each directory before what is in it."""
    if name:
        yield newc.directory(name)
    for path, directories, files in os.walk(top):
        at = Path(name, Path(path).relative_to(top))

        def kept(names: Iterable[str], at: Path = at) -> list[str]:
            return sorted(one for one in names if left_out is None or not left_out.match(str(at / one)))

        directories[:] = kept(one for one in directories if one != "__pycache__" or left_out)
        for one in list(directories):
            if Path(path, one).is_symlink():
                yield newc.link(str(at / one), os.readlink(Path(path, one)))
            else:
                yield newc.directory(str(at / one))
        for one in kept(files):
            if stat.S_ISREG(Path(path, one).lstat().st_mode) or Path(path, one).is_symlink():
                yield _file(Path(path, one), str(at / one))


def _key(root: Path, *more: str) -> str:
    """A name for the archives made from this user space by this program."""
    of = ((root / "packages").read_text(), Path(__file__).read_text(), _INIT.read_text(), *more)
    return hashlib.sha256("\0".join(of).encode()).hexdigest()[:24]


async def _base(root: Path) -> Path:
    """busybox under all its names, and the first process."""

    async def make(directory: Path) -> None:
        busybox = root / "usr/bin/busybox"
        names = (await run("asking busybox", [busybox, "--list"], timeout=_TIMEOUT)).split()
        entries = [
            *_SKELETON,
            newc.file("usr/bin/busybox", busybox.read_bytes(), 0o755),
            *(newc.link(f"usr/bin/{name}", "busybox") for name in names if name != "busybox"),
            newc.file("init", _INIT.read_bytes(), 0o755),
        ]
        (directory / "cpio").write_bytes(newc.pack(entries))

    return await cache.complete(cache.place() / "guests" / f"base-{_key(root)}", make) / "cpio"


async def _python(root: Path) -> Path:
    """Python, and the packages that mapdev imports."""

    async def make(directory: Path) -> None:
        (directory / "cpio").write_bytes(newc.pack(_tree(root, "", _LEFT_OUT)))

    return await cache.complete(cache.place() / "guests" / f"python-{_key(root)}", make) / "cpio"


async def _mapdev(root: Path) -> Path:
    """The package of this tree, compiled, with as much of an installation as tells its version."""
    source = REPOSITORY / "src" / "mapdev"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    async def make(directory: Path) -> None:
        shutil.copytree(source, directory / "mapdev", ignore=shutil.ignore_patterns("__pycache__"))
        compiling = [*COMPILE, "-s", "/build", "-p", f"/{_PACKAGES}", "/build/mapdev"]
        await enter("compiling mapdev", root, directory, compiling, timeout=_TIMEOUT)
        metadata = f"{_PACKAGES}/mapdev-{project['version']}.dist-info"
        text = f"Metadata-Version: 2.1\nName: mapdev\nVersion: {project['version']}\n"
        entries = [
            *_tree(directory / "mapdev", f"{_PACKAGES}/mapdev", re.compile("$.")),
            newc.directory(metadata),
            newc.file(f"{metadata}/METADATA", text.encode()),
        ]
        (directory / "cpio").write_bytes(newc.pack(entries))
        cache.remove(directory / "mapdev")

    key = _key(root, build.digest(source), project["version"])
    return await cache.complete(cache.place() / "guests" / f"mapdev-{key}", make) / "cpio"
