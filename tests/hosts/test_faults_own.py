"""A process that uses the devices that it serves itself, from a thread of its own."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.people import Person

OWN = """
import mmap, os, sys, threading
from pathlib import Path

from mapdev.devices import Ram
from mapdev.hosts.fuse.host import FuseHost
from mapdev.hosts.fuse.session import Mode

directory = Path(sys.argv[1])

def work():
    try:
        fd = os.open(directory / "ram", os.O_RDWR)
        print(os.pwrite(fd, b"abcd", 0), os.pread(fd, 4, 0), os.fstat(fd).st_size)
        if sys.argv[3] == "map":
            with mmap.mmap(fd, 8192) as area:
                print(area[:4], area[4096:4100])
                area[4096:4100] = b"here"
                area.flush()
            print(os.pread(fd, 4, 4096))
        os.close(fd)
    except OSError as error:
        print(error.strerror)

with FuseHost(directory, {"ram": Ram()}, mode=Mode[sys.argv[2]]):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(4)
    print("ended" if not thread.is_alive() else "stuck", flush=True)
"""
USED = "4 b'abcd' 1048576\n"
MAPPED = USED + "b'abcd' b'\\x00\\x00\\x00\\x00'\nb'here'\n"


def use(root: Person, directory: Path, mode: str, how: str) -> str:
    """What it says. If it is stuck, which makes it unkillable, the connection is ended from outside."""
    program = root.popen(
        *root.python, "-c", OWN, directory, mode, how, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        return str(program.communicate(timeout=6)[0])
    except subprocess.TimeoutExpired:
        program.kill()
        root.run("umount", "-f", directory)
        root.run("umount", "-l", directory)
        program.communicate(timeout=10)
        return "stuck, with the interpreter's lock"


@pytest.mark.usefixtures("dev_fuse")
@pytest.mark.parametrize("mode", ["SHARED", "ON_DEMAND", "PAGE_CACHE"])
def test_it_may_open_read_and_write_them(root: Person, place: Callable[[Person], Path], mode: str) -> None:
    assert use(root, place(root), mode, "read") == USED + "ended\n"


@pytest.mark.usefixtures("dev_fuse")
def test_it_may_map_them_where_memory_is_shared(root: Person, place: Callable[[Person], Path]) -> None:
    assert use(root, place(root), "SHARED", "map") == MAPPED + "ended\n"


@pytest.mark.usefixtures("dev_fuse")
@pytest.mark.xfail(
    reason="whoever touches a page keeps the interpreter's lock until the page is there, and the host needs that lock"
)
def test_it_is_not_stuck_for_mapping_them_on_demand(root: Person, place: Callable[[Person], Path]) -> None:
    assert use(root, place(root), "ON_DEMAND", "map").endswith("ended\n")
