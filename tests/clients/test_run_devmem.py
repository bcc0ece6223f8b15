"""Programs that map /dev/mem, as they are, under `mapdev run`; docs/howto-devmem.md, followed literally."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.howto import follow
from tests.clients.periphery import suite_of_python_periphery_passes
from tests.clients.programs import need
from tests.conftest import DeviceFile
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

MEM = ("--device", "/dev/mem=mem", "--")

ADDRESSES = (0x1000, 0xFE20_0034, 0x1_0000_0FF8, 0x7F_FFFF_FFF8, 0x100_0000_0008, 0x1FF_FFFF_FFF8)
"""The last is the last one of `mem`."""


def devmem(person: Person, *commands: str) -> list[str]:
    """What busybox prints of several of its devmem in a row, in one run."""
    busybox = need("busybox", "busybox-static")
    script = "\n".join(f"{busybox} devmem {command} || exit 9" for command in commands)
    done = person.mapdev("run", *MEM, "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("address", ADDRESSES, ids=hex)
def test_devmem_reads_what_devmem_wrote_in_every_width(person: Person, address: int) -> None:
    said = devmem(
        person,
        f"{address:#x} 64 0x1122334455667788", f"{address:#x} 64", f"{address:#x} 32", f"{address + 4:#x}",
        f"{address + 2:#x} 16", f"{address + 7:#x} 8",
        f"{address + 7:#x} 8 0xAA", f"{address + 4:#x} 16 0xBBCC", f"{address:#x} 32 0xDDEEFF00", f"{address:#x} 64",
    )  # fmt: skip
    assert said == ["0x1122334455667788", "0x55667788", "0x11223344", "0x5566", "0x11", "0xAA22BBCCDDEEFF00"]


def test_devmem_beyond_the_last_address_gets_a_bus_error(person: Person) -> None:
    done = person.mapdev("run", *MEM, need("busybox", "busybox-static"), "devmem", "0x20000000000")
    assert done.returncode == -7


NEW_YEAR = """
import threading
from datetime import datetime, timedelta
from beaglebone import BeagleBone

class NewYear(BeagleBone):
    '''Whenever it is opened, its clock stands half a second after 23:59:58: who waits for a full minute need not wait
    long, and who looks every second does not look at the moment of a change.'''

    def open(self, file):
        stop = file.private_data = threading.Event()
        self.rtc.show(datetime(2025, 12, 31, 23, 59, 58))
        threading.Thread(target=self.run, args=[stop], daemon=True).start()

    def run(self, stop):
        now, wait = datetime(2025, 12, 31, 23, 59, 58), 0.5
        while not stop.wait(wait):
            now, wait = now + timedelta(seconds=1), 1
            self.rtc.show(now)
"""


def test_the_tests_of_python_periphery_pass_on_a_beaglebone(
    device_file: DeviceFile, user: Person, root: Person
) -> None:
    suite_of_python_periphery_passes(NEW_YEAR, "NewYear", device_file, (user, root))


MEMMAP = """
import sys
import numpy as np

def map(path, address, count, dtype):
    return np.memmap(path, dtype=dtype, mode="r+", offset=address, shape=(count,))

far = map("/dev/mem", 1 << 40, 1 << 18, "<u4")
far[:] = np.arange(far.size)
again = map("/dev/mem", (1 << 40) + 4096, 1024, "<u4")
assert (again == np.arange(1024, 2048)).all()
again[::2] = 7
assert (far[1024:2048:2] == 7).all()
with open("/dev/mem", "rb") as mem:
    mem.seek(1 << 40)
    assert mem.read(4096) == far[:1024].tobytes()
print("mapped", int(map("/dev/mem", 0, 1, "<u8")[0]))
"""


def test_numpy_memmaps_of_dev_mem_are_coherent(person: Person) -> None:
    done = person.mapdev("run", *MEM, *person.python, "-c", MEMMAP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "mapped 0\n", "")


def test_the_howto(person: Person, place: Callable[[Person], Path]) -> None:
    need("busybox", "busybox-static")
    assert len(list(follow("howto-devmem.md", person, place(person)))) == 5
