# ruff: noqa: ARG002 - operations have the arguments that they have
"""Trapped devices for the tests: their loads and stores are their own."""

import asyncio
import json
import threading

import mapdev

SEEN = 1 << 20


class Ram(mapdev.Device):
    """Memory of which each access is noted: read(2) at ``SEEN`` tells them as JSON, and forgets them."""

    size = 8 * mapdev.PAGE_SIZE

    def __init__(self) -> None:
        self.pages = mapdev.zeroed_pages(8)
        self.memory = bytearray(self.size)
        self.seen: list[tuple[str, int, int]] = []

    def mmap(self, file: mapdev.File, vma: mapdev.Vma) -> mapdev.Pages:
        return self.pages

    def load(self, file: mapdev.File, count: int, pos: int) -> bytes:
        self.seen.append(("load", pos, count))
        return bytes(self.memory[pos : pos + count])

    def store(self, file: mapdev.File, data: bytes, pos: int) -> None:
        self.seen.append(("store", pos, len(data)))
        self.memory[pos : pos + len(data)] = data

    def read(self, file: mapdev.File, count: int, pos: int) -> bytes:
        if pos == SEEN:
            told, self.seen = json.dumps(self.seen).encode(), []
            return told
        return bytes(self.memory[pos : pos + count])

    def write(self, file: mapdev.File, buf: bytes, pos: int) -> int:
        self.memory[pos : pos + len(buf)] = buf
        return len(buf)


class Counters(mapdev.Device):
    """Registers whose loads have effects, 32 bits wide unless more is said.

    0x00 NEXT: a load gives the number of loads so far; 0x08 SUM: a store adds to it, a load gives it (64 bits);
    0x10 FIFO: a load takes the oldest of what stores put in, 0 if there is none; 0x18 BAD: load and store raise;
    0x20 SHORT: a load answers one byte too few; 0x100 and above: memory.
    """

    size = mapdev.PAGE_SIZE

    def __init__(self) -> None:
        self.pages = mapdev.zeroed_pages(1)
        self.memory = bytearray(self.size)
        self.loads = self.stores = self.next = self.sum = 0
        self.fifo: list[int] = []
        self.threads: set[int] = set()

    def mmap(self, file: mapdev.File, vma: mapdev.Vma) -> mapdev.Pages:
        return self.pages

    def load(self, file: mapdev.File, count: int, pos: int) -> bytes:
        self.threads.add(threading.get_ident())
        self.loads += 1
        if pos == 0x00:
            self.next += 1
            return self.next.to_bytes(count, "little")
        if pos == 0x08:
            return self.sum.to_bytes(count, "little")
        if pos == 0x10:
            return (self.fifo.pop(0) if self.fifo else 0).to_bytes(count, "little")
        if pos == 0x18:
            raise RuntimeError("a model that is wrong")
        if pos == 0x20:
            return bytes(count - 1)
        return bytes(self.memory[pos : pos + count])

    def store(self, file: mapdev.File, data: bytes, pos: int) -> None:
        self.stores += 1
        number = int.from_bytes(data, "little")
        if pos == 0x08:
            self.sum += number
        elif pos == 0x10:
            self.fifo.append(number)
        elif pos == 0x18:
            raise RuntimeError("a model that is wrong")
        else:
            self.memory[pos : pos + len(data)] = data

    def read(self, file: mapdev.File, count: int, pos: int) -> bytes:
        return json.dumps([self.loads, self.stores, self.next, self.sum, len(self.fifo)]).encode()


class Slow(Counters):
    """As ``Counters``, by coroutines that have to wait."""

    async def load(self, file: mapdev.File, count: int, pos: int) -> bytes:  # type: ignore[override]
        await asyncio.sleep(0.001)
        return super().load(file, count, pos)

    async def store(self, file: mapdev.File, data: bytes, pos: int) -> None:  # type: ignore[override]
        await asyncio.sleep(0.001)
        super().store(file, data, pos)


class Faulting(mapdev.Device):
    """Pages that are handed over by ``fault``, each with its number in front."""

    size = 4 * mapdev.PAGE_SIZE

    def fault(self, file: mapdev.File, vmf: mapdev.VmFault) -> bytearray:
        page = bytearray(mapdev.PAGE_SIZE)
        page[0] = vmf.pgoff + 1
        return page
