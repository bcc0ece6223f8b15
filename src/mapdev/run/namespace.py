"""The namespaces of a run: a process enters its own, with the mounts of the plan; others look who is in, and end them.

Entering takes one thread, and is nothing but system calls: it may be the fork of a process that goes on.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from typing import Final

from mapdev import libc
from mapdev.hosts.fuse.mount import enter_user_namespace, fuse_superblock, open_dev_fuse
from mapdev.run.mounts import REAL, Mounts, Union

_KILL_TIMEOUT: Final = 5.0


def enter(mounts: Mounts, host: socket.socket) -> int:
    """Build the namespace; the device number (st_dev) of the FUSE mount in it, 0 if there is none.

    Sends the descriptor of /dev/fuse to `host`, and waits until it serves. Raises ``HostError``, ``OSError``.
    """
    directory = os.getcwd()
    as_root = not os.geteuid() and _unshare_as_root()
    if not as_root:
        enter_user_namespace()
    libc.mount(None, "/", flags=libc.MS_REC | libc.MS_PRIVATE)  # nothing that is mounted here shows outside
    device = _unions(mounts, host, allow_other=as_root) if mounts.unions else 0
    for over in mounts.overs:
        if not over.is_fuse:
            libc.mount(over.source, over.path, flags=libc.MS_BIND | libc.MS_REC)
    with suppress(OSError):
        os.chdir(directory)  # it may have been replaced
    return device


def _unshare_as_root() -> bool:
    """Whether root may have a mount namespace as it is; one without CAP_SYS_ADMIN, as in a container, may not."""
    try:
        libc.unshare(libc.CLONE_NEWNS)
    except PermissionError:
        return False
    return True


def _unions(mounts: Mounts, host: socket.socket, allow_other: bool) -> int:
    """`allow_other` admits those in our user namespace only: in one that is new, it would shut the host out."""
    real = {
        union.path: libc.open_tree(union.path, libc.OPEN_TREE_CLONE | libc.AT_RECURSIVE) for union in mounts.unions
    }
    base = mounts.unions[0].path
    fuse = open_dev_fuse()
    mounted = fuse_superblock(fuse, allow_other)
    libc.move_mount(mounted, base)
    os.close(mounted)
    socket.send_fds(host, [b"fuse"], [fuse])
    os.close(fuse)  # nobody but the host may hold it: its end is the end of the mount
    if host.recv(5) != b"ready":
        raise OSError(5, "the host of the devices has ended")
    device = os.stat(base).st_dev
    shown = {union.path: libc.open_tree(f"{base}/{union.name}", libc.OPEN_TREE_CLONE) for union in mounts.unions}
    overs = [
        (over, libc.open_tree(f"{base}/{over.source}", libc.OPEN_TREE_CLONE)) for over in mounts.overs if over.is_fuse
    ]
    libc.umount2(base, libc.MNT_DETACH)
    for union in mounts.unions:
        _show(union, shown[union.path], real[union.path])
    for over, tree in overs:
        libc.move_mount(tree, over.path)
        os.close(tree)
    return device


def _show(union: Union, shown: int, real: int) -> None:
    """Put the union in the place of the real directory, and the real entries into it."""
    libc.move_mount(shown, union.path)
    libc.move_mount(real, f"{union.path}/{REAL}")
    os.close(shown)
    os.close(real)
    if union.binds:
        os.listdir(union.path)  # tells the kernel of all placeholders at once (READDIRPLUS), else it asks for each
    for name in union.binds:
        with suppress(FileNotFoundError):  # it went meanwhile
            libc.mount(f"{union.path}/{REAL}/{name}", f"{union.path}/{name}", flags=libc.MS_BIND | libc.MS_REC)
    if not union.keep:
        libc.umount2(f"{union.path}/{REAL}", libc.MNT_DETACH)


def members(mounts: str) -> list[int]:
    """The processes whose mount namespace is `mounts`, which is what readlink(2) tells of /proc/PID/ns/mnt."""
    found = []
    for name in os.listdir("/proc") if mounts else ():
        if name.isdecimal():
            with suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/mnt") == mounts:
                    found.append(int(name))
    return found


def kill(mounts: str) -> None:
    """kill -9 to every process in it, until there is none.

    It must exist still, or be pinned by an open descriptor of it: the kernel gives its number to the next one.
    """
    until = time.monotonic() + _KILL_TIMEOUT
    while (left := members(mounts)) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
