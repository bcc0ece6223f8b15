"""``KmodHost``: devices served as character devices in /dev, or as files in /proc, by the kernel module."""

import errno
import logging
import os
import time
from typing import Final, NamedTuple, Self

from mapdev.dispatch import Dispatch
from mapdev.errors import ModuleError
from mapdev.hosts.base import Devices, Permissions, raise_file_limit
from mapdev.hosts.kmod import control, uapi
from mapdev.hosts.kmod.channel import Channel
from mapdev.hosts.kmod.session import Session
from mapdev.hosts.kmod.uapi import CreateFlag
from mapdev.hosts.workers import Loop
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Mappable
from mapdev.trace import Trace

log = logging.getLogger("mapdev.kmod")

_LOOK: Final = 0.2


class Served(NamedTuple):
    """A device that is being served. ``devt``: its number, None in /proc; ``memory`` as people read it."""

    path: str
    devt: tuple[int, int] | None
    memory: str


class KmodHost:
    """Devices as /dev/NAME, or with `proc` as /proc/NAME, from construction until ``close``; also a with-statement.

    `devices`: name -> device. `permissions`: None admits only this user (mode 0600).

    If this process ends, however it does, the kernel removes the devices: programs that wait get ENODEV, mapped pages
    that are there stay, others are SIGBUS. Raises ``ModuleError`` (no module, a name that is taken), ``UsageError``.

    This process must not map, and should not call, its own devices.
    """

    def __init__(
        self, devices: Devices, *, proc: bool = False, permissions: Permissions | None = None,
        trace: Trace | None = None,
    ) -> None:  # fmt: skip
        raise_file_limit()
        own = permissions or Permissions(0o600, os.geteuid(), os.getegid())
        self.dispatches = [Dispatch(device, name, trace) for name, device in devices.items()]
        self.served: list[Served] = []
        self._loop = Loop()
        self._channels: list[Channel] = []
        self._closed = False
        try:
            for dispatch in self.dispatches:
                self._serve(dispatch, own, proc)
        except BaseException:
            self.close()
            raise

    def _serve(self, dispatch: Dispatch, permissions: Permissions, proc: bool) -> None:
        device = dispatch.device
        channel = Channel(control.open_control(), self._loop)
        session = Session(dispatch, channel)
        size = device.size if device.size is not None else PAGE_SIZE if dispatch.has_mmap else 0
        create = control.request(dispatch.name, permissions, proc=proc, ops=session.ops, size=size)
        if device.devt is not None and not proc:
            create.flags |= CreateFlag.DEVT
            create.major, create.minor = device.devt
        try:
            self._create(channel, create)
        except BaseException:
            channel.close_fd()
            raise
        self._channels.append(channel)
        try:
            channel.serve(session)
        except OSError as error:
            raise ModuleError(f"{dispatch.name} cannot be served: {error.strerror or error}") from None
        memory = "no memory" if not dispatch.has_mmap else "on demand" if dispatch.has_fault else "shared memory"
        self.served.append(
            Served(control.path_of(dispatch.name, proc), None if proc else (create.major, create.minor), memory)
        )

    def _create(self, channel: Channel, create: uapi.Create) -> None:
        try:
            channel.create(create)
        except OSError as error:
            if not (error.errno == errno.EBUSY and create.flags & CreateFlag.DEVT):
                raise control.refusal(create, error) from None
            log.warning("%s: number %d:%d belongs to another driver; it gets one that is free",
                        create.name.decode(errors="replace"), create.major, create.minor)  # fmt: skip
            create.flags &= ~CreateFlag.DEVT
            create.major = create.minor = 0
            self._create(channel, create)

    def physical_address(self, memory: Mappable, offset: int = 0) -> int | None:
        """Where the kernel has the byte at `offset` of memory that an open file has mapped; None for a page that is not
        there. Raises ``OSError`` EPERM without CAP_SYS_ADMIN."""
        for channel in self._channels:
            address = channel.physical_address(memory, offset)
            if address is not None:
                return address
        return None

    def wait(self, timeout: float | None = None) -> bool:
        """Block until somebody has removed one of the devices; False after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while not any(channel.wait(0) for channel in self._channels):
            left = _LOOK if until is None else min(_LOOK, until - time.monotonic())
            if left <= 0:
                return False
            time.sleep(left)
        return True

    def close(self) -> None:
        """Remove the devices, release what is open, end the threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for channel in self._channels:
            channel.stop()
        ended = self._loop.made is None or self._loop.made.cancel_all()
        for channel in self._channels:
            channel.release()
        if self._loop.made is not None and ended:
            self._loop.made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
