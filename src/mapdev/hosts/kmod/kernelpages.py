"""What the module has of a device's memory, seen from here.

``SharedMemory`` is a memfd that the module maps itself: there is nothing to push or to pull. ``FaultMemory`` has pages
of the module's own, each filled once with what ``Device.fault`` handed over; ``push`` and ``pull`` copy between the
two through a mapping of the kernel's pages in this process. No I/O of its own: ``Kernel`` does it.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from mapdev.libc import PAGE_SIZE
from mapdev.pages import OnDemandPages, Pages

Body = bytes | bytearray | memoryview


class Kernel(Protocol):
    """What a session asks of the module. Errors are ``OSError``; offsets and lengths in bytes."""

    def memory(self, kind: int, memfd: int, length: int) -> tuple[int, int]:
        """MAPDEV_IOC_MEMORY: the id, and where the control maps it."""

    def put(self, memory: int) -> None:
        """MAPDEV_IOC_PUT: it goes when nothing uses it any more. Never fails."""

    def revoke(self, memory: int, offset: int, length: int) -> None:
        """MAPDEV_IOC_REVOKE"""

    def wrprotect(self, memory: int, offset: int, length: int) -> None:
        """MAPDEV_IOC_WRPROTECT"""

    def map(self, map_offset: int, length: int) -> int:
        """Map the memory at `map_offset` of the control into this process: its address."""

    def unmap(self, address: int, length: int) -> None: ...

    def peek(self, address: int, count: int) -> bytes:
        """Bytes of such a mapping; EFAULT, and not a SIGBUS, where the page is gone."""

    def poke(self, address: int, data: bytes | memoryview) -> None:
        """The other way."""

    def reply(self, unique: int, error: int = 0, value: int = 0, flags: int = 0, payload: Body = b"") -> bool:
        """Answer a request; False if nobody waits for it any more."""

    def fetch(self, unique: int, address: int, count: int) -> bytes:
        """MAPDEV_IOC_FETCH: bytes of the program that waits."""

    def store(self, unique: int, address: int, data: bytes) -> None:
        """MAPDEV_IOC_STORE"""

    def wake(self, file: int) -> None:
        """MAPDEV_IOC_WAKE; never fails."""


class SharedMemory:
    """The memfd of `memory`, mapped by programs without a copy (``mapdev.pages.Copy``)."""

    def __init__(self, memory: Pages, kernel: Kernel, kind: int) -> None:
        self.id, _ = kernel.memory(kind, memory.fd, memory.nbytes)
        self._kernel = kernel

    def push(self, offset: int, length: int) -> None: ...

    def pull(self, offset: int, length: int) -> None: ...

    def invalidate(self, offset: int, length: int) -> None:
        self._kernel.revoke(self.id, offset, length)

    def write_protect(self, offset: int, length: int) -> None:
        self._kernel.wrprotect(self.id, offset, length)

    def close(self) -> None:
        self._kernel.put(self.id)


class FaultMemory:
    """The module's own pages of `memory` (``mapdev.pages.Copy``).

    ``handed`` are those that the module has taken. Only these are touched here: to touch another one would ask this
    very process for it. ``_lock`` is held while a page is handed over, copied or taken back, so that ``handed`` is
    true while it is held, and a push comes either before the bytes are taken for the kernel, or finds the page there.
    """

    def __init__(self, memory: OnDemandPages, kernel: Kernel, kind: int) -> None:
        self.id, self._map_offset = kernel.memory(kind, -1, memory.nbytes)
        self.handed: set[int] = set()
        self._npages = memory.npages
        self._kernel = kernel
        self._lock = threading.Lock()
        self._address = 0  # where the module's pages are mapped here
        self._memory = memory

    def hand_over(self, pgoff: int, page: memoryview, send: Callable[[memoryview], bool]) -> None:
        """Give the module this page by `send`, which answers whether it has taken it."""
        with self._lock:
            if send(page):
                self.handed.add(pgoff)

    def push(self, offset: int, length: int) -> None:
        with self._lock:
            for start, stop in self._pieces(offset, length):
                try:
                    data = self._memory.load(start, stop - start)
                except KeyError:  # taken back meanwhile
                    continue
                try:
                    self._kernel.poke(self._mapped() + start, data)
                except OSError:  # the module has it no more
                    self.handed.discard(start // PAGE_SIZE)

    def pull(self, offset: int, length: int) -> None:
        with self._lock:
            fetched = self._fetch(offset, length)
        self._tell(fetched)

    def invalidate(self, offset: int, length: int) -> None:
        with self._lock:
            fetched = self._fetch(offset, length)
            self._kernel.revoke(self.id, offset, length)
            first, last = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
            self.handed -= {page for page in self.handed if first <= page < last}
        self._tell(fetched)

    def write_protect(self, offset: int, length: int) -> None:
        self._kernel.wrprotect(self.id, offset, length)

    def close(self) -> None:
        """What programs stored is in Python's pages afterwards."""
        with self._lock:
            fetched = self._fetch(0, self._npages * PAGE_SIZE)
            self.handed.clear()
            if self._address:
                self._kernel.unmap(self._address, self._npages * PAGE_SIZE)
                self._address = 0
        self._tell(fetched)
        self._kernel.put(self.id)

    def _fetch(self, offset: int, length: int) -> list[tuple[int, int]]:
        """What programs stored in these bytes is in Python's pages now; where that was, as (start, stop)."""
        fetched = []
        for start, stop in self._pieces(offset, length):
            try:
                data = self._kernel.peek(self._mapped() + start, stop - start)
            except OSError:  # the module has it no more
                self.handed.discard(start // PAGE_SIZE)
                continue
            self._memory.store(start, memoryview(data))
            fetched.append((start, stop))
        return fetched

    def _tell(self, fetched: list[tuple[int, int]]) -> None:
        """Other copies of this memory. Without the lock: another one of them may be telling us."""
        for start, stop in fetched:
            self._memory.stored(self, start, stop - start)

    def _mapped(self) -> int:
        if not self._address:
            self._address = self._kernel.map(self._map_offset, self._npages * PAGE_SIZE)
        return self._address

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int]]:
        """What of these bytes lies in pages that the module has: (start, stop), each within one page."""
        first, last = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
        if last - first <= len(self.handed):
            pages = [page for page in range(first, last) if page in self.handed]
        else:
            pages = sorted(page for page in self.handed if first <= page < last)
        return [(max(p * PAGE_SIZE, offset), min((p + 1) * PAGE_SIZE, offset + length)) for p in pages]


Memory = SharedMemory | FaultMemory
