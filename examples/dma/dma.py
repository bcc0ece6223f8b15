"""A DMA engine as a UIO device: `mapdev run --device /dev/uio0=dma.py -- ./driver /dev/uio0`

Map 0 is its registers: each access is seen. Map 1 is memory that the driver shares with it, at full speed. A store of 1
to START lets it follow the chain of descriptors from HEAD on: four words of 32 bits, little-endian: from, to, length,
next (0: the last). Addresses are physical, and have to be in map 1.
"""

import struct

from mapdev.clock import Clock
from mapdev.devices.uio import Uio
from mapdev.registers import Register, RegisterBlock, Value, place

RAM = 0x8000_0000
RAM_BYTES = 1 << 20
LONGEST = 1024
DESCRIPTOR = struct.Struct("<4I")


class BadAddress(Exception):  # noqa: N818 - its name among those who write drivers
    """The engine was sent beyond the memory."""


class Engine(RegisterBlock, size=0x1000):
    CTRL = Register(0x00, fields={"START": 0, "INT_ENABLE": 1})
    STATUS = Register(0x04, access="ro", fields={"BUSY": 0})
    EVENTS = Register(0x08, access="w1c", fields={"DONE": 0, "ERROR": 1})
    HEAD = Register(0x0C)
    COPIED = Register(0x10, access="rc")

    def write_CTRL_START(self, value: int, before: int) -> int:  # noqa: ARG002
        if value and not self.STATUS.BUSY:
            self.STATUS.BUSY = 1
            self.device.clock.after(0.0001, self.run)
        return 0

    def write_HEAD(self, value: Value, before: Value) -> int | None:  # noqa: ARG002
        return int(before) if self.STATUS.BUSY else None

    def run(self) -> None:
        """All descriptors; the interrupt comes at the end."""
        try:
            at = int(self.HEAD)
            for _ in range(LONGEST):
                source, target, length, at = DESCRIPTOR.unpack(self.device.fetch(at, DESCRIPTOR.size))
                self.device.deliver(target, self.device.fetch(source, length))
                self.COPIED = (self.COPIED + length) & 0xFFFF_FFFF
                if not at:
                    break
            else:
                raise BadAddress("the chain has no end")
            self.EVENTS.DONE = 1
        except BadAddress as error:
            self.device.dev_info(f"the engine stops: {error}")
            self.EVENTS.ERROR = 1
        self.STATUS.BUSY = 0
        if self.CTRL.INT_ENABLE:
            self.device.raise_interrupt()


class Dma(Uio):
    regs = place(0x4000_0000, Engine, name="dma")
    ram = place(RAM, RAM_BYTES, "buffers")

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.clock.lock = self.regs.lock

    def fetch(self, address: int, length: int) -> bytes:
        where = self._within(address, length)
        self.ram.pull()
        return self.ram[where]

    def deliver(self, address: int, data: bytes) -> None:
        self.ram[self._within(address, len(data))] = data

    def _within(self, address: int, length: int) -> slice:
        if not RAM <= address <= RAM + RAM_BYTES - length:
            raise BadAddress(f"{length} bytes at {address:#x}")
        return slice(address - RAM, address - RAM + length)
