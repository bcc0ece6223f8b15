"""Python's mmap module, numpy.memmap, and calls that copy in the kernel, in processes that know nothing of mapdev."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.people import Person

MEBIBYTE = 1 << 20


def python(person: Person, program: str, *args: str | Path) -> Any:
    """What a Python program of another process prints as JSON. The arguments are in its sys.argv."""
    done = person.run(
        *person.python, "-c", "import errno, json, mmap, os, sys\n" + program, *args, timeout=60, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def ram(person: Person, serve: Serve) -> Path:
    return serve(person, "ram:1M").path("ram")


# -- numpy.memmap


def test_two_memmaps_are_coherent_without_flush(person: Person, ram: Path) -> None:
    program = """
import numpy as np
one = np.memmap(sys.argv[1], dtype="<u4", mode="r+")
other = np.memmap(sys.argv[1], dtype="<u4", mode="r+")
one[:] = np.arange(one.size, dtype="<u4")
there = bool((one == other).all())
other[::1024] += 7
back = bool((one[::1024] == np.arange(0, one.size, 1024) + 7).all())
print(json.dumps([one.size * 4, there, back, bool((one == other).all())]))
"""
    assert python(person, program, ram) == [MEBIBYTE, True, True, True]


def test_what_a_memmap_stores_is_what_pread_gives(person: Person, ram: Path) -> None:
    program = """
import numpy as np
map = np.memmap(sys.argv[1], dtype="u1", mode="r+")
map[:] = np.random.default_rng(1).integers(0, 256, map.size, dtype="u1")
fd = os.open(sys.argv[1], os.O_RDWR)
same = os.pread(fd, map.size, 0) == map.tobytes()
os.pwrite(fd, b"by pwrite", 5000)
print(json.dumps([same, bytes(map[5000:5009]).decode()]))
"""
    assert python(person, program, ram) == [True, "by pwrite"]


def test_after_flush_another_process_sees_it(person: Person, ram: Path) -> None:
    store = """
import numpy as np
map = np.memmap(sys.argv[1], dtype="<f8", mode="r+", offset=4096, shape=(100, 100))
map[:] = np.arange(10000).reshape(100, 100) / 3
map.flush()
print(json.dumps(float(map.sum())))
"""
    look = """
import numpy as np
map = np.memmap(sys.argv[1], dtype="<f8", mode="r", offset=4096, shape=(100, 100))
print(json.dumps([float(map.sum()), float(map[99, 99])]))
"""
    total = python(person, store, ram)
    assert python(person, look, ram) == [total, 9999 / 3]


def test_a_process_that_is_running_sees_the_stores_of_another(person: Person, ram: Path) -> None:
    program = """
import subprocess
import numpy as np
map = np.memmap(sys.argv[1], dtype="u1", mode="r")
before = int(map[70000])
store = "import numpy as np, sys; np.memmap(sys.argv[1], dtype='u1', mode='r+')[70000] = 42"
subprocess.run([sys.executable, "-c", store, sys.argv[1]], check=True, timeout=30)
print(json.dumps([before, int(map[70000])]))
"""
    assert python(person, program, ram) == [0, 42]


def test_modes_of_memmap(person: Person, ram: Path) -> None:
    program = """
import numpy as np
path = sys.argv[1]
np.memmap(path, dtype="u1", mode="r+")[:4] = list(b"kept")
read_only = np.memmap(path, dtype="u1", mode="r")
try:
    read_only[0] = 1
    refused = ""
except ValueError as error:
    refused = str(error)
private = np.memmap(path, dtype="u1", mode="c")
private[:4] = list(b"mine")
after = bytes(np.memmap(path, dtype="u1", mode="r")[:4]).decode()
try:
    np.memmap(path, dtype="u1", mode="w+", shape=(2 * len(read_only),))
    grown = ""
except OSError as error:
    grown = errno.errorcode[error.errno]
made = np.memmap(path, dtype="u1", mode="w+", shape=(len(read_only),))
print(json.dumps([refused, bytes(private[:4]).decode(), after, grown, bytes(made[:4]).decode()]))
"""
    refused, private, after, grown, made = python(person, program, ram)
    assert "read-only" in refused
    assert (private, after) == ("mine", "kept")
    assert grown == "ENOSPC"  # numpy writes a byte at the new end; a device does not grow
    assert made == "kept"  # "w+" truncates, which changes nothing of a device


# -- the mmap module


def test_the_mmap_module_maps_stores_flushes_and_searches(person: Person, ram: Path) -> None:
    program = """
with open(sys.argv[1], "r+b") as file:
    map = mmap.mmap(file.fileno(), 0)
    map[10:15] = b"asdf\\n"
    map.move(100, 10, 5)
    map.seek(100)
    line = map.readline()
    map.flush()
    found = map.find(b"asdf", 11)
    file.seek(100)
    print(json.dumps([len(map), map.size(), line.decode(), found, file.read(4).decode()]))
"""
    assert python(person, program, ram) == [MEBIBYTE, MEBIBYTE, "asdf\n", 100, "asdf"]


def test_the_mmap_module_refuses_more_than_there_is_and_resize(person: Person, ram: Path) -> None:
    program = """
fd = os.open(sys.argv[1], os.O_RDWR)
said = []
for call in (lambda: mmap.mmap(fd, len(map) + 1), lambda: map.resize(2 * len(map)), lambda: map.resize(4096)):
    map = mmap.mmap(fd, 0)
    try:
        call()
        said.append("")
    except (OSError, ValueError) as error:
        said.append(errno.errorcode[error.errno] if isinstance(error, OSError) else type(error).__name__)
print(json.dumps([said, os.fstat(fd).st_size]))
"""
    assert python(person, program, ram) == [["ValueError", "EINVAL", "EINVAL"], MEBIBYTE]


def test_access_follows_how_the_file_was_opened(person: Person, ram: Path) -> None:
    program = """
read_only = os.open(sys.argv[1], os.O_RDONLY)
said = [mmap.mmap(read_only, 0, access=access)[:1].hex() for access in (mmap.ACCESS_READ, mmap.ACCESS_COPY)]
write_only = os.open(sys.argv[1], os.O_WRONLY)
for fd, prot in ((read_only, mmap.PROT_READ | mmap.PROT_WRITE), (write_only, mmap.PROT_READ)):
    try:
        mmap.mmap(fd, 4096, prot=prot)
        said.append("")
    except OSError as error:
        said.append(errno.errorcode[error.errno])
print(json.dumps(said))
"""
    assert python(person, program, ram) == ["00", "00", "EACCES", "EACCES"]


def test_a_forked_child_and_its_parent_share_the_mapping(person: Person, ram: Path) -> None:
    program = """
map = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
child = os.fork()
if not child:
    map[:5] = b"child"
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps(map[:5].decode()))
"""
    assert python(person, program, ram) == "child"


# -- copies that the kernel makes: sendfile(2), splice(2), copy_file_range(2)

COPIES = """
import tempfile

def attempt(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]

fd = os.open(sys.argv[1], os.O_RDWR)
map = mmap.mmap(fd, 0)

def sendfile():
    with tempfile.TemporaryFile() as out:
        count = os.sendfile(out.fileno(), fd, 0, 6)
        out.seek(0)
        return out.read(count).decode()

def splice():
    out, into = os.pipe()
    return os.read(out, os.splice(fd, into, 6, offset_src=0)).decode()
"""


def test_sendfile_and_splice_never_give_what_is_no_longer_there(person: Person, ram: Path) -> None:
    """In shared memory the kernel would keep a copy for them that mapped stores do not reach, so they are refused
    (and programs use read); on demand they read what mappings see."""
    program = """
said = []
for text in (b"first ", b"second", b"third "):
    map[:6] = text
    said += [attempt(sendfile), attempt(splice)]
os.pwrite(fd, b"fourth", 0)
print(json.dumps([*said, attempt(sendfile), attempt(splice)]))
"""
    said = python(person, COPIES + program, ram)
    texts = [text for text in ("first ", "second", "third ", "fourth") for _ in range(2)]
    assert said == (["EINVAL"] * 8 if person.is_root else texts)


def test_sendfile_and_splice_into_a_device_are_writes(person: Person, ram: Path) -> None:
    program = """
with tempfile.TemporaryFile() as there:
    there.write(b"from a file")
    there.flush()
    sent = os.sendfile(fd, there.fileno(), 0, 11)
out, into = os.pipe()
os.write(into, b"from a pipe")
spliced = os.splice(out, fd, 11, offset_dst=100)
print(json.dumps([sent, spliced, map[:11].decode(), map[100:111].decode()]))
"""
    assert python(person, COPIES + program, ram) == [11, 11, "from a file", "from a pipe"]


def test_copy_file_range_is_refused_as_for_any_device(person: Person, serve: Serve) -> None:
    served = serve(person, "ram:1M", "other=ram:1M")
    program = """
other = os.open(sys.argv[2], os.O_RDWR)
with tempfile.TemporaryFile() as there:
    there.write(b"text")
    there.flush()
    pairs = [(fd, other), (fd, there.fileno()), (there.fileno(), fd)]
    print(json.dumps([attempt(lambda: os.copy_file_range(a, b, 4, 0, 0)) for a, b in pairs]))
"""
    assert python(person, COPIES + program, served.path("ram"), served.path("other")) == ["EINVAL", "EXDEV", "EXDEV"]


def test_shutil_copies_to_and_from_a_device(person: Person, serve: Serve) -> None:
    served = serve(person, "ram:1M", "array")
    program = """
import shutil, tempfile
ram, array = sys.argv[1:]
with tempfile.TemporaryDirectory() as directory:
    copy = os.path.join(directory, "copy")
    shutil.copyfile(array, copy)
    with open(copy, "rb") as file:
        text = file.read()
    shutil.copyfile(copy, ram)
with open(ram, "rb") as file:
    there = file.read()
print(json.dumps([len(text), text[8192:8198].decode(), there[: len(text)] == text, len(there)]))
"""
    said = python(person, program, served.path("ram"), served.path("array"))
    assert said == [65536, "page 2", True, MEBIBYTE]
