"""Devices that are asked for more than there is, and ask for more themselves."""

from mapdev import Device, File, OnDemandPages, Pages, Vma, VmFault, on_demand_pages, page_array, zeroed_pages
from mapdev.libc import PAGE_SIZE


class Echo(Device):
    """Takes whatever is written, wherever; the end of the file is everywhere."""

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return b""

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        return len(buf)


class Endless(Device):
    """The largest there can be: pages come by `fault`, each saying its number."""

    def __init__(self) -> None:
        self.pages = on_demand_pages((1 << 63) // PAGE_SIZE - 1)

    def mmap(self, file: File, vma: Vma) -> OnDemandPages:  # noqa: ARG002
        return self.pages

    def fault(self, file: File, vmf: VmFault) -> bytes:  # noqa: ARG002
        return vmf.pgoff.to_bytes(8, "little").ljust(PAGE_SIZE, b"\0")


class Sparse(Device):
    """32 TiB that cost nothing until they are touched."""

    def __init__(self) -> None:
        self.pages = page_array((1 << 45) // PAGE_SIZE)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages


class Greedy(Device):
    """Each open for writing wants 1 PiB of pages that are all there."""

    def open(self, file: File) -> None:
        file.private_data = zeroed_pages((1 << 50) // PAGE_SIZE if file.writable else 1)

    def read(self, file: File, count: int, pos: int) -> bytes:
        return bytes(file.private_data[pos : pos + count])

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        pages: Pages = file.private_data
        return pages
