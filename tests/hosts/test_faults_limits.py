"""Past the end, too far, too much: bounded errors for the program that asks, and a host that stays as it was."""

import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import DeviceFile, NewClient, Serve
from tests.hosts.client import Client
from tests.people import Person
from tests.served import Served

MODES = [[], ["--memory", "page-cache"]]
BOUNDED = ["EINVAL", "EOVERFLOW", "EFBIG", "ENOSPC"]
FAR = [1 << 41, (1 << 62), (1 << 63) - 4096, (1 << 63) - 1]


def kilobytes(served: Served, field: str) -> int:
    """VmRSS, VmSize, ... of the server."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def opened(served: Served, client: NewClient, name: str) -> Client:
    program = client(served.person, served.path(name))
    assert program.ask("fd = os.open(path, os.O_RDWR)") == "None"
    return program


@pytest.mark.parametrize("memory", MODES, ids=["best", "page-cache"])
@pytest.mark.parametrize("name", ["lkmc_mmap", "ram", "array"])
def test_access_past_the_end_of_a_mapping_is_sigbus_and_the_rest_goes_on(
    person: Person, serve: Serve, client: NewClient, name: str, memory: list[str]
) -> None:
    served = serve(person, "lkmc_mmap", "ram", "array", *memory)
    size = {"lkmc_mmap": 4096, "ram": 1 << 20, "array": 16 * 4096}[name]
    program = opened(served, client, name)
    program.ask(f"address = mapped(fd, {size + 8192})")
    for offset in (size, size + 4096):
        assert program.ask(f"in_child(lambda: load(address + {offset}))") == "'SIGBUS'"
        assert program.ask(f"in_child(lambda: store(address + {offset}, b'x'))") == "'SIGBUS'"
    program.ask(f"store(address + {size - 4}, b'last')")
    assert program.ask(f"load(address + {size - 4})") == "b'last'"


@pytest.mark.parametrize("memory", MODES, ids=["best", "page-cache"])
@pytest.mark.parametrize("name", ["lkmc_mmap", "ram"])
def test_no_client_changes_the_size(
    person: Person, serve: Serve, client: NewClient, name: str, memory: list[str]
) -> None:
    served = serve(person, "lkmc_mmap", "ram", *memory)
    program = opened(served, client, name)
    program.ask("address = mapped(fd)")
    program.ask("store(address, b'kept')")
    size = program.ask("os.fstat(fd).st_size")
    for length in (1, 4095, 1 << 30):
        assert program.ask(f"os.ftruncate(fd, {length})") == "EINVAL"
        assert program.ask(f"os.truncate(path, {length})") == "EINVAL"
    assert program.ask("os.ftruncate(fd, 0)") == "EINVAL"
    for mode in (0, 1, 3):  # allocate, without a new size, punch a hole
        allocate = f"checked(libc.fallocate64(fd, {mode}, ctypes.c_int64(0), ctypes.c_int64(4096)))"
        assert program.ask(allocate) == "ENOTSUP"
    assert program.ask("os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))") == "None"
    assert program.ask("os.fstat(fd).st_size") == size
    assert program.ask("load(address)") == "b'kept'"
    assert program.ask("load(address + 4092)") == repr(bytes(4))


def test_a_memfd_that_programs_map_is_sealed_against_them(root: Person, serve: Serve, client: NewClient) -> None:
    """A client cannot get at it, and the author cannot take away what is mapped either."""
    served = serve(root, "ram")
    program = opened(served, client, "ram")
    program.ask("address = mapped(fd, 1 << 20)")
    links = list(Path(f"/proc/{served.process.pid}/fd").iterdir())
    memfds = [link for link in links if "memfd:mapdev" in str(link.readlink())]
    assert memfds
    for memfd in memfds:
        for length in (0, 4096, 1 << 30):
            assert program.ask(f"os.truncate({str(memfd)!r}, {length})") == "EPERM"
    assert program.ask("load(address + 0xff000)") == repr(bytes(4))


@pytest.mark.parametrize("memory", MODES, ids=["best", "page-cache"])
def test_huge_offsets_and_lengths_are_errors_or_the_end_and_cost_no_memory(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile, memory: list[str]
) -> None:
    file = device_file(person, "faulty_sizes.py")
    served = serve(person, "lkmc_mmap", "ram", "array", f"{file}:Echo", *memory)
    before = kilobytes(served, "VmRSS")
    for name in ("lkmc_mmap", "ram", "array", "echo"):
        program = opened(served, client, name)
        program.ask(f"room = mapped(-1, {1 << 31}, 0, READ | WRITE, PRIVATE | 0x20)")
        for pos in FAR:
            assert program.ask(f"checked(libc.pread64(fd, room, {1 << 30}, {pos}))") in ("0", *BOUNDED), (name, pos)
            assert program.ask(f"os.pwrite(fd, b'xyz', {pos})") in ("3", *BOUNDED), (name, pos)
            assert program.ask(f"os.lseek(fd, {pos}, os.SEEK_SET)") in (str(pos), *BOUNDED)
            assert program.ask("os.read(fd, 4096)") in ("b''", *BOUNDED), (name, pos)
            if pos % 4096 == 0:
                touched = program.ask(f"in_child(lambda: load(mapped(fd, 4096, {pos})))")
                assert touched in ("'SIGBUS'", "'ENODEV'", "'EOVERFLOW'"), (name, pos)
        written = program.ask(f"checked(libc.pwrite64(fd, room, {1 << 26}, 0))")
        taken = {"array": [*BOUNDED, str(1 << 16)], "ram": [str(1 << 20)]}.get(name, [str(4096), str(1 << 26)])
        assert written in taken, name
        program.close()
    assert kilobytes(served, "VmRSS") - before < 20_000


@pytest.mark.parametrize("name", ["endless", "sparse"])
def test_a_device_as_large_as_can_be_costs_what_is_touched(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile, name: str
) -> None:
    served = serve(person, f"{device_file(person, 'faulty_sizes.py')}:{name.capitalize()}")
    before = kilobytes(served, "VmRSS")
    program = opened(served, client, name)
    last = (1 << 63) - 8192 if name == "endless" else (1 << 45) - 4096
    for pos in (0, 1 << 40, (1 << 41) - 4096, 1 << 41, 1 << 44, last):
        program.ask(f"address = mapped(fd, 4096, {pos})")
        found = (pos >> 12 if name == "endless" else 0).to_bytes(8, "little")
        assert program.ask("in_child(lambda: load(address, 8))") == repr(repr(found)), hex(pos)
        program.ask("store(address, b'mine')")
        program.ask("msync(address)")
    assert program.ask("load(address)") == "b'mine'"
    assert kilobytes(served, "VmRSS") - before < 20_000


def test_pages_that_cannot_be_had_are_enomem_for_who_opens(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile
) -> None:
    served = serve(person, f"{device_file(person, 'faulty_sizes.py')}:Greedy")
    before = kilobytes(served, "VmRSS")
    program = client(person, served.path("greedy"))
    for _ in range(20):
        assert program.ask("os.open(path, os.O_RDWR)") == "ENOMEM"
    assert program.ask("os.read(os.open(path, os.O_RDONLY), 4)") == repr(bytes(4))
    assert served.log() == ""
    assert kilobytes(served, "VmRSS") - before < 5_000


def limited(person: Person, *limits: str) -> Person:
    """The same, whose programs run with these limits of prlimit(1)."""
    return replace(person, prefix=("prlimit", *limits, "--", *person.prefix))


def test_out_of_descriptors_the_host_refuses_opens_and_recovers(
    person: Person, serve: Serve, client: NewClient
) -> None:
    served = serve(limited(person, "--nofile=64:64"), "lkmc_mmap")
    program = client(person, served.path("lkmc_mmap"))
    program.ask("""
def exhaust():
    files = []
    try:
        while len(files) < 100:
            files.append(os.open(path, os.O_RDWR))
    except OSError as error:
        return files, errno.errorcode[error.errno]
    return files, "none"
""")
    for _ in range(3):
        program.ask("files, why = exhaust()")
        assert program.ask("why") == "'EMFILE'"
        assert int(program.ask("len(files)")) > 10
        assert program.ask("{os.pread(fd, 8, 0) for fd in files}") == "{b'asdf'}"
        program.ask("areas = [mapped(fd) for fd in files]")
        assert program.ask("{load(area) for area in areas}") == "{b'asdf'}"
        assert program.ask("{munmap(area) for area in areas}") == "{0}"
        assert program.ask("[os.close(fd) for fd in files] and None") == "None"
    program.close()
    assert person.run("cat", served.path("lkmc_mmap")).stdout == "asdf"


def test_out_of_descriptors_the_host_ends_on_sigterm_and_unmounts(
    person: Person, serve: Serve, client: NewClient
) -> None:
    served = serve(limited(person, "--nofile=64:64"), "lkmc_mmap")
    program = client(person, served.path("lkmc_mmap"))
    program.ask("files = []")
    program.ask("while len(files) < 100: files.append(os.open(path, os.O_RDWR))")
    assert served.stop() == 0, served.log()
    assert not served.is_mounted()


def test_out_of_descriptors_a_blocked_program_still_dies_of_sigkill(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile
) -> None:
    target = f"x={device_file(person, 'faulty_blocking.py')}:Sleeping"
    served = serve(limited(person, "--nofile=64:64"), target, "lkmc_mmap")
    program = opened(served, client, "x")
    other = client(person, served.path("lkmc_mmap"))
    other.ask("files = []")
    assert other.ask("while len(files) < 100: files.append(os.open(path, os.O_RDWR))") == "EMFILE"
    program.send("os.pread(fd, 4, 4096)")
    served.wait_log("read began")
    assert program.kill() == -signal.SIGKILL


def test_out_of_threads_the_host_refuses_who_would_block_and_recovers(
    root: Person, serve: Serve, client: NewClient, device_file: DeviceFile
) -> None:
    """The address space has room for the stacks of some threads only."""
    served = serve(root, f"x={device_file(root, 'faulty_blocking.py')}:Waiting")
    other = opened(served, client, "x")
    room = kilobytes(served, "VmSize") * 1024 + (200 << 20)
    resource.prlimit(served.process.pid, resource.RLIMIT_AS, (room, room))
    program = opened(served, client, "x")
    program.ask("""
def block():
    try:
        os.pread(fd, 4, 4096)
    except OSError as error:
        failed.append(errno.errorcode[error.errno])

def fill():
    threads = [threading.Thread(target=block, daemon=True) for _ in range(60)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    return sorted(set(failed)), 10 < len(failed) < 60
""")
    program.ask("failed = []")
    assert program.ask("fill()") == "(['EBUSY'], True)"
    assert other.ask("os.pread(fd, 4, 0)") == "EBUSY"
    assert program.kill() == -signal.SIGKILL
    assert other.ask("os.pread(fd, 4, 0)") == "b'well'"
    assert "Traceback" not in served.log()
