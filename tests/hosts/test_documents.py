"""What README.md and docs/devices.md say is done, literally."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import mapdev
from mapdev.cli import main
from tests.conftest import Serve
from tests.people import Person

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
DEVICES = (ROOT / "docs" / "devices.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


@pytest.fixture
def author(person: Person, place: Callable[[Person], Path]) -> Path:
    """A directory with every device file of the two documents, and the test."""
    directory = place(person)
    (directory / "counter.py").write_text(blocks(README, "python")[0])
    for block in blocks(DEVICES, "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name is not None
        (directory / name[1]).write_text(block)
    return directory


def test_the_first_device_and_what_any_program_does_with_it(person: Person, author: Path, serve: Serve) -> None:
    served = serve(person, author / "counter.py")
    terminal = blocks(README, "")
    commands = next(block for block in terminal if "xxd" in block).replace("dev/counter", str(served.path("counter")))
    done = person.run("sh", "-ec", commands)
    assert done.stderr == ""
    first, value, last = done.stdout.splitlines()
    assert first.split()[1:3] == ["0100", "0000"]
    assert value == r"b'\x02\x00\x00\x00'"
    assert last.split()[1:3] == ["0300", "0000"]
    assert last.endswith("mine....")


def test_the_unit_test_without_a_kernel(person: Person, author: Path) -> None:
    done = person.run(
        *person.python, "-c", blocks(README, "python")[1], cwd=author, env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_steps_of_the_guide(person: Person, author: Path, serve: Serve) -> None:
    names = ("hello", "scratch", "knob", "doorbell", "squares")
    served = serve(person, *(author / f"{name}.py" for name in names))
    assert person.run("cat", served.path("hello")).stdout == "hello\n"
    assert "Invalid argument" in person.run("tee", served.path("hello"), input="x").stderr
    program = """
import fcntl, mmap, os, select, struct, sys, threading
os.chdir(sys.argv[1])
with open("scratch", "r+b") as f:
    one, other = mmap.mmap(f.fileno(), 16384), mmap.mmap(f.fileno(), 16384)
    one[9000:9004] = b"seen"
    assert other[9000:9004] == b"seen"
with open("squares", "rb") as f:
    area = mmap.mmap(f.fileno(), 1 << 30, prot=mmap.PROT_READ)
    assert [struct.unpack_from("<Q", area, n * 4096)[0] for n in (0, 7, 262143)] == [0, 49, 262143 ** 2]
with open("knob", "rb") as f:
    limits = fcntl.ioctl(f, 0x80086B01, bytes(8))
    assert struct.unpack("<ii", limits) == (-10, 10)
    fcntl.ioctl(f, 0x40046B02, struct.pack("<i", 7))
    assert f.read() == b"7\\n"
    try:
        fcntl.ioctl(f, 0x40046B02, struct.pack("<i", 11))
    except OSError as error:
        assert error.errno == 34
    else:
        raise AssertionError("11 was taken")
bell = os.open("doorbell", os.O_RDWR)
poll = select.poll()
poll.register(bell, select.POLLIN)
assert poll.poll(0) == []
threading.Timer(0.1, os.write, [bell, b"ring"]).start()
assert poll.poll(10000) == [(bell, select.POLLIN)]
assert os.read(bell, 4) == b"\\1\\0\\0\\0"
print("all steps")
"""
    done = person.run(*person.python, "-c", program, served.directory)
    assert (done.stdout, done.stderr) == ("all steps\n", "")


def test_the_unit_test_of_the_guide(author: Path, person: Person) -> None:
    if person.run(*person.python, "-c", "import pytest").returncode:
        pytest.skip("the copy of the packages that the ordinary user has here is without pytest")
    done = person.run(*person.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_knob.py", cwd=author)
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("memory", ["shared", "on-demand"])
def test_demo_runs_and_says_what_it_saw(person: Person, dev_fuse: None, memory: str) -> None:  # noqa: ARG001
    done = person.mapdev("demo", "--memory", memory)
    assert (done.returncode, done.stderr) == (0, "")
    shown = [line.split()[2].partition("(")[0] for line in done.stdout.splitlines() if " lkmc_mmap#1 " in line]
    assert shown == ["open", "mmap", "read", "write", "release"]
    both = re.search(r"both are one physical page: (0x\w+) and (0x\w+)", done.stdout)
    told = re.search(r"page at physical address (0x\w+)", done.stdout)
    if person.is_root:
        assert both is not None
        assert told is not None
        assert both[1] == both[2]
        assert (both[1] == told[1]) is (memory == "shared")
    else:
        assert both is told is None
        assert "hidden" in done.stdout


COMMANDS = sorted(main.list_commands(main.make_context("mapdev", ["devices"])))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_and_its_help_has_an_example(command: str, user: Person) -> None:
    assert f"mapdev {command}" in README
    done = user.mapdev(command, "--help")
    assert done.returncode == 0
    _, example, after = done.stdout.partition("Example:")
    assert example
    assert f"mapdev {command}" in after


def test_the_public_names_are_these() -> None:
    assert sorted(mapdev.__all__) == [
        "DEFAULT_POLLMASK", "Device", "File", "IO", "IOR", "IOW", "IOWR", "IoctlArg", "OnDemandPages", "PAGE_SHIFT",
        "PAGE_SIZE", "Pages", "VmFault", "Vma", "contiguous_pages", "on_demand_pages", "page_array", "signal_pending",
        "zeroed_pages",
    ]  # fmt: skip
    assert all(hasattr(mapdev, name) for name in mapdev.__all__)


def test_completion_comes_from_the_command_line_library(user: Person) -> None:
    environment = {"_MAPDEV_COMPLETE": "bash_complete", "COMP_WORDS": "mapdev serve ra", "COMP_CWORD": "2"}
    assert user.run(*user.python, "-m", "mapdev", env=environment).stdout.split() == ["plain,ram"]
