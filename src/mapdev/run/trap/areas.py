"""What is mapped at an address of another process, as the kernel tells it at this moment.

Nothing is remembered: a program may unmap, move and map between two accesses, and nobody would tell.

Sources: proc_pid_maps(5); Documentation/filesystems/proc.rst; ``<linux/fs.h>`` (struct procmap_query).
"""

import errno
import fcntl
import os
import struct
from typing import Final, NamedTuple

READ, WRITE, EXEC, SHARED = 1, 2, 4, 8

QUERY: Final = struct.Struct("=QQQ QQQQQQ II II QQ")
_ANSWER: Final = struct.Struct("=QQQ8xQQII")
_ANSWER_AT: Final = 24
PROCMAP_QUERY: Final = 3 << 30 | QUERY.size << 16 | ord("f") << 8 | 17
_PATH: Final = 4096


class Area(NamedTuple):
    """One area (struct vm_area_struct): ``start`` to ``end``, READ, WRITE, EXEC, SHARED; of a file: offset, inode,
    device number, and with ``Areas.named`` the path."""

    start: int
    end: int
    flags: int
    offset: int
    inode: int
    major: int
    minor: int
    path: str = ""


class Areas:
    """The areas of one address space: that which process `pid` has now. To be closed."""

    def __init__(self, pid: int) -> None:
        self.maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        self._query = bytearray(QUERY.pack(QUERY.size, *(0,) * 14))
        self.asks = True
        """Linux 6.11 can be asked by PROCMAP_QUERY on ``maps``; from others all is read."""

    def at(self, address: int) -> Area | None:
        """The area with this address."""
        if self.asks:
            query = self._query
            query[16:24] = address.to_bytes(8, "little")
            try:
                fcntl.ioctl(self.maps, PROCMAP_QUERY, query)
                return Area(*_ANSWER.unpack_from(query, _ANSWER_AT))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return None
                if error.errno == errno.ESRCH:
                    raise
                self.asks = False
        return self.named(address)

    def named(self, address: int) -> Area | None:
        """The same with the path."""
        for line in self._text().split(b"\n"):
            words = line.split(maxsplit=5)
            if len(words) < 5:
                continue
            start, end = (int(word, 16) for word in words[0].split(b"-"))
            if start <= address < end:
                flags = sum(bit for bit, letter in zip((1, 2, 4, 8), b"rwxs", strict=True) if letter in words[1])
                major, minor = (int(word, 16) for word in words[3].split(b":"))
                path = os.fsdecode(words[5]) if len(words) > 5 else ""
                return Area(start, end, flags, int(words[2], 16), int(words[4]), major, minor, path)
        return None

    def _text(self) -> bytes:
        os.lseek(self.maps, 0, os.SEEK_SET)
        pieces = []
        while piece := os.read(self.maps, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Once."""
        os.close(self.maps)
