"""What is in the mounted directory: names, and what stands behind each. No I/O, no kernel's view of it (see nodes).

``Directory``, ``Symlink``, ``Placeholder`` (a file for something else to be mounted on) and ``DeviceEntry``. Everything
that can be read is a device; the files that devices declare as their surroundings are small devices, too.
"""

import errno
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from mapdev.device import Device
from mapdev.dispatch import Dispatch
from mapdev.file import File
from mapdev.libc import PAGE_SIZE
from mapdev.surroundings import Attribute, Content


class Memory(Enum):
    """Whether the memory of a device is known to be private to each open."""

    UNKNOWN = 0
    SHARED = 1
    PRIVATE = 2


@dataclass(slots=True, eq=False)
class DeviceEntry:
    """A name in a directory and the device behind it.

    ``mode``: permission bits, if not those of the whole mount. ``size``: that of the memory which the last open mapped.
    ``trapped``: no program ever gets at the memory itself, so it is not shared; then release comes after munmap.
    ``listed_kind``: what readdir(3) says that it is, which find(1) believes (stat(2) is for ``mapdev.run.chardev``).
    """

    kind: ClassVar[int] = stat.S_IFREG
    dispatch: Dispatch
    mode: int | None = None
    listed_kind: int = stat.S_IFREG
    memory: Memory = Memory.UNKNOWN
    size: int | None = None
    trapped: bool = False


@dataclass(slots=True, eq=False)
class Symlink:
    """A symbolic link: its target, or a function of the pid that asks."""

    kind: ClassVar[int] = stat.S_IFLNK
    target: bytes | Callable[[int], bytes]


@dataclass(slots=True, eq=False)
class Placeholder:
    """An empty file that nobody may open, for a real one to be mounted on."""

    kind: ClassVar[int] = stat.S_IFREG
    listed_kind: ClassVar[int] = 0  # unknown: stat(2) tells of the real one


@dataclass(slots=True, eq=False)
class Directory:
    """Names and what stands behind them. ``hidden`` names can be looked up but are not listed."""

    kind: ClassVar[int] = stat.S_IFDIR
    entries: "dict[bytes, Entry]" = field(default_factory=dict)
    hidden: frozenset[bytes] = frozenset()

    def get(self, name: bytes) -> "Entry | None":
        """What stands behind `name`."""
        return self.entries.get(name)

    def listed(self) -> "Iterator[tuple[bytes, Entry]]":
        """What readdir(3) shows, without "." and ".."."""
        return ((name, entry) for name, entry in self.entries.items() if name not in self.hidden)

    def walk(self) -> "Iterator[Entry]":
        """Everything below."""
        for entry in self.entries.values():
            yield entry
            if isinstance(entry, Directory):
                yield from entry.walk()


Entry = DeviceEntry | Symlink | Placeholder | Directory


def add(root: Directory, path: str, entry: Entry) -> None:
    """Put `entry` at `path` below `root`, making the directories on the way. Raises ``FileExistsError``."""
    *parents, name = path.encode(errors="surrogateescape").split(b"/")
    directory = root
    for parent in parents:
        below = directory.entries.setdefault(parent, Directory())
        if not isinstance(below, Directory):
            raise FileExistsError(errno.EEXIST, "a file is in the way", path)
        directory = below
    if name in directory.entries:
        raise FileExistsError(errno.EEXIST, "there are two", path)
    directory.entries[name] = entry


class AttributeDevice(Device):
    """A file as of sysfs: its content is made at open; what is written goes to ``store``."""

    size = PAGE_SIZE

    def __init__(self, attribute: Attribute) -> None:
        self._attribute = attribute

    def open(self, file: File) -> None:
        if file.readable and self._attribute.show is not None:
            file.private_data = _bytes(self._attribute.show)

    def read(self, file: File, count: int, pos: int) -> bytes:
        if self._attribute.show is None:
            raise OSError(errno.EIO, "no show")
        content: bytes = file.private_data
        return content[pos : pos + count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002 - sysfs does not look at it either
        if self._attribute.store is None:
            raise OSError(errno.EACCES, "no store")
        self._attribute.store(buf)
        return len(buf)


def attribute_entry(name: str, what: Content | Attribute) -> DeviceEntry:
    """The entry of a file among the surroundings of a device."""
    attribute = what if isinstance(what, Attribute) else Attribute(show=what)
    mode = (0o444 if attribute.show is not None else 0) | (0o222 if attribute.store is not None else 0)
    return DeviceEntry(Dispatch(AttributeDevice(attribute), name), mode, memory=Memory.SHARED)


def _bytes(content: Content) -> bytes:
    made = content() if callable(content) else content
    return made.encode() if isinstance(made, str) else made
