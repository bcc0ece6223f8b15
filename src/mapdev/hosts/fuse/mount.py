"""How the mount of a host comes to be and goes: mount points looked at and pinned, three ways to mount, unmounting.

A mount point is opened once (O_PATH, no symbolic link) and mounted on through that descriptor: what somebody
puts at the
path meanwhile does not matter. Ways, in the order they are tried:

* mount: fsopen(2) and move_mount(2), with CAP_SYS_ADMIN;
* fusermount: the setuid program of libfuse, for ordinary users;
* namespace: a user namespace of this process's own, in which it may mount; others see the directory through
  /proc/PID/root only.
"""

import array
import contextlib
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import weakref
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from mapdev import libc
from mapdev.errors import FuseError, HostError, MountPointError

_CAP_SYS_ADMIN: Final = 1 << 21
_FSTYPE: Final = "fuse.mapdev"
_TIMEOUT: Final = 10.0


class Way(Enum):
    """How to mount; the value is its name on the command line."""

    MOUNT = "mount"
    FUSERMOUNT = "fusermount"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True)
class MountInfo:
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    mount_id: int
    path: str
    fstype: str
    options: str


def mountinfo() -> list[MountInfo]:
    """The mounts of this process's namespace."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [parse_mountinfo(line) for line in text.splitlines()]


def parse_mountinfo(line: str) -> MountInfo:
    """One line; the path with its \\040 and the like resolved."""
    left, _, right = line.partition(" - ")
    mount_id, _, _, _, path, *_ = left.split(" ")
    fstype, _, options = right.split(" ", 2)
    return MountInfo(int(mount_id), re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path), fstype, options)


def mount_id(fd: int) -> int:
    """The mount that the file behind `fd` lies on, as mountinfo numbers them."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    raise OSError(errno.ENOSYS, "fdinfo has no mnt_id")


_watchers: "weakref.WeakSet[subprocess.Popen[bytes]]" = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A child that a device forks must not have the pipe: the watcher waits until nobody has it."""
    for watcher in tuple(_watchers):
        if watcher.stdin is not None:
            watcher.stdin.close()


os.register_at_fork(after_in_child=_leave_to_parent)


class Mount:
    """One mount of ours: ``fd`` is the descriptor of /dev/fuse (whoever takes it over closes it)."""

    def __init__(self, fd: int, path: Path, way: Way, number: int) -> None:
        self.fd = fd
        self.path = path
        self.way = way
        self._id = number
        self._parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._unmount = [_fusermount(), "-u", "-z", "--"] if way is Way.FUSERMOUNT else []
        # a namespace goes with its last process, and the mount with it
        self._watcher = None if way is Way.NAMESPACE else self._watch()

    def _watch(self) -> "subprocess.Popen[bytes]":
        script = Path(__file__).with_name("watcher.py")
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(self._id), self.path.name, *self._unmount],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=f"/proc/self/fd/{self._parent}",
            start_new_session=True,
        )
        _watchers.add(watcher)
        return watcher

    def is_mounted(self) -> bool:
        """Whether it still is in the namespace (an administrator may have taken it off)."""
        name = f"/{self.path.name}"  # the number alone is not enough: the kernel soon gives it to another mount
        return any(m.mount_id == self._id and m.fstype == _FSTYPE and m.path.endswith(name) for m in mountinfo())

    def unmount(self) -> None:
        """Take it off. Programs that have files open on it get ENOTCONN or, without the right to force it, are
        served until they close them. Idempotent; raises ``HostError`` if it does not go."""
        if self.is_mounted():
            if self._unmount:
                self._run_fusermount()
            else:
                self._umount2()
        if self._watcher is not None:
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher.wait(_TIMEOUT)
            self._watcher = None
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1

    def _run_fusermount(self) -> None:
        # in a session of its own: a signal to our process group, which may be why we unmount, is not for it
        done = subprocess.run(
            [*self._unmount, self.path.name], cwd=f"/proc/self/fd/{self._parent}", timeout=_TIMEOUT,
            capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip
        if done.returncode and self.is_mounted():
            raise HostError(f"cannot unmount {self.path}: {_fusermount_says(done.stderr)}")

    def _umount2(self) -> None:
        target = f"/proc/self/fd/{self._parent}/{self.path.name}"
        with contextlib.suppress(OSError):  # ends the connection, so that nobody waits for an answer
            libc.umount2(target, libc.MNT_FORCE | libc.UMOUNT_NOFOLLOW)
        if self.is_mounted():
            try:
                libc.umount2(target, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
            except OSError as error:
                raise HostError(f"cannot unmount {self.path}: {error.strerror}") from error


def mount(path: Path, allow_other: bool = False, way: Way | None = None) -> Mount:
    """Mount on the empty directory `path`, in the best way that works here or in the given one.

    With `allow_other` everybody whom the permissions of the files admit may open them; else only this user. Must
    be called before threads are started if it comes to a namespace. Blocks for ``fusermount3`` (10 s at most).
    Raises ``MountPointError`` (missing, a symbolic link, not empty, in use, not ours) and ``FuseError``.
    """
    path = path.absolute()
    directory = _pin(path)
    try:
        way = way or best_way()
        if way is Way.FUSERMOUNT:
            return _mount_by_fusermount(path, directory, allow_other)
        if way is Way.NAMESPACE:
            enter_user_namespace()
            os.close(directory)  # it belongs to the namespace that was left
            directory = _pin(path)
            # there is nobody else in it, and this would shut out this user's own programs outside of it
            allow_other = False
        return _mount_by_syscalls(path, directory, allow_other, way)
    finally:
        os.close(directory)


# -- the mount point ------------------------------------------------------------------------------------------


def _pin(path: Path) -> int:
    """The directory as a descriptor, after it was found fit to be mounted on."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MountPointError(_unfit(path, error)) from error
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")  # what was opened, wherever `path` leads by now
        found = next((m for m in mountinfo() if m.mount_id == mount_id(fd) and m.path == real), None)
        try:
            names = os.listdir(f"/proc/self/fd/{fd}")
        except OSError as error:
            if error.errno == errno.ENOTCONN and found is not None and found.fstype == _FSTYPE:
                os.close(fd)
                fd = -1
                _clean_stale(path)
                return _pin(path)
            raise MountPointError(_unfit(path, error)) from error
        if found is not None and found.fstype == _FSTYPE:
            raise MountPointError(f"{path} is already served: end that `mapdev serve` first, or mount elsewhere")
        if names:
            raise MountPointError(f"{path} is not empty: mount on an empty directory")
        if os.geteuid() and os.fstat(fd).st_uid != os.geteuid():
            raise MountPointError(f"{path} belongs to another user: mount on a directory of your own")
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return fd


def _unfit(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{path} does not exist: create it (mkdir -p {path})"
    if os.path.islink(path):  # unlike Path.is_symlink, also where lstat(2) is not permitted
        return f"{path} is a symbolic link: name the directory itself"
    if error.errno == errno.ENOTDIR:
        return f"{path} is not a directory: mount on an empty directory"
    return f"{path} cannot be mounted on: {error.strerror}"


def _clean_stale(path: Path) -> None:
    """What a host that died, with its watcher, has left behind."""
    try:
        if _has_cap_sys_admin():
            libc.umount2(str(path), libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
        else:
            subprocess.run([_fusermount(), "-u", "-z", "-q", "--", str(path)], timeout=_TIMEOUT, check=True,
                           capture_output=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError, FuseError) as error:
        raise MountPointError(f"{path} is a mount that a dead server left; unmount it (umount -l {path})") from error


# -- the ways -------------------------------------------------------------------------------------------------


def best_way() -> Way:
    """What works for this user here, as far as can be known without trying."""
    if _has_cap_sys_admin():
        return Way.MOUNT
    return Way.FUSERMOUNT if shutil.which("fusermount3") or shutil.which("fusermount") else Way.NAMESPACE


def _has_cap_sys_admin() -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) & _CAP_SYS_ADMIN)


def open_dev_fuse() -> int:
    """A new descriptor of /dev/fuse. Raises ``FuseError``."""
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        hint = "load it (modprobe fuse); in a container, pass the device in (--device /dev/fuse)"
        raise FuseError(f"there is no /dev/fuse: {hint}") from None
    except PermissionError:
        hint = "as root: chmod 0666 /dev/fuse (distributions have it so, by udev's rules)"
        raise FuseError(f"/dev/fuse may not be opened by this user: {hint}") from None
    except OSError as error:  # ENXIO, ENODEV: a node without a driver
        raise FuseError(f"/dev/fuse cannot be opened ({error.strerror}): is the fuse module loaded?") from None


def fuse_superblock(fuse: int, allow_other: bool) -> int:
    """A FUSE mount over `fuse`, a descriptor of /dev/fuse, that is not attached anywhere yet. Raises ``OSError``."""
    options = {
        "source": "mapdev",
        "subtype": "mapdev",
        "fd": str(fuse),
        "rootmode": "40000",
        "user_id": str(os.geteuid()),
        "group_id": str(os.getegid()),
    }
    fs = libc.fsopen("fuse")
    try:
        for key, value in options.items():
            libc.fsconfig(fs, libc.FSCONFIG_SET_STRING, key, value)
        for flag in ("default_permissions", *(["allow_other"] if allow_other else [])):
            libc.fsconfig(fs, libc.FSCONFIG_SET_FLAG, flag)
        libc.fsconfig(fs, libc.FSCONFIG_CMD_CREATE)
        return libc.fsmount(fs, libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV)
    finally:
        os.close(fs)


def _mount_by_syscalls(path: Path, directory: int, allow_other: bool, way: Way) -> Mount:
    fuse = open_dev_fuse()
    try:
        mounted = fuse_superblock(fuse, allow_other)
        try:
            libc.move_mount(mounted, directory)
            number = mount_id(mounted)
        finally:
            os.close(mounted)
        result = Mount(fuse, path, way, number)
    except OSError as error:
        os.close(fuse)
        why = _FORBIDDEN if error.errno == errno.EPERM else error.strerror
        raise FuseError(f"cannot mount on {path}: {why}") from error
    return _at_its_path(result)


_FORBIDDEN: Final = "mounting is forbidden here (a container needs --cap-add SYS_ADMIN, or user namespaces)"


def _mount_at(path: Path) -> int | None:
    """The mount that `path` leads to, if it leads anywhere."""
    try:
        there = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mount_id(there)
    finally:
        os.close(there)


def _at_its_path(mounted: Mount) -> Mount:
    """Refuse a mount that is not where its path leads: the directory was moved away while we mounted on it."""
    if _mount_at(mounted.path) == mounted._id:
        return mounted
    # the connection ends with its descriptor, and what then is stale can be unmounted at its real place
    real = next((m.path for m in mountinfo() if m.mount_id == mounted._id), None)
    if real is not None:
        with contextlib.suppress(OSError):
            libc.umount2(real, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
    os.close(mounted.fd)
    mounted.unmount()
    raise MountPointError(f"{mounted.path} was replaced while it was mounted on: try again")


def _mount_by_fusermount(path: Path, directory: int, allow_other: bool) -> Mount:
    """The program opens /dev/fuse, mounts, and sends the descriptor through a socket."""
    program = _fusermount()
    options = "fsname=mapdev,subtype=mapdev,default_permissions" + (",allow_other" if allow_other else "")
    ours, its = socket.socketpair()
    with ours, its:
        done = subprocess.run(
            [program, "-o", options, "--", "."], cwd=f"/proc/self/fd/{directory}", pass_fds=[its.fileno()],
            env={**os.environ, "_FUSE_COMMFD": str(its.fileno())}, timeout=_TIMEOUT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise FuseError(f"cannot mount on {path}: {_fusermount_says(done.stderr)}")
        ours.settimeout(_TIMEOUT)
        _, ancillary, *_ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    fuse = next((array.array("i", data)[0] for _, kind, data in ancillary if kind == socket.SCM_RIGHTS), None)
    if fuse is None:
        raise FuseError(f"cannot mount on {path}: {program} sent no descriptor")
    os.set_inheritable(fuse, False)
    number = _mount_at(path)
    if number is None or not any(m.mount_id == number and m.fstype == _FSTYPE for m in mountinfo()):
        os.close(fuse)
        real = os.readlink(f"/proc/self/fd/{directory}")
        subprocess.run([program, "-u", "-z", "--", real], timeout=_TIMEOUT, capture_output=True, check=False)
        raise MountPointError(f"{path} was replaced while it was mounted on: try again")
    return Mount(fuse, path, Way.FUSERMOUNT, number)


def _fusermount() -> str:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise FuseError("an ordinary user needs the program fusermount3: install the package fuse3")
    return program


def _fusermount_says(stderr: str) -> str:
    said = stderr.strip().splitlines()[-1:] or ["it says nothing"]
    text = said[0]
    if "user_allow_other" in text:
        return (
            "other users are admitted only if /etc/fuse.conf says user_allow_other; add that line, or serve as root"
        )
    if "/dev/fuse" in text:
        return f"{text} (as root: chmod 0666 /dev/fuse; distributions have it so, by udev's rules)"
    return text


def enter_user_namespace() -> None:
    """A user and mount namespace of our own, in which this user keeps its ids."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
    except OSError as error:
        raise FuseError(
            f"user namespaces are forbidden here ({error.strerror}): allow them (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in a container, "
            "--security-opt seccomp=unconfined), or be root with CAP_SYS_ADMIN; `mapdev serve` is content with "
            "fusermount3 (install fuse3)"
        ) from error
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
