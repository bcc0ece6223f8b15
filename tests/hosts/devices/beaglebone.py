"""What programs look at in the /dev/mem of a BeagleBone Black: its clock, which runs, its control module, its RAM.

Source: AM335x Technical Reference Manual (SPRUH73), 2.1, 9.3 and 20.3.
"""

import threading
import time
from datetime import datetime

from mapdev import File
from mapdev.devices import DevMem
from mapdev.registers import Register, RegisterArray, RegisterBlock, place


class Control(RegisterBlock, size=0x20000):
    USB_VID_PID = Register(0x7F4, access="ro", reset=0x0451_6141)


class Rtc(RegisterBlock, size=0x1000):
    """Each register of the time holds two decimal digits."""

    SECONDS = Register(0x00, fields={"SEC0": (0, 3), "SEC1": (4, 6)})
    MINUTES = Register(0x04, fields={"MIN0": (0, 3), "MIN1": (4, 6)})
    HOURS = Register(0x08, fields={"HOUR0": (0, 3), "HOUR1": (4, 5), "PM_NAM": 7})
    DAYS = Register(0x0C, fields={"DAY0": (0, 3), "DAY1": (4, 5)}, reset=0x01)
    MONTHS = Register(0x10, fields={"MONTH0": (0, 3), "MONTH1": 4}, reset=0x01)
    YEARS = Register(0x14, fields={"YEAR0": (0, 3), "YEAR1": (4, 7)})
    SCRATCH = RegisterArray(0x60, 3)
    KICK0R = Register(0x6C, access="wo")
    KICK1R = Register(0x70, access="wo")

    def show(self, now: datetime) -> None:
        self.YEARS, self.MONTHS, self.DAYS = _bcd(now.year % 100), _bcd(now.month), _bcd(now.day)
        self.HOURS, self.MINUTES, self.SECONDS = _bcd(now.hour), _bcd(now.minute), _bcd(now.second)


class BeagleBone(DevMem):
    dram = place(0x8000_0000, 512 << 20, "System RAM")
    control = place(0x44E1_0000, Control)
    rtc = place(0x44E3_E000, Rtc)

    def open(self, file: File) -> None:
        """The clock is shown for as long as somebody may look."""
        stop = file.private_data = threading.Event()
        self.rtc.show(datetime.now())
        threading.Thread(target=self._run, args=(stop,), daemon=True).start()

    def release(self, file: File) -> None:
        file.private_data.set()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(1 - time.time() % 1):
            self.rtc.show(datetime.now())


def _bcd(number: int) -> int:
    return number // 10 << 4 | number % 10
