"""A timer behind UIO: a program starts it in its registers, enables the interrupt and waits for it."""

import threading

from mapdev.devices import Uio
from mapdev.registers import Register, RegisterBlock, place


class TimerRegisters(RegisterBlock):
    CTRL = Register(0x00, fields={"START": 0})
    PERIOD = Register(0x04, reset=1000)  # milliseconds
    COUNT = Register(0x08, access="ro")
    COMMAND = Register(0x0C, access="wo")  # 1: COUNT begins anew


class Timer(Uio):
    version = "2.1"

    regs = place(0x4800_2100, TimerRegisters)
    log = place(0x4810_0000, 0x3000)

    def irqcontrol(self, irq_on: int) -> None:
        stores = self.regs.settle()
        if any(store.name == "COMMAND" and store.value == 1 for store in stores):
            self.regs.COUNT = 0
        if irq_on and self.regs.CTRL.START:
            threading.Timer(self.regs.PERIOD / 1000, self._expire).start()

    def _expire(self) -> None:
        self.log[0x2000:0x2007] = b"expired"
        self.regs.COUNT += 1
        self.raise_interrupt()
