"""Operations that do not come to an end: who waits for them can be killed, and the others are served."""

import re
import signal
import time

import pytest

from tests.conftest import DeviceFile, NewClient, Serve
from tests.hosts.client import Client
from tests.hosts.devices.faulty_blocking import ARM, BLOCK, FILES
from tests.people import Person
from tests.served import Served

BLOCKING = {
    "open": "os.open(path, os.O_RDWR | os.O_DSYNC)",
    "read": "os.pread(fd, 4, 4096)",
    "write": "os.pwrite(fd, b'x', 4096)",
    "ioctl": f"fcntl.ioctl(fd, {BLOCK})",
    "poll": f"(fcntl.ioctl(fd, {ARM}), polled(fd, select.POLLIN, 0))",
    "fsync": f"(fcntl.ioctl(fd, {ARM}), os.fsync(fd))",
    "fault": "load(mapped(fd, 65536) + 4096)",
}
RAW_READ = "checked(libc.pread64(fd, ctypes.create_string_buffer(32), 32, 4096))"
"""Without Python's second try after EINTR."""
TOLD = ("Waiting", "Async", "Stubborn")
"""The classes that hear of signals."""


def serve_one(serve: Serve, device_file: DeviceFile, person: Person, cls: str) -> Served:
    return serve(person, f"x={device_file(person, 'faulty_blocking.py')}:{cls}")


def opened(served: Served, client: NewClient) -> Client:
    started = client(served.person, served.path("x"))
    started.ask("fd = os.open(path, os.O_RDWR)")
    return started


def blocked(served: Served, client: NewClient, operation: str) -> Client:
    """A client in `operation`, whose method has been entered."""
    started = opened(served, client)
    started.send(BLOCKING[operation])
    served.wait_log(f"{operation} began")
    return started


def wait_for_files(observer: Client, count: int) -> None:
    """Until so many files are open."""
    until = time.monotonic() + 10
    while (files := observer.ask(f"fcntl.ioctl(fd, {FILES})")) != str(count):
        assert time.monotonic() < until, f"{files} files are open, not {count}"
        time.sleep(0.02)


@pytest.mark.parametrize("cls", ["Sleeping", "Waiting", "Async", "Stubborn"])
def test_whoever_waits_for_an_operation_dies_of_sigkill_and_others_are_served(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient, cls: str
) -> None:
    served = serve_one(serve, device_file, person, cls)
    other = opened(served, client)
    for operation in BLOCKING:
        waiting = blocked(served, client, operation)
        assert other.ask("os.pread(fd, 4, 0)") == "b'well'"
        assert other.ask("os.close(os.open(path, os.O_RDWR))") == "None"
        assert waiting.kill() == -signal.SIGKILL
        if cls in TOLD:
            served.wait_log(f"{operation} interrupted")
        wait_for_files(other, 1)
    assert other.ask("load(mapped(fd))") == "b'good'"


def test_an_async_def_that_does_not_await_holds_up_its_like_only(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve_one(serve, device_file, person, "Jammed")
    other = opened(served, client)
    waiting = [blocked(served, client, "read")]
    for operation in ("write", "ioctl", "open"):
        waiting.append(opened(served, client))
        waiting[-1].send(BLOCKING[operation])
    assert other.ask("os.pread(fd, 4, 0)") == "b'well'"
    for each in waiting:
        assert each.kill() == -signal.SIGKILL
    wait_for_files(other, 1)
    other.close()
    assert served.stop() == 0
    assert "blocks the event loop without await" in served.log()


@pytest.mark.parametrize("operation", ["read", "open", "fault"])
@pytest.mark.parametrize("cls", ["Sleeping", "Waiting", "Async"])
def test_a_program_without_a_handler_dies_of_sigint(
    user: Person, serve: Serve, device_file: DeviceFile, client: NewClient, cls: str, operation: str
) -> None:
    served = serve_one(serve, device_file, user, cls)
    waiting = opened(served, client)
    waiting.ask("signal.signal(signal.SIGINT, signal.SIG_DFL)")
    waiting.send(BLOCKING[operation])
    served.wait_log(f"{operation} began")
    assert waiting.kill(signal.SIGINT) == -signal.SIGINT


@pytest.mark.parametrize("call", [RAW_READ, BLOCKING["ioctl"]], ids=["read", "ioctl"])
@pytest.mark.parametrize("cls", ["Waiting", "Async"])
def test_a_signal_with_a_handler_ends_the_wait_with_eintr(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient, cls: str, call: str
) -> None:
    served = serve_one(serve, device_file, person, cls)
    waiting = opened(served, client)
    waiting.ask("signal.signal(signal.SIGALRM, lambda *_: None)")
    assert waiting.ask(f"(signal.setitimer(signal.ITIMER_REAL, 0.2), {call})") == "EINTR"
    served.wait_log("interrupted")


def test_a_signal_with_a_handler_waits_for_a_plain_operation_that_does_not_look(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve_one(serve, device_file, person, "Slow")
    waiting = opened(served, client)
    waiting.ask("signal.signal(signal.SIGALRM, lambda *_: None)")
    code = f"(signal.setitimer(signal.ITIMER_REAL, 0.1), {RAW_READ})[1]"
    assert waiting.ask(code) == str(len("late, and interrupted"))
    assert waiting.ask(RAW_READ) == str(len("late"))


@pytest.mark.parametrize("operation", ["open", "write"])
def test_a_file_whose_program_was_killed_is_released_when_its_operation_ends(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient, operation: str
) -> None:
    served = serve_one(serve, device_file, person, "Slow")
    waiting = blocked(served, client, operation)
    began = re.search(rf"^{operation} began #(\d+)$", served.log(), re.MULTILINE)
    assert began is not None
    assert waiting.kill() == -signal.SIGKILL
    served.wait_log(f"released #{began[1]}\n")
    wait_for_files(opened(served, client), 1)


def test_an_open_that_was_interrupted_has_no_release(
    user: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve_one(serve, device_file, user, "Waiting")
    waiting = blocked(served, client, "open")
    assert waiting.kill() == -signal.SIGKILL
    assert "open interrupted #2" in served.wait_log("released #1")
    wait_for_files(opened(served, client), 1)
    assert "released #2" not in served.log()


def test_forty_programs_are_blocked_and_one_more_is_served(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve_one(serve, device_file, person, "Sleeping")
    parent = client(person, served.path("x"))
    parent.ask("""
def block():
    pid = os.fork()
    if not pid:
        os.pread(os.open(path, os.O_RDWR), 4, 4096)
    return pid

def end(pid):
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
""")
    parent.ask("children = [block() for _ in range(40)]")
    until = time.monotonic() + 20
    while served.log().count("read began") < 40:
        assert time.monotonic() < until, served.log()
        time.sleep(0.05)
    other = opened(served, client)
    assert other.ask("os.pread(fd, 4, 0)") == "b'well'"
    assert other.ask("load(mapped(fd))") == "b'good'"
    assert parent.ask("{end(pid) for pid in children}") == str({int(signal.SIGKILL)})
    wait_for_files(other, 1)


@pytest.mark.parametrize(
    ("operation", "waits"),
    [
        ("write", "os.fsync(fd)"),
        ("write", "os.close(os.open(path, os.O_RDWR | os.O_TRUNC))"),
        ("write", "munmap(mapped(fd)) or None"),
        ("fsync", "os.fsync(fd)"),
        ("fsync", "os.pwrite(fd, b'x', 0) and None"),
        ("fault", "munmap(mapped(fd)) or None"),
    ],
)
def test_whom_the_kernel_makes_wait_for_a_blocked_one_is_free_once_that_is_killed(
    user: Person, serve: Serve, device_file: DeviceFile, client: NewClient, operation: str, waits: str
) -> None:
    """These wait for a lock of the inode or of a page, in the kernel, before anybody is asked."""
    served = serve_one(serve, device_file, user, "Async")
    other = opened(served, client)
    holder = blocked(served, client, operation)
    other.send(waits)
    time.sleep(0.2)
    assert holder.kill() == -signal.SIGKILL
    assert other.answer() == "None"


def test_two_programs_wait_for_one_page_and_either_can_be_killed(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve_one(serve, device_file, person, "Waiting")
    one, two, three = (opened(served, client) for _ in range(3))
    for each in (one, two, three):
        each.ask("address = mapped(fd, 65536)")
    for each in (one, two, three):
        each.send("load(address + 4096)")
        served.wait_log("fault began")
    time.sleep(0.2)
    assert two.kill() == -signal.SIGKILL
    assert one.kill() == -signal.SIGKILL
    assert three.kill() == -signal.SIGKILL


@pytest.mark.parametrize("cls", ["Sleeping", "Waiting", "Async", "Stubborn"])
def test_the_server_ends_on_sigterm_while_programs_are_blocked(
    person: Person, serve: Serve, device_file: DeviceFile, client: NewClient, cls: str
) -> None:
    served = serve_one(serve, device_file, person, cls)
    waiting = [blocked(served, client, operation) for operation in ("read", "open", "ioctl", "fault")]
    assert served.stop() == 0
    assert "Traceback" not in served.log()
    assert waiting[-1].process.wait(10) == -signal.SIGBUS
