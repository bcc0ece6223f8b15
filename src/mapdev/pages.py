"""Memory that a device can map.

``Pages`` is a run of pages that exists as a memfd: virtually contiguous here (the kernel's ``vmalloc_user``), a
page per entry on demand (``page_array``), or one huge page (``contiguous_pages``). ``OnDemandPages`` has no
memory of its own: each page is what the device's ``fault`` handed over when it was first touched.

A kernel that maps the memfd itself shares every byte with Python. A kernel that keeps copies (the page cache of a
FUSE file) is registered as a ``Copy``: ``push`` sends to all copies, ``pull`` fetches from them, and an assignment
to a slice pushes by itself. No host is known here.
"""

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any, Final, Protocol, Self, SupportsIndex, TypeAlias

from mapdev import libc
from mapdev.libc import PAGE_SIZE

BytesLike: TypeAlias = bytes | bytearray | memoryview | mmap.mmap

HUGE_PAGE_SIZE: Final = 2 << 20

# <linux/fcntl.h>, <linux/memfd.h>: newer than Python 3.11
_F_SEAL_FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MFD_NOEXEC_SEAL: Final = 8

_serial = itertools.count(1)


def next_serial() -> int:
    """A number above that of every mappable memory made so far, and below that of all made later."""
    return next(_serial)


class Copy(Protocol):
    """A kernel's copy of some memory, as its host keeps it. Offsets and lengths in bytes."""

    def push(self, offset: int, length: int) -> None:
        """The copy becomes what the memory is; programs that map it see that at once."""

    def pull(self, offset: int, length: int) -> None:
        """The memory becomes what programs have stored into the copy."""

    def invalidate(self, offset: int, length: int) -> None:
        """The copy is dropped: the next access faults."""

    def write_protect(self, offset: int, length: int) -> None:
        """The next store of a program into each page is told, where the kernel can."""


class Mappable:
    """What ``Device.mmap`` can answer: memory of a fixed size in pages, with or without kernel copies of it."""

    npages: int
    serial: int
    _copies: "tuple[Copy, ...]" = ()
    _copies_lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.npages * PAGE_SIZE

    def push(self, offset: int = 0, length: int | None = None) -> None:
        """What Python stored in these bytes becomes visible to every program that maps them, at once.

        Needed after stores through numpy or a memoryview; slice assignment does it by itself. Free of cost where
        the memory is shared. Inside an operation it is done just before the client gets its answer (in a
        ``fault``: just after). Raises ``ValueError`` for a range outside the memory.
        """
        offset, length = self._range(offset, length)
        for copy in self._copies:
            copy.push(offset, length)

    def pull(self, offset: int = 0, length: int | None = None) -> None:
        """What programs stored in these bytes through mappings becomes visible to Python now.

        Free of cost where the memory is shared; else blocks for the answer of the kernel (about 0.1 ms). What
        Python stored there and did not push yet is lost. Raises ``ValueError`` for a range outside the memory.
        """
        offset, length = self._range(offset, length)
        for copy in self._copies:
            copy.pull(offset, length)

    def wp_shared_mapping_range(self, offset: int = 0, length: int | None = None) -> None:
        """Write-protect the pages of these bytes in every mapping: the next store into each comes to
        ``Device.page_mkwrite`` (the kernel's name). Whole pages. Raises ``ValueError`` for a range outside the memory.

        Kernel host, for a device that defines ``page_mkwrite``; elsewhere nothing.
        """
        offset, length = self._range(offset, length)
        for copy in self._copies:
            copy.write_protect(offset, length)

    def attach(self, copy: Copy) -> None:
        """For hosts: from now on a kernel keeps this copy."""
        with Mappable._copies_lock:
            self._copies = (*self._copies, copy)

    def detach(self, copy: Copy) -> None:
        """For hosts: the copy is gone."""
        with Mappable._copies_lock:
            self._copies = tuple(other for other in self._copies if other is not copy)

    def stored(self, by: Copy, offset: int, length: int) -> None:
        """For hosts: a program stored these bytes through one copy; the others are brought up to date."""
        for copy in self._copies:
            if copy is not by:
                copy.push(offset, length)

    def store(self, offset: int, data: memoryview) -> None:
        """For hosts: a program stored `data`; no copy is told."""
        raise NotImplementedError

    def load(self, offset: int, length: int) -> memoryview:
        """For hosts: the bytes as they are now, within one page or of memory that is all there."""
        raise NotImplementedError

    def _range(self, offset: int, length: int | None) -> tuple[int, int]:
        if length is None:
            length = self.nbytes - offset
        if offset < 0 or length < 0 or offset + length > self.nbytes:
            raise ValueError(f"bytes {offset} to {offset + length} of a memory of {self.nbytes}")
        return offset, length


class Pages(mmap.mmap, Mappable):
    """`npages` zeroed pages, mappable by programs and a writable buffer for Python.

    ``pages[a:b] = data``, ``memoryview(pages)``, ``numpy.frombuffer(pages, dtype)`` reach the memory itself, without a
    copy. Its size is sealed: nobody can shrink it under a mapping. Made by ``zeroed_pages``, ``page_array``,
    ``contiguous_pages``.
    """

    fd: int
    """The memfd behind it; open as long as this object lives."""

    def __new__(cls, fd: int, npages: int) -> Self:
        """Take over `fd`, a memfd of `npages` pages, and seal its size."""
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FIXED_SIZE)
            self = super().__new__(cls, fd, npages * PAGE_SIZE, mmap.MAP_SHARED)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.npages = npages
        self.serial = next_serial()
        weakref.finalize(self, os.close, fd).atexit = False
        return self

    def __repr__(self) -> str:
        return f"<Pages {self.npages}>"

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if self._copies:
            index = key if isinstance(key, slice) else slice(key % self.nbytes, key % self.nbytes + 1)
            touched = range(*index.indices(self.nbytes))
            if touched:
                low, high = sorted((touched[0], touched[-1]))
                self.push(low, high + 1 - low)

    def store(self, offset: int, data: memoryview) -> None:
        memoryview(self)[offset : offset + len(data)] = data

    def load(self, offset: int, length: int) -> memoryview:
        return memoryview(self)[offset : offset + length]

    def page(self, pgoff: SupportsIndex) -> memoryview:
        """The page itself, for ``fault`` to hand over: a writable view, no copy. Raises ``IndexError``."""
        number = pgoff.__index__()
        if not 0 <= number < self.npages:
            raise IndexError(f"page {number} of {self.npages}")
        return memoryview(self)[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]

    def physical_address(self, offset: int = 0) -> int | None:
        """Where the byte at `offset` lies in physical memory now; None if not resident or without CAP_SYS_ADMIN.

        The kernel may move the page later. Source: Documentation/admin-guide/mm/pagemap.rst.
        """
        offset, _ = self._range(offset, 1)
        byte = ctypes.c_char.from_buffer(self, offset)
        byte.value  # noqa: B018 - this process's page table has the page only once it is touched
        address = ctypes.addressof(byte)
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(address // PAGE_SIZE * 8)
            entry = int.from_bytes(pagemap.read(8), sys.byteorder)
        frame = entry & ((1 << 55) - 1) if entry >> 63 else 0
        return frame * PAGE_SIZE + address % PAGE_SIZE if frame else None


class OnDemandPages(Mappable):
    """`npages` pages, each of which is what ``fault`` hands over when the page is first touched.

    ``pages.present(pgoff)`` is the page if it was touched. A page that ``fault`` handed over as a writable buffer
    (``Pages.page``, a bytearray) is that buffer: stores of programs reach it. One handed over as bytes is copied.
    """

    def __init__(self, npages: int) -> None:
        """Raises ``ValueError`` for a size below one page."""
        if npages < 1:
            raise ValueError(f"a device maps at least one page, not {npages}")
        self.npages = npages
        self.serial = next_serial()
        self._pages: dict[int, memoryview] = {}

    def __repr__(self) -> str:
        return f"<OnDemandPages {self.npages}, {len(self._pages)} present>"

    def present(self, pgoff: int) -> memoryview | None:
        """The page, if it is there."""
        return self._pages.get(pgoff)

    def store(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            pgoff, start = divmod(offset + done, PAGE_SIZE)
            count = min(PAGE_SIZE - start, len(data) - done)
            page = self._pages.get(pgoff)
            if page is not None:  # else it was taken back meanwhile
                page[start : start + count] = data[done : done + count]
            done += count

    def load(self, offset: int, length: int) -> memoryview:
        pgoff, start = divmod(offset, PAGE_SIZE)
        return self._pages[pgoff][start : start + length]

    def insert(self, pgoff: int, page: BytesLike) -> memoryview:
        """For hosts: `fault` handed over this page. Raises ``ValueError`` unless it is exactly one page long."""
        view = memoryview(page).cast("B")
        if view.readonly:
            view = memoryview(bytearray(view))
        if len(view) != PAGE_SIZE:
            raise ValueError(f"fault hands over a page of {PAGE_SIZE} bytes, not {len(view)}")
        # two threads may have faulted on one page: the first wins, as in the kernel
        return self._pages.setdefault(pgoff, view)

    def unmap_mapping_range(self, offset: int = 0, length: int | None = None) -> None:
        """Take the pages of these bytes back: the next access to each faults again (the kernel's name).

        What programs stored is in the page by then (``fault`` had handed it over; the device has it).
        """
        offset, length = self._range(offset, length)
        for copy in self._copies:
            copy.invalidate(offset, length)
        first, last = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
        if last - first < len(self._pages):
            gone = [number for number in range(first, last) if number in self._pages]
        else:
            gone = [number for number in list(self._pages) if first <= number < last]
        for number in gone:
            del self._pages[number]


def zeroed_pages(npages: int, *, huge: bool = False) -> Pages:
    """`npages` pages, zeroed and all there; virtually contiguous, physically wherever the kernel had them.

    As ``vmalloc_user`` in the kernel. With `huge` they are put into huge pages of 2 MiB where the kernel can (one
    fault and one TLB entry for each 2 MiB); it is a wish, not a promise. Raises ``ValueError`` for a size below
    one page, ``OSError`` ENOMEM when the machine has not that much memory available.
    """
    fd = _memfd(npages * PAGE_SIZE)
    try:
        _populate(fd, npages * PAGE_SIZE)
        if huge:
            for start in range(0, npages * PAGE_SIZE - HUGE_PAGE_SIZE + 1, HUGE_PAGE_SIZE):
                _collapse(fd, start)
    except OSError as error:
        if not (huge and error.errno in _NO_HUGE_PAGE):
            os.close(fd)
            raise
    return Pages(fd, npages)


def page_array(npages: int) -> Pages:
    """`npages` pages of which each is allocated by itself, zeroed, when it is first touched.

    As an array with a page per entry in the kernel. Costs nothing until touched: it may be larger than the machine
    (a program that touches more than there is gets SIGBUS or meets the OOM killer). Raises ``ValueError`` for a
    size below one page, ``OSError`` EFBIG or EINVAL above what a file can be (2^63 - 1 bytes).
    """
    return Pages(_memfd(npages * PAGE_SIZE), npages)


def contiguous_pages(npages: int) -> Pages:
    """`npages` zeroed pages in adjacent page frames, as ``kmalloc`` or ``alloc_pages_exact`` in the kernel.

    They are carved from one huge page, so `npages` is at most 512 (2 MiB). The kernel may migrate pages later, when
    it compacts memory; until then pagemap shows one run of frames. Raises ``ValueError`` for another size,
    ``OSError`` EOPNOTSUPP on Linux before 6.2 and ENOMEM when no free run of frames can be had.
    """
    if npages * PAGE_SIZE > HUGE_PAGE_SIZE:
        raise ValueError(f"at most {HUGE_PAGE_SIZE // PAGE_SIZE} pages can be contiguous, not {npages}")
    fd = _memfd(npages * PAGE_SIZE)
    try:
        os.ftruncate(fd, HUGE_PAGE_SIZE)
        _populate(fd, HUGE_PAGE_SIZE)
        _collapse(fd, 0)
        os.ftruncate(fd, npages * PAGE_SIZE)  # gives the tail back; the frames of the rest stay where they are
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EINVAL:
            raise OSError(errno.EOPNOTSUPP, "this kernel cannot make huge pages of a memfd on request") from error
        if error.errno in _NO_HUGE_PAGE:
            raise OSError(errno.ENOMEM, "no contiguous run of free page frames") from error
        raise
    return Pages(fd, npages)


def on_demand_pages(npages: int) -> OnDemandPages:
    """`npages` pages that ``fault`` hands over one by one. Raises ``ValueError`` for a size below one page."""
    return OnDemandPages(npages)


# madvise(2), MADV_COLLAPSE: not supported; no huge page free; pages busy
_NO_HUGE_PAGE: Final = (errno.EINVAL, errno.ENOMEM, errno.EBUSY, errno.EAGAIN)


def _memfd(size: int) -> int:
    if size < PAGE_SIZE:
        raise ValueError(f"a device maps at least one page, not {size // PAGE_SIZE}")
    if size > (1 << 63) - PAGE_SIZE:
        raise OSError(errno.EFBIG, f"no file can be {size} bytes long")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("mapdev", flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 6.3 does not know the flag
            raise
        fd = os.memfd_create("mapdev", flags)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _populate(fd: int, size: int) -> None:
    """All pages now, so that what is missing is missing at open and not as a SIGBUS in a program."""
    if size > HUGE_PAGE_SIZE and size > _available():  # small ones: not worth the look
        raise OSError(errno.ENOMEM, f"{size} bytes are more memory than is available")
    os.posix_fallocate(fd, 0, size)
    if size > PAGE_SIZE:
        _clear(fd, size)


def _clear(fd: int, size: int) -> None:
    """Pages from fallocate(2) are cleared when they are first touched, each in a fault of its own. Now is cheaper."""
    with suppress(OSError):  # Linux before 5.14, or a signal: then they are cleared later
        room = libc.mmap(None, size, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED, fd)
        try:
            libc.madvise(room, size, libc.MADV_POPULATE_WRITE)
        finally:
            libc.munmap(room, size)


def _available() -> int:
    with open("/proc/meminfo", "rb") as meminfo:
        for line in meminfo:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError(errno.ENOSYS, "/proc/meminfo has no MemAvailable")


def _collapse(fd: int, start: int) -> None:
    """Make one huge page of the 2 MiB of `fd` at `start`; the mapping has to be aligned like the page."""
    room = libc.mmap(None, 2 * HUGE_PAGE_SIZE, libc.PROT_NONE, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS)
    try:
        aligned = -(-room // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE
        prot, flags = libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED | libc.MAP_FIXED
        libc.mmap(aligned, HUGE_PAGE_SIZE, prot, flags, fd, start)
        libc.madvise(aligned, HUGE_PAGE_SIZE, libc.MADV_COLLAPSE)
    finally:
        libc.munmap(room, 2 * HUGE_PAGE_SIZE)
