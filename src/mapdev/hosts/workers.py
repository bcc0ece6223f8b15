"""Threads that take requests, as every host with a kernel behind it has them, and the event loop beside them.

A thread reads a request, answers it, reads the next. Whenever the last idle thread takes a request, one more is
started: an operation that blocks never leaves nobody to answer. ``async def`` operations go on in one event loop, in
a thread of its own, and hold no thread.
"""

import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from mapdev.hosts.loop import Cancellable, EventLoop

T = TypeVar("T")

_IDLE_THREADS: Final = 2
"""So many always read. Who comes back to more of them ends, but not at once: requests come in bursts."""
_PATIENCE: Final = 1000
"""Requests after which the next one too many ends."""
_MAX_THREADS: Final = 512
"""Plain operations that can block at the same time; one more is refused with EBUSY."""


class Loop:
    """The event loop of a host, made when its first coroutine comes: asyncio takes long to load, and most devices
    need none."""

    def __init__(self) -> None:
        self.made: EventLoop | None = None
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, None], call: "Cancellable | None" = None) -> None:
        """Go on with `work` as a task; a signal that came already for `call` cancels it."""
        with self._lock:
            if self.made is None:
                from mapdev.hosts.loop import EventLoop

                self.made = EventLoop()
        self.made.run(work, call)

    def cancel(self, call: "Cancellable") -> None:
        """Cancel the operation of this call, if it is a coroutine."""
        if call.task is not None and self.made is not None:
            self.made.cancel(call)


class Workers(Generic[T]):
    """The threads of one descriptor.

    `read` blocks for the next request, reads it into the buffer that it is given, and answers it, or None when there
    will be none any more; then `gone` is called, and all threads end. `take` answers the request; `refuse` tells it
    that nobody reads meanwhile and no thread can be had, so that it must not block.
    """

    def __init__(
        self, name: str, buffer_size: int,
        read: Callable[[mmap.mmap], T | None], take: Callable[[T, bool], None], gone: Callable[[], None],
    ) -> None:  # fmt: skip
        self._name, self._buffer_size = name, buffer_size
        self._read, self._take, self._gone = read, take, gone
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._idle: list[None] = []
        """As long as there are idle threads. Its methods need no lock; that two threads each take themselves for the
        last one, or for not too many, does no harm."""
        self._unneeded = 0
        """Requests after which there were idle threads enough, since the last time that there were none."""

    def spawn(self) -> bool:
        """One more thread that reads; False if there can be no more."""
        with self._lock:
            if len(self._threads) >= _MAX_THREADS:
                return False
            self._idle.append(None)
            self._unneeded = 0
            try:
                buffer = mmap.mmap(-1, self._buffer_size)  # unlike a bytearray, it takes memory as far as it is used
                thread = threading.Thread(target=self._work, args=(buffer,), name=self._name, daemon=True)
                thread.start()  # with the lock: who takes the threads to join them finds none that has not begun
            except (RuntimeError, MemoryError, OSError):  # a limit of processes, or of memory
                self._idle.pop()
                return False
            self._threads.add(thread)
            return True

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the threads to end; whether all others than this one have."""
        current = threading.current_thread()
        until = time.monotonic() + timeout
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            if thread is not current:
                thread.join(max(0, until - time.monotonic()))
        return not self._threads - {current}

    def _work(self, buffer: mmap.mmap) -> None:
        idle, read, take = self._idle, self._read, self._take
        try:
            while (request := read(buffer)) is not None:
                idle.pop()
                take(request, not idle and not self.spawn())
                del request  # an idle thread keeps nothing alive
                if len(idle) >= _IDLE_THREADS:
                    self._unneeded += 1
                    if self._unneeded > _PATIENCE:
                        self._unneeded = 0
                        return
                idle.append(None)
            self._gone()
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())


class HasDescriptor(Protocol):
    def close_fd(self) -> None: ...


_channels: "weakref.WeakSet[HasDescriptor]" = weakref.WeakSet()


def leave_to_parent(channel: HasDescriptor) -> None:
    """A child that a device forks must not have the descriptor: without the host, its programs would wait for ever."""
    _channels.add(channel)


def _close_in_child() -> None:
    for channel in tuple(_channels):
        channel.close_fd()


os.register_at_fork(after_in_child=_close_in_child)
