"""The models of examples/ whose registers do something, with drivers in C, under `mapdev run`: each access trapped."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
Build = Callable[[str], Path]


@pytest.fixture
def build(person: Person, place: Callable[[Person], Path]) -> Build:
    """A function that copies an example to a directory of the person's, with its driver compiled."""

    def start(name: str) -> Path:
        gcc = need("gcc", "gcc libc6-dev")
        directory = place(person)
        for file in EXAMPLES.joinpath(name).glob("*.py"):
            shutil.copy(file, directory)
        command = [gcc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-o", str(directory / "driver")]
        done = subprocess.run([*command, str(EXAMPLES / name / "driver.c")], capture_output=True, text=True, timeout=60,
                              check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return directory

    return start


@pytest.mark.parametrize(
    ("name", "device", "arguments", "says"),
    [
        ("sp804", "sp804.py", ["3", "20000"], "3 ticks of 20000 us, and one shot\n"),
        ("uart_16550", "uart.py:Echo", ["hello, world"], "HELLO, WORLD\n"),
        ("dma", "dma.py", [], "65536 bytes gathered\n"),
    ],
)
def test_a_driver_finds_its_chip(
    person: Person, build: Build, name: str, device: str, arguments: list[str], says: str
) -> None:
    directory = build(name)
    done = person.mapdev("run", "--device", f"/dev/uio0={device}", "--", "./driver", "/dev/uio0", *arguments,
                         cwd=directory, timeout=90)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, says, "")


@pytest.mark.parametrize(
    ("name", "right", "wrong", "arguments", "says"),
    [
        ("sp804/sp804.py", "return self.left()", "return self.VALUE + 1", ["1", "20000"],
         "driver: LOAD is not taken over at once: VALUE is 20001\n"),
        ("uart_16550/uart.py:Echo", 'access="rc"', 'access="ro"', ["x"],
         "driver: an overrun is not told, or not once\n"),
        ("dma/dma.py", 'access="w1c"', 'access="rw"', [], "driver: EVENTS 0x1, STATUS 0 afterwards\n"),
    ],
)  # fmt: skip
def test_a_driver_finds_a_chip_that_does_not_do_what_its_data_sheet_says(
    person: Person, build: Build, name: str, right: str, wrong: str, arguments: list[str], says: str
) -> None:
    example, _, device = name.partition("/")
    directory = build(example)
    model = directory / device.partition(":")[0]
    assert right in model.read_text()
    model.write_text(model.read_text().replace(right, wrong))
    done = person.mapdev("run", "--device", f"/dev/uio0={device}", "--", "./driver", "/dev/uio0", *arguments,
                         cwd=directory, timeout=90)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)


SVD = """<device><name>C</name><peripherals><peripheral><name>T</name><baseAddress>0x40000000</baseAddress>
<addressBlock><offset>0</offset><size>0x1000</size></addressBlock><registers>
<register><name>STATUS</name><addressOffset>0</addressOffset><resetValue>0x11</resetValue>
<modifiedWriteValues>oneToClear</modifiedWriteValues></register>
<register><name>ONCE</name><addressOffset>4</addressOffset><resetValue>5</resetValue><readAction>clear</readAction>
</register></registers></peripheral></peripherals></device>
"""


def test_registers_of_a_file_do_what_it_says_of_them(person: Person, place: Callable[[Person], Path]) -> None:
    need("busybox", "busybox-static")
    directory = place(person)
    (directory / "chip.svd").write_text(SVD)
    script = """for a in 0 4 4; do busybox devmem 0x4000000$a; done
    busybox devmem 0x40000000 32 1; busybox devmem 0x40000000"""
    done = person.mapdev("run", "--device", "/dev/mem=chip.svd", "--", "sh", "-c", script, cwd=directory, timeout=90)
    assert done.stdout.split() == ["0x00000011", "0x00000005", "0x00000000", "0x00000010"]
    assert (done.returncode, done.stderr) == (0, "")
