"""The page cache that the kernel keeps of one inode, seen from here: which pages it may have, push and pull.

Only for on-demand mode; memory that is shared has no second copy. No I/O of its own: ``Kernel`` sends.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from mapdev.hosts.fuse.wire import MAX_WRITE
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Mappable, OnDemandPages


class Kernel(Protocol):
    """What a session asks of the kernel. Errors are ``OSError``; offsets and sizes in bytes."""

    unmappable: int | None
    """A descriptor of a file that cannot be mapped: as a backing file it makes mmap(2) give ENODEV."""

    def backing_open(self, fd: int) -> int:
        """Register a file for passthrough (FUSE_DEV_IOC_BACKING_OPEN): its id."""

    def backing_close(self, backing_id: int) -> None:
        """The id is not used for further opens (FUSE_DEV_IOC_BACKING_CLOSE)."""

    def notify_store(self, nodeid: int, offset: int, data: memoryview) -> None:
        """Put `data` into the page cache. Blocks while a page of it is being faulted in."""

    def notify_retrieve(self, nodeid: int, offset: int, size: int) -> bytes:
        """What the page cache has from `offset` on, up to the first page that is not there. Blocks."""

    def notify_inval_inode(self, nodeid: int, offset: int, size: int) -> None:
        """Write back and drop the pages. Blocks while they are being written."""

    def notify_inval_entry(self, parent: int, name: bytes) -> None:
        """The name has to be looked up again."""

    def notify_poll(self, kh: int) -> None:
        """Whoever polls with this handle asks again."""

    def when_answered(self, work: Callable[[], None]) -> None:
        """Run `work` (a push): as soon as the operation of this thread has its answer; outside of one, now."""


class PageCache:
    """The kernel's copy of `memory` for the inode `nodeid` (``mapdev.pages.Copy``).

    ``handed`` are the pages that the kernel has read: only these can be cached, so only these are pushed or pulled. A
    page goes into ``handed`` before its bytes are read for the kernel, and a push looks there after the bytes have
    changed: whichever comes first, the kernel ends with the new ones.
    """

    def __init__(self, nodeid: int, memory: Mappable, kernel: Kernel) -> None:
        self.nodeid = nodeid
        self.memory = memory
        self.handed: set[int] = set()
        self._kernel = kernel
        self._waiting: list[tuple[int, int]] = []  # (start, stop) of pushes that are not sent yet
        self._arriving = threading.Lock()  # the order in which memory takes what the kernel sends
        self._writebacks = 0
        self._pushing = threading.Lock()  # else an older state of a byte could be sent after a newer one

    def push(self, offset: int, length: int) -> None:
        if length and self.handed:
            waiting = (offset, offset + length)
            self._waiting.append(waiting)

            def send() -> None:
                try:
                    self._store(offset, length)
                finally:
                    self._waiting.remove(waiting)

            self._kernel.when_answered(send)

    def _store(self, offset: int, length: int) -> None:
        # the pages of an OnDemandPages lie apart
        most = PAGE_SIZE if isinstance(self.memory, OnDemandPages) else MAX_WRITE
        with self._pushing:
            for start, stop in self._runs(offset, length, most):
                try:
                    data = self.memory.load(start, stop - start)
                except KeyError:  # taken back meanwhile
                    continue
                self._kernel.notify_store(self.nodeid, start, data)

    def pull(self, offset: int, length: int) -> None:
        for start, stop in self._runs(offset, length, MAX_WRITE):
            at = start
            while at < stop:
                before = self._writebacks
                data = self._kernel.notify_retrieve(self.nodeid, at, stop - at)
                with self._arriving:
                    if self._writebacks != before:
                        continue  # what was written back meanwhile may be newer than this
                    self._arrived(at, memoryview(data))
                at += len(data)
                if at < stop:  # a page that is cached no more
                    self.handed.discard(at // PAGE_SIZE)
                    at = (at // PAGE_SIZE + 1) * PAGE_SIZE

    def written_back(self, at: int, data: memoryview) -> None:
        """The kernel sends what programs have stored."""
        with self._arriving:
            self._writebacks += 1
            self._arrived(at, data)

    def _arrived(self, at: int, data: memoryview) -> None:
        """The kernel has `data` in its pages; where a push waits to be sent, that is older than what memory has."""
        begin, end = at, at + len(data)
        for start, stop in [*sorted(self._waiting), (end, end)]:
            if begin < min(start, end):
                between = data[begin - at : min(start, end) - at]
                self.memory.store(begin, between)
                self.memory.stored(self, begin, len(between))
            begin = max(begin, stop)

    def invalidate(self, offset: int, length: int) -> None:
        if self.handed:
            self._kernel.notify_inval_inode(self.nodeid, offset, length)
            first, last = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
            self.handed -= {page for page in self.handed.copy() if first <= page < last}

    def write_protect(self, offset: int, length: int) -> None:
        """FUSE does not tell of stores."""

    def _runs(self, offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
        """The bytes of the range that the kernel may have, as (start, stop), each of at most `most` bytes."""
        first, last = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
        if last - first <= len(self.handed):
            pages = [page for page in range(first, last) if page in self.handed]
        else:
            pages = sorted(page for page in self.handed.copy() if first <= page < last)
        at = 0
        while at < len(pages):
            run = at
            while run + 1 < len(pages) and pages[run + 1] == pages[run] + 1 and run + 1 - at < most // PAGE_SIZE:
                run += 1
            start, stop = pages[at] * PAGE_SIZE, (pages[run] + 1) * PAGE_SIZE
            yield max(start, offset), min(stop, offset + length)
            at = run + 1
