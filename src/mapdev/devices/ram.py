"""``ram``: plain memory, the same for all opens."""

import errno

from mapdev.device import Device
from mapdev.file import File, Vma
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, page_array
from mapdev.sizes import parse_size


class Ram(Device):
    """Memory of a given size (default 1M), as ``ram:64M``; read, write and mappings see the same bytes."""

    def __init__(self, size: int = 1 << 20) -> None:
        """`size` in bytes, a multiple of the page size; pages are allocated when they are touched."""
        if size < 1 or size % PAGE_SIZE:
            raise ValueError(f"the size of a ram is a multiple of {PAGE_SIZE} bytes, not {size}")
        self.size = size
        self.pages = page_array(size // PAGE_SIZE)

    @classmethod
    def with_parameter(cls, text: str) -> "Ram":
        return cls(parse_size(text))

    def read(self, file: File, count: int, pos: int) -> memoryview:  # noqa: ARG002
        return memoryview(self.pages)[pos : pos + count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        taken = min(len(buf), len(self.pages) - pos)
        if taken <= 0 and buf:
            raise OSError(errno.ENOSPC, "past the end")
        self.pages[pos : pos + taken] = buf[:taken]
        return taken

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages
