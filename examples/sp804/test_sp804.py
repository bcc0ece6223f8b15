"""The timer by itself, with a clock that the test drives; and the driver with it."""

import subprocess
from pathlib import Path

from sp804 import Timer

from mapdev.clock import ManualClock
from mapdev.pytest_plugin import MapdevRun
from mapdev.testing import MemoryHost

HERE = Path(__file__).parent
LOAD, VALUE, CONTROL, INTCLR, RIS, MIS = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14


def test_it_counts_down_and_interrupts_once_a_period() -> None:
    clock = ManualClock()
    timer = Timer(clock)
    with MemoryHost(timer) as host, host.open() as file:
        area = file.mmap(4096)

        def load(offset: int) -> int:
            return int.from_bytes(area[offset : offset + 4], "little")

        def store(offset: int, value: int) -> None:
            area[offset : offset + 4] = value.to_bytes(4, "little")

        store(LOAD, 1000)
        store(CONTROL, 0xE2)
        clock.advance(0.0004)
        assert (load(VALUE), load(RIS), file.poll()) == (600, 0, 0)
        clock.advance(0.0006)
        assert (load(VALUE), load(RIS), load(MIS)) == (1000, 1, 1)
        assert file.read(4) == (1).to_bytes(4, "little")
        clock.advance(0.001)
        assert file.poll() == 0  # the line is still up: no second edge
        store(INTCLR, 1)
        assert (load(RIS), load(MIS)) == (0, 0)
        clock.advance(0.001)
        assert file.read(4) == (2).to_bytes(4, "little")
        store(CONTROL, 0x62)
        clock.advance(1)
        assert load(VALUE) == 1000
        store(RIS, 0)
        assert load(RIS) == 1  # read-only


def test_the_driver(tmp_path: Path, mapdev_run: MapdevRun) -> None:
    program = tmp_path / "driver"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "driver.c"], timeout=60, check=True
    )
    timer = Timer()
    done = mapdev_run([program, "/dev/uio0", "3", "20000"], {"/dev/uio0": timer}, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 ticks of 20000 us, and one shot\n", "")
    assert not timer.regs.CONTROL.ENABLE
