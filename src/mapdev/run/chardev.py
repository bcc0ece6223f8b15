"""The look of a character device: programs are told by stat(2) and its family that certain files are one.

A file that anybody may serve is a regular file. Here the calls of a program that ask what a file is (stat, fstat,
lstat, newfstatat, statx) wait for a supervisor, by seccomp user notification. It finds out which file is meant; for
those that are ours it writes the answer into the program's memory, S_IFCHR and a device number; all else it lets the
kernel do. ``ls -l``, ``test -c`` and os.fstat then agree, and so for all that the program starts, static or not.

In the process that is to become the program, which has one thread::

    listener = seccomp.install_filter()
    socket.send_fds(sock, [b"..."], [listener])
    os.close(listener)
    sock.recv(1)           # from here on calls are answered; before, one that is trapped would wait for ever
    os.execv(...)

and in the one that supervises, which is to outlive the program (without it those calls fail with ENOSYS)::

    _, (listener,), *_ = socket.recv_fds(sock, 3, 1)
    Supervisor(listener, devices).start()
    sock.send(b"!")

What is not seen: calls of 32-bit (i386, x32) programs and those through io_uring, which the kernel answers; and the
d_type of getdents(2), which is the file system's: `find DIR -type c` believes it, unless it is DT_UNKNOWN or DT_CHR.
Setuid programs do not get their rights (no_new_privs). It is a look, and protects nothing.
"""

import errno
import logging
import os
import re
import select
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

from mapdev import libc
from mapdev.run import seccomp
from mapdev.run.seccomp import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_STATX_SYNC_TYPE,
    AT_SYMLINK_NOFOLLOW,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    Call,
    Notification,
    Statx,
)

log = logging.getLogger("mapdev.chardev")

Device: TypeAlias = tuple[int, int]
"""Major and minor."""
Devices: TypeAlias = Callable[[os.stat_result], Device | None] | Mapping[tuple[int, int], Device]
"""Which files are ours, and what they look like. As a mapping: from (st_dev, st_ino)."""

_PATIENCE: Final = 0.01
"""Seconds that an answer may take before another thread goes on with the next calls."""
_MAX_THREADS: Final = 64
_PATH_MAX: Final = 4096
_MAX_LINKS: Final = 40
_PROC_ROOT_INO: Final = 1
_O_PATH: Final = os.O_PATH | os.O_CLOEXEC
_KNOWN_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE
_ARCHES: Final = {arch.audit: arch for arch in seccomp.ARCHES}


class Supervisor:
    """Answers the calls that come through a listener, in threads of its own.

    They end by themselves when the last process with the filter has gone (Linux 5.9; before that, at ``close``).
    One thread receives and answers. A look-up can wait for something that waits for us in turn, such as a file system
    served by a program of ours; so, when an answer takes long, another thread has the turn to receive, and the one
    that was late ends with its answer.
    """

    def __init__(self, listener: int, devices: Devices) -> None:
        """Takes over `listener`. `devices` may be called by several threads at a time; what it raises is logged."""
        self._listener = listener
        self._device: Callable[[os.stat_result], Device | None]
        if callable(devices):
            self._device = devices
        else:
            self._device = lambda found: devices.get((found.st_dev, found.st_ino))
        self._end_event = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(self._end_event, select.POLLIN)
        os.set_blocking(listener, False)
        os.set_inheritable(listener, False)
        self._user_ns = os.stat("/proc/self/ns/user")
        self._gone = threading.Event()
        self._complained = False
        self._state = threading.Condition(threading.Lock())  # of all that follows
        self._turn = self._threads = self._received = 0
        self._busy = self._watched = self._ended = False

    def start(self) -> None:
        """Begin to answer; returns at once."""
        with self._state:
            self._spawn()
        threading.Thread(target=self._watch, name="mapdev-chardev-watch", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the last process with the filter has gone, or ``close``; False after `timeout` seconds."""
        return self._gone.wait(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """End, and close the listener: in programs that still run, the trapped calls fail with ENOSYS from then on.

        Idempotent. Blocks for `timeout` seconds at most, for an answer that is being made.
        """
        with self._state:
            if not self._ended and not self._threads:
                self._end()
                self._close_descriptors()
            elif not self._ended:
                os.eventfd_write(self._end_event, 1)
        self._gone.wait(timeout)

    # -- the threads --------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        """Give the turn to a new thread, with the lock. ``RuntimeError`` if the system has none."""
        threading.Thread(target=self._work, args=[self._turn + 1], name="mapdev-chardev", daemon=True).start()
        self._turn += 1
        self._threads += 1
        self._busy = False

    def _work(self, turn: int) -> None:
        try:
            while self._has_turn(turn):
                notification = self._receive()
                if notification is None:
                    break
                with self._state:
                    self._received += 1
                    self._busy = True
                    if not self._watched:
                        self._state.notify()
                    look = self._threads < _MAX_THREADS  # one that does not look cannot be late
                self._answer(notification, look)
        except Exception:
            log.exception("stat and its family fail with ENOSYS from now on")
        finally:
            with self._state:
                if turn == self._turn:
                    self._end()
                self._threads -= 1
                if not self._threads:
                    self._close_descriptors()

    def _has_turn(self, turn: int) -> bool:
        with self._state:
            if turn == self._turn:
                self._busy = False
            return turn == self._turn

    def _watch(self) -> None:
        """Give the turn to another thread whenever the one that has it is late. Sleeps while no calls come."""
        before = 0
        with self._state:
            while not self._ended:
                now = self._received
                self._watched = self._busy or now != before
                self._state.wait(_PATIENCE if self._watched else None)
                if self._busy and self._received == now and self._threads < _MAX_THREADS:
                    with suppress(RuntimeError):  # then the late one keeps the turn
                        self._spawn()
                before = now

    def _end(self) -> None:
        """With the lock."""
        self._ended = True
        # the listener is closed so, and yet its number is nobody else's while late threads may use it
        os.dup2(self._end_event, self._listener, inheritable=False)
        self._gone.set()
        self._state.notify()

    def _close_descriptors(self) -> None:
        os.close(self._listener)
        os.close(self._end_event)

    # -- the calls ----------------------------------------------------------------------------------------

    def _receive(self) -> Notification | None:
        """The next call; None at the end."""
        while True:
            # to receive at once would, on kernels before 6.11, wait for ever when the last process has gone
            events = dict(self._poll.poll())
            if self._end_event in events or events[self._listener] != select.POLLIN:
                return None
            try:
                return seccomp.receive(self._listener)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    raise

    def _answer(self, notification: Notification, look: bool) -> None:
        answered = False
        try:
            answered = look and self._look(notification)
        except OSError as error:  # the kernel knows what is wrong with the path, the memory or the process
            log.debug("pid %d, call %d: %s", notification.pid, notification.nr, error)
        except Exception:
            if not self._complained:
                log.exception("calls that this happens to are left to the kernel")
            self._complained = True
        try:
            (seccomp.let_return if answered else seccomp.let_continue)(self._listener, notification.id)
        except OSError as error:
            # ENOENT: a signal, or its end, took the program out of the call; ENOTTY: we have ended
            if error.errno not in (errno.ENOENT, errno.ENOTTY):
                raise

    def _look(self, notification: Notification) -> bool:
        """Whether the call asks about a file of ours; the answer is in the program's memory then."""
        arch = _ARCHES[notification.arch]
        call = arch.calls[notification.nr]
        asked = seccomp.question(call, notification.args)
        pid = notification.pid
        if not pid or asked.flags & ~_KNOWN_FLAGS:
            return False
        path = _read_path(pid, asked.path) if asked.path else b""
        if not path and not asked.flags & AT_EMPTY_PATH:
            return False
        if asked.path == 0:  # EFAULT before Linux 6.11
            seccomp.statx(self._end_event, None, AT_EMPTY_PATH, 0)
        fd = _open(pid, asked.dirfd, path, not asked.flags & AT_SYMLINK_NOFOLLOW)
        try:
            device = self._device(os.fstat(fd))
            if device is None:
                return False
            if path and not os.geteuid():
                _check_permission(pid, asked.dirfd, path, not asked.flags & AT_SYMLINK_NOFOLLOW)
            flags = AT_EMPTY_PATH | asked.flags & AT_STATX_SYNC_TYPE
            found = seccomp.statx(fd, b"", flags, asked.mask & ~seccomp.STATX_ALIGNMENTS)
        finally:
            os.close(fd)
        shown = found.as_char_device(device, self._owner(pid, found))
        data = seccomp.STATX.pack(*shown) if call is Call.STATX else arch.stat(shown)
        seccomp.check_waiting(self._listener, notification.id)
        libc.process_vm_writev(pid, asked.buffer, data)
        return True

    def _owner(self, pid: int, found: Statx) -> tuple[int, int]:
        """uid and gid as the program's user namespace has them (user_namespaces(7))."""
        if os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), self._user_ns):
            return found.uid, found.gid
        return _mapped(pid, "uid", found.uid), _mapped(pid, "gid", found.gid)


# -- what a program means -------------------------------------------------------------------------------------


def _read_path(pid: int, address: int) -> bytes:
    """The string at `address`. It is read page by page: the one after its end may not be there."""
    path = b""
    while len(path) < _PATH_MAX:
        count = libc.PAGE_SIZE - address % libc.PAGE_SIZE
        part, end, _ = libc.process_vm_readv(pid, address, count).partition(b"\0")
        path += part
        if end:
            return path
        address += count
    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _open(pid: int, dirfd: int, path: bytes, follow: bool) -> int:
    """What `path`, or the descriptor `dirfd` if it is empty, is for the program, as an O_PATH descriptor."""
    start = os.open(_start(pid, dirfd, path), _O_PATH)
    if not path:
        return start
    try:
        return _look_up(pid, start, path, follow)
    finally:
        os.close(start)


def _start(pid: int, dirfd: int, path: bytes) -> str:
    if path.startswith(b"/"):
        return f"/proc/{pid}/root"
    return f"/proc/{pid}/cwd" if dirfd == AT_FDCWD else f"/proc/{pid}/fd/{dirfd}"


def _look_up(pid: int, start: int, path: bytes, follow: bool) -> int:
    """What `path` is from `start`. The program may have another root than we, and another /proc/self."""
    flags = _O_PATH | (0 if follow else os.O_NOFOLLOW)
    try:
        # the kernel does what cannot leave `start`
        return seccomp.openat2(start, path.lstrip(b"/") or b".", flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV, errno.EAGAIN):
            raise
    root = os.open(f"/proc/{pid}/root", _O_PATH)
    try:
        return _walk(pid, root, start, path, follow)
    finally:
        os.close(root)


def _walk(pid: int, root: int, start: int, path: bytes, follow: bool) -> int:
    """The same, name by name (path_resolution(7))."""
    here = os.dup(start)
    try:
        names = _names(path)
        links = 0
        while names:
            name = names.pop()
            found = _step(pid, root, here, name, follow or bool(names))
            if isinstance(found, bytes):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                names += _names(found)
                if not found.startswith(b"/"):
                    continue
                found = os.dup(root)
            os.close(here)
            here = found
    except BaseException:
        os.close(here)
        raise
    return here


def _names(path: bytes) -> list[bytes]:
    """Last name first. An empty one, as after a slash at the end, is the directory itself."""
    return [name or b"." for name in reversed(path.split(b"/"))]


def _step(pid: int, root: int, here: int, name: bytes, follow: bool) -> int | bytes:
    """What `name` is in the directory `here`: a descriptor, or the target of a symbolic link that is to be followed."""
    if name == b"..":
        at_root = _place(here) == _place(root)
        return os.dup(here) if at_root else os.open(name, _O_PATH, dir_fd=here)
    if follow and stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
        if name in (b"self", b"thread-self") and _is_proc(root, here):
            process = f"/proc/{_ids(pid)[b'Tgid'][0]}"  # the link's own target is for whoever reads it: us
            return os.open(process if name == b"self" else f"{process}/task/{pid}", _O_PATH)
        if _is_magic(here, name):
            return os.open(name, _O_PATH, dir_fd=here)
        return os.readlink(name, dir_fd=here)
    return os.open(name, _O_PATH | os.O_NOFOLLOW, dir_fd=here)


def _place(fd: int) -> tuple[int, int, int, int]:
    return seccomp.statx(fd, b"", AT_EMPTY_PATH, seccomp.STATX_BASIC_STATS | seccomp.STATX_MNT_ID).place


def _is_proc(root: int, here: int) -> bool:
    """Whether this is a /proc: a procfs, or what the program has in its place."""
    if seccomp.is_on_procfs(here):
        return os.fstat(here).st_ino == _PROC_ROOT_INO
    try:
        proc = seccomp.openat2(root, b"proc", _O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError:
        return False
    try:
        return _place(proc) == _place(here)
    finally:
        os.close(proc)


def _is_magic(here: int, name: bytes) -> bool:
    """Whether a symbolic link leads by itself to a file, whatever its text says: /proc/PID/fd/1 (proc(5))."""
    if not seccomp.is_on_procfs(here):
        return False
    try:
        os.close(seccomp.openat2(here, name, _O_PATH, RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _check_permission(pid: int, dirfd: int, path: bytes, follow: bool) -> None:
    """We are root. EACCES if the program runs as somebody who may not search a directory on the way."""
    ids = _ids(pid)
    uid, gid = ids[b"Uid"][3], ids[b"Gid"][3]
    if not uid:
        return
    start = os.open(_start(pid, dirfd, path), _O_PATH)
    try:
        with seccomp.acting_as(uid, gid, ids[b"Groups"]):
            os.close(_look_up(pid, start, path, follow))
    finally:
        os.close(start)


_IDS: Final = re.compile(rb"^(Tgid|Uid|Gid|Groups):([\t \d]*)$", re.MULTILINE)


def _ids(pid: int) -> dict[bytes, list[int]]:
    """Ids of a thread, from proc_pid_status(5). Uid and Gid: real, effective, saved, of the file system."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
        return {key: [int(word) for word in value.split()] for key, value in _IDS.findall(status.read())}


def _mapped(pid: int, kind: str, number: int) -> int:
    """A uid or gid of ours as the program's user namespace has it; one that is not in it shows as the overflow id."""
    for line in _read(f"/proc/{pid}/{kind}_map").splitlines():
        inside, outside, count = map(int, line.split())
        if outside <= number < outside + count:
            return inside + number - outside
    return int(_read(f"/proc/sys/kernel/overflow{kind}"))


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
