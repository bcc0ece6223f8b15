"""The host is killed, or stopped for a while: what its programs see, and what is left."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mapdev.hosts.fuse.mount import mountinfo
from tests.conftest import DeviceFile, NewClient, Serve
from tests.hosts.client import Client
from tests.people import Person
from tests.served import Served, watchers

GONE = ("ENOTCONN", "ECONNABORTED")


def watcher_of(served: Served) -> int:
    """The pid of the process that unmounts when this server has died."""
    (pid,) = [pid for pid in watchers() if f"\nPPid:\t{served.process.pid}\n" in status(pid)]
    return pid


def status(pid: int) -> str:
    """What the kernel says of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_gone(pid: int) -> None:
    """Until there is no such process, or only its zombie."""
    until = time.monotonic() + 10
    while (found := status(pid)) and "\nState:\tZ" not in found:
        assert time.monotonic() < until, f"{pid} lives: {found}"
        time.sleep(0.02)


@contextlib.contextmanager
def stopped(served: Served) -> Iterator[None]:
    """All its threads have come to a halt; a request that one had taken already would be left half-way."""
    served.process.send_signal(signal.SIGSTOP)
    try:
        until = time.monotonic() + 10
        tasks = Path(f"/proc/{served.process.pid}/task")
        while not all("\nState:\tT" in (task / "status").read_text() for task in tasks.iterdir()):
            assert time.monotonic() < until
            time.sleep(0.01)
        yield
    finally:
        served.process.send_signal(signal.SIGCONT)


@pytest.fixture
def mapped(person: Person, serve: Serve, client: NewClient) -> tuple[Served, Client]:
    """A ram device, and a client that maps it and has stored into its second page."""
    served = serve(person, "ram")
    program = client(person, served.path("ram"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.ask("address = mapped(fd, 1 << 20)")
    program.ask("store(address + 4096, b'here')")
    return served, program


def test_killed_with_9_the_host_leaves_no_mount_and_no_watcher(person: Person, serve: Serve) -> None:
    served = serve(person, "ram")
    watcher = watcher_of(served)
    served.kill()
    served.wait_unmounted()
    wait_gone(watcher)
    assert not list(served.directory.iterdir())


def test_a_mapping_outlives_the_host_whole_if_shared_and_as_far_as_present_if_on_demand(
    mapped: tuple[Served, Client],
) -> None:
    served, program = mapped
    served.kill()
    served.wait_unmounted()
    assert program.ask("load(address + 4096)") == "b'here'"
    assert program.ask("store(address + 4096, b'also')") == "None"
    assert program.ask("load(address + 4096)") == "b'also'"
    if served.person.is_root:
        assert program.ask("load(address + 0xff000)") == repr(bytes(4))
        assert program.ask("msync(address, 1 << 20)") == "0"
    else:
        assert program.ask("in_child(lambda: load(address + 0xff000))") == "'SIGBUS'"
        assert program.ask("msync(address, 1 << 20)") in (*GONE, "EIO")
    assert program.ask("os.pread(fd, 4, 0)") in GONE
    assert program.ask("os.pwrite(fd, b'x', 0)") in GONE
    assert program.ask("fcntl.ioctl(fd, 0x4600)") in GONE
    assert program.ask("polled(fd, select.POLLIN, 0) & select.POLLERR") == "8"
    assert program.ask("os.open(path, os.O_RDWR)") == "ENOENT"
    assert program.ask("(munmap(address, 1 << 20), os.close(fd))").startswith(("(0", *GONE, "EIO"))


def test_where_memory_is_shared_a_mapping_outlives_the_release_of_its_file(
    person: Person, serve: Serve, client: NewClient
) -> None:
    """There the kernel ties the mapping to the memory, and not to the file of the device."""
    served = serve(person, "lkmc_mmap", "--trace")
    program = client(person, served.path("lkmc_mmap"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.ask("address = mapped(fd)")
    program.ask("os.close(fd)")
    if person.is_root:
        served.wait_log("release")
    else:
        time.sleep(0.3)
        assert "release" not in served.log()
    assert program.ask("load(address)") == "b'asdf'"
    program.ask("munmap(address)")
    served.wait_log("release")


@pytest.mark.parametrize("cls", ["Sleeping", "Async"])
def test_programs_that_are_blocked_are_free_when_the_host_is_killed(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile, cls: str
) -> None:
    served = serve(person, f"x={device_file(person, 'faulty_blocking.py')}:{cls}")
    calls = {
        "read": "os.pread(fd, 4, 4096)",
        "ioctl": "fcntl.ioctl(fd, 0x4602)",
        "open": "os.open(path, os.O_RDWR | os.O_DSYNC)",
        "poll": "(fcntl.ioctl(fd, 0x4601), polled(fd, select.POLLIN, 0))[1] & select.POLLERR",
        "fault": "in_child(lambda: load(mapped(fd, 65536) + 4096))",
    }
    programs = {operation: client(person, served.path("x")) for operation in calls}
    for operation, program in programs.items():
        program.ask("fd = os.open(path, os.O_RDWR)")
        program.send(calls[operation])
        served.wait_log(f"{operation} began")
    served.kill()
    answers = {operation: program.answer() for operation, program in programs.items()}
    assert {answers.pop("read"), answers.pop("ioctl"), answers.pop("open")} <= set(GONE)
    assert answers == {"poll": "8", "fault": "'SIGBUS'"}


def test_a_program_that_sleeps_in_poll_wakes_up_when_the_host_is_killed(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile
) -> None:
    served = serve(person, f"x={device_file(person, 'faulty_blocking.py')}:Sleeping")
    program = client(person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.send("polled(fd, select.POLLPRI, 20)")
    time.sleep(0.3)
    assert not program.has_answered()
    served.kill()
    assert program.answer() == "8"  # POLLERR


def test_killed_with_its_process_group_it_is_unmounted_all_the_same(person: Person, serve: Serve) -> None:
    served = serve(person, "ram")
    os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait(10)
    served.wait_unmounted()


def test_what_a_host_and_its_watcher_left_mounted_is_cleaned_at_the_next_start(
    person: Person, serve: Serve, client: NewClient
) -> None:
    dead = serve(person, "ram")
    program = client(person, dead.path("ram"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    watcher = watcher_of(dead)
    os.kill(watcher, signal.SIGKILL)
    dead.kill()
    assert dead.is_mounted()
    assert program.ask("os.open(path, os.O_RDWR)") == "ENOTCONN"
    served = serve(person, "lkmc_mmap", directory=dead.directory)
    assert person.run("cat", served.path("lkmc_mmap")).stdout == "asdf"
    assert program.ask("os.pread(fd, 4, 0)") in GONE
    assert served.stop() == 0
    assert not dead.is_mounted()


def test_a_child_that_a_device_forked_keeps_nothing_of_a_host_that_was_killed(
    person: Person, serve: Serve, client: NewClient, device_file: DeviceFile
) -> None:
    served = serve(person, f"x={device_file(person, 'faulty_forking.py')}")
    program = client(person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    children = [int(pid) for pid in re.findall(r"child (\d+)", served.wait_log("child"))]
    try:
        served.kill()
        assert program.ask("os.pread(fd, 4, 0)", timeout=10) in GONE
        served.wait_unmounted()
        assert all("\nState:\tS" in status(child) for child in children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_stopped_and_continued_it_answers_late_and_right(person: Person, serve: Serve, client: NewClient) -> None:
    served = serve(person, "ram", "lkmc_mmap")
    program, other = (client(person, served.path(name)) for name in ("ram", "lkmc_mmap"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.ask("address = mapped(fd, 1 << 20)")
    program.ask("store(address + 4096, b'here')")
    with stopped(served):
        program.send("os.pread(fd, 4, 4096)")
        other.send("os.read(os.open(path, os.O_RDWR), 8)")
        time.sleep(0.3)
        assert not program.has_answered()
        assert not other.has_answered()
    assert program.answer() == "b'here'"
    assert other.answer() == "b'asdf'"


@pytest.mark.parametrize(
    "call",
    [
        "os.pread(fd, 4, 0)",
        "os.pwrite(fd, b'x', 0)",
        "os.open(path, os.O_RDWR)",
        "load(address + 0xff000)",
        "time.sleep(60)",
    ],
)
def test_a_program_that_is_killed_while_the_host_is_stopped_dies_at_once(
    person: Person, serve: Serve, client: NewClient, call: str
) -> None:
    served = serve(person, "ram")
    program = client(person, served.path("ram"))
    program.ask("os.close(os.open(path, os.O_RDWR))")  # from here on the kernel knows: there is nothing to flush
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.ask("address = mapped(fd, 1 << 20)")
    program.ask("load(address)")
    with stopped(served):
        program.send(call)
        time.sleep(0.2)
        assert program.kill() == -signal.SIGKILL
    other = client(person, served.path("ram"))
    assert other.ask("os.pread(os.open(path, os.O_RDWR), 4, 0)") == repr(bytes(4))


def test_killed_with_stores_not_written_back_it_dies_when_the_host_goes_on(
    person: Person, mapped: tuple[Served, Client], client: NewClient
) -> None:
    """On demand, exit(2) writes back what the program has stored, and that is for the host to take."""
    served, program = mapped
    with stopped(served):
        program.process.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    assert program.process.wait(10) == -signal.SIGKILL
    other = client(person, served.path("ram"))
    assert other.ask("os.pread(os.open(path, os.O_RDWR), 4, 4096)") == "b'here'"


@pytest.mark.parametrize("name", ["a b", "tab\there", "new\nline", "back\\slash", "ü"])
def test_a_directory_with_any_name_is_unmounted_after_a_kill_and_after_sigterm(
    person: Person, serve: Serve, place: Callable[[Person], Path], name: str
) -> None:
    path = place(person) / name
    path.mkdir()
    os.chown(path, person.uid, -1)
    served = serve(person, "ram", directory=path)
    assert any(mount.path == str(path) for mount in mountinfo())
    served.kill()
    until = time.monotonic() + 10
    while any(mount.path == str(path) for mount in mountinfo()):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert serve(person, "ram", directory=path).stop() == 0
    assert not any(mount.path == str(path) for mount in mountinfo())
