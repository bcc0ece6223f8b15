"""Events, and the lines that they become."""

import array
import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev import Device, File, IoctlArg, OnDemandPages, Pages, Vma, zeroed_pages
from mapdev.dispatch import Dispatch
from mapdev.registers import Register, RegisterArray, RegisterBlock
from mapdev.run.trap.areas import Areas
from mapdev.run.trap.blocks import Block
from mapdev.run.trap.report import Report
from mapdev.testing import MemoryHost
from mapdev.trace import Access, Callback, Event, JsonLines, Lines, Trace, format_event, format_json, only

READ = Callback(1e9, "device", 1, 4242, "read", "count=4, pos=0", "4 b'asdf'", 0, 1.25e-5)
STORE = Access(1e9, "device", 1, 4242, "store", "CTRL <- 0x1", "", 0, 1e-6, "CTRL", 8, 4, 1, 0x401000, "driver.c:42")

text = st.text(st.characters(), max_size=20)  # with lone surrogates, as file names have them
number = st.integers(0, 1 << 64)
common = (st.floats(0, 1e10), text, number, number, text, text, text, st.integers(0, 511), st.floats(0, 1e6))
accesses = (text, number, number, st.integers(0, 1 << 512), number, text)
events = st.builds(Callback, *common) | st.builds(Access, *common, *accesses)


class Noisy(Device):
    """Answers, fails, and says something."""

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        self.dev_info("reading")
        if pos:
            raise OSError(5, "")
        return b"asdf"


def test_the_trace_has_every_callback_in_both_forms(tmp_path: Path) -> None:
    stream, file = StringIO(), tmp_path / "trace"
    lines, kept = Lines(stream), JsonLines(file)

    def both(event: Event) -> None:
        lines(event)
        kept(event)

    with MemoryHost(Noisy(), both) as host, host.open() as opened:
        opened.read(4)
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            opened.read(4)
    kept.close()
    shown = stream.getvalue().splitlines()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [r["op"] for r in records] == ["log", "read", "log", "read"]
    assert records[1] | {"time": 0, "took": 0, "pid": 0} == {
        "time": 0, "device": "noisy", "file": 1, "pid": 0, "op": "read", "args": "count=4, pos=0",
        "result": "4 b'asdf'", "errno": 0, "took": 0,
    }  # fmt: skip
    assert (records[3]["errno"], records[3]["result"]) == (5, "-EIO")
    assert "noisy#1 read(count=4, pos=0) = 4 b'asdf'" in shown[1]
    assert shown[0].endswith("noisy: reading")


@pytest.mark.parametrize("event", [READ, STORE])
def test_an_event_can_be_compared_and_not_be_changed(event: Event) -> None:
    assert event == event._replace()
    assert event != event._replace(pid=1)
    assert len({event, event._replace()}) == 1
    assert isinstance(event, Event)
    with pytest.raises(AttributeError):
        event.pid = 1  # type: ignore[misc]


# -- lines ------------------------------------------------------------------------------------------------


@given(events)
def test_a_line_of_json_says_what_the_library_for_it_would(event: Event) -> None:
    line = format_json(event).decode("ascii")
    assert line.endswith("}\n")
    found = json.loads(line)
    assert list(found) == list(event._fields)
    assert abs(found["time"] - event.time) <= 2e-6  # a microsecond that is cut off, and the float's own
    assert found["took"] == round(event.took, 7)
    exact = event._asdict() | {"time": found["time"], "took": found["took"]}
    assert found == json.loads(json.dumps(exact))
    unrounded = json.dumps(exact).partition(', "device"')[2].partition(', "took"')
    assert line.partition(', "device"')[2].partition(', "took"')[0] == unrounded[0]


@given(st.floats(0, 4e9))
def test_a_line_of_text_begins_with_the_time_of_day(seconds: float) -> None:
    clock, _, rest = format_event(READ._replace(time=seconds)).partition(" ")
    at, _, fraction = clock.partition(".")
    assert at == time.strftime("%H:%M:%S", time.localtime(int(seconds)))
    assert len(fraction) == 6
    assert abs(int(fraction) / 1e6 - seconds % 1) <= 2e-6
    assert rest == "device#1 read(count=4, pos=0) = 4 b'asdf'  [12 us, pid 4242]"


def test_a_line_of_text_says_what_an_access_was() -> None:
    assert format_event(STORE).endswith(" device#1 CTRL <- 0x1  driver.c:42  [1 us, pid 4242]")
    failed = STORE._replace(result="-EIO", errno=5)
    assert format_event(failed).endswith(" device#1 CTRL <- 0x1 = -EIO  driver.c:42  [1 us, pid 4242]")


# -- where they go ----------------------------------------------------------------------------------------


def test_a_line_is_in_the_file_when_its_event_is_over(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("before\n")
    kept = JsonLines(file)
    kept(READ)
    kept(STORE)
    assert file.read_bytes() == b"before\n" + format_json(READ) + format_json(STORE)
    kept.close()
    kept.close()


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    program = (
        "import sys\nfrom pathlib import Path\nfrom mapdev.trace import Callback, JsonLines\n"
        "trace = JsonLines(Path(sys.argv[1]))\nprint(flush=True)\nsys.stdin.readline()\n"
        "for n in range(2000): trace(Callback(1.0, 'x' * (n % 97), n, int(sys.argv[2]), 'read', '', '', 0, 0.0))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, file, str(n)], stdin=PIPE, stdout=PIPE, text=True)
        for n in range(3)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "\n"
        for writer in writers:
            writer.communicate("\n", timeout=120)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    found = [json.loads(line) for line in file.read_text().splitlines()]
    for n in range(3):
        assert [record["file"] for record in found if record["pid"] == n] == list(range(2000))


def test_a_full_disk_is_told_once_and_harms_no_device(caplog: pytest.LogCaptureFixture) -> None:
    kept = JsonLines(Path("/dev/full"))
    with caplog.at_level(logging.ERROR, "mapdev"), MemoryHost(Noisy(), kept) as host, host.open() as opened:
        assert opened.read(4) == b"asdf"
    kept.close()
    (record,) = caplog.records
    assert record.getMessage() == "/dev/full: No space left on device; the trace lacks what happens now"


def test_after_a_disk_was_full_only_the_line_that_met_its_end_is_torn(tmp_path: Path) -> None:
    """The end is a limit of the process here."""
    file = tmp_path / "trace"
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom mapdev.trace import Callback, JsonLines\n"
        "trace = JsonLines(Path(sys.argv[1]))\n"
        "def tell(n): trace(Callback(1.0, 'device', n, 0, 'read', 'x' * 100, '', 0, 0.0))\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))\n"
        "for n in range(20): tell(n)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "for n in range(20, 23): tell(n)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, file], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr.count("File too large; the trace lacks what happens now") == 1
    lines = file.read_text().splitlines()
    torn = len(lines) - 4
    assert lines[torn]
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[torn])
    del lines[torn]
    assert [json.loads(line)["file"] for line in lines] == [*range(torn), 20, 21, 22]


def test_a_reader_of_the_trace_that_goes_away_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, text)

    Lines(Gone())(READ)
    reader, writer = os.pipe()
    os.close(reader)
    with caplog.at_level(logging.ERROR, "mapdev"), os.fdopen(writer, "w", buffering=1) as stream:
        Lines(stream)(READ)
        kept = JsonLines(Path(f"/proc/self/fd/{writer}"))
        kept(READ)
        kept(READ)
        kept.close()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "Broken pipe; the trace lacks what happens now"
    ]


@pytest.mark.parametrize("buffering", [1, -1], ids=["line-buffered", "buffered"])
def test_lines_of_text_can_be_followed_and_say_what_no_encoding_has(tmp_path: Path, buffering: int) -> None:
    file = tmp_path / "trace"
    with file.open("w", encoding="ascii", errors="backslashreplace", buffering=buffering) as stream:
        lines = Lines(stream)
        lines(READ._replace(device="gerät"))
        assert "ger\\xe4t#1 read(" in file.read_text()
        lines(READ._replace(device="\udcff"))
        assert len(file.read_text().splitlines()) == 2


def test_only_what_is_named_so_goes_on() -> None:
    seen: list[Event] = []
    for patterns in (["read"], ["dev*"], ["nonesuch", "re?d"], ["CTRL"], ["0x8"], ["write"]):
        for event in (READ, STORE):
            only(seen.append, patterns)(event)
    assert seen == [READ, READ, STORE, READ, STORE, STORE]


# -- what is said of a callback ---------------------------------------------------------------------------


class Answers(Device):
    """A read answers `answer`, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def read(self, file: File, count: int, pos: int) -> Any:  # noqa: ARG002
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        return len(buf)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:  # noqa: ARG002
        return cmd & 0xFF

    def mmap(self, file: File, vma: Vma) -> Pages | OnDemandPages:  # noqa: ARG002
        return zeroed_pages(2)


class Later(Answers):
    """The same by coroutines."""

    async def read(self, file: File, count: int, pos: int) -> Any:
        return super().read(file, count, pos)


def told(device: Device, call: Callable[[Any], object]) -> tuple[str, str, int]:
    """What the last event of `call` with an open file says: arguments, result, errno."""
    seen: list[Event] = []
    with MemoryHost(device, seen.append) as host, host.open() as file:
        try:
            call(file)
        except OSError:
            pass
        last = seen[-1]
    return last.args, last.result, last.errno


@pytest.mark.parametrize("device", [Answers, Later])
@pytest.mark.parametrize(
    ("answer", "result", "number"),
    [
        (b"asdf", "4 b'asdf'", 0),
        (bytearray(17), "17 " + repr(bytes(16)) + "...", 0),
        (memoryview(b"0123456789abcdefgh"), "18 b'0123456789abcdef'...", 0),
        (memoryview(array.array("H", [0x6161] * 9)), "18 b'aaaaaaaaaaaaaaaa'...", 0),
        (memoryview(b"asdfqwer").cast("B", (2, 4)), "8 b'asdfqwer'", 0),
        (array.array("H", [0x6161, 0x6161]), "4 b'aaaa'", 0),
        (None, "0", 0),
        ("text", "'text'", 0),
        (OSError(errno.ENODATA, ""), "-ENODATA", errno.ENODATA),
        (OSError("no number"), "-EIO", errno.EIO),
        (OSError(100_000, "no errno"), "-EIO", errno.EIO),
        (ValueError("wrong"), "-EIO", errno.EIO),
    ],
)
def test_what_a_read_came_to(device: type[Answers], answer: Any, result: str, number: int) -> None:
    assert told(device(answer), lambda file: file.read(32)) == ("count=32, pos=0", result, number)


def test_what_other_operations_were_asked_and_came_to() -> None:
    device = Answers(b"")
    assert told(device, lambda file: file.write(b"0123456789abcdefgh")) == (
        "18 b'0123456789abcdef'..., pos=0",
        "18",
        0,
    )
    assert told(device, lambda file: file.ioctl(0x5407, 0x10)) == ("0x5407, 0x10", "7", 0)
    assert told(device, lambda file: file.mmap(8192)) == ("pgoff=0, length=8192", "<Pages 2>", 0)


def test_bytes_are_told_as_they_were() -> None:
    memory = bytearray(b"asdf")
    seen: list[Event] = []
    with MemoryHost(Answers(memoryview(memory)), seen.append) as host, host.open() as file:
        file.read(4)
        memory[:] = b"qwer"
        assert seen[-1].result == "4 b'asdf'"


# -- accesses ---------------------------------------------------------------------------------------------


class Timer(RegisterBlock):
    CTRL = Register(0x00, fields={"START": 0, "MODE": (4, 7)})
    MATCH = RegisterArray(0x10, 2)


class Board(Device):
    def __init__(self) -> None:
        self.timer = Timer(zeroed_pages(1))


def accessed(device: Device, trace: Trace, *accesses: tuple[int, bytes, bool, int]) -> None:
    """A report of (position, data, whether it is a store, errno)."""
    dispatch = Dispatch(device, "/dev/uio0")
    block = cast(Block, SimpleNamespace(dispatch=dispatch, file=File("/dev/uio0", 7, os.O_RDWR, 1, 0, 0)))
    areas = Areas(os.getpid())
    try:
        report = Report(trace, counts=False)
        for position, data, is_store, failed in accesses:
            report.seen(os.getpid(), areas, block, position, data, is_store, 0, 1e-6, failed)
    finally:
        areas.close()


def test_each_access_is_told_by_the_names_of_the_device_it_came_to() -> None:
    seen: list[Event] = []
    one, other, failed = (0, b"\x21\0\0\0", True, 0), (0, b"\x01\0\0\0", False, 0), (0x14, bytes(4), False, errno.EIO)
    accessed(Board(), seen.append, one, other, one, failed)
    accessed(Device(), seen.append, one)
    assert [(event.op, event.args, event.result) for event in seen] == [
        ("store", "CTRL <- 0x21 (START|MODE=2)", ""),
        ("load", "CTRL -> 0x1 (START)", ""),
        ("store", "CTRL <- 0x21 (START|MODE=2)", ""),
        ("load", "MATCH[1] -> 0x0", "-EIO"),
        ("store", "0x0 <- 0x00000021", ""),
    ]
    assert all(isinstance(event, Access) for event in seen)
    assert [event.register for event in seen if isinstance(event, Access)] == ["CTRL", "CTRL", "CTRL", "MATCH[1]", ""]
    assert seen[0].file == 7


def never(_: Event) -> NoReturn:
    raise AssertionError("no event was to come")


def test_operations_that_a_device_does_not_define_are_not_told() -> None:
    with MemoryHost(Device(), never) as host, host.open("device") as file:
        with pytest.raises(OSError, match="not defined"):
            file.read(4)
        file.fsync()
