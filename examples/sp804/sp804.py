"""A timer in the manner of the Arm SP804, register by register: `mapdev run --device /dev/uio0=sp804.py -- ./driver`

Every load and store of the driver is seen: VALUE counts down as it is read, a store to INTCLR takes the interrupt away,
and MIS follows the mask at once. (../uio_timer is the same chip on plain pages, which looks at what was stored when the
driver unmasks its interrupt.) Source: Arm Dual-Timer Module (SP804) Technical Reference Manual, chapter 3.
"""

from mapdev.clock import Alarm, Clock
from mapdev.devices.uio import Uio
from mapdev.registers import Register, RegisterBlock, Value, place

HZ = 1_000_000


class Sp804(RegisterBlock, size=0x1000):
    LOAD = Register(0x00)
    VALUE = Register(0x04, access="ro", reset=0xFFFF_FFFF)
    CONTROL = Register(
        0x08, reset=0x20, fields={"ONE_SHOT": 0, "SIZE32": 1, "INT_ENABLE": 5, "PERIODIC": 6, "ENABLE": 7}
    )
    INTCLR = Register(0x0C, access="wo")
    RIS = Register(0x10, access="ro", fields={"EXPIRED": 0})
    MIS = Register(0x14, access="ro", fields={"EXPIRED": 0})
    BGLOAD = Register(0x18)

    alarm: Alarm | None = None

    def write_LOAD(self, value: Value, before: Value) -> None:  # noqa: ARG002
        self.BGLOAD = value
        self.start(value)

    def write_BGLOAD(self, value: Value, before: Value) -> None:  # noqa: ARG002
        self.LOAD = value  # from the next period on

    def write_CONTROL(self, value: Value, before: Value) -> None:
        if value.ENABLE != before.ENABLE:
            left = self.left()
            self.VALUE = left
            self.start(left)
        self.interrupt()

    def write_INTCLR(self, value: Value, before: Value) -> None:  # noqa: ARG002
        self.RIS.EXPIRED = 0
        self.interrupt()

    def read_VALUE(self) -> int:
        return self.left()

    def left(self) -> int:
        """What the counter shows now."""
        if self.alarm is None or not self.alarm.pending:
            return self.VALUE
        clock: Clock = self.device.clock
        return max(0, (self.alarm.due_ns - clock.now_ns) * HZ // 1_000_000_000)

    def start(self, ticks: int) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
        self.VALUE = ticks
        if self.CONTROL.ENABLE:
            self.alarm = self.device.clock.after(ticks / HZ, self.expire)

    def expire(self) -> None:
        self.VALUE = 0
        self.RIS.EXPIRED = 1
        if not self.CONTROL.ONE_SHOT:
            self.start(self.LOAD if self.CONTROL.PERIODIC else 0xFFFF_FFFF)
        self.interrupt()

    def interrupt(self) -> None:
        """The line, by which UIO is told when it goes up."""
        line, self.MIS = self.MIS, self.RIS & self.CONTROL.INT_ENABLE
        if self.MIS and not line:
            self.device.raise_interrupt()


class Timer(Uio):
    regs = place(0x101E_2000, Sp804, name="sp804")

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.clock.lock = self.regs.lock  # an alarm and an access of the driver take turns
