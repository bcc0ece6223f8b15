"""Opens of /dev/mapdev, and what is asked of the module itself: its version, its devices, devices that persist."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mapdev.errors import HostError, ModuleError, UsageError
from mapdev.hosts.base import Permissions
from mapdev.hosts.kmod import uapi
from mapdev.hosts.kmod.uapi import CreateFlag, MemoryKind

CONTROL: Final = "/dev/mapdev"

PROC_MODULES: Final = Path("/proc/modules")
NO_MODULES: Final = "this kernel cannot load modules: it was built without CONFIG_MODULES"


def open_control() -> int:
    """A new control, O_NONBLOCK. Raises ``ModuleError`` with the reason and what to do."""
    try:
        fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        raise ModuleError(f"{CONTROL} is not open to this user: run as root, or have root change its mode") from None
    except OSError as error:
        raise ModuleError(_why(error)) from None
    try:
        version(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def control() -> Iterator[int]:
    """The same for a with-statement. Raises ``ModuleError``."""
    fd = open_control()
    try:
        yield fd
    finally:
        os.close(fd)


def _why(error: OSError) -> str:
    if not PROC_MODULES.exists():
        return f"{NO_MODULES}; `mapdev serve --mount DIR` and `mapdev run` need none"
    if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{CONTROL} cannot be opened: {error.strerror}"
    if any(line.startswith("mapdev ") for line in PROC_MODULES.read_text().splitlines()):
        return f"the module is loaded, but {CONTROL} is not here: a container needs the device passed in"
    return "the kernel module is not loaded: as root, `mapdev module build` and `mapdev module load`"


def version(fd: int) -> uapi.Version:
    """MAPDEV_IOC_VERSION. Raises ``ModuleError`` if the two do not understand each other."""
    answer = uapi.Version()
    try:
        fcntl.ioctl(fd, uapi.IOC_VERSION, answer)
    except OSError as error:
        raise ModuleError(f"{CONTROL} does not belong to the module of mapdev: {error.strerror}") from None
    if answer.major != uapi.VERSION_MAJOR:
        raise ModuleError(
            f"the loaded module speaks version {answer.major}.{answer.minor} and this mapdev {uapi.VERSION_MAJOR}."
            f"{uapi.VERSION_MINOR}: `mapdev module unload`, then build and load the module that came with this mapdev"
        )
    return answer


def request(
    name: str, permissions: Permissions, *, proc: bool = False, flags: int = 0, ops: int = 0, size: int = 0
) -> uapi.Create:
    """What MAPDEV_IOC_CREATE is asked with. Raises ``UsageError`` for a name that cannot be."""
    try:
        encoded = uapi.name(name)
    except ValueError as error:
        raise UsageError(f"{error}: serve it as NAME=TARGET") from None
    create = uapi.Create(
        version=uapi.VERSION_MAJOR, flags=flags | (CreateFlag.PROC if proc else 0), ops=ops, name=encoded,
        mode=permissions.mode, uid=permissions.uid, gid=permissions.gid, size=size,
    )  # fmt: skip
    create.memory.memfd = -1
    return create


def refusal(create: uapi.Create, error: OSError) -> HostError:
    """Why the module did not make a device, and what to do."""
    path = path_of(create.name.decode(errors="surrogateescape"), bool(create.flags & CreateFlag.PROC))
    if error.errno == errno.EEXIST:
        return ModuleError(f"{path} is there already: give the device another name")
    if error.errno in (errno.EPERM, errno.EACCES):
        return ModuleError(f"{path} may not be made by this user: run as root")
    if error.errno in (errno.ENOMEM, errno.ENOSPC):
        return ModuleError(f"{path} cannot be made: the kernel has not that much memory for it ({error.strerror})")
    return ModuleError(f"{path} cannot be made: {error.strerror}")


def path_of(name: str, proc: bool) -> str:
    """Where programs find it."""
    return f"{'/proc' if proc else '/dev'}/{name}"


def create_persistent(fd: int, create: uapi.Create, init: bytes) -> None:
    """A device without upcalls that outlives `fd`. `init` is what its memory begins with. Raises ``ModuleError``."""
    create.flags |= CreateFlag.PERSIST
    buffer = ctypes.create_string_buffer(init, max(len(init), 1))
    if init:
        create.memory.init, create.memory.init_len = ctypes.addressof(buffer), len(init)
    try:
        fcntl.ioctl(fd, uapi.IOC_CREATE, create)
    except OSError as error:
        raise refusal(create, error) from None


def remove(fd: int, name: str, proc: bool) -> None:
    """Remove a device that persists (of the same user, or any for root). Raises ``ModuleError``, ``UsageError``."""
    try:
        encoded = uapi.name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        fcntl.ioctl(fd, uapi.IOC_REMOVE, uapi.Remove(CreateFlag.PROC if proc else 0, 0, encoded))
    except OSError as error:
        path = path_of(name, proc)
        if error.errno == errno.ENOENT:
            raise ModuleError(f"there is no {path} of this module: see `mapdev module list`") from None
        if error.errno == errno.EBUSY:
            raise ModuleError(f"{path} is served by a program: it goes when that ends") from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise ModuleError(f"{path} belongs to another user: run as root") from None
        raise ModuleError(f"{path} cannot be removed: {error.strerror}") from None


def devices(fd: int) -> list[uapi.Info]:
    """MAPDEV_IOC_INFO of every device of the module."""
    found: list[uapi.Info] = []
    while True:
        info = uapi.Info(index=len(found))
        try:
            fcntl.ioctl(fd, uapi.IOC_INFO, info)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise ModuleError(f"the module does not say what it has: {error.strerror}") from None
            return found
        found.append(info)


def kind_name(kind: int) -> str:
    """As people type it: "vmalloc"."""
    return MemoryKind(kind).name.lower() if kind in set(MemoryKind) else str(kind)
