"""The driver against the timer. The timer is an object of the test: it can look into it, and make it do things."""

import subprocess
from pathlib import Path

import pytest
from timer import Timer

from mapdev.pytest_plugin import MapdevRun, MapdevStart

HERE = Path(__file__).parent
HOUR = "3600000000"


@pytest.fixture(scope="session")
def driver() -> Path:
    """The program, compiled."""
    subprocess.run(["make", "-s", "driver"], cwd=HERE, check=True, timeout=60)
    return HERE / "driver"


def test_it_counts_what_the_timer_ticks(driver: Path, mapdev_run: MapdevRun) -> None:
    timer = Timer()
    done = mapdev_run([driver, "/dev/uio0", "5", "2000"], {"/dev/uio0": timer}, timeout=20)
    assert (done.returncode, done.stdout) == (0, "5 ticks of 2000 us, spurious interrupts: 0\n")
    assert timer.expirations >= 5


def test_it_leaves_the_timer_stopped(driver: Path, mapdev_start: MapdevStart) -> None:
    timer = Timer()
    program = mapdev_start([driver, "/dev/uio0", "1", HOUR], {"/dev/uio0": timer})
    assert timer.armed.wait(20)
    timer.expire()  # an hour goes by
    assert program.wait(timeout=20).returncode == 0
    control, period = timer.regs.CONTROL, timer.regs.LOAD
    assert (control.ENABLE, period) == (0, int(HOUR))
    assert not timer.regs.RIS.EXPIRED


def test_it_ignores_an_interrupt_that_is_not_the_timers(driver: Path, mapdev_start: MapdevStart) -> None:
    timer = Timer()
    program = mapdev_start([driver, "/dev/uio0", "2", HOUR], {"/dev/uio0": timer})
    assert timer.armed.wait(20)
    timer.armed.clear()
    timer.raise_interrupt()  # the line is shared, and another device has pulled it
    for _ in range(2):
        assert timer.armed.wait(20)
        timer.expire()
    done = program.wait(timeout=20)
    assert (done.returncode, done.stdout) == (0, f"2 ticks of {HOUR} us, spurious interrupts: 1\n")


def test_it_says_so_if_an_interrupt_was_lost(driver: Path, mapdev_start: MapdevStart) -> None:
    class Hasty(Timer):
        def irqcontrol(self, irq_on: int) -> None:
            super().irqcontrol(irq_on)
            if self.expirations == 1:  # two interrupts, before the driver comes to wait for one
                self.raise_interrupt()
                self.raise_interrupt()

    timer = Hasty()
    program = mapdev_start([driver, "/dev/uio0", "2", HOUR], {"/dev/uio0": timer})
    assert timer.armed.wait(20)
    timer.expire()
    done = program.wait(timeout=20)
    assert (done.returncode, done.stderr) == (1, "driver: interrupts that were lost: 1\n")
