"""Programs that wait for the interrupts of /dev/uio0 and map it, as they are, under `mapdev run`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.clients.pypi import fetch
from tests.conftest import DeviceFile
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(person: Person, device_file: DeviceFile) -> Run:
    """A function that runs a program with the timer as /dev/uio0."""
    timer = f"/dev/uio0={device_file(person, 'uio_timer.py')}:Timer"

    def start(*args: str | Path) -> "subprocess.CompletedProcess[str]":
        return person.mapdev("run", "--device", timer, "--", *args)

    return start


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The driver, compiled."""
    gcc = need("gcc", "gcc libc6-dev")
    program = tmp_path_factory.mktemp("uio_timer") / "uio_timer"
    source = Path(__file__).with_name("uio_timer.c")
    done = subprocess.run([gcc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, source],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return program.read_bytes()


def test_a_driver_in_c_maps_its_registers_and_gets_its_interrupts(
    run: Run, person: Person, place: Callable[[Person], Path], driver: bytes
) -> None:
    program = place(person) / "uio_timer"  # pytest's own directories are closed to other users
    program.write_bytes(driver)
    program.chmod(0o755)
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "map0: 4096 bytes at 0x48002000",
        "map1: 12288 bytes at 0x48100000",
        *(f"{number} events, COUNT {number}, log expired" for number in (1, 2, 3)),
    ]


PYNQ = """
import asyncio, importlib.util, sys
import numpy as np

spec = importlib.util.spec_from_file_location("uio", sys.argv[1])
uio = importlib.util.module_from_spec(spec)
spec.loader.exec_module(uio)

registers = np.memmap("/dev/uio0", dtype="<u4", mode="r+", offset=0x100, shape=(4,))
registers[1], registers[0] = 20, 1

async def main():
    controller = uio.UioController(uio.get_uio_device("timer"))
    for count in range(1, 4):
        events = asyncio.Event(), asyncio.Event()
        for event in events:
            controller.add_event(event, 0)
        for event in events:
            await asyncio.wait_for(event.wait(), 10)
        print("interrupt", registers[2], controller.wait_events)
    asyncio.get_running_loop().remove_reader(controller.uio)

print(uio.get_uio_index("timer"), uio.get_uio_device("none"))
asyncio.run(main())
"""


def test_the_controller_of_pynq_waits_for_interrupts(
    run: Run, person: Person, place: Callable[[Person], Path]
) -> None:
    sdist = fetch("pynq==4.0.0", "pynq-4.0.0.tar.gz", "--no-binary", ":all:")
    directory = place(person)
    subprocess.run(["tar", "-xf", sdist, "-C", directory, "pynq-4.0.0/pynq/uio.py"], timeout=60, check=True)
    subprocess.run(["chmod", "-R", "a+rX", directory], timeout=20, check=True)
    done = run(*person.python, "-W", "ignore", "-c", PYNQ, directory / "pynq-4.0.0" / "pynq" / "uio.py")
    assert done.stdout.splitlines() == ["0 None", *(f"interrupt {count} []" for count in (1, 2, 3))]
    assert done.returncode == 0


MEMMAP = """
import os
import numpy as np

registers = np.memmap("/dev/uio0", dtype="<u4", mode="r+", offset=0x100, shape=(4,))
log = np.memmap("/dev/uio0", dtype="u1", mode="r", offset=4096, shape=(0x3000,))
before = bytes(log[0x2000:0x2007])
registers[1] = 1
registers[0] |= 1
with open("/dev/uio0", "r+b", buffering=0) as uio:
    uio.write((1).to_bytes(4, "little"))
    events = int.from_bytes(uio.read(4), "little")
print(before == bytes(7), events, registers[2], bytes(log[0x2000:0x2007]).decode())
"""


def test_numpy_memmaps_see_what_the_device_stores(run: Run, person: Person) -> None:
    done = run(*person.python, "-c", MEMMAP)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True 1 1 expired\n"
