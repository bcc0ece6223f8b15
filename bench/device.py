"""The device of the bench on mapdev; the same as peers/lowlevel.c. BENCH_BYTES in the environment is its size.

A read makes it unreadable, a write readable, so that one program can wake another one's poll(2).
"""

import os
import select

from mapdev import IOR, Device, File, OnDemandPages, Pages, Vma, VmFault, on_demand_pages, zeroed_pages
from mapdev.ioctl import IoctlArg

GET_COUNT = IOR("b", 1, 8)
NPAGES = int(os.environ["BENCH_BYTES"]) // 4096


class Resident(Device):
    """Memory that is all there."""

    name = "device"
    size = NPAGES * 4096
    huge = False

    def __init__(self) -> None:
        self.pages = zeroed_pages(NPAGES, huge=self.huge)
        self.memory = memoryview(self.pages)
        for at in range(
            0, self.size, 1 << 20
        ):  # as that of the others: written, so that no touch has to clear a page
            self.memory[at : at + (1 << 20)] = bytes(1 << 20)
        self.opens = 0
        self.ready = False

    def open(self, file: File) -> None:  # noqa: ARG002
        self.opens += 1

    def read(self, file: File, count: int, pos: int) -> memoryview:  # noqa: ARG002
        self.ready = False
        return self.memory[pos : pos + count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        self.memory[pos : pos + len(buf)] = buf
        self.ready = True
        self.wake()
        return len(buf)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> bytes:  # noqa: ARG002
        if cmd != GET_COUNT:
            raise OSError(25, "ENOTTY")
        return self.opens.to_bytes(8, "little")

    def poll(self, file: File) -> int:  # noqa: ARG002
        return select.POLLOUT | (select.POLLIN if self.ready else 0)

    def mmap(self, file: File, vma: Vma) -> Pages | OnDemandPages:  # noqa: ARG002
        return self.pages


class Huge(Resident):
    """The same in huge pages."""

    huge = True


class Faulting(Resident):
    """Each page is handed over when it is touched, for each open anew."""

    def mmap(self, file: File, vma: Vma) -> OnDemandPages:  # noqa: ARG002
        return on_demand_pages(NPAGES)

    def fault(self, file: File, vmf: VmFault) -> memoryview:  # noqa: ARG002
        return self.pages.page(vmf.pgoff)
