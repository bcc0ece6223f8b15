"""Faults on purpose, met by programs that know nothing of them."""

from pathlib import Path

import pytest

from mapdev.faults import Faults
from mapdev.pytest_plugin import MapdevRun
from tests.conftest import Serve
from tests.people import Person

LOADS = """
import mmap, os, struct
fd = os.open("/dev/mem0", os.O_RDWR)
area = mmap.mmap(fd, 4096)
area[0:4] = struct.pack("<I", 0x12345678)
print(hex(struct.unpack("<I", area[0:4])[0]), hex(struct.unpack("<I", area[8:12])[0]))
"""


def run(person: Person, program: str, *faults: str, target: str = "ram:64K") -> tuple[int, str, str]:
    options = [option for fault in faults for option in ("--fault", fault)]
    done = person.mapdev(
        "run", "--device", f"/dev/mem0={target}", *options, "--", *person.python, "-c", program, cwd="/"
    )
    return done.returncode, done.stdout, done.stderr


def test_a_single_access_is_wrong(person: Person) -> None:
    faults = ("load@0-3=flip:31", "load@8-11=value:0xdead", "/dev/mem0:store@0-3=stuck0:3")
    assert run(person, LOADS, *faults) == (0, "0x92345670 0xdead\n", "")


def test_a_single_access_is_a_bus_error_and_the_others_are_not(person: Person) -> None:
    assert run(person, LOADS, "load@8=SIGBUS")[:2] == (-7, "")
    assert run(person, LOADS, "load@12=SIGBUS") == (
        0, "0x12345678 0x0\n", "mapdev.faults: the fault load@12=SIGBUS has never struck\n"
    )  # fmt: skip


def test_the_third_read_fails(person: Person) -> None:
    program = """
import os
fd = os.open("/dev/mem0", os.O_RDONLY)
for n in range(5):
    try:
        print(len(os.pread(fd, 4, 0)), end=" ")
    except OSError as error:
        print(error.strerror, end=" ")
"""
    assert run(person, program, "read#3=EIO") == (0, "4 4 Input/output error 4 4 ", "")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("reed=EIO", "'reed=EIO': reed is no operation"),
        ("/dev/nix:read=EIO", "there is no device /dev/nix; there is /dev/mem0"),
        ("load@CTRL=EIO", "'CTRL' is no register: there is none"),
    ],
)
def test_a_fault_that_cannot_be_is_one_line(user: Person, fault: str, says: str) -> None:
    code, out, err = run(user, "print('started')", fault)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_the_fixture_takes_faults_and_the_model_tells_how_often_they_struck(
    mapdev_run: MapdevRun, tmp_path: Path
) -> None:
    from mapdev.devices.ram import Ram

    assert mapdev_run(["head", "-c4", "/dev/mem0"], {"/dev/mem0": "ram:64K"}, faults=["read=EPERM"]).returncode == 1
    ram = Ram(1 << 16)
    ram.injected = Faults(["read#2-=EIO"])
    done = mapdev_run(["dd", "if=/dev/mem0", f"of={tmp_path / 'out'}", "bs=4096", "count=3"], {"/dev/mem0": ram})
    assert "Input/output error" in done.stderr
    assert (tmp_path / "out").stat().st_size == 4096
    assert list(ram.injected.struck.values()) == [1]


def test_served_devices_fail_too_but_not_at_single_accesses(person: Person, serve: Serve) -> None:
    served = serve(person, "ram:64K", "--fault", "write=ENOSPC")
    done = person.run("dd", "if=/dev/zero", f"of={served.path('ram')}", "bs=4096", "count=1", "conv=notrunc")
    assert "No space left on device" in done.stderr
    refused = person.mapdev("serve", "ram:64K", "--mount", "/tmp", "--fault", "load=EIO")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "single accesses are trapped by `mapdev run` only" in refused.stderr
