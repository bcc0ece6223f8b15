"""The user-space test of ``lkmc_mmap``, in C and in Python, against a served one."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.conftest import Serve
from tests.people import Person
from tests.served import Served

SOURCE = Path(__file__).with_name("two_mappings.c")
CC = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2"]

STEPS = ["page at physical address", "open", "mmap", "read", "write", "release"]
"""What the trace shows of one run: what a FUSE host is told. munmap is not, nor faults on memory that is there."""


@dataclass(frozen=True)
class Run:
    """What one run has printed; the addresses are None if it says that they are hidden."""

    code: int
    out: str
    err: str
    virtual: list[int]
    physical: list[int] | None


TwoMappings = Callable[[Person, str | Path], Run]


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(CC[0], "gcc libc6-dev")
    program = tmp_path_factory.mktemp("two_mappings") / "two_mappings"
    done = subprocess.run([*CC, "-o", program, SOURCE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return program


@pytest.fixture(params=["C", "Python"])
def two_mappings(request: pytest.FixtureRequest, place: Callable[[Person], Path]) -> TwoMappings:
    """A function that runs the test as a person on a path."""

    def command(person: Person) -> list[str]:
        if request.param == "Python":
            return [*person.python, "-m", "mapdev.two_mappings"]
        program = request.getfixturevalue("c_program")
        mine = place(person) / "two_mappings"  # pytest's own directories are closed to other users
        mine.write_bytes(program.read_bytes())
        mine.chmod(0o755)
        return [str(mine)]

    def run(person: Person, path: str | Path) -> Run:
        done = person.run(*command(person), path)
        numbers = [int(number, 16) for number in re.findall(r"0x[0-9a-f]+", done.stdout)]
        virtual = numbers[:2]
        physical = [number for number in numbers[2:] if number not in virtual]
        assert ("hidden" in done.stdout) is not bool(physical) or done.returncode
        return Run(done.returncode, done.stdout, done.stderr, virtual, physical or None)

    return run


def traced(served: Served) -> list[str]:
    """The lines of the trace, once the file is released."""
    return served.wait_log("release(").splitlines()


def logged_address(lines: list[str]) -> int | None:
    """What the device said of its page when it was opened; None if that is hidden from it."""
    text = lines[0].rpartition(" ")[2]
    return None if text == "(hidden)" else int(text, 16)


def assert_expected_sequence(lines: list[str]) -> None:
    shown = [line.split(" ", 2)[2] for line in lines]
    assert [text.partition("(")[0].partition(" 0x")[0].rstrip() for text in shown] == STEPS
    assert shown[1].startswith("open(O_RDWR|O_SYNC")
    assert shown[3].startswith("read(count=4, pos=0) = 4 b'qwer'")
    assert shown[4].startswith("write(4 b'zxcv', pos=4) = 4 ")


def test_in_shared_memory_both_mappings_are_the_page_that_the_device_logs(
    root: Person, serve: Serve, two_mappings: TwoMappings
) -> None:
    served = serve(root, "lkmc_mmap", "--trace")
    assert "(shared memory)" in served.ready
    run = two_mappings(root, served.path("lkmc_mmap"))
    assert (run.code, run.err) == (0, "")
    assert len(set(run.virtual)) == 2
    lines = traced(served)
    assert run.physical == [logged_address(lines)] * 2
    assert_expected_sequence(lines)


def test_on_demand_both_mappings_are_one_page_which_is_the_copy_of_the_kernel(
    root: Person, serve: Serve, two_mappings: TwoMappings
) -> None:
    served = serve(root, "lkmc_mmap", "--trace", "--memory", "on-demand")
    assert "(on demand)" in served.ready
    run = two_mappings(root, served.path("lkmc_mmap"))
    assert (run.code, run.err) == (0, "")
    assert run.physical is not None
    assert run.physical[0] == run.physical[1]
    lines = traced(served)
    assert logged_address(lines) not in (None, run.physical[0])
    assert_expected_sequence(lines)


def test_an_ordinary_user_is_told_that_frame_numbers_are_hidden(
    user: Person, serve: Serve, two_mappings: TwoMappings
) -> None:
    served = serve(user, "lkmc_mmap", "--trace")
    assert "(on demand)" in served.ready
    run = two_mappings(user, served.path("lkmc_mmap"))
    assert (run.code, run.err, run.physical) == (0, "", None)
    assert "CAP_SYS_ADMIN" in run.out
    lines = traced(served)
    assert logged_address(lines) is None
    assert_expected_sequence(lines)


def test_in_a_namespace_of_the_server(person: Person, serve: Serve, two_mappings: TwoMappings) -> None:
    served = serve(person, "lkmc_mmap", "--trace", "--via", "namespace")
    run = two_mappings(person, f"{served.ready.split()[1]}/lkmc_mmap")
    assert (run.code, run.err) == (0, "")
    assert (run.physical is not None) is person.is_root
    assert run.physical is None or run.physical[0] == run.physical[1]
    assert_expected_sequence(traced(served))


def test_five_runs_at_once_each_have_a_page_of_their_own(
    person: Person, serve: Serve, c_program: Path, place: Callable[[Person], Path]
) -> None:
    path = serve(person, "lkmc_mmap").path("lkmc_mmap")
    mine = place(person) / "two_mappings"
    mine.write_bytes(c_program.read_bytes())
    mine.chmod(0o755)
    many = f"for i in 1 2 3 4 5 6 7 8; do {mine} {path} >/dev/null || exit 1; done"
    together = [person.popen("sh", "-c", many) for _ in range(5)]
    assert [process.wait(60) for process in together] == [0] * 5


@pytest.mark.parametrize("target", ["ram:4096", "array"])
def test_another_device_fails_the_test(user: Person, serve: Serve, two_mappings: TwoMappings, target: str) -> None:
    served = serve(user, f"other={target}")
    run = two_mappings(user, served.path("other"))
    assert run.code == 1
    assert run.err.startswith("FAILED: ")
    assert "asdf" in run.err


def test_a_file_whose_writes_go_to_the_position_fails_the_test(
    user: Person, place: Callable[[Person], Path], two_mappings: TwoMappings
) -> None:
    path = place(user) / "file"
    path.write_bytes(b"asdf".ljust(4096, b"\0"))
    path.chmod(0o666)
    run = two_mappings(user, path)
    assert run.code == 1
    assert "zxcv" in run.err
    assert "qwer" in run.err


def test_no_such_path_is_one_line(user: Person, two_mappings: TwoMappings) -> None:
    run = two_mappings(user, "/nonesuch")
    assert (run.code, run.out, len(run.err.splitlines())) == (1, "", 1)
    assert "No such file or directory" in run.err
