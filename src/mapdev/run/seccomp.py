"""The kernel's side of the look of a device: seccomp user notification, and the calls that tell about files.

A filter makes chosen system calls of a program wait for the answer of a supervisor, who holds the descriptor that came
with the filter, the listener. Bytes come first, without I/O; then the calls, which raise ``OSError``.

Sources: seccomp(2), seccomp_unotify(2), statx(2), openat2(2), setfsuid(2); the headers ``<linux/seccomp.h>``,
``<linux/filter.h>``, ``<linux/audit.h>``, ``<linux/stat.h>``, ``<asm/stat.h>``, ``<asm/unistd.h>``.
"""

import array  # noqa: F401 - socket.send_fds imports it, which after install_filter() would call stat
import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from mapdev import libc
from mapdev.errors import HostError

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_SYNC_TYPE: Final = 0x6000

STATX_BASIC_STATS: Final = 0x7FF
STATX_MNT_ID: Final = 0x1000
# of regular files and block devices alone
STATX_ALIGNMENTS: Final = 0x2000 | 0x10000 | 0x20000  # STATX_DIOALIGN, _WRITE_ATOMIC, _DIO_READ_ALIGN

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08

PROC_SUPER_MAGIC: Final = 0x9FA0  # <linux/magic.h>

# -- the calls that are looked at -----------------------------------------------------------------------------


class Call(Enum):
    """The system calls that tell what kind of file a file is."""

    STAT = auto()
    FSTAT = auto()
    LSTAT = auto()
    NEWFSTATAT = auto()
    STATX = auto()


class Question(NamedTuple):
    """One such call in the terms of statx(2).

    ``path`` and ``buffer`` are addresses in the program; ``path`` is None for fstat(2), which has none.
    """

    dirfd: int
    path: int | None
    flags: int
    mask: int
    buffer: int


def question(call: Call, args: tuple[int, ...]) -> Question:
    """What a call with these registers asks."""
    basic = STATX_BASIC_STATS
    match call:
        case Call.FSTAT:
            return Question(_unsigned(args[0]), None, AT_EMPTY_PATH, basic, args[1])
        case Call.STAT:
            return Question(AT_FDCWD, args[0], 0, basic, args[1])
        case Call.LSTAT:
            return Question(AT_FDCWD, args[0], AT_SYMLINK_NOFOLLOW, basic, args[1])
        case Call.NEWFSTATAT:
            return Question(_signed(args[0]), args[1], _unsigned(args[3]), basic, args[2])
        case Call.STATX:
            return Question(_signed(args[0]), args[1], _unsigned(args[2]), _unsigned(args[3]), args[4])


def _unsigned(register: int) -> int:
    return register & 0xFFFFFFFF


def _signed(register: int) -> int:
    return ctypes.c_int32(_unsigned(register)).value


# -- struct statx, struct stat --------------------------------------------------------------------------------

STATX: Final = struct.Struct("=IIQ IIIHxx QQQQ qIxxxx qIxxxx qIxxxx qIxxxx IIII Q104s")


class Statx(NamedTuple):
    """A struct statx. ``tail``: what newer kernels tell and nobody here looks at."""

    mask: int
    blksize: int
    attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: int
    atime_nsec: int
    btime: int
    btime_nsec: int
    ctime: int
    ctime_nsec: int
    mtime: int
    mtime_nsec: int
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int
    mnt_id: int
    tail: bytes

    @property
    def place(self) -> tuple[int, int, int, int]:
        """The same for two descriptors only if they are one place: file system, inode and mount."""
        return self.dev_major, self.dev_minor, self.ino, self.mnt_id

    def as_char_device(self, device: tuple[int, int], owner: tuple[int, int]) -> "Statx":
        """The same as a character device: `device` is (major, minor), `owner` (uid, gid)."""
        mode = stat.S_IFCHR | stat.S_IMODE(self.mode)
        (major, minor), (uid, gid) = device, owner
        return self._replace(mode=mode, rdev_major=major, rdev_minor=minor, size=0, blocks=0, uid=uid, gid=gid)


STAT_X86_64: Final = struct.Struct("=QQQIIIxxxxQqqqqQqQqQ24x")
"""dev ino nlink mode uid gid rdev size blksize blocks, then seconds and nanoseconds of atime mtime ctime."""
STAT_GENERIC: Final = struct.Struct("=QQIIIIQ8xqixxxxqqQqQqQ8x")
"""dev ino mode nlink uid gid rdev size blksize blocks, then as above."""


def stat_x86_64(x: Statx) -> bytes:
    """The struct stat of 64-bit x86."""
    return STAT_X86_64.pack(
        *(_dev_t(x.dev_major, x.dev_minor), x.ino, x.nlink, x.mode, x.uid, x.gid),
        *(_dev_t(x.rdev_major, x.rdev_minor), x.size, x.blksize, x.blocks),
        *(x.atime, x.atime_nsec, x.mtime, x.mtime_nsec, x.ctime, x.ctime_nsec),
    )


def stat_generic(x: Statx) -> bytes:
    """The struct stat of ``<asm-generic/stat.h>``, which is that of aarch64."""
    return STAT_GENERIC.pack(
        *(_dev_t(x.dev_major, x.dev_minor), x.ino, x.mode, x.nlink, x.uid, x.gid),
        *(_dev_t(x.rdev_major, x.rdev_minor), x.size, x.blksize, x.blocks),
        *(x.atime, x.atime_nsec, x.mtime, x.mtime_nsec, x.ctime, x.ctime_nsec),
    )


def _dev_t(major: int, minor: int) -> int:
    """As the kernel hands it to programs: 12 bits of major, 20 of minor."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


# -- architectures --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arch:
    """What programs of an architecture have: the calls by their numbers, and the struct stat.

    ``audit`` is AUDIT_ARCH_*; ``machine`` the name that uname(2) has for it; the rest are numbers of calls of our own.
    """

    audit: int
    machine: str
    calls: Mapping[int, Call]
    stat: Callable[[Statx], bytes]
    seccomp: int
    statx: int
    setgroups: int


ARCHES: Final = (
    Arch(
        0xC000003E,
        "x86_64",
        {4: Call.STAT, 5: Call.FSTAT, 6: Call.LSTAT, 262: Call.NEWFSTATAT, 332: Call.STATX},
        stat_x86_64,
        seccomp=317,
        statx=332,
        setgroups=116,
    ),
    Arch(
        0xC00000B7,
        "aarch64",
        {79: Call.NEWFSTATAT, 80: Call.FSTAT, 291: Call.STATX},
        stat_generic,
        seccomp=277,
        statx=291,
        setgroups=159,
    ),
)

# -- the filter -----------------------------------------------------------------------------------------------

RET_ALLOW: Final = 0x7FFF0000
RET_USER_NOTIF: Final = 0x7FC00000
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NR_AT, _ARCH_AT = 0, 4  # in struct seccomp_data
INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter: code, jt, jf, k."""


def filter_program() -> bytes:
    """The filter: lets everything pass but the calls of ``ARCHES``.

    It looks at the architecture and the number of a call only; so the kernel (Linux 5.11) finds out once which numbers
    always pass, and does not run the filter for those. Calls of 32-bit x86 come with an architecture of their own,
    those of x32 with bit 30 in the number: both pass.
    """
    code = [(_LOAD, 0, 0, _ARCH_AT)]
    for arch in ARCHES:
        count = len(arch.calls)
        code += [(_JUMP_IF_EQUAL, 0, count + 3, arch.audit), (_LOAD, 0, 0, _NR_AT)]
        code += [(_JUMP_IF_EQUAL, count - place, 0, nr) for place, nr in enumerate(arch.calls)]
        code += [(_RETURN, 0, 0, RET_ALLOW), (_RETURN, 0, 0, RET_USER_NOTIF)]
    code.append((_RETURN, 0, 0, RET_ALLOW))
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in code)


# -- notifications --------------------------------------------------------------------------------------------

NOTIF: Final = struct.Struct("=QIIiIQ6Q")
NOTIF_RESP: Final = struct.Struct("=QqiI")
_ID: Final = struct.Struct("=Q")
USER_NOTIF_FLAG_CONTINUE: Final = 1
# the numbers hold the sizes of the structures: with others, a kernel would have other numbers
IOCTL_NOTIF_RECV: Final = 0xC0502100
IOCTL_NOTIF_SEND: Final = 0xC0182101
IOCTL_NOTIF_ID_VALID: Final = 0x40082102


class Notification(NamedTuple):
    """A call that waits. ``pid`` is the thread's, as the supervisor's namespace numbers it; 0: it is not in there."""

    id: int
    pid: int
    nr: int
    arch: int
    args: tuple[int, ...]


def parse_notification(data: bytes) -> Notification:
    """A struct seccomp_notif."""
    number, pid, _, nr, arch, _, *args = NOTIF.unpack(data)
    return Notification(number, pid, nr, arch, tuple(args))


def receive(listener: int) -> Notification:
    """The next call that waits; blocks until there is one. ENOENT: it was taken back, by a signal or an end."""
    return parse_notification(fcntl.ioctl(listener, IOCTL_NOTIF_RECV, bytes(NOTIF.size)))


def let_return(listener: int, number: int) -> None:
    """Let the call return 0. ENOENT: it does not wait any more."""
    fcntl.ioctl(listener, IOCTL_NOTIF_SEND, NOTIF_RESP.pack(number, 0, 0, 0))


def let_continue(listener: int, number: int) -> None:
    """Let the kernel do the call as if nothing had been (Linux 5.5). ENOENT: it does not wait any more."""
    fcntl.ioctl(listener, IOCTL_NOTIF_SEND, NOTIF_RESP.pack(number, 0, 0, USER_NOTIF_FLAG_CONTINUE))


def check_waiting(listener: int, number: int) -> None:
    """ENOENT if the call does not wait any more: the pid that came with it may be somebody else's by now."""
    fcntl.ioctl(listener, IOCTL_NOTIF_ID_VALID, _ID.pack(number))


# -- system calls ---------------------------------------------------------------------------------------------

_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_SET_MODE_FILTER: Final = 1
_FLAG_SPEC_ALLOW, _FLAG_NEW_LISTENER, _FLAG_WAIT_KILLABLE_RECV = 1 << 2, 1 << 3, 1 << 5
_SYS_OPENAT2: Final = 437  # on every architecture but alpha
# elsewhere numbers that no call has: ENOSYS
_SYS_SECCOMP, _SYS_STATX, _SYS_SETGROUPS = next(
    (
        (arch.seccomp, arch.statx, arch.setgroups)
        for arch in ARCHES
        if arch.machine == os.uname().machine and ctypes.sizeof(ctypes.c_void_p) == 8
    ),
    (-1, -1, -1),
)
_OPEN_HOW: Final = struct.Struct("=QQQ")

_libc = ctypes.CDLL(None, use_errno=True)
_int, _long, _ptr = ctypes.c_int, ctypes.c_long, ctypes.c_void_p


def _declare(name: str, *argtypes: type["ctypes._SimpleCData[Any]"]) -> "ctypes._NamedFuncPointer":
    function = _libc[name]  # a new object at each call: syscall(2) has several sets of types
    function.restype, function.argtypes = _long, argtypes
    return function


_seccomp = _declare("syscall", _long, ctypes.c_uint, ctypes.c_uint, _ptr)
_openat2 = _declare("syscall", _long, _int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_statx = _declare("syscall", _long, _int, ctypes.c_char_p, _int, ctypes.c_uint, _ptr)
_fstatfs = _declare("fstatfs", _int, _ptr)
_setgroups = _declare("syscall", _long, ctypes.c_size_t, _ptr)
_setfsuid = _declare("setfsuid", ctypes.c_uint)
_setfsgid = _declare("setfsgid", ctypes.c_uint)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install_filter() -> int:
    """Set no_new_privs and the filter for the calling thread and all it will start; the listener (close-on-exec).

    From now on the calls of ``ARCHES`` wait, in this process too: until the supervisor has the listener it must make
    none of them, as an import does. EBUSY: there is a listener for this process already; ENOSYS, EINVAL: the kernel is
    too old (Linux 5.6), or has no seccomp; EPERM: it is forbidden, as containers do (see ``unavailable``).
    """
    # Linux 5.6 has it: later than all that else is needed
    os.close(openat2(AT_FDCWD, b"/", os.O_PATH | os.O_CLOEXEC, 0))
    code = filter_program()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    flags = _FLAG_NEW_LISTENER
    # Linux 5.19: a signal does not end a call that is being answered already; stat(2) must not fail with EINTR
    try:
        return _install(code, flags | _FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _install(code, flags)


def unavailable(error: OSError) -> HostError:
    """What to tell a person when ``install_filter`` has failed so."""
    hints = {
        errno.ENOSYS: "Linux 5.6 or newer is needed, on x86-64 or aarch64, and a sandbox must let it through",
        errno.EINVAL: "it is too old, or built without seccomp filters",
        errno.EPERM: "a container needs a seccomp profile that allows it",
        errno.EACCES: "a container needs a seccomp profile that allows it",
        errno.EBUSY: "another supervisor is there already, an outer one of ours or that of a container or of WSL",
    }
    why = hints.get(error.errno or 0, "the character device look needs it")
    said = os.strerror(error.errno) if error.errno else str(error)
    return HostError(f"this kernel or container forbids seccomp user notification: {said} ({why})")


def install_tracing_filter(code: bytes) -> None:
    """Set a filter without a listener, for the calling process and all it will start. EINVAL, ENOSYS: no seccomp."""
    try:
        _install(code, 0)
    except PermissionError:  # without CAP_SYS_ADMIN in its user namespace: then with no_new_privs
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _install(code, 0)


def _install(code: bytes, flags: int) -> int:
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = _SockFprog(len(code) // INSTRUCTION.size, ctypes.addressof(buffer))
    # without SPEC_ALLOW, kernels before 5.16 slow down all that the program does
    call = (_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags | _FLAG_SPEC_ALLOW)
    return _check(_seccomp(*call, ctypes.byref(fprog)), "seccomp")


def openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2) without a mode."""
    how = _OPEN_HOW.pack(flags, 0, resolve)
    return _check(_openat2(_SYS_OPENAT2, dirfd, path, how, _OPEN_HOW.size), "openat2")


def statx(fd: int, path: bytes | None, flags: int, mask: int) -> Statx:
    """statx(2)."""
    buffer = ctypes.create_string_buffer(STATX.size)
    _check(_statx(_SYS_STATX, fd, path, flags, mask, buffer), "statx")
    return Statx._make(STATX.unpack(buffer.raw))


def is_on_procfs(fd: int) -> bool:
    """fstatfs(2)."""
    buffer = (ctypes.c_long * 32)()  # struct statfs is shorter, and begins with f_type
    _check(_fstatfs(fd, buffer), "fstatfs")
    return buffer[0] == PROC_SUPER_MAGIC


@contextmanager
def acting_as(uid: int, gid: int, groups: list[int]) -> Iterator[None]:
    """Let the calling thread, and no other, look up files as this user (setfsuid(2)). EPERM without CAP_SETGID."""
    own = os.getgroups()
    _set_groups(groups)
    try:
        _setfsgid(gid)
        _setfsuid(uid)
        yield
    finally:
        _setfsuid(os.geteuid())
        _setfsgid(os.getegid())
        _set_groups(own)


def _set_groups(groups: list[int]) -> None:
    # not os.setgroups: the C library sets them for all threads
    _check(_setgroups(_SYS_SETGROUPS, len(groups), (ctypes.c_uint * len(groups))(*groups)), "setgroups")
