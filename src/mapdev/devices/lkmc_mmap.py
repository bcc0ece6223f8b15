"""``lkmc_mmap``: the device that this project grew from."""

from mapdev.device import Device
from mapdev.file import File, Vma, VmFault
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, zeroed_pages

BUFFER_SIZE = 4


class LkmcMmap(Device):
    """A page of its own for every open, beginning with b"asdf"; read and write see its first 4 bytes."""

    size = PAGE_SIZE

    def open(self, file: File) -> None:
        page = zeroed_pages(1)
        page[:BUFFER_SIZE] = b"asdf"
        file.private_data = page
        self.dev_info(lambda: f"page at physical address {_shown(page.physical_address())}")

    def read(self, file: File, count: int, pos: int) -> bytes:
        page: Pages = file.private_data
        return page[pos:BUFFER_SIZE][:count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002 - always to the start, wherever pos is
        page: Pages = file.private_data
        taken = min(len(buf), BUFFER_SIZE)
        page[:taken] = buf[:taken]
        return len(buf)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        page: Pages = file.private_data
        return page

    def vm_open(self, file: File, vma: Vma) -> None:
        """There is one area more. Defined for the trace, as are the next two; each ``vm_open`` has its ``vm_close``."""

    def vm_fault(self, file: File, vmf: VmFault) -> None:
        """An area is touched for the first time. There is nothing to do: the page is there since ``open``."""

    def vm_close(self, file: File, vma: Vma) -> None: ...

    def release(self, file: File) -> None:
        file.private_data = None


def _shown(address: int | None) -> str:
    return "(hidden)" if address is None else f"{address:#x}"
