"""The system calls that Python's standard library does not have, and nothing on top of them.

Every function raises ``OSError`` with the call's errno. The lock of the interpreter is released during
each call (ctypes does so), therefore a call that blocks does not stop other threads.
Sources: the man page of each call; ``<sys/mman.h>``, ``<sys/mount.h>``, ``<linux/sched.h>``.
"""

import ctypes
import os
from typing import Final

PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")
PAGE_SHIFT: Final = PAGE_SIZE.bit_length() - 1

PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 0x01, 0x02, 0x10, 0x20, 0x4000
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
MADV_DONTNEED, MADV_DONTFORK, MADV_POPULATE_WRITE, MADV_COLLAPSE = 4, 10, 23, 25

# mount(2), umount2(2)
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

# fsopen(2) and its family; <linux/mount.h>
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 2, 4
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
OPEN_TREE_CLONE, AT_RECURSIVE = 1, 0x8000
_AT_FDCWD, _O_CLOEXEC = -100, 0o2000000
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
# The numbers are the same on every architecture but alpha; glibc has had wrappers since 2.36 only
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432

# Of x86-64, and of the architectures that came later
_SYS_FINIT_MODULE, _SYS_DELETE_MODULE = (313, 176) if os.uname().machine == "x86_64" else (273, 106)

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_FAILED: Final = ctypes.c_void_p(-1).value


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


def _declare(name: str, restype: object, *argtypes: object) -> "ctypes._NamedFuncPointer":
    function = getattr(_libc, name)
    function.restype, function.argtypes = restype, argtypes
    return function  # type: ignore[no-any-return]


_int, _long, _ulong = ctypes.c_int, ctypes.c_long, ctypes.c_ulong
_ptr, _size, _str = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
_off64 = ctypes.c_int64

_mmap = _declare("mmap64", _ptr, _ptr, _size, _int, _int, _int, _off64)
_munmap = _declare("munmap", _int, _ptr, _size)
_mprotect = _declare("mprotect", _int, _ptr, _size, _int)
_mremap = _declare("mremap", _ptr, _ptr, _size, _size, _int, _ptr)
_madvise = _declare("madvise", _int, _ptr, _size, _int)
_msync = _declare("msync", _int, _ptr, _size, _int)
_mount = _declare("mount", _int, _str, _str, _str, _ulong, _str)
_umount2 = _declare("umount2", _int, _str, _int)
_unshare = _declare("unshare", _int, _int)
_prctl = _declare("prctl", _int, _int, _ulong, _ulong, _ulong, _ulong)
_syscall = _libc.syscall
_syscall.restype = _long
_iovec_p = ctypes.POINTER(_Iovec)
_readv = _declare("process_vm_readv", ctypes.c_ssize_t, _int, _iovec_p, _ulong, _iovec_p, _ulong, _ulong)
_writev = _declare("process_vm_writev", ctypes.c_ssize_t, _int, _iovec_p, _ulong, _iovec_p, _ulong, _ulong)


def _check(result: int, what: str) -> int:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _address(result: int | None, what: str) -> int:
    if result == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result or 0


def mmap(addr: int | None, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """mmap(2): the address of the new mapping. Unlike ``mmap.mmap`` it does not look at the file's size."""
    return _address(_mmap(addr, length, prot, flags, fd, offset), "mmap")


def munmap(addr: int, length: int) -> None:
    """munmap(2)."""
    _check(_munmap(addr, length), "munmap")


def mprotect(addr: int, length: int, prot: int) -> None:
    """mprotect(2)."""
    _check(_mprotect(addr, length, prot), "mprotect")


def mremap(addr: int, old: int, new: int, flags: int = MREMAP_MAYMOVE, new_addr: int | None = None) -> int:
    """mremap(2): the address of the mapping afterwards."""
    return _address(_mremap(addr, old, new, flags, new_addr), "mremap")


def madvise(addr: int, length: int, advice: int) -> None:
    """madvise(2)."""
    _check(_madvise(addr, length, advice), "madvise")


def msync(addr: int, length: int, flags: int = MS_SYNC) -> None:
    """msync(2). May block for as long as the file's owner takes to store the pages."""
    _check(_msync(addr, length, flags), "msync")


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0) -> None:
    """mount(2), for binds and changes of propagation."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, fstype)]
    _check(_mount(*texts, flags, None), f"mount {target}")


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_umount2(os.fsencode(target), flags), "umount2")


def fsopen(fstype: str) -> int:
    """fsopen(2), Linux 5.2: the descriptor of a file system to be configured."""
    return _check(_syscall(_SYS_FSOPEN, fstype.encode(), _int(_FSOPEN_CLOEXEC)), "fsopen")


def fsconfig(fs: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """fsconfig(2): set one option, or (FSCONFIG_CMD_CREATE) make the superblock."""
    encoded = [None if text is None else text.encode() for text in (key, value)]
    _check(_syscall(_SYS_FSCONFIG, _int(fs), _int(command), *encoded, _int(0)), f"fsconfig {key or 'create'}")


def fsmount(fs: int, attributes: int) -> int:
    """fsmount(2): the descriptor of a mount that is not attached anywhere yet."""
    return _check(_syscall(_SYS_FSMOUNT, _int(fs), _int(_FSMOUNT_CLOEXEC), _int(attributes)), "fsmount")


def open_tree(path: str, flags: int) -> int:
    """open_tree(2), Linux 5.2: with OPEN_TREE_CLONE a copy of the mount at `path`, attached nowhere."""
    flags |= _O_CLOEXEC
    return _check(_syscall(_SYS_OPEN_TREE, _int(_AT_FDCWD), os.fsencode(path), _int(flags)), f"open_tree {path}")


def move_mount(mount_fd: int, target: int | str) -> None:
    """move_mount(2): attach the mount to a directory or file, a descriptor or a path (no symbolic link at its end)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (MOVE_MOUNT_T_EMPTY_PATH if isinstance(target, int) else 0)
    directory, path = (target, b"") if isinstance(target, int) else (_AT_FDCWD, os.fsencode(target))
    _check(_syscall(_SYS_MOVE_MOUNT, _int(mount_fd), b"", _int(directory), path, _int(flags)), "move_mount")


def unshare(flags: int) -> None:
    """unshare(2): put the calling process into new namespaces. EINVAL for CLONE_NEWUSER with threads."""
    _check(_unshare(flags), "unshare")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    return _check(_prctl(option, arg2, arg3, arg4, arg5), "prctl")


def finit_module(fd: int, parameters: str = "") -> None:
    """finit_module(2): load the kernel module in the file `fd`. ENOSYS where the kernel has no modules."""
    _check(_syscall(_SYS_FINIT_MODULE, _int(fd), parameters.encode(), _int(0)), "finit_module")


def delete_module(name: str) -> None:
    """delete_module(2): unload a kernel module; EWOULDBLOCK if it is in use."""
    _check(_syscall(_SYS_DELETE_MODULE, name.encode(), _int(os.O_NONBLOCK)), "delete_module")


def process_vm_readv(pid: int, addr: int, count: int) -> bytes:
    """process_vm_readv(2): `count` bytes from `addr` of process `pid`; EFAULT if not all can be read."""
    buffer = ctypes.create_string_buffer(count)
    local = _Iovec(ctypes.addressof(buffer), count)
    remote = _Iovec(addr, count)
    done = _check(_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0), f"process_vm_readv of pid {pid}")
    if done != count:
        raise OSError(14, f"process_vm_readv of pid {pid}: only {done} of {count} bytes at {addr:#x}")
    return buffer.raw


def process_vm_writev(pid: int, addr: int, data: bytes) -> None:
    """process_vm_writev(2): store `data` at `addr` of process `pid`; EFAULT if not all can be stored."""
    buffer = ctypes.create_string_buffer(data, len(data))
    local = _Iovec(ctypes.addressof(buffer), len(data))
    remote = _Iovec(addr, len(data))
    done = _check(_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0), f"process_vm_writev of pid {pid}")
    if done != len(data):
        raise OSError(14, f"process_vm_writev of pid {pid}: only {done} of {len(data)} bytes at {addr:#x}")
