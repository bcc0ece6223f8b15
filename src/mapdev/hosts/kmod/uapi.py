"""What the kernel module and its host say to each other, as bytes: requests parsed, replies built. No I/O.

The mirror of ``kmod/uapi/mapdev.h``, which says what each of them means. Structures have the header's names in
CamelCase and its fields; constants and ioctl numbers its names without MAPDEV_. A test compiles C and compares all.
"""

import ctypes
from ctypes import c_char, c_int32, c_uint32, c_uint64
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from mapdev.ioctl import IOR, IOW, IOWR

VERSION_MAJOR: Final = 1
VERSION_MINOR: Final = 0

NAME_MAX: Final = 63
"""In bytes, without the NUL."""
MAX_TRANSFER: Final = 1 << 20
"""In bytes: the payload of one request or reply."""
MIN_BUFFER: Final = MAX_TRANSFER + 4096
"""In bytes: what a read of the control has to offer."""
MAX_ERRNO: Final = 511


class ProtocolError(ValueError):
    """Bytes that no module of this version sends."""


class Opcode(IntEnum):
    """enum mapdev_opcode"""

    OPEN = 1
    RELEASE = 2
    READ = 3
    WRITE = 4
    IOCTL = 5
    POLL = 6
    MMAP = 7
    VM_OPEN = 8
    VM_CLOSE = 9
    FAULT = 10
    PAGE_MKWRITE = 11
    FSYNC = 12
    INTERRUPT = 13
    VM_FAULT = 14


NOTICES: Final = frozenset({Opcode.RELEASE, Opcode.VM_OPEN, Opcode.VM_CLOSE, Opcode.INTERRUPT})
"""What is told, and never answered; everything else is answered once."""


def op(opcode: Opcode) -> int:
    """``MAPDEV_OP``: the bit of an operation in ``Create.ops``."""
    return 1 << opcode


class MemoryKind(IntEnum):
    """enum mapdev_memory_kind"""

    NONE = 0
    MEMFD = 1
    ARRAY = 2
    VMALLOC = 3
    CONTIGUOUS = 4
    DMA = 5
    FAULT = 6


class VmaFlag(IntFlag):
    """MAPDEV_VMA_*; the first three are the PROT_* of these values."""

    READ = 1
    WRITE = 2
    EXEC = 4
    SHARED = 8


class ReplyFlag(IntFlag):
    """MAPDEV_REPLY_*"""

    NONSEEKABLE = 1
    STREAM = 2


class CreateFlag(IntFlag):
    """MAPDEV_PROC and the others of ``Create.flags``"""

    PROC = 1
    PER_OPEN = 2
    PERSIST = 4
    DEVT = 8


POLL_MASK: Final = 0x27DF
"""All POLL* that a device can say, and be woken for: not POLLNVAL, which is the kernel's to say."""

IOCTL_COMPAT: Final = 1
FAULT_WRITE: Final = 1


class Request(ctypes.Structure):
    len: int
    opcode: int
    unique: int
    file: int
    pid: int
    uid: int
    gid: int
    flags: int
    _fields_ = (
        ("len", c_uint32), ("opcode", c_uint32), ("unique", c_uint64), ("file", c_uint64), ("pid", c_uint32),
        ("uid", c_uint32), ("gid", c_uint32), ("flags", c_uint32), ("reserved", c_uint64),
    )  # fmt: skip


class ReadIn(ctypes.Structure):
    _fields_ = (("pos", c_uint64), ("count", c_uint32), ("reserved", c_uint32))


class IoctlIn(ctypes.Structure):
    _fields_ = (
        ("cmd", c_uint32), ("flags", c_uint32), ("arg", c_uint64), ("in_len", c_uint32), ("out_max", c_uint32)
    )  # fmt: skip


class PollIn(ctypes.Structure):
    _fields_ = (("events", c_uint32), ("reserved", c_uint32))


class VmaIn(ctypes.Structure):
    _fields_ = (
        ("memory", c_uint64), ("start", c_uint64), ("length", c_uint64), ("pgoff", c_uint64), ("flags", c_uint32),
        ("reserved", c_uint32),
    )  # fmt: skip


class FaultIn(ctypes.Structure):
    _fields_ = (
        ("memory", c_uint64), ("pgoff", c_uint64), ("address", c_uint64), ("flags", c_uint32),
        ("reserved", c_uint32),
    )  # fmt: skip


class InterruptIn(ctypes.Structure):
    _fields_ = (("unique", c_uint64),)


class FsyncIn(ctypes.Structure):
    _fields_ = (("datasync", c_uint32), ("reserved", c_uint32))


class Reply(ctypes.Structure):
    _fields_ = (
        ("len", c_uint32), ("error", c_int32), ("unique", c_uint64), ("value", c_uint64), ("flags", c_uint32),
        ("reserved", c_uint32),
    )  # fmt: skip


class FaultOut(ctypes.Structure):
    _fields_ = (("pgoff", c_uint64), ("npages", c_uint32), ("reserved", c_uint32))


class Memory(ctypes.Structure):
    _fields_ = (
        ("kind", c_uint32), ("memfd", c_int32), ("length", c_uint64), ("init", c_uint64), ("init_len", c_uint64),
        ("id", c_uint64), ("map_offset", c_uint64),
    )  # fmt: skip


class Create(ctypes.Structure):
    _fields_ = (
        ("version", c_uint32), ("flags", c_uint32), ("ops", c_uint64), ("name", c_char * (NAME_MAX + 1)),
        ("mode", c_uint32), ("uid", c_uint32), ("gid", c_uint32), ("timeout_ms", c_uint32), ("major", c_uint32),
        ("minor", c_uint32), ("size", c_uint64), ("memory", Memory), ("reserved", c_uint64 * 4),
    )  # fmt: skip


class Range(ctypes.Structure):
    _fields_ = (("memory", c_uint64), ("offset", c_uint64), ("length", c_uint64))


class UserCopy(ctypes.Structure):
    _fields_ = (("unique", c_uint64), ("address", c_uint64), ("buffer", c_uint64), ("length", c_uint64))


class Wake(ctypes.Structure):
    _fields_ = (("file", c_uint64), ("events", c_uint32), ("reserved", c_uint32))


class Page(ctypes.Structure):
    _fields_ = (("memory", c_uint64), ("pgoff", c_uint64), ("physical", c_uint64))


class Info(ctypes.Structure):
    _fields_ = (
        ("index", c_uint64), ("name", c_char * (NAME_MAX + 1)), ("flags", c_uint32), ("mode", c_uint32),
        ("major", c_uint32), ("minor", c_uint32), ("length", c_uint64), ("kind", c_uint32), ("files", c_uint32),
        ("ops", c_uint64), ("pid", c_uint32), ("uid", c_uint32), ("reserved", c_uint64 * 2),
    )  # fmt: skip


class Remove(ctypes.Structure):
    _fields_ = (("flags", c_uint32), ("reserved", c_uint32), ("name", c_char * (NAME_MAX + 1)))


class Version(ctypes.Structure):
    _fields_ = (
        ("major", c_uint32), ("minor", c_uint32), ("memory_kinds", c_uint64), ("max_bytes", c_uint64),
        ("used_bytes", c_uint64),
    )  # fmt: skip


STRUCTS: Final[tuple[type[ctypes.Structure], ...]] = (
    Request, ReadIn, IoctlIn, PollIn, VmaIn, FaultIn, InterruptIn, FsyncIn, Reply, FaultOut, Memory, Create, Range,
    UserCopy, Wake, Page, Info, Remove, Version,
)  # fmt: skip

IOC_MAGIC: Final = 0xF5
IOC_VERSION: Final = IOR(IOC_MAGIC, 0, Version)
IOC_CREATE: Final = IOWR(IOC_MAGIC, 1, Create)
IOC_MEMORY: Final = IOWR(IOC_MAGIC, 2, Memory)
IOC_PUT: Final = IOW(IOC_MAGIC, 3, 8)
IOC_REVOKE: Final = IOW(IOC_MAGIC, 4, Range)
IOC_WRPROTECT: Final = IOW(IOC_MAGIC, 5, Range)
IOC_FETCH: Final = IOW(IOC_MAGIC, 6, UserCopy)
IOC_STORE: Final = IOW(IOC_MAGIC, 7, UserCopy)
IOC_WAKE: Final = IOW(IOC_MAGIC, 8, Wake)
IOC_PAGE: Final = IOWR(IOC_MAGIC, 9, Page)
IOC_INFO: Final = IOWR(IOC_MAGIC, 10, Info)
IOC_REMOVE: Final = IOW(IOC_MAGIC, 11, Remove)

REQUEST_SIZE: Final = ctypes.sizeof(Request)
REPLY_SIZE: Final = ctypes.sizeof(Reply)

_BODIES: Final[dict[int, type[ctypes.Structure] | None]] = {
    Opcode.OPEN: None, Opcode.RELEASE: None, Opcode.READ: ReadIn, Opcode.WRITE: ReadIn, Opcode.IOCTL: IoctlIn,
    Opcode.POLL: PollIn, Opcode.MMAP: VmaIn, Opcode.VM_OPEN: VmaIn, Opcode.VM_CLOSE: VmaIn, Opcode.FAULT: FaultIn,
    Opcode.PAGE_MKWRITE: FaultIn, Opcode.FSYNC: FsyncIn, Opcode.INTERRUPT: InterruptIn, Opcode.VM_FAULT: FaultIn,
}  # fmt: skip


class Message(NamedTuple):
    """A request or notice: its header, the structure of its opcode (None: it has none), its payload."""

    header: Request
    body: ctypes.Structure | None
    payload: memoryview


def parse(data: memoryview) -> Message:
    """One message as one read of the control gave it. The payload is a view of `data`. Raises ``ProtocolError``."""
    if len(data) < REQUEST_SIZE:
        raise ProtocolError(f"the module sent {len(data)} bytes, less than a header")
    header = Request.from_buffer_copy(data)
    if header.len != len(data):
        raise ProtocolError(f"the module sent {len(data)} bytes, and says that they are {header.len}")
    if header.opcode not in _BODIES:
        raise ProtocolError(f"the module asks for operation {header.opcode}, which version {VERSION_MAJOR} has not")
    if (header.unique == 0) != (header.opcode in NOTICES):
        raise ProtocolError(f"operation {Opcode(header.opcode).name} came with the number {header.unique}")
    structure = _BODIES[header.opcode]
    body, at = None, REQUEST_SIZE
    if structure is not None:
        if len(data) - at < ctypes.sizeof(structure):
            raise ProtocolError(f"operation {Opcode(header.opcode).name} came with {len(data)} bytes only")
        body = structure.from_buffer_copy(data, at)
        at += ctypes.sizeof(structure)
    payload = data[at:]
    if len(payload) != _payload(header.opcode, body):
        raise ProtocolError(f"operation {Opcode(header.opcode).name} came with a payload of {len(payload)} bytes")
    return Message(header, body, payload)


def _payload(opcode: int, body: ctypes.Structure | None) -> int:
    """How many bytes follow the structure."""
    if opcode == Opcode.WRITE:
        assert isinstance(body, ReadIn)
        return int(body.count)
    if opcode == Opcode.IOCTL:
        assert isinstance(body, IoctlIn)
        return int(body.in_len)
    return 0


def message(header: Request, body: ctypes.Structure | None = None, payload: bytes = b"") -> bytes:
    """What ``parse`` takes apart, with `len` filled in: the module's side, for tests."""
    header.len = REQUEST_SIZE + (ctypes.sizeof(body) if body is not None else 0) + len(payload)
    return bytes(header) + (bytes(body) if body is not None else b"") + payload


def reply(unique: int, error: int = 0, value: int = 0, flags: int = 0, length: int = 0) -> bytes:
    """The header of a reply that `length` bytes of payload follow. `error`: 0 or a positive errno. Raises
    ``ValueError`` for what the module would not take."""
    if not 0 <= error <= MAX_ERRNO:
        raise ValueError(f"{error} is no errno")
    if error and (value or flags or length):
        raise ValueError("a failure carries nothing else")
    return bytes(Reply(REPLY_SIZE + length, -error, unique, value, flags, 0))


def name(text: str) -> bytes:
    """`text` as the name of a device. Raises ``ValueError`` with one line if it cannot be."""
    encoded = text.encode(errors="surrogateescape")
    if not encoded or set(encoded) & set(b"/!\0") or encoded in (b".", b".."):  # sysfs writes ! for /
        raise ValueError(f"{text!r} cannot be the name of a device")
    if len(encoded) > NAME_MAX:
        raise ValueError(f"{text!r} is longer than the {NAME_MAX} bytes that the name of a device can have")
    return encoded
