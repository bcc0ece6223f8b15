"""The kernel module ``mapdev.ko``: its sources found, built, installed, loaded, unloaded.

Each step says in one line what is missing and what to do (``ModuleError``). Sources: kbuild/modules.rst and
admin-guide/module-signing.rst of the kernel's documentation, finit_module(2), dkms(8).
"""

import errno
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from mapdev import libc
from mapdev.errors import ModuleError
from mapdev.hosts.kmod.control import NO_MODULES, PROC_MODULES

NAME: Final = "mapdev"

_BUILD_TIMEOUT: Final = 600
LIB_MODULES: Final = Path("/lib/modules")
DKMS_SOURCES: Final = Path("/usr/src")
DKMS_TREE: Final = Path("/var/lib/dkms")
LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")
MODULES_DISABLED: Final = Path("/proc/sys/kernel/modules_disabled")


def find_sources() -> Path | None:
    """The directory with the module's sources, of the clone or of the installed package; None if they were left out."""
    here = Path(__file__).parent
    places = (here / "kmod", here.parents[1] / "kmod")
    return next((place for place in places if (place / "uapi" / "mapdev.h").exists()), None)


def sources() -> Path:
    """The same; raises ``ModuleError`` for none."""
    found = find_sources()
    if found is None:
        raise ModuleError("the module's sources are not in this installation: use the wheel or the clone of mapdev")
    return found


def running() -> str:
    """The release of the kernel that runs."""
    return os.uname().release


def headers(release: str) -> Path:
    """Where modules for this kernel are built. Raises ``ModuleError``."""
    build = LIB_MODULES / release / "build"
    if not build.joinpath("Makefile").exists():
        if release == running() and not PROC_MODULES.exists():
            raise ModuleError(f"{NO_MODULES}, and no module can be loaded into it")
        raise ModuleError(
            f"the headers of kernel {release} are not installed ({build} is not there): apt-get install "
            f"linux-headers-{release} (Debian, Ubuntu), dnf install kernel-devel-{release} (Fedora)"
        )
    return build


def built(release: str) -> Path | None:
    """The module that `build` has built for this kernel, if it has."""
    found = find_sources()
    target = _target(release, found) if found is not None else None
    return target if target is not None and target.exists() else None


def _target(release: str, of: Path) -> Path:
    return _cache() / f"{release}-{_digest(of)}" / f"{NAME}.ko"


def build(release: str) -> Path:
    """Build the module for this kernel: the file. Raises ``ModuleError`` with what the compiler says."""
    where = headers(release)
    for program in ("make", "gcc"):
        if shutil.which(program) is None:
            raise ModuleError(f"{program} is not installed: apt-get install make gcc (Debian, Ubuntu)")
    target = _target(release, sources())
    place = target.parent
    try:
        if place.exists():
            shutil.rmtree(place)
        shutil.copytree(sources(), place)
    except OSError as error:
        raise ModuleError(
            f"{place} cannot be written: {error.strerror}; XDG_CACHE_HOME names another place"
        ) from None
    _run(["make", "-C", str(where), f"M={place}", "modules"], f"the module cannot be built for {release}")
    if not target.exists():
        raise ModuleError(f"make has not made {target}")
    return target


def install(release: str) -> str:
    """Hand the sources to DKMS, which builds the module for this kernel now, and for each that comes later.

    Returns what it says. Raises ``ModuleError``, and DKMS has the module no more then.
    """
    _need_root("install")
    headers(release)
    if shutil.which("dkms") is None:
        raise ModuleError("dkms is not installed: apt-get install dkms (Debian, Ubuntu), dnf install dkms (Fedora)")
    named = f"{NAME}/{version(sources())}"
    place = DKMS_SOURCES / named.replace("/", "-")
    _uninstall(named, place)
    shutil.copytree(sources(), place)
    try:
        return _run(["dkms", "install", named, "-k", release], f"dkms cannot install the module for {release}")
    except ModuleError as error:
        logs = [path.read_text(errors="replace") for path in DKMS_TREE.joinpath(named).glob("**/make.log")]
        _uninstall(named, place)
        raise ModuleError(str(error), detail="\n".join([error.detail, *logs])) from None


def _uninstall(named: str, place: Path) -> None:
    """Take from DKMS what it may have of the module."""
    if place.exists():
        _run(["dkms", "remove", named, "--all"], "", fails=True)
        shutil.rmtree(place)


def version(place: Path) -> str:
    """The version of the sources in `place`, as their dkms.conf has it, too. Raises ``ModuleError``."""
    for line in (place / "version.mk").read_text(encoding="ascii").splitlines():
        name, assigned, number = line.partition(" := ")
        if name == "MAPDEV_PACKAGE_VERSION" and assigned:
            return number
    raise ModuleError(f"{place / 'version.mk'} names no version: use the wheel or the clone of mapdev")


def is_loaded() -> bool:
    """Whether the module is in the running kernel. Raises ``ModuleError`` for a kernel without modules."""
    if not PROC_MODULES.exists():
        raise ModuleError(NO_MODULES)
    return any(line.startswith(f"{NAME} ") for line in PROC_MODULES.read_text().splitlines())


def load(file: Path | None = None) -> Path:
    """Load `file`; default: the newest of what ``build`` has built for the running kernel and DKMS has installed.

    Returns the file that it was. What is installed is loaded by modprobe(8), with the options that modprobe.d(5) has
    for it. Raises ``ModuleError``.
    """
    if is_loaded():
        raise ModuleError("the module is loaded already; `mapdev module unload` first, to load another one")
    _need_root("load")
    release = running()
    # DKMS puts it where its distribution likes, whatever dkms.conf says
    installed = [
        found for place in ("updates", "extra") for found in (LIB_MODULES / release).glob(f"{place}/**/{NAME}.ko*")
    ]
    candidates = [file] if file is not None else [built(release), *installed]
    there = [path for path in candidates if path is not None and path.exists()]
    if not there:
        if file is not None:
            raise ModuleError(f"there is no {file}")
        raise ModuleError(f"no module is built for kernel {release}: `mapdev module build`")
    found = max(there, key=lambda path: path.stat().st_mtime)
    if found in installed:
        _modprobe(found)
        return found
    fd = os.open(found, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.finit_module(fd)
    except OSError as error:
        raise ModuleError(_why_not_loaded(found, error)) from None
    finally:
        os.close(fd)
    return found


def _modprobe(file: Path) -> None:
    # it knows the compressions of a distribution's modules, too
    program = shutil.which("modprobe", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise ModuleError("modprobe is not installed: apt-get install kmod (Debian, Ubuntu)")
    try:
        _run([program, NAME], f"modprobe cannot load {file}")
    except ModuleError as error:
        for number in _REFUSALS:
            if os.strerror(number) in error.detail:
                raise ModuleError(_why_not_loaded(file, OSError(number, ""))) from None
        raise


_REFUSALS: Final = (errno.EKEYREJECTED, errno.ENOKEY, errno.EPERM, errno.ENOEXEC)
_SIGN: Final = (
    "`mapdev module install` signs it with DKMS's key; "
    "`mokutil --import /var/lib/dkms/mok.pub` and a reboot make the kernel know that one"
)


def _why_not_loaded(file: Path, error: OSError) -> str:
    refused = f"the kernel refuses {file}"
    if error.errno in (errno.EKEYREJECTED, errno.ENOKEY):
        return f"{refused}: it takes only modules that are signed with a key that it knows (Secure Boot): {_SIGN}"
    if error.errno == errno.EPERM and _is(MODULES_DISABLED, "1"):
        return f"{refused}: kernel.modules_disabled is set, until the next boot it takes no module"
    if error.errno == errno.EPERM and (_is(LOCKDOWN, "[integrity]") or _is(LOCKDOWN, "[confidentiality]")):
        return f"{refused}: it is locked down (Secure Boot) and takes only signed modules: {_SIGN}"
    if error.errno == errno.EPERM:
        return f"{refused}: this is a container, or the kernel is locked down (Secure Boot: {_SIGN})"
    if error.errno == errno.ENOEXEC:
        return f"{refused}: it was built for another kernel than {running()}; build it again (dmesg says more)"
    if error.errno == errno.EEXIST:
        return "the module is loaded already"
    if error.errno == errno.ENOSYS:
        return NO_MODULES
    return f"{refused}: {os.strerror(error.errno or errno.EIO)} (dmesg says more)"


def _is(file: Path, word: str) -> bool:
    """Whether a word is in a file of the kernel, which need not be there."""
    try:
        return word in file.read_text(encoding="ascii").split()
    except OSError:
        return False


def unload() -> None:
    """Unload the module. Raises ``ModuleError`` if it is in use."""
    if not is_loaded():
        raise ModuleError("the module is not loaded")
    _need_root("unload")
    try:
        libc.delete_module(NAME)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EBUSY):
            raise ModuleError(
                "the module is in use: end the programs that serve, open or map its devices (`mapdev module list`)"
            ) from None
        raise ModuleError(f"the module cannot be unloaded: {os.strerror(error.errno or errno.EIO)}") from None


def _need_root(what: str) -> None:
    if os.geteuid():
        raise ModuleError(f"only root can {what} a kernel module: sudo mapdev module {what}")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "mapdev" / "module"


def _digest(directory: Path) -> str:
    """What the sources are: another build place for other sources."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in (".c", ".h") or path.name in ("Kbuild", "Makefile"):
            digest.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _run(command: list[str], failure: str, fails: bool = False) -> str:
    """What a program prints. Raises ``ModuleError`` with the line `failure`, unless it `fails` unharmed."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=_BUILD_TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModuleError(f"{command[0]} did not end within {_BUILD_TIMEOUT} s") from None
    if done.returncode and not fails:
        raise ModuleError(f"{failure}: what {command[0]} says is above", detail=done.stdout)
    return done.stdout
