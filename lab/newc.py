"""Archives that the kernel unpacks as its first file system: cpio in the newc format, several of them in a row.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. No I/O but the reading of files to pack.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """A file, directory, symbolic link (`content` is where it leads) or device node, by its `mode`, owned by root.

    `name` is the path in the archive, without a leading slash; `device` are major and minor of a node.
    """

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, stat.S_IFDIR | permissions)


def file(name: str, content: bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | permissions, content)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive. A directory has to come before what is in it: the kernel makes none by itself."""
    pieces = []
    for number, entry in enumerate((*entries, Entry(_TRAILER, 0)), start=1):
        name = entry.name.encode() + b"\0"
        fields = [
            number, entry.mode, 0, 0, 2 if stat.S_ISDIR(entry.mode) else 1, 0, len(entry.content), 0, 0, *entry.device,
            len(name), 0,
        ]  # fmt: skip
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        pieces += [_padded(header + name), _padded(entry.content)]
    return b"".join(pieces)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
