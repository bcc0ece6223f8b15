"""What a device under `mapdev run` looks like, and what else programs use: terminals, shared memory, processes."""

import shlex
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.conftest import DeviceFile
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["devt", "--chardev"])
def look(request: pytest.FixtureRequest, person: Person, device_file: DeviceFile) -> Run:
    """A function that runs a program with /dev/uio0: a device that has a number, or one that has none and --chardev."""
    if request.param == "devt":
        options = [f"/dev/uio0={device_file(person, 'uio_timer.py')}:Timer"]
    else:
        options = ["/dev/uio0=ram:4096", "--chardev"]

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return person.mapdev("run", "--device", *options, "--", *args)

    return run


TOOLS = [
    ("test -c /dev/uio0 && ! test -f /dev/uio0 && ! test -b /dev/uio0 && echo it is", "it is"),
    ("stat -c '%F %t:%T %s %a' /dev/uio0", "character special file f0:0 0 666"),
    ("ls -l /dev/uio0 | cut -c 1-10", "crw-rw-rw-"),
    ("ls -l /dev/uio0 | grep -o ' 240, *0 ' | tr -d ' '", "240,0"),
    ("find /dev -xdev -type c -name uio0", "/dev/uio0"),
    ("find /dev -maxdepth 1 -type f", ""),
    ("find /dev -xdev -type c -name null", "/dev/null"),
    ("find /dev/null /dev/uio0 -printf '%y'", "cc"),
    ("ls -lL /dev/stdin < /dev/uio0 | cut -c 1", "c"),
]


@pytest.mark.parametrize(("line", "out"), TOOLS, ids=[line for line, _ in TOOLS])
def test_coreutils_and_find_see_a_character_device(look: Run, line: str, out: str) -> None:
    done = look("sh", "-c", line)
    assert (done.stdout.strip(), done.stderr) == (out, "")


@pytest.mark.parametrize(("line", "out"), TOOLS[:7], ids=[line for line, _ in TOOLS[:7]])
def test_a_static_busybox_sees_a_character_device(look: Run, line: str, out: str) -> None:
    busybox = shlex.quote(need("busybox", "busybox-static"))
    tools = "".join(f'{name}() {{ {busybox} {name} "$@"; }}\n' for name in ("test", "stat", "ls", "find"))
    done = look(busybox, "sh", "-c", tools + line)
    assert (done.stdout.strip(), done.stderr) == (out, "")


PYTHON = """
import os, pathlib, stat
fd = os.open("/dev/uio0", os.O_RDWR)
found = [os.stat("/dev/uio0"), os.lstat("/dev/uio0"), os.fstat(fd), os.stat(fd), os.stat(f"/proc/self/fd/{fd}")]
found += [os.stat("uio0", dir_fd=os.open("/dev", os.O_RDONLY))]
found += [entry.stat() for entry in os.scandir("/dev") if entry.name == "uio0"]
print(*{(oct(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev), s.st_uid) for s in found}, len(found))
print(pathlib.Path("/dev/uio0").is_char_device(), [e.is_file() for e in os.scandir("/dev") if e.name == "uio0"])
"""


def test_all_of_python_s_ways_to_ask_give_one_answer(look: Run, person: Person) -> None:
    done = look(*person.python, "-c", PYTHON)
    assert (done.returncode, done.stderr) == (0, "")
    mode = oct(stat.S_IFCHR | 0o666)
    assert done.stdout.splitlines() == [f"{(mode, 240, 0, person.uid)} 7", "True [False]"]


def test_without_a_number_and_without_chardev_it_is_a_regular_file(person: Person) -> None:
    line = "stat -c '%F %t:%T' /dev/x; find /dev -xdev -type c -name x; find /dev -maxdepth 1 -type f"
    done = person.mapdev("run", "--device", "/dev/x=ram:4096", "--", "sh", "-c", line)
    assert (done.stdout, done.stderr) == ("regular file 0:0\n/dev/x\n", "")


def test_a_program_in_a_terminal_of_its_own(look: Run) -> None:
    script = need("script", "bsdutils")
    inner = "test -t 0 && echo terminal; stty size | wc -w; test -c /dev/uio0 && echo device; ls -l $(tty) | cut -c 1"
    done = look(script, "-qec", inner, "/dev/null")
    assert (done.stdout.split(), done.stderr) == (["terminal", "2", "device", "c"], "")


SHARED = """
import multiprocessing, os, stat, sys
from multiprocessing import shared_memory

def child(name, queue):
    memory = shared_memory.SharedMemory(name=name)
    memory.buf[:5] = b"child"
    memory.close()
    queue.put(stat.filemode(os.stat("/dev/uio0").st_mode))

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    memory = shared_memory.SharedMemory(create=True, size=4096)
    assert memory.name in os.listdir("/dev/shm")
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=child, args=(memory.name, queue))
    process.start()
    mode = queue.get(timeout=20)
    process.join(20)
    print(bytes(memory.buf[:5]).decode(), mode, process.exitcode)
    memory.close()
    memory.unlink()
    with multiprocessing.Pool(2) as pool:
        print(pool.map(abs, range(-3, 0)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_and_its_shared_memory(
    look: Run, person: Person, place: Callable[[Person], Path], method: str
) -> None:
    program = place(person) / "shared.py"  # spawn imports it anew
    program.write_text(SHARED)
    done = look(*person.python, "-B", str(program), method)
    assert (done.returncode, done.stdout, done.stderr) == (0, "child crw-rw-rw- 0\n[3, 2, 1]\n", "")
