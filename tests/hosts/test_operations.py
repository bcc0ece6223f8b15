"""What programs see of devices that answer ioctls, wake pollers, block, and change memory that is mapped."""

import select

import pytest

from tests.conftest import DeviceFile, NewClient, Serve
from tests.hosts.client import Client
from tests.hosts.devices.operations import (
    AWAIT,
    DEFER,
    FAULTS,
    GET_CMAP,
    GET_VSCREENINFO,
    LATER,
    LOOK,
    MAX_SIZE,
    NUMBER,
    NUMPY,
    PUT_VSCREENINFO,
    SLICE,
    SWAP,
    SWAP_LATER,
    VIEW,
    pattern,
)
from tests.people import Person
from tests.served import Served

OPEN = "fd = os.open(path, os.O_RDWR)"
POLLIN, POLLOUT, POLLRDNORM = select.POLLIN, select.POLLOUT, select.POLLRDNORM

SIZES = [4, 5, 100, 1024, 1025, 4095, 4096, 4097, 8192, MAX_SIZE]


class Start:
    """Serves the class `name` of devices/operations.py and starts programs that have opened it."""

    def __init__(self, name: str, person: Person, served: Served, client: NewClient) -> None:
        self.name, self.person, self.served, self._client = name, person, served, client

    def program(self, opens: str = OPEN) -> Client:
        program = self._client(self.person, self.served.path("x"))
        assert program.ask(opens) == "None"
        return program


@pytest.fixture
def start(request: pytest.FixtureRequest, person: Person, serve: Serve, device_file: DeviceFile,
          client: NewClient) -> Start:  # fmt: skip
    """For the classes that a test names with ``device``."""
    path = device_file(person, "operations.py")
    return Start(request.param, person, serve(person, f"x={path}:{request.param}"), client)


def device(*names: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("start", names, indirect=True)


# -- ioctl


@device("Commands", "AsyncCommands")
def test_encoded_commands_carry_bytes_both_ways(start: Start) -> None:
    program = start.program()
    program.ask("def command(direction, number, size): return direction << 30 | size << 16 | ord('m') << 8 | number")
    for size in SIZES:
        program.ask(f"data = bytearray({size})")
        assert program.ask(f"fcntl.ioctl(fd, command(2, 1, {size}), data)") == "0"  # _IOR
        assert program.ask("bytes(data)") == repr(pattern(size))
        assert program.ask(f"fcntl.ioctl(fd, command(1, 2, {size}), data)") == "0"  # _IOW
        program.ask("told = bytearray(8); fcntl.ioctl(fd, command(2, 4, 8), told)")
        assert program.ask("int.from_bytes(told, sys.byteorder)") == str(sum(pattern(size)) << 16 | size)
        assert program.ask(f"fcntl.ioctl(fd, command(3, 3, {size}), data)") == "3"  # _IOWR
        assert program.ask("bytes(data)") == repr(pattern(size)[::-1])


@device("Commands", "AsyncCommands")
def test_a_plain_argument_arrives_as_a_number_and_the_result_comes_back(start: Start) -> None:
    program = start.program()
    assert program.ask(f"fcntl.ioctl(fd, {NUMBER}, 41)") == "42"
    assert program.ask(f"fcntl.ioctl(fd, {NUMBER}, {2**31 - 2})") == str(2**31 - 1)
    assert program.ask(f"fcntl.ioctl(fd, {DEFER})") == "ENOTTY"


@device("Commands", "AsyncCommands")
def test_commands_without_a_size_reach_into_the_memory_of_the_caller(start: Start) -> None:
    program = start.program()
    program.ask("screen = bytearray(4096)")
    assert program.ask(f"fcntl.ioctl(fd, {GET_VSCREENINFO}, screen)") == "0"
    assert program.ask("bytes(screen)") == repr(pattern(160).ljust(4096, b"\0"))
    program.ask("screen[:5] = b'mine!'")
    assert program.ask(f"fcntl.ioctl(fd, {PUT_VSCREENINFO}, screen)") == "0"
    program.ask("import struct; room = ctypes.create_string_buffer(64)")
    program.ask("cmap = struct.pack('=IIQ', 1, 6, ctypes.addressof(room))")
    assert program.ask(f"fcntl.ioctl(fd, {GET_CMAP}, cmap)[:0], room.value") == repr((b"", b"ine!" + pattern(7)[5:]))


@device("Commands")
def test_a_bad_pointer_is_efault_and_does_no_harm(start: Start) -> None:
    program = start.program()
    for command in (GET_VSCREENINFO, PUT_VSCREENINFO, GET_CMAP):
        assert program.ask(f"checked(libc.ioctl(fd, {command}, ctypes.c_void_p(4096)))") == "EFAULT"
    get = 2 << 30 | 4096 << 16 | ord("m") << 8 | 1
    assert program.ask(f"checked(libc.ioctl(fd, {get}, ctypes.c_void_p(4096)))") == "EFAULT"
    # the second page of two is not there: the first part has arrived, as in the kernel
    program.ask("at = mapped(-1, 8192, flags=SHARED | 0x20); munmap(at + 4096)")
    assert program.ask(f"checked(libc.ioctl(fd, {GET_VSCREENINFO}, ctypes.c_void_p(at + 4096 - 80)))") == "EFAULT"
    assert program.ask(f"fcntl.ioctl(fd, {NUMBER}, 1)") == "2"
    assert start.served.log() == ""


# -- waiting


@device("Events", "AsyncEvents")
def test_poll_select_and_epoll_wake_when_the_device_says_so(start: Start) -> None:
    program = start.program()
    assert (
        program.ask("polled(fd, select.POLLIN, 0), polled(fd, select.POLLIN | select.POLLOUT, 0)")
        == f"(0, {POLLOUT})"
    )
    assert program.ask("os.write(fd, b'1'), polled(fd, select.POLLIN | select.POLLRDNORM, 10)") == repr(
        (1, POLLIN | POLLRDNORM)
    )
    assert program.ask("os.read(fd, 8)[0]") == "1"
    assert (
        program.ask("os.write(fd, b'1'), select.select([fd], [], [], 10)[0] == [fd], os.read(fd, 8)[0]")
        == "(1, True, 1)"
    )
    assert program.ask("select.select([fd], [fd], [fd], 0) == ([], [fd], [])") == "True"
    program.ask("epoll = select.epoll(); epoll.register(fd, select.EPOLLIN)")
    assert program.ask("epoll.poll(0), os.write(fd, b'1'), epoll.poll(10)") == program.ask(
        f"([], 1, [(fd, {POLLIN})])"
    )
    # by level: as long as nothing is read
    assert program.ask(f"epoll.poll(0) == epoll.poll(10) == [(fd, {POLLIN})]") == "True"
    assert program.ask("os.read(fd, 8)[0], epoll.poll(0)") == "(1, [])"


@device("Events", "AsyncEvents")
def test_epoll_by_edge_tells_of_each_event_once(start: Start) -> None:
    program = start.program()
    program.ask("epoll = select.epoll(); epoll.register(fd, select.EPOLLIN | select.EPOLLET)")
    for expected in range(1, 4):
        assert program.ask("os.write(fd, b'1'), len(epoll.poll(10)), epoll.poll(0.05)") == "(1, 1, [])"
        assert program.ask("polled(fd, select.POLLIN, 0)") == str(POLLIN), expected
    assert program.ask("os.read(fd, 8)[0], epoll.poll(0.05)") == "(3, [])"


@device("Events", "AsyncEvents")
def test_a_poll_that_runs_out_returns_nothing_and_the_next_event_is_not_lost(start: Start) -> None:
    program = start.program()
    assert program.ask("polled(fd, select.POLLIN, 0.05), polled(fd, select.POLLIN, 0.05)") == "(0, 0)"
    assert program.ask("os.write(fd, b'1'), polled(fd, select.POLLIN, 10), os.read(fd, 8)[0]") == f"(1, {POLLIN}, 1)"


@device("Events", "AsyncEvents")
def test_all_programs_that_wait_wake(start: Start) -> None:
    readers, pollers = [start.program() for _ in range(3)], [start.program() for _ in range(3)]
    for program in readers:
        program.send("os.read(fd, 8)[0]")
    for program in pollers:
        program.send("polled(fd, select.POLLIN, 20)")
    ring = start.program()
    assert ring.ask("polled(fd, select.POLLIN, 0.3)") == "0"
    assert not any(program.has_answered() for program in (*readers, *pollers))
    ring.ask("os.write(fd, b'1')")
    assert [program.answer() for program in readers] == ["1"] * 3
    assert [program.answer() for program in pollers] == [str(POLLIN)] * 3


@device("Events", "AsyncEvents")
def test_a_hundred_events_are_all_counted(start: Start) -> None:
    program = start.program()
    program.ask("os.write(fd, b'100')")
    program.ask("seen = 0")
    program.ask("while seen < 100: seen += os.read(fd, 8)[0]")
    assert program.ask("seen") == "100"


@device("Events", "AsyncEvents")
def test_nonblock_gives_eagain_instead_of_waiting(start: Start) -> None:
    program = start.program("fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)")
    assert program.ask("os.read(fd, 8)") == "EAGAIN"
    assert program.ask("os.write(fd, b'1'), polled(fd, select.POLLIN, 10), os.read(fd, 8)[0]") == f"(1, {POLLIN}, 1)"
    # fcntl(2) changes it later
    other = start.program()
    assert other.ask("fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK), os.read(fd, 8)") == "EAGAIN"
    other.ask("fcntl.fcntl(fd, fcntl.F_SETFL, 0)")
    other.send("os.read(fd, 8)[0]")
    program.ask("os.write(fd, b'1')")
    assert other.answer() == "1"


@device("Gate", "AsyncGate")
def test_a_read_that_waits_holds_up_no_other_program(start: Start) -> None:
    waiting = [start.program() for _ in range(8)]
    for program in waiting:
        program.send("os.pread(fd, 7, 0)")
    other = start.program()
    assert other.ask("os.pread(fd, 7, 1)") == "b'at once'"
    other.send("threading.Thread(target=os.pread, args=(fd, 7, 0), daemon=True).start()")
    assert other.answer() == "None"
    assert other.ask("os.pread(fd, 7, 1)") == "b'at once'"  # by the same open
    assert not any(program.has_answered() for program in waiting)
    assert other.ask("os.pwrite(fd, b'open', 0)") == "4"
    assert [program.answer() for program in waiting] == ["b'through'"] * 8


@device("SizedGate", "Gate")
def test_sendfile_from_a_device_without_memory_is_refused_so_that_programs_read(start: Start) -> None:
    program = start.program()
    program.ask("null = os.open('/dev/null', os.O_WRONLY)")
    assert program.ask("os.sendfile(null, fd, 1, 7)") == "EINVAL"
    assert program.ask("os.pread(fd, 7, 1)") == "b'at once'"


# -- memory that changes


MAP = "fd = os.open(path, os.O_RDWR); at = mapped(fd, 8192); load(at); load(at + 4096)"
HERE = "load(at + 64, 8)"


@device("Registers")
def test_each_way_of_storing_in_python_is_seen_through_a_mapping_when_the_call_is_over(start: Start) -> None:
    program, other = start.program(MAP), start.program(MAP)
    for value, command in enumerate((SLICE, NUMPY, VIEW, SLICE, NUMPY), 1):
        assert program.ask(f"fcntl.ioctl(fd, {command}, {value}), {HERE}") == repr((0, bytes([value] * 8)))
        assert other.ask(HERE) == repr(bytes([value] * 8))
        assert other.ask("os.pread(fd, 8, 64)") == repr(bytes([value] * 8))


@device("Registers")
def test_what_a_thread_of_the_device_stores_is_there_when_it_wakes_the_program(start: Start) -> None:
    program, other = start.program(MAP), start.program(MAP)
    program.send(f"polled(fd, {POLLIN}, 20), {HERE}")
    assert other.ask(f"fcntl.ioctl(fd, {LATER}, 9)") == "0"
    assert program.answer() == repr((POLLIN, bytes([9] * 8)))
    assert other.ask(HERE) == repr(bytes([9] * 8))


@device("Registers")
def test_a_store_of_the_device_does_not_undo_stores_beside_it(start: Start) -> None:
    program = start.program(MAP)
    program.ask("store(at + 56, b'before..'); store(at + 72, b'..behind'); store(at + 4096, b'page two')")
    program.ask(f"fcntl.ioctl(fd, {SLICE}, 5)")
    assert program.ask("load(at + 56, 24)") == repr(b"before.." + bytes([5] * 8) + b"..behind")
    assert program.ask("load(at + 4096, 8)") == "b'page two'"


@device("Registers")
def test_ioctl_sees_what_was_stored_through_the_mapping_before_it_without_msync(start: Start) -> None:
    program, other = start.program(MAP), start.program(MAP)
    for value in (1, 2, 200):
        assert program.ask(f"store(at + 64, bytes([{value}] * 8)), fcntl.ioctl(fd, {LOOK})") == f"(None, {value})"
        assert other.ask(f"{HERE}[0], fcntl.ioctl(fd, {LOOK})") == f"({value}, {value})"


@device("Registers")
def test_pull_sees_what_a_program_stored_and_leaves_its_mapping_as_it_is(start: Start) -> None:
    program = start.program(MAP)
    assert program.ask(f"fcntl.ioctl(fd, {AWAIT}, 77)") == "0"
    program.ask("store(at + 64, bytes([77] * 8))")
    assert program.ask(f"polled(fd, {POLLIN}, 20)") == str(POLLIN)
    assert program.ask(HERE) == repr(bytes([77] * 8))


@device("Registers")
def test_msync_munmap_and_close_bring_stores_to_other_programs_and_to_the_device(start: Start) -> None:
    program, other = start.program(MAP), start.program()
    for value, sync in enumerate(("msync(at)", "munmap(at)", "os.close(fd)"), 1):
        program.ask(f"store(at + 64, bytes([{value}] * 8)); {sync}")
        assert other.ask("os.pread(fd, 8, 64)") == repr(bytes([value] * 8))
        program.ask(MAP)


@device("Registers", "Banks")
def test_a_device_that_declares_no_size_is_mapped_whole_by_a_program_that_never_asks_for_it(
    start: Start, host: str
) -> None:
    program = start.program()
    size = {"Registers": 8192, "Banks": 16384}[start.name]
    if host == "kernel":  # a character device has no st_size, and no area reaches past its end
        assert program.ask(f"mapped(fd, {size + 4096})") == "EINVAL"
        assert program.ask(f"len(load(mapped(fd, {size}) + {size} - 4096, 4096))") == "4096"
        return
    program.ask(f"at = mapped(fd, {size + 4096})")
    assert program.ask(f"in_child(lambda: load(at + {size} - 4096, 4) is not None)") == "'True'"
    assert program.ask(f"in_child(lambda: load(at + {size}, 4))") == "'SIGBUS'"
    assert program.ask("os.fstat(fd).st_size") == str(size)


@device("Registers")
def test_opening_with_o_trunc_leaves_mapped_stores(start: Start) -> None:
    program, other = start.program(MAP), start.program()
    program.ask("store(at + 64, b'not lost')")
    assert other.ask("os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))") == "None"
    assert program.ask(HERE) == "b'not lost'"
    assert other.ask("os.pread(fd, 8, 64)") == "b'not lost'"


# -- pages on demand


WINDOW = "fd = os.open(path, os.O_RDWR); at = mapped(fd, 16384)"
BANK = "[load(at + 4096 * number, 8) for number in range(4)]"


def bank(number: int) -> str:
    return repr([b"bank %d.%d" % (number, pgoff) for pgoff in range(4)])


@device("Banks")
def test_each_page_faults_once_for_all_programs(start: Start) -> None:
    program, other = start.program(WINDOW), start.program(WINDOW)
    assert program.ask("load(at + 8192, 8)") == "b'bank 0.2'"
    assert program.ask(f"fcntl.ioctl(fd, {FAULTS})") == "1"
    assert other.ask(BANK) == bank(0)
    assert program.ask(BANK) == bank(0)
    assert program.ask(f"fcntl.ioctl(fd, {FAULTS})") == "4"


@device("Banks")
def test_after_unmap_mapping_range_every_program_sees_the_new_pages(start: Start) -> None:
    program, other = start.program(WINDOW), start.program(WINDOW)
    for number in (0, 1, 0, 1):
        assert program.ask(BANK) == bank(number)
        assert other.ask(BANK) == bank(number)
        program.ask(f"fcntl.ioctl(fd, {SWAP})")


@device("Banks")
def test_stores_stay_in_the_page_that_was_mapped_when_they_were_made(start: Start) -> None:
    program, other = start.program(WINDOW), start.program(WINDOW)
    assert program.ask(f"store(at, b'mine'), load(at, 8), fcntl.ioctl(fd, {SWAP})") == "(None, b'mine 0.0', 1)"
    assert program.ask(BANK) == bank(1)
    assert other.ask(f"store(at, b'your'), fcntl.ioctl(fd, {SWAP})") == "(None, 5)"
    assert program.ask("load(at, 8)") == "b'mine 0.0'"
    assert program.ask(f"fcntl.ioctl(fd, {SWAP}), load(at, 8)") == "(6, b'your 1.0')"


@device("Banks")
def test_a_thread_of_the_device_swaps_under_a_program_that_waits(start: Start) -> None:
    program = start.program(WINDOW)
    assert program.ask(BANK) == bank(0)
    assert program.ask(f"fcntl.ioctl(fd, {SWAP_LATER}), polled(fd, {POLLIN}, 20)") == f"(4, {POLLIN})"
    assert program.ask(BANK) == bank(1)
