"""``Uio``: a device of the UIO framework, as /dev/uio0 (Documentation/driver-api/uio-howto.rst)."""

import errno
import itertools
import select
import sys
import threading
from typing import Any, Final

from mapdev.device import Device
from mapdev.file import File, Vma
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, page_array
from mapdev.registers import Bus, Place, places
from mapdev.surroundings import Surrounding, Surroundings, Symlink

MAX_UIO_MAPS: Final = 5
UIO_IRQ_NONE: Final = 0
UIO_IRQ_CUSTOM: Final = -1

_MAJOR: Final = 240  # UIO gets any that is free; this one is for local use
_minors = itertools.count()


class Uio(Device):
    """Memory to map, and interrupts to wait for; a subclass declares the maps, in their order.

        class Timer(Uio):
            regs = place(0xFE20_0000, TimerRegisters)

            def irqcontrol(self, irq_on):
                self.regs.CTRL.IRQ_EN = irq_on

        timer.raise_interrupt()

    read(2) of 4 bytes waits for an interrupt that this open has not seen, and gives their number so far; poll(2) waits
    too; write(2) of a 32-bit 1 or 0 enables or disables interrupts. The position does not matter. But this file has
    one, unlike UIO's: while a read(2) waits, other threads wait with their read(2) or write(2) on the same descriptor.
    They go on at once if poll(2) did the waiting, or with a descriptor of their own from open(2).

    Map N is mapped at offset N * page size. To UIO that offset is but a number, and a map may have any size. To a file
    it is a place: page N + 1 is page 1 of map N as well as page 0 of map N + 1. So every map but the last has to fit
    into one page, and a class with other maps is refused. To map more than a map has is refused by UIO (EINVAL); here
    what follows is the next map, or SIGBUS.

    Where accesses can be trapped, mappings that reach a block with methods are (see ``RegisterBlock.trapped``).
    """

    irq: int = UIO_IRQ_CUSTOM
    """UIO_IRQ_NONE: the device has no interrupt, so read(2) and write(2) give EIO and poll(2) POLLERR."""

    version = "1"
    """As in /sys/class/uio/uio0/version."""

    def __init_subclass__(cls) -> None:
        """Raises ``ValueError`` for maps that no linear file can show."""
        super().__init_subclass__()
        maps = places(cls)
        if len(maps) > MAX_UIO_MAPS:
            raise ValueError(f"{cls.__name__}: UIO has at most {MAX_UIO_MAPS} maps, not {len(maps)}")
        for number, place in enumerate(maps[:-1]):
            if _npages(place) > 1:
                raise ValueError(
                    f"{cls.__name__}.{place.attribute}: map {number} reaches beyond one page, where map {number + 1} "
                    "lies in the file: only the last map can be larger; declare it last, or as a device of its own"
                )

    def __init__(self) -> None:
        self.devt = (_MAJOR, next(_minors))
        self._maps = places(type(self))
        self._events = 0
        self._lock = threading.Lock()
        if self._maps:
            self.pages = page_array(len(self._maps) - 1 + _npages(self._maps[-1]))
            self.size = self.pages.nbytes
            blocks = [
                place.make(self, self.pages, number * PAGE_SIZE + place.address % PAGE_SIZE)
                for number, place in enumerate(self._maps)
            ]
            self._bus = Bus(self.pages, blocks)

    def raise_interrupt(self) -> None:
        """The device has an interrupt: who waits in read(2) or poll(2) goes on. From any thread; does not block."""
        with self._lock:
            self._events = (self._events + 1) & 0xFFFFFFFF
        self.wake()

    def irqcontrol(self, irq_on: int) -> None:  # noqa: ARG002
        """A program writes this number: 1 to enable interrupts, 0 to disable them. Not defined: ENOSYS."""
        raise OSError(errno.ENOSYS, "irqcontrol is not defined")

    def open(self, file: File) -> None:
        file.private_data = self._events  # how many interrupts this open has been told of

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        self._check(count)
        file.wait_event(lambda: self._events != file.private_data)
        file.private_data = events = self._events
        return events.to_bytes(4, sys.byteorder)

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        self._check(len(buf))
        self.irqcontrol(int.from_bytes(buf, sys.byteorder, signed=True))
        return len(buf)

    def poll(self, file: File) -> int:
        if self.irq == UIO_IRQ_NONE:
            return select.POLLERR
        return select.POLLIN | select.POLLRDNORM if self._events != file.private_data else 0

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        if not self._maps:
            raise OSError(errno.EINVAL, "no maps")
        return self.pages

    def load(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return self._bus.load(pos, count)

    def store(self, file: File, data: bytes, pos: int) -> None:  # noqa: ARG002
        self._bus.store(pos, data)

    def traps(self, pos: int, length: int) -> bool:
        own = type(self).load is not Uio.load or type(self).store is not Uio.store
        return bool(self._maps) and (own or self._bus.traps(pos, length))

    def surroundings(self, path: str) -> Surroundings:
        uio = path.rpartition("/")[2]
        assert self.devt is not None
        major, minor = self.devt
        files: dict[str, Surrounding] = {
            "name": f"{self.node_name()}\n",
            "version": f"{self.version}\n",
            "event": lambda: f"{self._events}\n",
            "dev": f"{major}:{minor}\n",
        }
        for number, place in enumerate(self._maps):
            offset = place.address % PAGE_SIZE
            files[f"maps/map{number}/name"] = f"{place.name}\n"
            files[f"maps/map{number}/addr"] = f"{place.address - offset:#018x}\n"
            files[f"maps/map{number}/size"] = f"{_npages(place) * PAGE_SIZE:#018x}\n"
            files[f"maps/map{number}/offset"] = f"{offset:#x}\n"
        found = {f"/sys/class/uio/{uio}/{name}": content for name, content in files.items()}
        return {**found, f"/sys/dev/char/{major}:{minor}": Symlink(f"../../class/uio/{uio}")}

    def _check(self, count: int) -> None:
        if count != 4:
            raise OSError(errno.EINVAL, "a number of 4 bytes")
        if self.irq == UIO_IRQ_NONE:
            raise OSError(errno.EIO, "no interrupt")


def _npages(place: Place[Any]) -> int:
    return place.last // PAGE_SIZE - place.address // PAGE_SIZE + 1
