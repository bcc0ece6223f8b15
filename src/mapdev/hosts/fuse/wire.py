"""The FUSE kernel protocol as bytes: requests parsed, replies and notifications built. No I/O.

Sizes, offsets and numbers are those of the kernel's ``include/uapi/linux/fuse.h`` (protocol 7.45, Linux 6.18), as
far as a device needs them; all integers are in the machine's byte order. ``STRUCTS`` and the constants are
compared with the installed header by a test that compiles C.

Theory of operation: the kernel writes one request at a time to whoever reads ``/dev/fuse``: a header (``IN_HEADER``)
and the body that its opcode says. One ``write`` to the same descriptor is one reply (``OUT_HEADER`` with the
request's ``unique``, an errno or 0, and a body) or one notification (``unique`` 0, the notification's code in the
place of the errno). FORGET, BATCH_FORGET and INTERRUPT get no reply.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, Self

MAJOR: Final = 7
MINOR: Final = 41
"""What this host speaks; newer kernels speak it too. FUSE_PASSTHROUGH came with 7.40, Linux 6.9."""

MAX_WRITE: Final = 1 << 20
"""The most bytes in one READ or WRITE (with MAX_PAGES pages of 4 KiB)."""
MAX_PAGES: Final = 256
BUFFER_SIZE: Final = MAX_WRITE + 4096
"""What a read of /dev/fuse has to offer: the largest request."""

ROOT_ID: Final = 1


class Opcode(IntEnum):
    """enum fuse_opcode"""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    READDIRPLUS = 44
    COPY_FILE_RANGE = 47


NO_REPLY: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})


class Notify(IntEnum):
    """enum fuse_notify_code"""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5


class Init(IntFlag):
    """INIT flags, ``flags`` in bits 0-31 and ``flags2`` in bits 32-63."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    DO_READDIRPLUS = 1 << 13
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37


class Fopen(IntFlag):
    """What the answer to OPEN says of the file."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    STREAM = 1 << 4
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7


READ_LOCKOWNER: Final = 1 << 1
"""In ``read_flags``: read(2) asks; clear: the page cache does (a page fault or its read-ahead)."""
WRITE_CACHE: Final = 1 << 0
"""In ``write_flags``: the page cache writes back what was stored through mappings."""
FSYNC_FDATASYNC: Final = 1 << 0
IOCTL_COMPAT: Final = 1 << 0
POLL_SCHEDULE_NOTIFY: Final = 1 << 0
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_FH: Final = 1 << 6

IN_HEADER: Final = struct.Struct("=IIQQIIIHH")
OUT_HEADER: Final = struct.Struct("=IiQ")
ATTR: Final = struct.Struct("=QQQQQQIIIIIIIIII")
ENTRY_OUT: Final = struct.Struct("=QQQQII")  # and an ATTR
ATTR_OUT: Final = struct.Struct("=QII")  # and an ATTR
FORGET_IN: Final = struct.Struct("=Q")
FORGET_ONE: Final = struct.Struct("=QQ")
BATCH_FORGET_IN: Final = struct.Struct("=II")
GETATTR_IN: Final = struct.Struct("=IIQ")
SETATTR_IN: Final = struct.Struct("=IIQQQQQQIIIIIIII")
OPEN_IN: Final = struct.Struct("=II")
OPEN_OUT: Final = struct.Struct("=QIi")
RELEASE_IN: Final = struct.Struct("=QIIQ")
READ_IN: Final = struct.Struct("=QQIIQII")
WRITE_IN: Final = struct.Struct("=QQIIQII")
WRITE_OUT: Final = struct.Struct("=II")
STATFS_OUT: Final = struct.Struct("=QQQQQIIII24x")
FSYNC_IN: Final = struct.Struct("=QII")
INIT_IN: Final = struct.Struct("=IIIII44x")
INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII24x")
INTERRUPT_IN: Final = struct.Struct("=Q")
IOCTL_IN: Final = struct.Struct("=QIIQII")
IOCTL_OUT: Final = struct.Struct("=iIII")
POLL_IN: Final = struct.Struct("=QQII")
POLL_OUT: Final = struct.Struct("=II")
DIRENT: Final = struct.Struct("=QQII")
NOTIFY_POLL_OUT: Final = struct.Struct("=Q")
NOTIFY_INVAL_INODE_OUT: Final = struct.Struct("=Qqq")
NOTIFY_INVAL_ENTRY_OUT: Final = struct.Struct("=QII")
NOTIFY_STORE_OUT: Final = struct.Struct("=QQII")
NOTIFY_RETRIEVE_OUT: Final = struct.Struct("=QQQII")
NOTIFY_RETRIEVE_IN: Final = struct.Struct("=QQIIQQ")
BACKING_MAP: Final = struct.Struct("=iIQ")

STRUCTS: Final[dict[str, tuple[struct.Struct, ...]]] = {
    "fuse_in_header": (IN_HEADER,),
    "fuse_out_header": (OUT_HEADER,),
    "fuse_attr": (ATTR,),
    "fuse_entry_out": (ENTRY_OUT, ATTR),
    "fuse_attr_out": (ATTR_OUT, ATTR),
    "fuse_forget_in": (FORGET_IN,),
    "fuse_forget_one": (FORGET_ONE,),
    "fuse_batch_forget_in": (BATCH_FORGET_IN,),
    "fuse_getattr_in": (GETATTR_IN,),
    "fuse_setattr_in": (SETATTR_IN,),
    "fuse_open_in": (OPEN_IN,),
    "fuse_open_out": (OPEN_OUT,),
    "fuse_release_in": (RELEASE_IN,),
    "fuse_read_in": (READ_IN,),
    "fuse_write_in": (WRITE_IN,),
    "fuse_write_out": (WRITE_OUT,),
    "fuse_statfs_out": (STATFS_OUT,),
    "fuse_fsync_in": (FSYNC_IN,),
    "fuse_init_in": (INIT_IN,),
    "fuse_init_out": (INIT_OUT,),
    "fuse_interrupt_in": (INTERRUPT_IN,),
    "fuse_ioctl_in": (IOCTL_IN,),
    "fuse_ioctl_out": (IOCTL_OUT,),
    "fuse_poll_in": (POLL_IN,),
    "fuse_poll_out": (POLL_OUT,),
    "fuse_dirent": (DIRENT,),
    "fuse_notify_poll_wakeup_out": (NOTIFY_POLL_OUT,),
    "fuse_notify_inval_inode_out": (NOTIFY_INVAL_INODE_OUT,),
    "fuse_notify_inval_entry_out": (NOTIFY_INVAL_ENTRY_OUT,),
    "fuse_notify_store_out": (NOTIFY_STORE_OUT,),
    "fuse_notify_retrieve_out": (NOTIFY_RETRIEVE_OUT,),
    "fuse_notify_retrieve_in": (NOTIFY_RETRIEVE_IN,),
    "fuse_backing_map": (BACKING_MAP,),
}
"""The kernel's structures and the parts of which they are built here; for the test against the header."""

DEV_IOC_BACKING_OPEN: Final = 1 << 30 | BACKING_MAP.size << 16 | 229 << 8 | 1
DEV_IOC_BACKING_CLOSE: Final = 1 << 30 | 4 << 16 | 229 << 8 | 2


class ProtocolError(Exception):
    """Bytes that are no request: the kernel, or whoever wrote them, does not speak this protocol."""


class Header(NamedTuple):
    """struct fuse_in_header"""

    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    total_extlen: int = 0
    padding: int = 0


class Attr(NamedTuple):
    """What stat(2) shows. Times are seconds since the epoch; ``mode`` with its type bits."""

    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int
    time: int
    rdev: int = 0

    def pack(self) -> bytes:
        """struct fuse_attr"""
        blocks = -(-self.size // 512)
        return ATTR.pack(self.ino, self.size, blocks, self.time, self.time, self.time, 0, 0, 0, self.mode, self.nlink,
                         self.uid, self.gid, self.rdev, 4096, 0)  # fmt: skip


class InitIn(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    max_readahead: int
    flags: Init

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Older kernels send 16 bytes, without ``flags2``."""
        if len(body) < 16:
            raise ProtocolError(f"INIT of {len(body)} bytes")
        major, minor, max_readahead, flags, flags2 = INIT_IN.unpack(
            bytes(body[: INIT_IN.size]).ljust(INIT_IN.size, b"\0")
        )
        if not flags & Init.INIT_EXT:
            flags2 = 0
        return cls(major, minor, max_readahead, Init(flags | flags2 << 32))


_header = Header._make


def parse_header(data: bytes | memoryview) -> Header:
    """The header of the request in `data`, which must hold exactly that request."""
    if len(data) < IN_HEADER.size:
        raise ProtocolError(f"a request of {len(data)} bytes is shorter than its header")
    header = _header(IN_HEADER.unpack_from(data))
    if header[0] != len(data):
        raise ProtocolError(f"a request that says it has {header[0]} bytes has {len(data)}")
    return header


def parse_name(body: bytes | memoryview) -> bytes:
    """The NUL-terminated name that LOOKUP carries."""
    name, nul, _ = bytes(body).partition(b"\0")
    if not nul or not name or b"/" in name:
        raise ProtocolError(f"no name: {bytes(body)!r}")
    return name


def parse_batch_forget(body: bytes | memoryview) -> list[tuple[int, int]]:
    """(nodeid, nlookup) for each node that BATCH_FORGET names."""
    count, _ = BATCH_FORGET_IN.unpack_from(body)
    wanted = BATCH_FORGET_IN.size + count * FORGET_ONE.size
    if len(body) < wanted:
        raise ProtocolError(f"BATCH_FORGET of {count} nodes in {len(body)} bytes")
    return [(nodeid, n) for nodeid, n in FORGET_ONE.iter_unpack(body[BATCH_FORGET_IN.size : wanted])]


def init_out(offer: InitIn, flags: Init, max_readahead: int, max_background: int, max_stack_depth: int) -> bytes:
    """The answer to INIT: `flags` are those of the offer that the host wants."""
    flags &= offer.flags
    return INIT_OUT.pack(
        MAJOR, min(MINOR, offer.minor), min(max_readahead, offer.max_readahead), flags & 0xFFFFFFFF,
        max_background, max_background * 3 // 4, MAX_WRITE, 1, MAX_PAGES, 0, flags >> 32, max_stack_depth,
    )  # fmt: skip


def entry_out(nodeid: int, attr: Attr, entry_valid: int, attr_valid: int) -> bytes:
    """The answer to LOOKUP; how long name and attributes hold, in seconds."""
    return ENTRY_OUT.pack(nodeid, 0, entry_valid, attr_valid, 0, 0) + attr.pack()


def attr_out(attr: Attr, attr_valid: int) -> bytes:
    """The answer to GETATTR and SETATTR."""
    return ATTR_OUT.pack(attr_valid, 0, 0) + attr.pack()


def dirent(ino: int, off: int, name: bytes, mode: int) -> bytes:
    """One entry of a READDIR answer; `off` is where the next READDIR goes on."""
    entry = DIRENT.pack(ino, off, len(name), mode >> 12 & 15) + name
    return entry + bytes(-len(entry) % 8)


NO_ENTRY: Final = bytes(ENTRY_OUT.size + ATTR.size)
"""Before a ``dirent`` in the answer to READDIRPLUS: nothing but the name is told (nodeid 0)."""


def notification(code: Notify, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """The pieces of one notification, for writev(2)."""
    length = OUT_HEADER.size + sum(map(len, parts))
    return [OUT_HEADER.pack(length, code, 0), *parts]
