"""Where pages come from: what programs see of ``array``, ``vmalloc``, ``contiguous``, and the frames behind them."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mapdev.libc import PAGE_SIZE
from mapdev.pagemap import Pagemap
from tests.conftest import NewClient, Serve
from tests.hosts.client import Client
from tests.people import Person
from tests.served import Served

NPAGES = 16
KINDS = ["array", "vmalloc", "contiguous"]

TEXTS = [b"page %d" % number for number in range(NPAGES)]


TOUCH = f"[load(address + number * {PAGE_SIZE}, 8).rstrip(b'\\0') for number in range({NPAGES})]"


def mapping(program: Client, npages: int = NPAGES) -> int:
    """The program opens the device and maps so many pages: the address of the first."""
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.ask(f"address = mapped(fd, {npages * PAGE_SIZE})")
    return int(program.ask("address"))


def frames_of_the_program(program: Client) -> NDArray[np.uint64]:
    """Those of its mapping, all of whose pages it touches."""
    program.ask(TOUCH)
    return frames(program.process.pid, int(program.ask("address")))


def frames(pid: int, address: int) -> NDArray[np.uint64]:
    """The page frame numbers of the pages from `address` on, all of which are present."""
    with Pagemap(pid) as pagemap:
        entries = pagemap.entries(address, NPAGES * PAGE_SIZE)
    assert entries["present"].all()
    return np.asarray(entries["pfn"])


def frames_of_the_device(served: Served) -> NDArray[np.uint64]:
    """Those that Python has, in the process that serves: its pages are its only memfd."""
    maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    (start,) = re.findall(r"^([0-9a-f]+)-.* /memfd:mapdev ", maps, re.MULTILINE)
    return frames(served.process.pid, int(start, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_page_n_says_so_at_page_n(person: Person, serve: Serve, client: NewClient, kind: str) -> None:
    program = client(person, serve(person, kind).path(kind))
    mapping(program)
    seen = program.ask(f"[load(address + number * {PAGE_SIZE}, 8).rstrip(b'\\0') for number in range({NPAGES})]")
    assert seen == repr(TEXTS)
    # one page through the offset of mmap, and by read(2)
    assert program.ask(f"load(mapped(fd, {PAGE_SIZE}, {7 * PAGE_SIZE}), 6)") == "b'page 7'"
    assert program.ask(f"os.pread(fd, 6, {9 * PAGE_SIZE})") == "b'page 9'"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_in_a_page_stays(person: Person, serve: Serve, client: NewClient, kind: str) -> None:
    path = serve(person, kind).path(kind)
    one, other = client(person, path), client(person, path)
    mapping(one)
    one.ask(f"store(address + {3 * PAGE_SIZE}, b'mine')")
    mapping(other)
    assert other.ask(f"load(address + {3 * PAGE_SIZE}, 6)") == "b'mine 3'"
    assert other.ask(f"os.pread(fd, 6, {3 * PAGE_SIZE})") == "b'mine 3'"


@pytest.mark.parametrize("kind", KINDS)
def test_past_the_end_is_sigbus(person: Person, serve: Serve, client: NewClient, kind: str) -> None:
    served = serve(person, kind)
    program = client(person, served.path(kind))
    mapping(program, NPAGES + 1)
    end = NPAGES * PAGE_SIZE
    assert program.ask(f"in_child(lambda: load(address + {end} - 4))") == repr(repr(bytes(4)))
    assert program.ask(f"in_child(lambda: load(address + {end}))") == "'SIGBUS'"
    assert program.ask(f"in_child(lambda: store(address + {end}, b'x'))") == "'SIGBUS'"
    for offset in (end, 1 << 30, (1 << 40) - PAGE_SIZE):
        assert program.ask(f"in_child(lambda: load(mapped(fd, {PAGE_SIZE}, {offset})))") == "'SIGBUS'"
    assert program.ask("load(address, 6)") == "b'page 0'"
    assert served.log() == ""


def test_contiguous_pages_are_one_run_of_frames(root: Person, serve: Serve, client: NewClient) -> None:
    program = client(root, serve(root, "contiguous").path("contiguous"))
    address = mapping(program)
    assert (np.diff(frames_of_the_program(program).astype(np.int64)) == 1).all()
    with Pagemap(program.process.pid) as pagemap:
        (run,) = pagemap.runs(address, NPAGES * PAGE_SIZE)
    assert (run.pages, run.step) == (NPAGES, 1)


@pytest.mark.parametrize("kind", ["vmalloc", "contiguous"])
def test_in_shared_memory_the_frames_are_those_that_python_has(
    root: Person, serve: Serve, client: NewClient, kind: str
) -> None:
    served = serve(root, kind)
    programs = [client(root, served.path(kind)) for _ in range(2)]
    for program in programs:
        mapping(program)
        assert (frames_of_the_program(program) == frames_of_the_device(served)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_on_demand_the_frames_are_the_copy_of_the_kernel_one_for_all_programs(
    root: Person, serve: Serve, client: NewClient, kind: str
) -> None:
    served = serve(root, kind, "--memory", "on-demand")
    programs = [client(root, served.path(kind)) for _ in range(2)]
    for program in programs:
        mapping(program)
    seen = [frames_of_the_program(program) for program in programs]
    assert (seen[0] == seen[1]).all()
    assert not np.isin(seen[0], frames_of_the_device(served)).any()
