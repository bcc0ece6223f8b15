"""``FuseHost``: devices served as the files of a directory, put together from mount, channel and session."""

import os
from pathlib import Path
from typing import Self

from mapdev.device import Device
from mapdev.dispatch import Dispatch
from mapdev.errors import HostError, UsageError
from mapdev.hosts.base import Permissions, raise_file_limit
from mapdev.hosts.fuse.channel import Channel
from mapdev.hosts.fuse.mount import Way, mount
from mapdev.hosts.fuse.nodes import Nodes
from mapdev.hosts.fuse.session import Mode, Session
from mapdev.hosts.fuse.tree import DeviceEntry, Directory
from mapdev.trace import Trace


class FuseHost:
    """Devices as files of `directory`, from construction until ``close``; also a with-statement.

    `devices`: file name -> device. `permissions`: None admits only this user (mode 0600); else the kernel checks them
    for everybody. `mode`: the best way of giving memory to programs to try (see ``session.Mode``); ``mode``
    afterwards is what works here. `way`: how to mount, if not the best that works.

    Construction blocks until the kernel answers. Raises ``MountPointError``, ``FuseError``, ``UsageError``.

    This process may open, read and write its own devices from any thread. It must not map memory that is on demand: a
    load that faults holds the lock of the interpreter, which whoever answers the fault needs, and both wait for ever.
    For the same reason ``subprocess`` must not start a program in the mounted directory by vfork(2), as it does by
    default (``subprocess._USE_VFORK = False``).
    """

    def __init__(
        self,
        directory: Path,
        devices: dict[str, Device],
        *,
        permissions: Permissions | None = None,
        mode: Mode = Mode.SHARED,
        way: Way | None = None,
        trace: Trace | None = None,
    ) -> None:
        for name in devices:
            if not name or "/" in name or name in (".", "..") or len(os.fsencode(name)) > 255:
                raise UsageError(f"{name!r} cannot be the name of a file: serve it as NAME=TARGET")
        raise_file_limit()
        self.dispatches = [Dispatch(device, name, trace) for name, device in devices.items()]
        self._mount = mount(directory, allow_other=permissions is not None, way=way)
        self._closed = False
        self.directory = self._mount.path
        self.way = self._mount.way
        own = Permissions(0o600, os.geteuid(), os.getegid())
        root = Directory({d.name.encode(): DeviceEntry(d) for d in self.dispatches})
        nodes = Nodes(root, permissions or own)
        self._channel = Channel(self._mount.fd)
        self._session = Session(nodes, self._channel, mode)
        faulting = [d.device.readahead for d in self.dispatches if d.has_fault]
        try:
            self._channel.serve(self._session, min(faulting, default=1 << 20))
        except OSError as error:
            self.close()
            raise HostError(f"cannot serve on {directory}: {error}") from error

    @property
    def mode(self) -> Mode:
        """How memory is given to programs here."""
        return self._session.mode

    def modes(self) -> dict[str, Mode | None]:
        """The same for each device: one that hands over its pages in `fault` does so on demand at best; None: one
        that cannot be mapped."""
        return {d.name: self._session.mode_of(d.has_fault) if d.has_mmap else None for d in self.dispatches}

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the mount is taken off by somebody else; False after `timeout` seconds."""
        return self._channel.wait(timeout)

    def close(self) -> None:
        """Unmount, release what is open, end the threads. Idempotent."""
        if not self._closed:
            self._closed = True
            raise_file_limit(spare=0)
            try:
                self._mount.unmount()
            finally:
                self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
