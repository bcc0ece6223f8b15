"""The host's side of a run: devices loaded, their surroundings gathered, everything served until the namespace ends."""

import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from mapdev.device import Device
from mapdev.dispatch import Dispatch
from mapdev.errors import HostError, MapdevError, UsageError
from mapdev.hosts.base import Permissions, raise_file_limit
from mapdev.hosts.fuse.channel import Channel
from mapdev.hosts.fuse.nodes import Nodes
from mapdev.hosts.fuse.session import Mode, Session
from mapdev.hosts.fuse.tree import DeviceEntry, Entry, Symlink, attribute_entry
from mapdev.hosts.fuse.wire import Init
from mapdev.libc import PAGE_SIZE
from mapdev.run.messages import ST_DEV, TRACE_ME, send
from mapdev.run.mounts import Mounts
from mapdev.run.plan import plan
from mapdev.run.request import Request
from mapdev.run.trap import check_available
from mapdev.surroundings import Surrounding
from mapdev.surroundings import Symlink as DeclaredSymlink
from mapdev.targets import load

if TYPE_CHECKING:
    from mapdev.faults import Faults
    from mapdev.run.chardev import Supervisor
    from mapdev.run.trap.report import Report
    from mapdev.run.trap.tracer import Tracer

_EXPERIMENTAL = 240
"""The first major number that Documentation/admin-guide/devices.txt keeps for local use."""

_ASKED = 1 << 22
"""The first bytes of a device of which it is asked, page by page, whether it wants them trapped."""

_END_TIMEOUT = 5.0
"""Seconds for the tracer to end after the last process of the namespace."""


class Host:
    """The devices of one run."""

    def __init__(self, request: Request) -> None:
        """Loads the devices: the author's code runs. Raises ``UsageError``."""
        self._request = request
        self._devices: list[DeviceEntry] = []
        self._channel: Channel | None = None
        self._supervisor: Supervisor | None = None
        self._report: Report | None = None
        self.tracer: Tracer | None = None
        trace = request.trace()
        injected = _injected(request)
        fakes: dict[str, Entry] = {}
        for path, target in request.devices.items():
            device = load(target, path)[1] if isinstance(target, str) else target
            device.injected = injected.get(path, device.injected)
            entry = DeviceEntry(Dispatch(device, path, trace))
            self._devices.append(entry)
            _put(fakes, path, entry)
            for beside, what in _surroundings(device, path):
                if isinstance(what, DeclaredSymlink):
                    _put(fakes, beside, Symlink(what.target.encode()))
                else:
                    _put(fakes, beside, attribute_entry(beside, what))
        self._root, unions, overs = plan(fakes, request.files)
        numbered = any(entry.dispatch.device.devt for entry in self._devices)
        look = bool(self._devices) and (request.look or numbered)
        if look:
            for entry in self._devices:
                entry.listed_kind = stat.S_IFCHR
        trap = False
        for entry in self._devices:
            some, everywhere = _traps(entry.dispatch)
            # one that is trapped here and mapped there needs its memory to be shared
            entry.trapped = request.trap or everywhere
            trap |= request.trap or some
        if trap:
            check_available()
            from mapdev.run.trap.report import make_report

            self._report = make_report(trace, request.counted)
        self.mounts = Mounts(unions, overs, look, trap)

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
        if not self.mounts.unions:
            return
        _, descriptors, *_ = socket.recv_fds(child, 4, 1)
        if not descriptors:
            return
        raise_file_limit()
        self._channel = Channel(descriptors[0])
        nodes = Nodes(self._root, Permissions(0o666, os.geteuid(), os.getegid()))
        session = Session(nodes, self._channel, Mode.SHARED if self._request.shared else Mode.ON_DEMAND)
        faulting = [e.dispatch.device.readahead for e in self._devices if e.dispatch.has_fault]
        self._channel.serve(session, min(faulting, default=1 << 20), Init.DO_READDIRPLUS)
        child.sendall(b"ready")
        if self.mounts.look:
            self._look(child, nodes)
        if self.mounts.trap:
            self._trap(child, session)

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
        if self.tracer is not None:
            self.tracer.close(_END_TIMEOUT)
            self.tracer = None
            if self._report is not None:
                self._report.end()
        for entry in self._devices:
            if self._request.faults and entry.dispatch.device.injected is not None:
                entry.dispatch.device.injected.say_unstruck()

    def _look(self, child: socket.socket, nodes: Nodes) -> None:
        from mapdev.run.chardev import Supervisor

        message, descriptors, *_ = socket.recv_fds(child, 8, 1)
        if not descriptors:
            return
        (st_dev,) = ST_DEV.unpack(message)
        numbers = {
            (st_dev, nodes.ino(entry)): entry.dispatch.device.devt or (_EXPERIMENTAL, minor)
            for minor, entry in enumerate(self._devices)
        }
        self._supervisor = Supervisor(descriptors[0], numbers)
        self._supervisor.start()
        child.sendall(b"looking")

    def _trap(self, child: socket.socket, session: Session) -> None:
        from mapdev.run.trap.blocks import Blocks
        from mapdev.run.trap.tracer import Tracer

        message = child.recv(TRACE_ME.size, socket.MSG_WAITALL)
        if len(message) < TRACE_ME.size:
            return
        pid, st_dev = TRACE_ME.unpack(message)
        seen = self._report.seen if self._report is not None else None
        tracer = Tracer(pid, lambda: Blocks(session, self._devices, st_dev, self._request.trap), seen)
        try:
            tracer.start()
        except HostError as error:
            send(child, error)
            return
        self.tracer = tracer
        send(child, True)


def be_host(request: Request, child: socket.socket) -> None:
    """All that the process of a host does. Sends `child`, the launcher and then the program, what it has to mount, or
    the ``MapdevError`` of the user."""
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    made: Host | MapdevError
    try:
        made = Host(request)
    except MapdevError as error:
        made = error
    try:
        send(child, made.mounts if isinstance(made, Host) else made)
    except BrokenPipeError:
        return  # the launcher was killed meanwhile
    if isinstance(made, Host):
        made.serve(child)


def _injected(request: Request) -> "dict[str, Faults]":
    if not request.faults:
        return {}
    from mapdev.faults import inject

    return inject(request.faults, request.devices, request.seed)


def _put(fakes: dict[str, Entry], path: str, entry: Entry) -> None:
    if path in fakes:
        raise UsageError(f"{path} is wanted twice: by two devices, or as one and among the surroundings of another")
    fakes[path] = entry


def _traps(dispatch: Dispatch) -> tuple[bool, bool]:
    """Whether a device wants accesses to be trapped: to some of its pages, to all of them."""
    device = dispatch.device
    size = device.size or PAGE_SIZE
    try:
        if not device.defines("traps") and device.injected is None:
            return device.traps(0, size), device.traps(0, size)
        pages = [dispatch.traps(pos, PAGE_SIZE) for pos in range(0, min(size, _ASKED), PAGE_SIZE)]
        return any(pages) or dispatch.traps(0, size), all(pages) and size <= _ASKED
    except Exception as error:
        raise HostError(f"{dispatch.name}: traps() failed: {type(error).__name__}: {error}") from error


def _surroundings(device: Device, path: str) -> list[tuple[str, Surrounding]]:
    try:
        return list(device.surroundings(path).items())
    except Exception as error:
        raise HostError(f"{path}: surroundings() failed: {type(error).__name__}: {error}") from error
