"""The engine by itself, with a clock that the test drives; and the driver with it."""

import subprocess
from pathlib import Path

import pytest
from dma import DESCRIPTOR, RAM, Dma

from mapdev.clock import ManualClock
from mapdev.pytest_plugin import MapdevRun
from mapdev.testing import MemoryHost

HERE = Path(__file__).parent
START_WITH_INTERRUPT = b"\3\0\0\0"


def test_it_is_busy_until_it_is_done_and_tells_of_chains_without_an_end() -> None:
    clock = ManualClock()
    dma = Dma(clock)
    with MemoryHost(dma) as host, host.open() as file:
        regs, ram = file.mmap(4096), file.mmap(1 << 20, offset=4096)
        assert (regs.trapped, ram.trapped) == (True, False)
        ram[0:16] = DESCRIPTOR.pack(RAM + 0x100, RAM + 0x200, 5, 0)
        ram[0x100:0x105] = b"hello"
        regs[0x0C:0x10] = RAM.to_bytes(4, "little")
        regs[0:4] = START_WITH_INTERRUPT
        regs[0x0C:0x10] = bytes(4)  # it is busy: HEAD stays
        assert (regs[4:8], regs[8:12], file.poll()) == (b"\1\0\0\0", bytes(4), 0)
        clock.advance(0.001)
        assert ram[0x200:0x205] == b"hello"
        assert (regs[4:8], regs[8:12], file.read(4)) == (bytes(4), b"\1\0\0\0", b"\1\0\0\0")
        regs[8:9] = b"\xff"
        ram[0:16] = DESCRIPTOR.pack(RAM, RAM + 0x200, 0, RAM)
        regs[0:4] = START_WITH_INTERRUPT
        clock.advance(0.001)
        assert regs[8:12] == b"\2\0\0\0"


@pytest.mark.parametrize("memory", ["shared", "on-demand"])
def test_the_driver(tmp_path: Path, mapdev_run: MapdevRun, memory: str) -> None:
    program = tmp_path / "driver"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HERE / "driver.c")]
    subprocess.run(command, timeout=60, check=True)
    done = mapdev_run([program, "/dev/uio0"], {"/dev/uio0": Dma()}, memory=memory, timeout=60)  # type: ignore[arg-type]
    assert (done.returncode, done.stdout, done.stderr) == (0, "65536 bytes gathered\n", "")
