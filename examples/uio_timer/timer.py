"""A timer in the manner of the Arm SP804, as a UIO device: what the hardware does, for a driver to be tested against.

The clock has 1 MHz, so Load is in microseconds. The interrupt is level-triggered, and UIO masks it when it comes: the
driver clears it in the timer, and unmasks it by writing 1 to /dev/uio0. Nobody sees a single store of the driver, but
that write comes here: it is the moment to look what the driver has stored (``settle``).
"""

import threading

from mapdev.devices.uio import Uio
from mapdev.file import File
from mapdev.registers import Register, RegisterBlock, place


class Sp804(RegisterBlock, size=0x1000):
    LOAD = Register(0x00)
    CONTROL = Register(0x08, fields={"ONE_SHOT": 0, "INT_ENABLE": 5, "ENABLE": 7})
    INT_CLR = Register(0x0C, access="wo")
    RIS = Register(0x10, access="ro", fields={"EXPIRED": 0})


class Timer(Uio):
    """`mapdev run --device /dev/uio0=timer.py -- ./driver`"""

    regs = place(0x101E_2000, Sp804, name="sp804")

    def __init__(self) -> None:
        super().__init__()
        self.expirations = 0
        """How often it expired."""
        self.armed = threading.Event()
        """The driver has unmasked the interrupt, and none has come yet."""
        self._changing = threading.RLock()
        self._clock: threading.Timer | None = None

    def irqcontrol(self, irq_on: int) -> None:
        with self._changing:
            for store in self.regs.settle():
                if store.name == "INT_CLR":
                    self.regs.RIS.EXPIRED = 0
                if store.name in ("LOAD", "CONTROL"):
                    self._start_clock()
            if irq_on:
                self.armed.set()
                self._interrupt()
            else:
                self.armed.clear()

    def expire(self) -> None:
        """The period is over."""
        with self._changing:
            self.expirations += 1
            self.regs.RIS.EXPIRED = 1
            self._interrupt()
            if not self.regs.CONTROL.ONE_SHOT:
                self._start_clock()

    def release(self, file: File) -> None:  # noqa: ARG002
        self._stop_clock()

    def _interrupt(self) -> None:
        """The line is up, and not masked."""
        if self.armed.is_set() and self.regs.RIS.EXPIRED and self.regs.CONTROL.INT_ENABLE:
            self.armed.clear()
            self.raise_interrupt()

    def _start_clock(self) -> None:
        self._stop_clock()
        if self.regs.CONTROL.ENABLE:
            self._clock = threading.Timer(self.regs.LOAD / 1e6, self.expire)
            self._clock.daemon = True
            self._clock.start()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
