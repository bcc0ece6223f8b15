"""A UART of the 16550 family, as a UIO device: `mapdev run --device /dev/uio0=uart.py:Echo -- ./driver /dev/uio0`

Two registers at one address, by direction or by the bit DLAB; reading takes a character out of a FIFO, reading IIR
an interrupt away: none of it can be had on a page of memory. The line has no speed. Source: PC16550D data sheet, 8.0.
"""

from collections import deque
from collections.abc import Callable

from mapdev.devices.uio import Uio
from mapdev.registers import Field, Register, RegisterBlock, Value, place

FIFO = 16
NOTHING, THR_EMPTY, RECEIVED, LINE_STATUS = 0x01, 0x02, 0x04, 0x06


class Registers(RegisterBlock, size=0x1000):
    DATA = Register(0, width=8)
    IER = Register(1, width=8, fields={"RECEIVED": 0, "THR_EMPTY": 1, "LINE_STATUS": 2, "MODEM": 3})
    IIR = Register(2, width=8, access="ro", reset=NOTHING)
    FCR = Register(
        2, width=8, access="wo", fields={"ENABLE": 0, "CLEAR_RX": 1, "CLEAR_TX": 2, "TRIGGER": Field(6, 7)}
    )
    LCR = Register(3, width=8, fields={"LENGTH": Field(0, 1), "STOP": 2, "DLAB": 7})
    MCR = Register(4, width=8, fields={"DTR": 0, "RTS": 1, "OUT2": 3, "LOOP": 4})
    LSR = Register(5, width=8, access="ro", reset=0x60,
                   fields={"DATA_READY": 0, "OVERRUN": Field(1, access="rc"), "THR_EMPTY": 5, "IDLE": 6})  # fmt: skip
    MSR = Register(6, width=8, access="ro", reset=0xB0)
    SCR = Register(7, width=8)

    divisor = 1
    thr_was_emptied = False

    def read_DATA(self) -> int:
        if self.LCR.DLAB:
            return self.divisor & 0xFF
        received: deque[int] = self.device.received
        character = self.DATA = received.popleft() if received else self.DATA
        self.update()
        return character

    def write_DATA(self, value: Value, before: Value) -> int:
        if self.LCR.DLAB:
            self.divisor = self.divisor & 0xFF00 | value
        else:
            self.thr_was_emptied = True
            (self.device.receive if self.MCR.LOOP else self.device.send)(bytes([value]))
            self.update()
        return before

    def read_IER(self) -> int | None:
        return self.divisor >> 8 if self.LCR.DLAB else None

    def write_IER(self, value: Value, before: Value) -> int | None:
        if self.LCR.DLAB:
            self.divisor = value << 8 | self.divisor & 0xFF
            return before
        self.thr_was_emptied |= bool(value.THR_EMPTY and not before.THR_EMPTY)
        self.update()
        return value & 0x0F

    def read_IIR(self) -> int:
        self.update()
        cause = self.IIR & 0x0F
        if cause == THR_EMPTY:
            self.thr_was_emptied = False
            self.update()
        return cause | (0xC0 if self.FCR.ENABLE else 0)

    def write_FCR(self, value: Value, before: Value) -> None:  # noqa: ARG002
        if value.CLEAR_RX:
            self.device.received.clear()
        self.update()

    def update(self) -> None:
        """What follows from all that may have changed: LSR, IIR, the interrupt."""
        self.LSR.DATA_READY = bool(self.device.received)
        enabled, idle = self.IER, self.IIR & 0x0F == NOTHING
        level = (1, 4, 8, 14)[self.FCR.TRIGGER] if self.FCR.ENABLE else 1
        if enabled.LINE_STATUS and self.LSR.OVERRUN:
            self.IIR = LINE_STATUS
        elif enabled.RECEIVED and len(self.device.received) >= level:
            self.IIR = RECEIVED
        elif enabled.THR_EMPTY and self.thr_was_emptied:
            self.IIR = THR_EMPTY
        else:
            self.IIR = NOTHING
        if idle and self.IIR != NOTHING:
            self.device.raise_interrupt()


class Uart(Uio):
    """`send`: called with what the program sends."""

    regs = place(0x1000_0000, Registers, name="ns16550a")

    def __init__(self, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self.received: deque[int] = deque()
        self.send = send

    def receive(self, data: bytes) -> None:
        """Characters come in from the other end. From any thread."""
        with self.regs.lock:
            for byte in data:
                if len(self.received) < (FIFO if self.regs.FCR.ENABLE else 1):
                    self.received.append(byte)
                else:
                    self.regs.LSR.OVERRUN = 1
            self.regs.update()


class Echo(Uart):
    """The other end says what it hears, in upper case."""

    def __init__(self) -> None:
        super().__init__(lambda data: self.receive(data.upper()))
