"""The program's side of a run, in the process that becomes the program: its namespace, its look, execve(2).

Whoever has started that process, as a fork or anew, holds the other end of a pipe, and learns from it how that went
(``started``). The host of the devices holds the other end of a socket.
"""

import errno
import os
import pickle
import shutil
import signal
import socket
import sys
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple, NoReturn

from mapdev import libc
from mapdev.errors import FuseError, HostError, MapdevError
from mapdev.run import namespace, seccomp
from mapdev.run.messages import ST_DEV, TRACE_ME, receive
from mapdev.run.mounts import Mounts


class NotStarted(MapdevError):  # noqa: N818 - as a shell puts it
    """The program cannot be executed: ``exit_code`` is 127 if it is not there, else 126."""

    def __init__(self, message: str, exit_code: int = 126) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Order(NamedTuple):
    """What to become: a program with its arguments, in `environment`, after `mounts`."""

    mounts: Mounts
    program: list[str]
    environment: dict[bytes, bytes]


def end_with(parent: int) -> None:
    """From now on this process is killed when the thread that started it ends; it ends now if `parent` has ended."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def become(order: Order, host: socket.socket, report: int, mask: Iterable[int], pin: bool = False) -> NoReturn:
    """Build the namespace and execute the program. `host` and `report` are to be close-on-exec; one thread only.

    `mask`: the signals that are blocked in the program. `pin`: `host` is sent a descriptor of the mount namespace.
    """
    failure: MapdevError
    try:
        number = _enter(order.mounts, host)
        if order.mounts.look:
            _send_listener(host, number)
        if order.mounts.trap:
            _be_traced(host, number)
        if pin:
            mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            socket.send_fds(host, [b"mnt"], [mounts])
            os.close(mounts)
        os.write(report, os.readlink("/proc/self/ns/mnt").encode() + b"\n")
        for name in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(name, signal.SIG_DFL)  # Python had set both aside for itself
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _execute(order.program, order.environment)
    except MapdevError as error:
        failure = error
    except OSError as error:
        failure = HostError(f"{order.program[0]} cannot be executed: {error}")
    os.write(report, pickle.dumps(failure))
    os._exit(1)


def started(report: BinaryIO) -> str:
    """Wait until the program is executed: its mount namespace, as ``namespace.members`` wants it.

    `report`: the other end of what ``become`` has. Raises ``MapdevError`` with the reason if it is not executed.
    """
    line = report.readline()
    told = line if line.startswith(b"mnt:") else b""
    failure = line[len(told) :] + report.read()
    if failure:
        raise pickle.loads(failure)
    if not told:
        raise HostError("the process that was to become the program has died")
    return told.decode().strip()


def main() -> NoReturn:
    """A process that was started anew: ``argv`` ends with the pid of its parent, and the two descriptors."""
    parent, sock, report = map(int, sys.argv[-3:])
    end_with(parent)
    os.set_inheritable(report, False)
    with socket.socket(fileno=sock) as host:
        host.set_inheritable(False)
        order = receive(host)
        if not isinstance(order, Order):
            os._exit(1)  # the parent has changed its mind
        become(order, host, report, signal.pthread_sigmask(signal.SIG_BLOCK, ()), pin=True)


def _enter(mounts: Mounts, host: socket.socket) -> int:
    try:
        return namespace.enter(mounts, host)
    except PermissionError as error:
        raise FuseError(
            f"private directories are forbidden here ({error}): allow user namespaces with all their rights "
            "(sysctl kernel.apparmor_restrict_unprivileged_userns=0), or add CAP_SYS_ADMIN for root in a container"
        ) from error
    except OSError as error:
        raise HostError(f"the private directories cannot be made: {error}") from error


def _send_listener(host: socket.socket, st_dev: int) -> None:
    try:
        listener = seccomp.install_filter()
    except OSError as error:
        raise seccomp.unavailable(error) from error
    socket.send_fds(host, [ST_DEV.pack(st_dev)], [listener])
    os.close(listener)
    if host.recv(7) != b"looking":
        raise HostError("the host of the devices has ended")


def _be_traced(host: socket.socket, st_dev: int) -> None:
    from mapdev.run.trap import filter as calls

    host.sendall(TRACE_ME.pack(os.getpid(), st_dev))
    refused = receive(host)
    if isinstance(refused, MapdevError):
        raise refused
    if refused is not True:
        raise HostError("the host of the devices has ended")
    try:
        calls.install()
    except OSError as error:
        raise HostError(f"accesses cannot be trapped: seccomp filters are forbidden here: {error}") from error


def _execute(program: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    name = program[0]
    path = shutil.which(name, path=os.fsdecode(environment.get(b"PATH", os.fsencode(os.defpath))))
    if path is None and "/" not in name:
        raise NotStarted(f"{name}: there is no such program", 127)
    try:
        os.execve(path or name, program, environment)
    except OSError as error:
        if error.errno == errno.ENOEXEC:  # a script that does not say who runs it: a shell does
            os.execve("/bin/sh", ["sh", path or name, *program[1:]], environment)
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        what = "there is no such program" if missing else f"it cannot be executed ({error.strerror})"
        raise NotStarted(f"{name}: {what}", 127 if missing else 126) from error
