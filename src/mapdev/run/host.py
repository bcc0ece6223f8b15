"""The host's side of a run: devices loaded, their surroundings gathered, everything served until the namespace ends."""

import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mapdev.device import Device
from mapdev.dispatch import Dispatch
from mapdev.errors import HostError, UsageError
from mapdev.hosts.fuse.channel import Channel
from mapdev.hosts.fuse.host import raise_file_limit
from mapdev.hosts.fuse.nodes import Nodes, Permissions
from mapdev.hosts.fuse.session import Mode, Session
from mapdev.hosts.fuse.tree import DeviceEntry, Entry, Symlink, attribute_entry
from mapdev.run.plan import Plan, plan
from mapdev.surroundings import Surrounding
from mapdev.surroundings import Symlink as DeclaredSymlink
from mapdev.targets import load
from mapdev.trace import Trace

if TYPE_CHECKING:
    from mapdev.run.chardev import Supervisor

_EXPERIMENTAL = 240
"""The first major number that Documentation/admin-guide/devices.txt keeps for local use."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run.

    ``devices``: absolute path -> TARGET, or a device; ``files``: absolute path -> a real file or directory to be shown
    there; ``trace``: makes the trace, in the host; ``look``: stat(2) shows character devices (implied by a device with
    ``devt``).
    """

    devices: Mapping[str, str | Device]
    files: dict[str, str]
    program: list[str]
    trace: Callable[[], Trace | None]
    look: bool = False
    mode: Mode = Mode.SHARED


class Host:
    """The devices of one run."""

    def __init__(self, request: Request) -> None:
        """Loads the devices: the author's code runs. Raises ``UsageError``."""
        self._request = request
        self._devices: list[DeviceEntry] = []
        self._channel: Channel | None = None
        self._supervisor: Supervisor | None = None
        trace = request.trace()
        fakes: dict[str, Entry] = {}
        for path, target in request.devices.items():
            device = load(target)[1] if isinstance(target, str) else target
            entry = DeviceEntry(Dispatch(device, path, trace))
            self._devices.append(entry)
            _put(fakes, path, entry)
            for beside, what in _surroundings(device, path):
                if isinstance(what, DeclaredSymlink):
                    _put(fakes, beside, Symlink(what.target.encode()))
                else:
                    _put(fakes, beside, attribute_entry(beside, what))
        self.plan: Plan = plan(fakes, request.files)
        numbered = any(entry.dispatch.device.devt for entry in self._devices)
        self.plan.look = bool(self._devices) and (request.look or numbered)
        if self.plan.look:
            for entry in self._devices:
                entry.listed_kind = stat.S_IFCHR

    def serve(self, child: socket.socket) -> None:
        """``begin``, and wait until the namespace is gone."""
        self.begin(child)
        child.close()
        self.wait()
        self.close()

    def begin(self, child: socket.socket) -> None:
        """Take the descriptor of /dev/fuse from the child, which is to become the program, and begin to serve.

        Returns when the child has all that it needs of us, or has failed, and told why. Threads go on.
        """
        if not self.plan.unions:
            return
        _, descriptors, *_ = socket.recv_fds(child, 4, 1)
        if not descriptors:
            return
        raise_file_limit()
        self._channel = Channel(descriptors[0])
        nodes = Nodes(self.plan.root, Permissions(0o666, os.geteuid(), os.getegid()))
        session = Session(nodes, self._channel, self._request.mode)
        faulting = [e.dispatch.device.readahead for e in self._devices if e.dispatch.has_fault]
        self._channel.serve(session, min(faulting, default=1 << 20))
        child.sendall(b"ready")
        if self.plan.look:
            self._look(child, nodes)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the last process of the namespace is gone; False after `timeout` seconds."""
        return self._channel is None or self._channel.wait(timeout)

    def close(self) -> None:
        """Release what is open, end the threads. Idempotent."""
        if self._supervisor is not None:
            self._supervisor.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _look(self, child: socket.socket, nodes: Nodes) -> None:
        from mapdev.run.chardev import Supervisor

        message, descriptors, *_ = socket.recv_fds(child, 8, 1)
        if not descriptors:
            return
        (st_dev,) = struct.unpack("=Q", message)
        numbers = {
            (st_dev, nodes.ino(entry)): entry.dispatch.device.devt or (_EXPERIMENTAL, minor)
            for minor, entry in enumerate(self._devices)
        }
        self._supervisor = Supervisor(descriptors[0], numbers)
        self._supervisor.start()
        child.sendall(b"looking")


def _put(fakes: dict[str, Entry], path: str, entry: Entry) -> None:
    if path in fakes:
        raise UsageError(f"{path} is wanted twice: by two devices, or as one and among the surroundings of another")
    fakes[path] = entry


def _surroundings(device: Device, path: str) -> list[tuple[str, Surrounding]]:
    try:
        return list(device.surroundings(path).items())
    except Exception as error:
        raise HostError(f"{path}: surroundings() failed: {type(error).__name__}: {error}") from error
