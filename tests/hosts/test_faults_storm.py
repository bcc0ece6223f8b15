"""Many programs open, map and close the same device at once: nothing fails, nothing is shared by mistake or leaks."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import DeviceFile, Serve
from tests.people import Person
from tests.served import Served

STORM = """
import mmap, os, sys, time

path, kind, number, rounds, begin = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
own = slice(8 * number, 8 * number + 8)
time.sleep(max(0, begin - time.monotonic()))
for n in range(1, rounds + 1):
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 4096) as page:
        if kind == "private":
            assert page[:8] == b"asdf\\0\\0\\0\\0", page[:8]
            page[:8] = number.to_bytes(4, "little") * 2
            assert os.pread(fd, 8, 0) == number.to_bytes(4, "little"), n
        elif kind == "shared":
            assert page[own] == (n - 1).to_bytes(8, "little"), (n, page[own])
            page[own] = n.to_bytes(8, "little")
    os.close(fd)
"""
PROCESSES = 4


def storm(served: Served, name: str, kind: str, rounds: int) -> None:
    """All begin at the same time; each must end without a word."""
    person = served.person
    begin = time.monotonic() + 0.3
    programs = [
        person.popen(
            *person.python, "-I", "-S", "-c", STORM, served.path(name), kind, str(number), str(rounds), str(begin),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    try:
        said = [program.communicate(timeout=60)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert said == [""] * PROCESSES


def census(served: Served) -> dict[str, int]:
    """What the host holds; waits for the releases that are still on their way."""
    until = time.monotonic() + 5
    while True:
        found: dict[str, int] = json.loads(served.person.run("cat", served.path("census")).stdout)
        if not (found["files"] or found["requests"]) or time.monotonic() > until:
            return found
        time.sleep(0.05)


def footprint(served: Served) -> tuple[int, int]:
    """Open descriptors, and resident memory in KiB."""
    process = Path(f"/proc/{served.process.pid}")
    rss = re.search(r"^VmRSS:\s*(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    assert rss is not None
    return len(list((process / "fd").iterdir())), int(rss[1])


@pytest.mark.parametrize(("name", "kind"), [("lkmc_mmap", "private"), ("ram", "shared")])
def test_no_open_fails_or_sees_another_s_page_and_nothing_is_left(
    person: Person, serve: Serve, device_file: DeviceFile, name: str, kind: str
) -> None:
    served = serve(person, name, f"{device_file(person, 'faulty_sharing.py')}:Census")
    storm(served, name, "any", 100)
    before, (descriptors, memory) = census(served), footprint(served)
    storm(served, name, kind, 1500)
    after = census(served)
    assert after == before
    assert after["files"] == after["device files"] == after["requests"] == 0
    assert after["nodes"] < 5
    assert abs(footprint(served)[0] - descriptors) <= 8
    assert footprint(served)[1] - memory < 8_000
    assert served.log() == ""


@pytest.mark.parametrize("name", ["at_init", "lazily"])
def test_the_first_opens_race_and_all_share_the_memory(
    person: Person, serve: Serve, device_file: DeviceFile, name: str
) -> None:
    file = device_file(person, "faulty_sharing.py")
    cls = {"at_init": "AtInit", "lazily": "Lazily"}[name]
    served = serve(person, *[f"d{n}={file}:{cls}" for n in range(8)], f"{file}:Census")
    for n in range(8):
        storm(served, f"d{n}", "shared", 60)
    found = census(served)
    assert found["files"] == found["device files"] == found["requests"] == 0
    assert found["nodes"] <= 8 + 4
    assert served.log() == ""


def test_memory_that_looked_shared_and_was_not_fails_no_open(
    person: Person, serve: Serve, device_file: DeviceFile
) -> None:
    file = device_file(person, "faulty_sharing.py")
    served = serve(person, f"{file}:WhileOpen", f"{file}:Census")
    storm(served, "while_open", "any", 500)
    found = census(served)
    assert found["files"] == found["device files"] == found["requests"] == 0
    assert served.log() == ""
