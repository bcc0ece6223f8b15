# ruff: noqa: E501 - scripts and commands
"""Programs of all kinds whose loads and stores are trapped: each access reaches the device once, with its width.

docs/howto-fpga-registers.md, followed literally; the registers of a clock that really ticks, for python-periphery.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.howto import follow
from tests.clients.periphery import suite_of_python_periphery_passes
from tests.clients.programs import need
from tests.conftest import DeviceFile
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")


def test_the_howto(person: Person, place: Callable[[Person], Path]) -> None:
    need("gcc", "gcc libc6-dev")
    if person.run(*person.python, "-c", "import pytest, systemrdl").returncode:
        pytest.skip(f"{person.python[0]} has no pytest, or no systemrdl-compiler, for this user")
    directory = place(person)
    (directory / "bin").mkdir()
    pytest_program = directory / "bin" / "pytest"
    pytest_program.write_text(f'#!/bin/sh\nexec {" ".join(person.python)} -m pytest -p no:cacheprovider "$@"\n')
    pytest_program.chmod(0o755)
    steps = [step.strip() for step in follow("howto-fpga-registers.md", person, directory)]
    assert len(steps) == 2
    guide = Path(__file__).parent.parent.parent.joinpath("docs", "howto-fpga-registers.md").read_text()
    for command in ("cc -O2 -Wall -g -o accumulate accumulate.c", "pytest -q"):  # CI does what was done here
        assert f"      - run: {command}\n" in guide
        assert any(command in step for step in steps)


TICKING = """
from datetime import datetime, timedelta
from beaglebone import BeagleBone, Control, Rtc, _bcd
from mapdev.clock import Clock
from mapdev.devices import DevMem
from mapdev.registers import place

class Ticking(Rtc):
    '''Nothing stores into it: what a program loads is computed from the time there and then.'''

    def now(self):
        return datetime(2025, 12, 31, 23, 59, 58, 500_000) + timedelta(microseconds=self.device.clock.ticks(1_000_000))

    def read_SECONDS(self):
        return _bcd(self.now().second)

    def read_MINUTES(self):
        return _bcd(self.now().minute)

    def read_HOURS(self):
        return _bcd(self.now().hour)

    def read_DAYS(self):
        return _bcd(self.now().day)

    def read_MONTHS(self):
        return _bcd(self.now().month)

    def read_YEARS(self):
        return _bcd(self.now().year % 100)

class Board(DevMem):
    '''Whenever it is opened its clock begins shortly before a full minute, which the program waits for.'''

    dram = place(0x8000_0000, 512 << 20, "System RAM")
    control = place(0x44E1_0000, Control)
    rtc = place(0x44E3_E000, Ticking)

    def open(self, file):
        self.clock = Clock()
"""


def test_the_tests_of_python_periphery_pass_on_a_clock_that_ticks_by_itself(
    device_file: DeviceFile, user: Person, root: Person
) -> None:
    trace = ["--trace-file", "trace", "--trace-only", "rtc.SECONDS"]
    for directory in suite_of_python_periphery_passes(TICKING, "Board", device_file, (user, root), trace):
        loads = [json.loads(line) for line in (directory / "trace").read_text().splitlines()]
        assert len({load["value"] for load in loads}) > 1  # it ticked


BOARD = """
import mapdev

class Board(mapdev.Device):
    # each access is a line of the file `accesses`. 0x00 NEXT: a load gives the number of loads of it so far; 0x10 FIFO:
    # a load takes one of 1, 2, ... 400, then 0; elsewhere memory

    size = 8 * mapdev.PAGE_SIZE

    def __init__(self):
        self.pages = mapdev.zeroed_pages(8)
        self.memory = bytearray(self.size)
        self.next, self.fifo = 0, list(range(1, 401))
        self.accesses = open("accesses", "a", buffering=1)

    def mmap(self, file, vma):
        return self.pages

    def load(self, file, count, pos):
        if pos == 0x00:
            self.next += 1
            data = self.next.to_bytes(count, "little")
        elif pos == 0x10:
            data = (self.fifo.pop(0) if self.fifo else 0).to_bytes(count, "little")
        else:
            data = bytes(self.memory[pos:pos + count])
        print("load", pos, count, int.from_bytes(data, "little"), file=self.accesses)
        return data

    def store(self, file, data, pos):
        self.memory[pos:pos + len(data)] = data
        print("store", pos, len(data), int.from_bytes(data, "little"), file=self.accesses)
"""

Access = tuple[str, int, int, int]
"""load or store, position, bytes, value."""


class Trapped:
    """A directory with the device `Board`, in which programs run as an ordinary user."""

    def __init__(self, person: Person, directory: Path) -> None:
        self.person = person
        self.directory = directory
        (directory / "board.py").write_text(BOARD)

    def compiled(self, *command: str, name: str = "program") -> Path:
        """What a compiler makes; it may not say a word."""
        done = subprocess.run([*command, "-o", str(self.directory / name)], cwd=self.directory, capture_output=True,
                              text=True, timeout=120, check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return self.directory / name

    def client(self, *options: str) -> Path:
        return self.compiled(
            need("gcc", "gcc libc6-dev"), "-Wall", "-Wno-unknown-pragmas", *options, str(HERE / "trap_clients.c")
        )

    def run(self, *program: str | Path, path: str = "/dev/board", **more: Any) -> tuple[str, list[Access]]:
        """What it prints, and the accesses. It ends well, without a word on standard error."""
        accesses = self.directory / "accesses"
        accesses.unlink(missing_ok=True)
        done = self.person.mapdev("run", "--device", f"{path}=board.py:Board", "--", *program, cwd=self.directory,
                                  timeout=120, **more)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.split() for line in accesses.read_text().splitlines()]
        return done.stdout, [(op, int(pos), int(count), int(value)) for op, pos, count, value in lines]


HERE = Path(__file__).parent


@pytest.fixture
def trapped(user: Person, place: Callable[[Person], Path]) -> Trapped:
    return Trapped(user, place(user))


def bytes_of(accesses: list[Access], what: str) -> Counter[int]:
    """How often each byte was loaded, or stored."""
    return Counter(pos + n for op, pos, count, _ in accesses if op == what for n in range(count))


def test_devmem_loads_once_in_each_width(trapped: Trapped) -> None:
    busybox = need("busybox", "busybox-static")
    commands = [f"{address} {width}" for address in ("0", "0x10") for width in (8, 16, 32, 64)]
    commands += [
        f"0x104 {width} {value}" for width, value in ((8, 0x11), (16, 0x2233), (32, 0x44556677), (64, 1 << 63))
    ]
    said, accesses = trapped.run(
        "sh", "-ec", "\n".join(f"{busybox} devmem {each}" for each in commands), path="/dev/mem"
    )
    assert [int(line, 16) for line in said.split()] == [1, 2, 3, 4, 1, 2, 3, 4]
    loads = [("load", pos, width, n) for pos in (0, 16) for n, width in enumerate((1, 2, 4, 8), 1)]
    stores = [
        ("store", 0x104, 1, 0x11),
        ("store", 0x104, 2, 0x2233),
        ("store", 0x104, 4, 0x44556677),
        ("store", 0x104, 8, 1 << 63),
    ]
    assert accesses == loads + stores


def test_memtool_dumps_and_writes(trapped: Trapped) -> None:
    memtool = need("memtool", "memtool")
    script = f"{memtool} mw -l 0x100 1 0xdeadbeef; {memtool} mw -w 0x108 7; {memtool} mw -b 0x10a 9; {memtool} md -l 0x100+16"
    said, accesses = trapped.run("sh", "-ec", script, path="/dev/mem")
    assert "00000100: 00000001 deadbeef 00090007 00000000" in said
    assert [access for access in accesses if access[0] == "store"] == [
        ("store", 0x100, 4, 1), ("store", 0x104, 4, 0xDEADBEEF), ("store", 0x108, 2, 7), ("store", 0x10A, 1, 9)]  # fmt: skip
    assert bytes_of(accesses, "load") == Counter(range(0x100, 0x110))


@pytest.mark.parametrize("options", [("-O0",), ("-O3", "-march=native"), ("-O3", "-static")], ids=" ".join)
def test_loops_that_become_vectors_reach_each_byte_once(trapped: Trapped, options: tuple[str, ...]) -> None:
    said, accesses = trapped.run(trapped.client(*options), "/dev/board", "vectors")
    assert said == f"sum {sum(range(1024))}\n"
    assert bytes_of(accesses, "store") == Counter(range(4096, 3 * 4096))
    assert bytes_of(accesses, "load") == Counter(range(4096, 3 * 4096))
    if options == ("-O0",):
        assert {count for _, _, count, _ in accesses} == {4}


@pytest.mark.parametrize("options", [("-O2",), ("-O3", "-march=native"), ("-O2", "-static")], ids=" ".join)
def test_copies_of_all_lengths(trapped: Trapped, options: tuple[str, ...]) -> None:
    said, accesses = trapped.run(trapped.client(*options), "/dev/board", "copies")
    assert said == "copied 0, moved 0\n"
    assert set(range(4096, 2 * 4096)) <= bytes_of(accesses, "load").keys()
    assert max(bytes_of(accesses, "store")) < 3 * 4096 + 600


@pytest.mark.parametrize("options", [("-O0",), ("-O3", "-march=native")], ids=" ".join)
def test_structures_and_bit_fields(trapped: Trapped, options: tuple[str, ...]) -> None:
    said, accesses = trapped.run(trapped.client(*options), "/dev/board", "structures")
    assert said == "0x5abc 3 0x1234 0x10000000003 3.25\n"
    # each access of the source: seven that read and write, three stores, seven loads
    assert (sum(op == "store" for op, *_ in accesses), sum(op == "load" for op, *_ in accesses)) == (10, 14)


def test_openmp_threads_take_each_entry_once(trapped: Trapped) -> None:
    said, accesses = trapped.run(trapped.client("-O2", "-fopenmp"), "/dev/board", "openmp")
    assert said == "got 400, twice 0, total 800\n"
    assert [value for op, pos, _, value in accesses if pos == 0x10] == list(range(1, 401))
    assert [value for op, pos, _, value in accesses if pos == 0x20 and op == "store"] == list(range(2, 802, 2))


def test_processes_take_each_entry_once(trapped: Trapped) -> None:
    said, accesses = trapped.run(trapped.client("-O2"), "/dev/board", "workers")
    assert said == "taken 400, wrong 0\n"
    assert [value for _, _, _, value in accesses] == [*range(1, 401), 0, 0, 0, 0, 0]


@pytest.mark.parametrize("wrapper", [
    "timeout 60 {}", "nice -n 5 {}", "env -i {}", "setsid -w {}", "(exec {}) | cat", "cat /dev/null | {} | cat",
    "script -qec '{}' /dev/null | tr -d '\\r'",
    "{} & wait", "ulimit -s unlimited && {}", "{} && {} | tail -n 0 && :",
])  # fmt: skip
def test_it_may_be_wrapped(trapped: Trapped, wrapper: str) -> None:
    client = trapped.client("-O2")
    said, accesses = trapped.run(
        "sh", "-ec", wrapper.replace("{}", f"{client} /dev/board 3"), stdin=subprocess.DEVNULL
    )
    assert said == "1\n2\n3\n"
    assert accesses == [("load", 0x10, 4, n + 1) for n in range(3 * wrapper.count("{}"))]


RUST = """
use std::sync::atomic::{AtomicU32, Ordering};

extern "C" { fn open(path: *const u8, flags: i32) -> i32;
             fn mmap(at: *mut u8, length: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> *mut u8; }

fn main() {
    unsafe {
        let area = mmap(std::ptr::null_mut(), 8 * 4096, 3, 1, open(b"/dev/board\\0".as_ptr(), 2), 0);
        let fifo = area.add(0x10) as *const u32;
        let sum: u32 = (0..10).map(|_| fifo.read_volatile()).sum();
        (area.add(0x100) as *mut u16).write_volatile(0xbeef);
        (area.add(0x108) as *mut u64).write_volatile(u64::MAX);
        let total = &*(area.add(0x110) as *const AtomicU32);
        std::thread::scope(|s| for _ in 0..4 { s.spawn(|| for _ in 0..25 { total.fetch_add(3, Ordering::SeqCst); }); });
        println!("{} {}", sum, total.load(Ordering::SeqCst));
    }
}
"""


def test_rust_volatile_and_atomics(trapped: Trapped) -> None:
    rustc = need("rustc", "rustc")
    if subprocess.run([rustc, "--version"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(f"{rustc} does not run")
    (trapped.directory / "program.rs").write_text(RUST)
    program = trapped.compiled(rustc, "-O", "program.rs")
    said, accesses = trapped.run(program)
    assert said == "55 300\n"
    assert accesses[:12] == [("load", 0x10, 4, n) for n in range(1, 11)] + [
        ("store", 0x100, 2, 0xBEEF), ("store", 0x108, 8, (1 << 64) - 1)]  # fmt: skip
    assert [value for op, _, _, value in accesses[12:] if op == "store"] == list(range(3, 303, 3))


CPP = """
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <new>
#include <sys/mman.h>

struct Block {
    std::atomic<uint32_t> state{7};
    std::atomic<uint64_t> count{};
    uint32_t scratch[4] = {1, 2, 3, 4};
};

int main()
{
    auto area = static_cast<char *>(mmap(nullptr, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open("/dev/board", O_RDWR), 0));
    auto block = new (area + 0x100) Block;
    uint32_t expected = 7, wrong = 8;
    bool first = block->state.compare_exchange_strong(expected, 9), second = block->state.compare_exchange_strong(wrong, 1);
    block->count.fetch_or(0xf0);
    block->count.fetch_sub(0x10);
    uint64_t before = block->count.exchange(5);
    std::printf("%d %d %u %#lx %u\\n", first, second, wrong, before, block->scratch[3] + block->scratch[0]);
}
"""


def test_placement_new_and_atomics(trapped: Trapped) -> None:
    (trapped.directory / "program.cc").write_text(CPP)
    said, accesses = trapped.run(trapped.compiled(need("g++", "g++"), "-O2", "-std=c++17", "program.cc"))
    assert said == "1 0 9 0xe0 5\n"
    assert [value for op, pos, _, value in accesses if op == "store" and pos == 0x100] == [7, 9]
    assert [value for op, pos, _, value in accesses if op == "store" and pos == 0x108] == [0, 0xF0, 0xE0, 5]


PYTHON = """
import mmap, os, struct
import numpy as np
area = mmap.mmap(os.open("/dev/board", os.O_RDWR), 8 * 4096)
words = np.frombuffer(area, dtype="<u4")
words[0x400:0x800] = np.arange(1024)
words[0x400:0x800] += 5
words[0x400:0x800:4] += 1
assert words[0x400:0x800].sum(dtype="u8") == sum(range(5, 1029)) + 256
assert int(words[0x400:0x800].max()) == 1028
print(struct.unpack("<I", area[0x10:0x14])[0], int(words[4]), memoryview(area).cast("I")[4])
memoryview(area).cast("I")[0x48] = 0x12345678
"""


def test_python_loads_a_word_once_by_numpy_and_memoryview_and_by_a_slice_as_memcpy_does(trapped: Trapped) -> None:
    said, accesses = trapped.run(trapped.person.python[0], "-c", PYTHON)
    *copied, one, other, last = [access for access in accesses if access[1] < 4096]
    assert copied in ([("load", 0x10, 4, 1)], [("load", 0x10, 4, 1), ("load", 0x10, 4, 2)])  # glibc's loads all twice
    n = len(copied)
    assert (one, other) == (("load", 0x10, 4, n + 1), ("load", 0x10, 4, n + 2))
    assert last == ("store", 0x120, 4, 0x12345678)
    assert said == f"{n} {n + 1} {n + 2}\n"
    stored = bytes_of(accesses, "store")
    assert {stored[4 * word] for word in range(0x400, 0x800, 4)} == {3}
    assert {stored[4 * word] for word in range(0x401, 0x800, 4)} == {2}


LUA = """
local ffi = require("ffi")
ffi.cdef[[int open(const char *, int); void *mmap(void *, size_t, int, int, int, long);]]
local area = ffi.cast("char *", ffi.C.mmap(nil, 8 * 4096, 3, 1, ffi.C.open("/dev/board", 2), 0))
local fifo, total = ffi.cast("volatile uint32_t *", area + 0x10), ffi.cast("volatile uint16_t *", area + 0x100)
local sum = 0
for i = 1, 400 do
    sum = sum + fifo[0]
    total[0] = total[0] + 1
end
print(sum, total[0], require("jit").status())
"""


def test_luajit_code_made_at_run_time(trapped: Trapped) -> None:
    (trapped.directory / "program.lua").write_text(LUA)
    said, accesses = trapped.run(need("luajit", "luajit"), "program.lua")
    assert said.split()[1:3] == ["400", "true"]
    taken = [
        value for _, pos, _, value in accesses if pos == 0x10
    ]  # it does not heed volatile: compiled, it keeps one
    assert taken == list(range(1, len(taken) + 1))
    assert int(said.split()[0]) == sum(taken) + (400 - len(taken)) * taken[-1]
    assert [value for op, _, count, value in accesses if op == "store" and count == 2] == list(range(1, 401))


def test_perl_maps_a_file_to_read_it(trapped: Trapped) -> None:
    script = 'open(my $f, "<:mmap", "/dev/board") or die $!; read($f, my $b, 4); print unpack("V", $b), "\\n"'
    said, accesses = trapped.run(need("perl", "perl"), "-e", script)
    assert said == f"{accesses[-1][3]}\n"
    assert {(op, pos, count) for op, pos, count, _ in accesses} == {("load", 0, 4)}


HIDDEN = """
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static void *run(void *arg)
{
    (void)arg;
    prctl(PR_SET_DUMPABLE, 0);
    volatile uint32_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, open("/dev/board", O_RDWR), 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    p[64] = 5;
    p[64] += 1;
    memset((void *)(p + 128), 1, 256);
    printf("%u %#x\\n", p[64], p[128]);
    return NULL;
}

int main(void)  /* also in a thread that does not lead its process */
{
    pthread_t thread;
    return pthread_create(&thread, NULL, run, NULL) || pthread_join(thread, NULL);
}
"""


def test_a_program_that_is_not_dumpable_is_trapped_like_others(trapped: Trapped) -> None:
    (trapped.directory / "hidden.c").write_text(HIDDEN)
    said, accesses = trapped.run(trapped.compiled(need("gcc", "gcc libc6-dev"), "-O2", "-w", "-pthread", "hidden.c"))
    assert said == "6 0x1010101\n"
    assert [access for access in accesses if access[1] == 256] == [
        ("store", 256, 4, 5), ("load", 256, 4, 5), ("store", 256, 4, 6), ("load", 256, 4, 6)]  # fmt: skip
    assert bytes_of(accesses, "store") >= Counter(range(512, 768))


OWN_BUS = """
#include <signal.h>
#include <unistd.h>

static void caught(int number) { (void)number; write(1, "mine\\n", 5); }

int main(void) { signal(SIGBUS, caught); raise(SIGBUS); return 0; }
"""


def test_a_program_that_may_not_be_read_gets_no_device_and_a_line_says_why(trapped: Trapped) -> None:
    if os.geteuid():
        pytest.skip("needs root, for a program that is not the user's own")
    gcc = need("gcc", "gcc libc6-dev")
    for name, source in (("hidden", HIDDEN), ("own_bus", OWN_BUS)):
        (trapped.directory / f"{name}.c").write_text(source)
        trapped.compiled(gcc, "-static", "-w", "-pthread", f"{name}.c", name=name).chmod(0o111)  # root's
    run = ["run", "--device", "/dev/board=board.py:Board", "--"]
    done = trapped.person.mapdev(*run, "./hidden", cwd=trapped.directory)
    assert (done.returncode, done.stdout) == (1, "")
    line, of_program = done.stderr.splitlines()
    assert "a program that this user may execute but not read" in line
    assert of_program == "mmap: Operation not permitted"
    done = trapped.person.mapdev(*run, "./own_bus", cwd=trapped.directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")
