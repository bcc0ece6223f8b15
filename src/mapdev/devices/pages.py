"""Where the pages of a driver can come from, three ways: an array with a page per entry, one virtually contiguous
buffer, physically contiguous memory. Each checks its range; programs see page N begin with the text "page N".
"""

import errno
import threading
from typing import Self

from mapdev.device import Device
from mapdev.file import File, Vma, VmFault
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, contiguous_pages, page_array, zeroed_pages
from mapdev.sizes import parse_size


class _Numbered(Device):
    """`npages` pages, each of which says its number."""

    pages: Pages

    def __init__(self, npages: int = 16) -> None:
        self.npages = npages
        self.size = npages * PAGE_SIZE

    @classmethod
    def with_parameter(cls, text: str) -> Self:
        size = parse_size(text)
        if size < 1 or size % PAGE_SIZE:
            raise ValueError(f"{text} is not a multiple of the page size, {PAGE_SIZE} bytes")
        return cls(size // PAGE_SIZE)

    def label(self, pgoff: int) -> None:
        text = b"page %d" % pgoff
        self.pages[pgoff * PAGE_SIZE : pgoff * PAGE_SIZE + len(text)] = text

    def read(self, file: File, count: int, pos: int) -> memoryview:  # noqa: ARG002
        return memoryview(self.pages)[pos : pos + count]


class Array(_Numbered):
    """An array with a page per entry: `fault` looks up the page of the offset that was touched."""

    name = "array"

    def __init__(self, npages: int = 16) -> None:
        super().__init__(npages)
        self.pages = page_array(npages)
        self._labelled: set[int] = set()
        self._lock = threading.Lock()

    def page(self, pgoff: int) -> memoryview:
        with self._lock:
            if pgoff not in self._labelled:
                self._labelled.add(pgoff)
                self.label(pgoff)
        return self.pages.page(pgoff)

    def fault(self, file: File, vmf: VmFault) -> memoryview:  # noqa: ARG002
        if vmf.pgoff >= self.npages:
            raise OSError(errno.EFAULT, "past the end")
        return self.page(vmf.pgoff)

    def read(self, file: File, count: int, pos: int) -> memoryview:
        for pgoff in range(pos // PAGE_SIZE, min(-(-(pos + count) // PAGE_SIZE), self.npages)):
            self.page(pgoff)
        return super().read(file, count, pos)


class Vmalloc(_Numbered):
    """One virtually contiguous buffer, as of `vmalloc_user`: its page frames lie anywhere."""

    name = "vmalloc"

    def __init__(self, npages: int = 16) -> None:
        super().__init__(npages)
        self.pages = zeroed_pages(npages)
        for pgoff in range(npages):
            self.label(pgoff)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        if vma.pgoff * PAGE_SIZE + vma.length > self.pages.nbytes:
            raise OSError(errno.EINVAL, "past the end")
        return self.pages


class Contiguous(Vmalloc):
    """Physically contiguous memory, as of `kmalloc`: pagemap shows one run of page frames (at most 2M)."""

    name = "contiguous"

    def __init__(self, npages: int = 16) -> None:
        _Numbered.__init__(self, npages)
        self.pages = contiguous_pages(npages)
        for pgoff in range(npages):
            self.label(pgoff)
