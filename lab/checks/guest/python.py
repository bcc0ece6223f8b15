"""In a guest: the package and its user-space host, and C programs as clients."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cases import Skip, run

from mapdev import Device
from mapdev.devices import LkmcMmap, Ram
from mapdev.hosts.base import Permissions
from mapdev.hosts.fuse.host import FuseHost
from mapdev.hosts.fuse.session import Mode

MAPDEV = [sys.executable, "-m", "mapdev"]
TEST, TWO_MAPPINGS = "/lab/bin/test", "/lab/bin/two_mappings"
RELEASE = tuple(int(part) for part in os.uname().release.split("-")[0].split("+")[0].split(".")[:2])
EXPECTED = Mode.SHARED if RELEASE >= (6, 9) else Mode.ON_DEMAND if RELEASE >= (6, 6) else Mode.PAGE_CACHE
LOST = f"{EXPECTED.value} (before Linux 6.6): a device's own read and write, which lkmc_mmap has, are not called"


def program(*command: str, user: int = 0) -> tuple[int, str]:
    """Exit code and output; and the output to the lab's log."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        user=user, group=user, extra_groups=[],
    )  # fmt: skip
    for line in (" ".join(command), *done.stdout.splitlines()):
        print(f"#   {line}", flush=True)
    return done.returncode, done.stdout


@contextmanager
def served(device: Device, mode: Mode = Mode.SHARED) -> Iterator[tuple[FuseHost, str]]:
    """A device for everybody, from this process; and its path."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        everybody = Permissions(0o666, 0, 0)
        with FuseHost(Path(directory), {"device": device}, mode=mode, permissions=everybody) as host:
            yield host, f"{directory}/device"


def test_the_package_tells_its_version() -> None:
    code, said = program(*MAPDEV, "--version")
    assert code == 0, said
    assert said.startswith("mapdev "), said


def test_memory_is_given_in_the_best_mode_of_this_kernel() -> None:
    with served(Ram(8192)) as (host, _):
        assert host.mode is EXPECTED, host.mode


def test_what_a_program_stores_reaches_the_device_and_back() -> None:
    device = Ram(8192)
    with served(device) as (_, path):
        script = (
            "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 8192)\n"
            "assert m[:4] == b'from', m[:4]\n"
            "m[4096:4100] = b'back'; m.flush()"
        )
        device.pages[:4] = b"from"
        code, said = program(sys.executable, "-c", script, path)
        assert code == 0, said
        assert device.pages[4096:4100] == b"back"


def test_demo() -> None:
    code, said = program(*MAPDEV, "demo")
    if EXPECTED is Mode.PAGE_CACHE:
        assert code == 1, said
        assert "the test needs Linux 6.6 or newer" in said, said
        raise Skip(f"as it should, it says: {said.strip()}")
    assert code == 0, said
    assert EXPECTED.value in said, said


def test_demo_on_demand() -> None:
    if EXPECTED is Mode.PAGE_CACHE:
        raise Skip(LOST)
    code, said = program(*MAPDEV, "demo", "--memory", "on-demand")
    assert code == 0, said


def test_the_test_of_the_example_module_as_root_and_as_an_ordinary_user() -> None:
    if EXPECTED is Mode.PAGE_CACHE:
        raise Skip(LOST)
    with served(LkmcMmap()) as (_, path):
        for command in (TEST, TWO_MAPPINGS):
            for user in (0, 1000):
                code, said = program(command, path, user=user)
                assert code == 0, said


def test_verify() -> None:
    with served(Ram(16384)) as (_, path):
        code, said = program(*MAPDEV, "verify", "--timeout", "60", path)
    failed = re.findall(r"^(.+?) {2,}fail ", said, re.MULTILINE)
    assert (code, failed) == (0, []), failed


def test_run_as_an_ordinary_user() -> None:
    os.chmod("/dev/fuse", 0o666)
    if EXPECTED is Mode.PAGE_CACHE:
        raise Skip(LOST)
    device = ["--device", "/dev/lkmc_mmap=lkmc_mmap"]
    code, said = program(*MAPDEV, "run", *device, "--", TWO_MAPPINGS, "/dev/lkmc_mmap", user=1000)
    assert code == 0, said


run(globals())
