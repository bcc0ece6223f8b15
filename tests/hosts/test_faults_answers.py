"""What programs and authors see when an operation raises or answers something that is no answer."""

import re

import pytest

from tests.conftest import DeviceFile, NewClient, Serve
from tests.hosts.devices.faulty_answers import ARM, ARMED, GOOD_PAGE, MISDEEDS
from tests.people import Person
from tests.served import Served

NAMES = list(MISDEEDS)
ERRNOS = NAMES[: NAMES.index("an OSError without errno")]
RAISED = NAMES[len(ERRNOS) : NAMES.index("text")]
KINDS = ["text", "a float", "an object", "a list"]
BYTES = ["5 bytes", "a page less a byte", "a page and a byte"]
NUMBERS = ["-1", "2**80"]

READ, WRITE = "os.pread(fd, 64, {})", "os.pwrite(fd, bytes(64), {})"
IOCTL, IOR = "fcntl.ioctl(fd, 0x4600 + {})", "fcntl.ioctl(fd, 0x80044600 + {}, bytes(4))"
REOPEN = "os.close(os.open(path, os.O_RDWR))"


def armed(operation: str, call: str) -> str:
    """`call`, after it was arranged that the device's `operation` commits the misdeed {}."""
    return f"(fcntl.ioctl(fd, {ARM + ARMED.index(operation)}, {{}}), {call})[1]"


OPEN, FSYNC = armed("open", REOPEN), armed("fsync", "os.fsync(fd)")
POLL = armed("poll", "polled(fd, select.POLLIN, 0)")
FAULT = "in_child(lambda: load(address + 4096 * {}))"

EIO: list[tuple[str, str, list[str]]] = [
    ("read", READ, [*KINDS, *NUMBERS, "65", "None", "a page and a byte"]),
    ("write", WRITE, [*KINDS, *NUMBERS, "65", "None", *BYTES]),
    ("ioctl", IOCTL, [*KINDS, *NUMBERS]),
    ("ioctl", IOR, [*KINDS, *NUMBERS, *BYTES]),
    ("open", OPEN, [*KINDS, *NUMBERS, "65", *BYTES]),
    ("fsync", FSYNC, [*KINDS, *NUMBERS, "65", *BYTES]),
]


class Reports:
    """What the author reads, report by report."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._seen = 0

    def new(self) -> list[str]:
        _, *reports = re.split(r"^mapdev\.device: ", self._served.log(), flags=re.MULTILINE)
        new = reports[self._seen :]
        self._seen = len(reports)
        return new

    def one(self, operation: str, gets: str = "EIO") -> str:
        """There is one new report: it names the operation and shows the author's code and nothing of the host."""
        (report,) = self.new()
        assert report.startswith(f"{operation} of x#"), report
        assert f"the program gets {gets}\n" in report
        assert 'faulty_answers.py", line ' in report
        assert "mapdev/" not in report
        return report


@pytest.fixture(params=["Plain", "Async"])
def served(request: pytest.FixtureRequest, person: Person, serve: Serve, device_file: DeviceFile) -> Served:
    return serve(person, f"x={device_file(person, 'faulty_answers.py')}:{request.param}")


def test_an_oserror_is_the_errno_that_the_program_gets(served: Served, client: NewClient) -> None:
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    for call in (READ, WRITE, IOCTL, OPEN, FSYNC):
        for name in ("EXDEV", "ENOENT"):
            assert program.ask(call.format(NAMES.index(name))) == name
    assert Reports(served).new() == []


def test_enosys_disables_the_operation_for_nobody(served: Served, client: NewClient, host: str) -> None:
    """To FUSE ENOSYS says: never ask again."""
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    enosys = NAMES.index("ENOSYS")
    for call, gives in ((READ, "ENOSYS"), (WRITE, "ENOSYS"), (IOCTL, "ENOTTY"), (OPEN, "ENOTSUP"), (FSYNC, "EINVAL")):
        assert program.ask(call.format(enosys)) == ("ENOSYS" if host == "kernel" else gives)
        assert program.ask(call.format(NAMES.index("EXDEV"))) == "EXDEV"
    assert program.ask(POLL.format(enosys)) == "8"  # POLLERR
    assert program.ask(POLL.format(NAMES.index("65"))) == "1"  # a mask, of which POLLIN was asked for


@pytest.mark.parametrize(("operation", "call", "answers"), EIO, ids=["read", "write", "io", "ior", "open", "fsync"])
def test_other_exceptions_and_wrong_answers_are_eio_and_one_report(
    served: Served, client: NewClient, operation: str, call: str, answers: list[str]
) -> None:
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    reports = Reports(served)
    for name in RAISED + answers:
        assert program.ask(call.format(NAMES.index(name))) == "EIO", name
        report = reports.one(operation)
        assert ("Traceback" in report) is (name in RAISED)
    assert program.ask(f"os.pread(fd, 64, {4096})") == "b'well'"


def test_in_poll_they_are_pollerr_and_one_report(served: Served, client: NewClient) -> None:
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    reports = Reports(served)
    for name in [*RAISED, *KINDS, *NUMBERS, "None", *BYTES]:
        assert program.ask(POLL.format(NAMES.index(name))) == "8", name
        reports.one("poll")
    assert program.ask("polled(fd, select.POLLIN, 0)") == "1"


def test_in_fault_they_are_sigbus_and_one_report(served: Served, client: NewClient) -> None:
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    program.ask(f"address = mapped(fd, {(GOOD_PAGE + 1) * 4096})")
    reports = Reports(served)
    for name in ERRNOS:
        assert program.ask(FAULT.format(NAMES.index(name))) == "'SIGBUS'"
    assert reports.new() == []
    for name in [*RAISED, *KINDS, *NUMBERS, "None", *BYTES]:
        assert program.ask(FAULT.format(NAMES.index(name))) == "'SIGBUS'", name
        reports.one("fault", "SIGBUS")
    assert program.ask(f"load(address + {GOOD_PAGE} * 4096)") == "b'good'"


def test_in_mmap_they_leave_a_file_that_cannot_be_mapped(served: Served, client: NewClient, host: str) -> None:
    """FUSE asks at open, the module at mmap(2), where the errno is what the program gets."""
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    call, gives = ("mapped(fd)", "EIO") if host == "kernel" else (REOPEN, "None")
    reports = Reports(served)
    for name in [*RAISED, *KINDS, *NUMBERS, *BYTES]:
        assert program.ask(armed("mmap", call).format(NAMES.index(name))) == gives, name
        reports.one("mmap")
    program.ask("address = mapped(fd, 4096 * 64)")
    assert program.ask(f"load(address + {GOOD_PAGE} * 4096)") == "b'good'"


def test_in_release_nobody_but_the_author_gets_to_know(served: Served, client: NewClient) -> None:
    program = client(served.person, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    reports = Reports(served)
    assert program.ask(REOPEN) == "None"  # by now the host knows whether opens share the memory
    for count, name in enumerate([*ERRNOS, *RAISED, *KINDS], 1):
        assert program.ask(armed("release", REOPEN).format(NAMES.index(name))) == "None", name
        served.wait_for(lambda log, count=count: log.count("release of x#") >= count)  # type: ignore[misc]
        reports.one("release", "no word of it")


def test_the_trace_shows_what_an_operation_failed_with(
    user: Person, serve: Serve, device_file: DeviceFile, client: NewClient
) -> None:
    served = serve(user, f"x={device_file(user, 'faulty_answers.py')}:Async", "--trace")
    program = client(user, served.path("x"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    assert program.ask(READ.format(NAMES.index("EXDEV"))) == "EXDEV"
    assert program.ask(READ.format(NAMES.index("SystemExit"))) == "EIO"
    log = served.wait_log("-EIO")
    assert "= -EXDEV" in log
    Reports(served).one("read")
