"""What the operations of a device receive: ``File``, ``Vma``, ``VmFault``.

The names and meanings are those of the kernel's ``struct file``, ``struct vm_area_struct`` and
``struct vm_fault`` (include/linux/fs.h, include/linux/mm_types.h, include/linux/mm.h).
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Call(Protocol):
    """One operation that is being answered: what a host tells of a signal to the caller."""

    interrupted: bool
    waiting: threading.Condition | None


class _Running(threading.local):
    """The call that this thread answers; a host sets it before it enters an operation."""

    call: Call | None = None


running = _Running()

_first_wait = threading.Lock()  # two threads must not make a condition each: one of them would never be woken


def signal_pending() -> bool:
    """Whether the program that waits for the operation running in this thread was sent a signal.

    The kernel's ``signal_pending(current)``. An operation that takes long looks from time to time and
    raises ``InterruptedError`` (EINTR). False outside an operation. Coroutines need not look: they are
    cancelled.
    """
    return running.call is not None and running.call.interrupted


def interrupt(call: Call) -> None:
    """For hosts: a signal has come for `call`; an operation that sleeps in ``File.wait_event`` wakes up."""
    call.interrupted = True
    condition = call.waiting
    if condition is not None:
        with condition:
            condition.notify_all()


class File:
    """One open of a device (the kernel's open file description): dup(2) and fork(2) share it.

    * ``flags``: the ``O_*`` flags of open(2) as they are now (``fcntl(F_SETFL)`` changes them).
    * ``pid``, ``uid``, ``gid``: of the process that opened it; 0 for a pid that cannot be seen from here.
    * ``id``: a number of its own among the files of its host, as traces show it.
    * ``private_data``: the device's, to put there what it likes in ``open``.
    """

    __slots__ = (
        "_condition",
        "device_name",
        "flags",
        "gid",
        "id",
        "notify_poll",
        "pid",
        "private_data",
        "seekable",
        "stream",
        "uid",
    )

    def __init__(self, device_name: str, id: int, flags: int, pid: int, uid: int, gid: int) -> None:  # noqa: A002
        self.device_name = device_name
        self.id = id
        self.flags = flags
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self.private_data: Any = None
        self.seekable = True
        self.stream = False
        self.notify_poll: Callable[[], None] | None = None
        """Set by a host when a program polls: tells the kernel to ask again."""
        self._condition: threading.Condition | None = None

    def __repr__(self) -> str:
        return f"<File {self.device_name}#{self.id}>"

    @property
    def readable(self) -> bool:
        """Opened for reading (FMODE_READ)."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        """Opened for writing (FMODE_WRITE)."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def nonblock(self) -> bool:
        """O_NONBLOCK is set: an operation that would sleep raises ``BlockingIOError`` (EAGAIN) instead."""
        return bool(self.flags & os.O_NONBLOCK)

    def nonseekable_open(self) -> None:
        """In ``open``: lseek(2) on this file gives ESPIPE (the kernel's function of this name).

        FUSE: not where the device has memory that is shared with programs; there lseek works.
        """
        self.seekable = False

    def stream_open(self) -> None:
        """In ``open``: this file has no position; ``pos`` is always 0, and a read that blocks does not hold
        up a write of another thread on the same descriptor (the kernel's function of this name).

        FUSE: where the device has memory that is shared with programs, the last does not hold.
        """
        self.stream = True

    def wake(self) -> None:
        """Something has changed: poll(2), select(2) and epoll(7) ask ``poll`` again, ``wait_event`` looks again.

        The kernel's ``wake_up``. May be called from any thread, and does not block.
        """
        condition = self._condition
        if condition is not None:
            with condition:
                condition.notify_all()
        notify = self.notify_poll
        if notify is not None:
            notify()

    def wait_event(self, condition: Callable[[], object], timeout: float | None = None) -> None:
        """In a plain operation: sleep until `condition()` is true; it is looked at after every ``wake``.

        The kernel's ``wait_event_interruptible``. `timeout` is in seconds. Raises ``InterruptedError`` (EINTR)
        when the waiting program gets a signal, ``BlockingIOError`` (EAGAIN) if it would sleep on a file
        that is O_NONBLOCK, ``TimeoutError`` (ETIMEDOUT). Only this call waits: others are served.
        """
        if condition():
            return
        if self.nonblock:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        with _first_wait:
            if self._condition is None:
                self._condition = threading.Condition()
        until = None if timeout is None else time.monotonic() + timeout
        call = running.call
        with self._condition:
            if call is not None:
                call.waiting = self._condition
            try:
                while not condition():
                    if signal_pending():
                        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                    self._condition.wait(left)
            finally:
                if call is not None:
                    call.waiting = None


class Vma(NamedTuple):
    """The area that a program wants to map. ``pgoff`` in pages, ``length`` in bytes, ``prot`` PROT_* bits, ``start``
    its address in the program, 0 where that is not known.

    A FUSE host is not told of mmap(2): it asks once for every open, at open, about the whole device
    (``pgoff`` 0, ``length`` the device's declared ``size`` or 0), with the most that the open allows as ``prot``.
    """

    pgoff: int = 0
    length: int = 0
    prot: int = 3
    shared: bool = True
    start: int = 0


class VmFault(NamedTuple):
    """A page that is touched and not there. ``pgoff``: which page of the device, from 0."""

    pgoff: int
