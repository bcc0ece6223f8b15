# ruff: noqa: E501 - scripts and commands
"""Programs whose every load and store comes to a device: what they see, and that no access is lost or doubled."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mapdev.pytest_plugin import MapdevRun
from tests.clients.devices_trapped import Counters
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

HERE = Path(__file__).parent


class Bench:
    """A directory of a person's with the devices, the client, and `mapdev run` for both."""

    def __init__(self, person: Person, directory: Path) -> None:
        self.person = person
        self.directory = directory
        shutil.copy(HERE / "devices_trapped.py", directory)
        self.client = self.compiled("trap.c", "-pthread")

    def compiled(self, source: str, *options: str) -> Path:
        program = self.directory / Path(source).stem
        compiler = "g++" if source.endswith("cc") else "gcc"
        if shutil.which(compiler) is None:
            pytest.skip(f"needs {compiler}")
        subprocess.run([compiler, "-O2", *options, "-o", program, HERE / source], check=True, timeout=60)
        return program

    def device(self, name: str = "Counters") -> str:
        return f"/dev/trapped={self.directory / 'devices_trapped.py'}:{name}"

    def arguments(self, *program: str | Path, device: str = "Counters", options: tuple[str, ...] = ()) -> list[str]:
        return ["run", *options, "--device", self.device(device), "--", *map(str, program)]

    def run(self, *program: str | Path, device: str = "Counters", options: tuple[str, ...] = (),
            timeout: float = 120, **more: Any) -> "subprocess.CompletedProcess[str]":  # fmt: skip
        return self.person.mapdev(*self.arguments(*program, device=device, options=options), timeout=timeout, **more)

    def start(self, *program: str | Path, device: str = "Counters", **more: Any) -> "subprocess.Popen[str]":
        return self.person.popen(*self.person.python, "-m", "mapdev", *self.arguments(*program, device=device),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)  # fmt: skip

    def told(self, *what: str, **more: Any) -> str:
        """What the client prints; it must end well, without a word of the host."""
        done = self.run(self.client, "/dev/trapped", *what, **more)
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout


@pytest.fixture
def bench(person: Person, place: Callable[[Person], Path]) -> Bench:
    return Bench(person, place(person))


def test_eight_threads_lose_and_double_nothing(bench: Bench) -> None:
    assert bench.told("threads", "100") == "sum 800, xadd 800, cmpxchg 800, fifo 800 of 40400\n"


def test_threads_may_come_and_go(bench: Bench) -> None:
    assert bench.told("lives", "100") == "sum 300\n"


def test_signals_every_100_us_double_nothing(bench: Bench) -> None:
    assert bench.told("storm", "200") == "wrong 0, sum 600, alarms some\n"


def test_forks_and_execs_have_their_own_mappings(bench: Bench) -> None:
    assert bench.told("processes", "6") == "sum 165\n"  # 6 * 25, 3 executed, 6 before vfork's exec and 6 after


def test_a_thread_that_is_not_the_leader_may_execute(bench: Bench) -> None:
    assert bench.told("exec") == "sum 4\n"


def test_a_thread_may_end_the_program_in_the_middle(bench: Bench) -> None:
    done = bench.run(bench.client, "/dev/trapped", "exit")
    assert (done.returncode, done.stderr) == (5, "")


def test_mappings_are_the_kernels(bench: Bench) -> None:
    assert bench.told("mappings").splitlines() == [
        "the other mapping: 11",
        "moved: 11",
        "moved to a place: 1 11",
        "MAP_FIXED: 1 12",
        "remap_file_pages: 13",
        "r9 after mmap: 0",
        "after close: 13",
    ]


def test_memcpy_memmove_memset_and_strings(bench: Bench) -> None:
    assert bench.told("copies") == "a string in a device, 20\n"


def test_system_calls_cannot_reach_the_memory(bench: Bench) -> None:
    assert bench.told("calls") == "write: -1 Bad address\nread: -1 Bad address\n"


def test_signals_of_the_program_are_its_own(bench: Bench) -> None:
    done = bench.run(bench.client, "/dev/trapped", "handlers")
    assert done.returncode == 0
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    division = told.pop("a division by a register that is 0")
    assert division.startswith(f"signal {signal.SIGFPE:d} code 1 ")
    undone = told.pop("an instruction that cannot be done")
    assert undone.startswith(f"signal {signal.SIGBUS:d} code 2 ")
    assert told == {
        "a model that raises at a load": "signal 7 code 2 at 24",
        "a model that raises at a store": "signal 7 code 2 at 24",
        "a model that answers too little": "signal 7 code 2 at 32",
        "a load": "went on",
        "past the end of a file": "signal 7 code 2 at 4096",
        "within the file": "went on",
        "a null pointer": "signal 11 code 1 at 0",
        "kill": "signal 7 code 0 from us",
        "beyond the device": "signal 7 code 2 at 4096",
        "half beyond the device": "signal 7 code 2 at 4094",
        "a store to what may only be read": "signal 11 code 2 at 0",
        "a load of it": "went on",
        "a load of what may not be read": "signal 11 code 2 at 0",
        "a load of what is not mapped": "signal 11 code 1 at 0",
        "a load of a private mapping": "went on",
        "a store to a private mapping": "signal 7 code 2 at 256",
    }
    assert done.stderr.count("Traceback") == 2
    assert done.stderr.count("RuntimeError: a model that is wrong") == 2
    assert "load answered 3 bytes where 4 are loaded" in done.stderr
    refused = [line for line in done.stderr.splitlines() if line.startswith("mapdev.trap: ")]
    assert len(refused) == 2
    assert "MAP_PRIVATE" in refused[0]
    assert refused[1].startswith("mapdev.trap: `fxsave ")
    assert refused[1].endswith("; the program gets SIGBUS")


def test_a_signal_that_ends_the_program_is_how_the_run_ends(bench: Bench) -> None:
    done = bench.run(bench.client, "/dev/trapped", "bad")
    assert done.returncode == -signal.SIGBUS
    assert "the program gets SIGBUS" in done.stderr


@pytest.mark.parametrize("whom", ["program", "launcher", "host"])
def test_kill_9_leaves_nothing(bench: Bench, whom: str) -> None:
    process = bench.start(bench.client, "/dev/trapped", "forever")
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    children = _children(process.pid)
    program = next(pid for pid, name in children.items() if name == "trap")
    (host,) = (pid for pid, name in children.items() if name != "trap")
    os.kill({"program": program, "launcher": process.pid, "host": host}[whom], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    if whom == "program":
        assert (process.returncode, err) == (-signal.SIGKILL, "")
    if whom == "host":
        assert process.returncode == 1
        assert "the host of the devices has died" in err
    _gone(program)
    _gone(host)


def _children(pid: int) -> dict[int, str]:
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found[int(child)] = Path(f"/proc/{child}/comm").read_text().strip()
    return found


def _gone(pid: int) -> None:
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.02)


def _state(pid: int, letters: str) -> None:
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in letters:
        assert time.monotonic() < until, f"process {pid} does not come to one of the states {letters}"
        time.sleep(0.02)


def test_a_program_can_be_stopped_and_goes_on(bench: Bench) -> None:
    script = 'echo $$; kill -STOP $$; exec "$@"'
    process = bench.start("sh", "-c", script, "sh", bench.client, "/dev/trapped", "threads", "10")
    assert process.stdout is not None
    program = int(process.stdout.readline())
    _state(process.pid, "T")  # the launcher stops too, as a shell wants it
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out == "sum 80, xadd 80, cmpxchg 80, fifo 80 of 440\n"
    assert program != process.pid


def test_it_stops_in_the_middle_of_accesses(bench: Bench) -> None:
    process = bench.start(bench.client, "/dev/trapped", "forever")
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    program = next(pid for pid, name in _children(process.pid).items() if name == "trap")
    for _ in range(5):
        os.kill(program, signal.SIGSTOP)
        _state(process.pid, "T")
        os.kill(process.pid, signal.SIGCONT)
        _state(process.pid, "SR")
        _state(program, "RSD")  # while its group is stopped, it is "t" to its tracer
    os.kill(program, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGTERM, "")


def test_std_atomic(bench: Bench) -> None:
    program = bench.compiled("trap_atomic.cc", "-pthread", "-std=c++17")
    done = bench.run(program, "/dev/trapped")
    assert (done.stdout, done.stderr, done.returncode) == (
        "fetch_add 400, flags 400, exchange ok, doubles 2.5\n",
        "",
        0,
    )


def test_a_static_program(bench: Bench) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox (the package busybox-static)")
    # busybox opens /dev/mem, whatever it is told
    device = f"/dev/mem={bench.directory / 'devices_trapped.py'}:Counters"
    for _ in range(2):
        done = bench.person.mapdev("run", "--device", device, "--", "busybox", "devmem", "0x0", "32")
        assert (done.stdout, done.stderr, done.returncode) == ("0x00000001\n", "", 0)
    script = (
        "busybox devmem 0x100 16 0xbeef; busybox devmem 0x100 16; busybox devmem 0x101 8; busybox devmem 0x100 64"
    )
    done = bench.person.mapdev("run", "--device", device, "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("0xBEEF\n0xBE\n0x000000000000BEEF\n", "")


NUMPY = """
import mmap, os, sys
import numpy as np
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 4096)
view = np.frombuffer(area, dtype="<u4")
view[64:128] = np.arange(64)
assert view[64:128].sum() == 2016
view[64:128] *= 3
assert (view[64:128] == 3 * np.arange(64)).all()
doubles = np.frombuffer(area, dtype="<f8")[40:60]
doubles[:] = np.linspace(0, 1, 20)
assert abs(doubles.mean() - 0.5) < 1e-12
assert area[0x100:0x104] == b"\\0\\0\\0\\0"
area[0x200:0x205] = b"hello"
assert area.find(b"hello", 0x100) == 0x200
print(int(view[0]), int(view[0]))
"""


def test_a_python_program_with_numpy(bench: Bench) -> None:
    done = bench.run(bench.person.python[0], "-c", NUMPY, "/dev/trapped")
    assert (done.stdout, done.stderr, done.returncode) == ("1 2\n", "", 0)


def test_the_count_of_many_runs_is_exact(bench: Bench) -> None:
    """One run of a shell that runs the client again and again; the device counts on."""
    script = 'i=0; while [ $i -lt 40 ]; do "$0" /dev/trapped threads 3 >/dev/null || exit 1; i=$((i+1)); done; "$0" /dev/trapped sum'
    done = bench.run("sh", "-c", script, bench.client)
    assert (done.stdout, done.stderr, done.returncode) == (f"sum {40 * 8 * 3}\n", "", 0)


def test_a_daemon_keeps_its_device(bench: Bench) -> None:
    script = (
        '(sleep 0.3; "$0" /dev/trapped threads 5 >"$1"; echo done >>"$1") >/dev/null 2>&1 & "$0" /dev/trapped store'
    )
    out = bench.directory / "out"
    done = bench.run("sh", "-c", script, bench.client, out)
    assert (done.returncode, done.stderr) == (0, "")
    until = time.monotonic() + 60
    while not (out.exists() and "done" in out.read_text()):
        assert time.monotonic() < until, "the daemon does not end"
        time.sleep(0.05)
    assert out.read_text() == "sum 41, xadd 40, cmpxchg 40, fifo 40 of 120\ndone\n"


def test_the_look_of_a_character_device_and_trapping_go_together(bench: Bench) -> None:
    script = 'test -c /dev/trapped && "$0" /dev/trapped threads 3'
    done = bench.run("sh", "-c", script, bench.client, options=("--chardev",))
    assert (done.stdout, done.stderr, done.returncode) == ("sum 24, xadd 24, cmpxchg 24, fifo 24 of 48\n", "", 0)


def test_plain_memory_is_trapped_if_that_is_wanted(bench: Bench) -> None:
    trace = bench.directory / "trace"
    done = bench.person.mapdev("run", "--trap", "--count", "--trace-file", trace, "--trace-only", "store", "--device", "/dev/ram0=ram:64K",
                               "--", "busybox", "sh", "-c", "exec \"$0\" /dev/ram0 copies", bench.client)  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == "a string in a device, 20\n"
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {event["op"] for event in events} == {"store"}
    last = [event for event in events if event["offset"] == 0x100][-1]
    assert last["device"] == "/dev/ram0"
    assert last["value"].to_bytes(last["width"], "little").startswith(b"a"[: last["width"]])
    assert re.search(r"^ */dev/ram0 +0x100 +\d+ +\d+ *$", done.stderr, re.MULTILINE)


def test_the_trace_names_the_line_of_the_program(bench: Bench) -> None:
    program = bench.compiled("trap.c", "-pthread", "-g")
    done = bench.run(program, "/dev/trapped", "sum", options=("--trace", "--trace-only", "load"))
    line = next(number for number, text in enumerate((HERE / "trap.c").read_text().splitlines(), 1)
                if 'printf("sum %lu\\n", (unsigned long)SUM);' in text and number > 330)  # fmt: skip
    (event,) = done.stderr.splitlines()
    assert f" 0x8 -> 0x0000000000000000  trap.c:{line}  [" in event


def test_a_device_that_traps_only_a_part(bench: Bench) -> None:
    (bench.directory / "part.py").write_text(
        "from devices_trapped import Counters\n"
        "import sys\n"
        "class Part(Counters):\n"
        "    def traps(self, pos, length):\n"
        "        return False\n"
    )
    done = bench.person.mapdev("run", "--device", f"/dev/trapped={bench.directory / 'part.py'}:Part", "--",
                               bench.client, "/dev/trapped", "sum", cwd=bench.directory)  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("sum 0\n", "", 0)


def test_a_tracer_around_it_is_said_in_one_line(bench: Bench) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    command = [*bench.person.python, "-m", "mapdev", *bench.arguments(bench.client, "/dev/trapped", "sum")]
    done = bench.person.run("strace", "-f", "-o", "/dev/null", *command, timeout=120)
    assert done.returncode == 1
    assert re.fullmatch(r"mapdev: accesses cannot be trapped: process \d+ traces this already, .*\n", done.stderr)
    assert done.stdout == ""


def test_a_tracer_as_the_program_is_refused_by_the_kernel(bench: Bench) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    done = bench.run("strace", "-o", "/dev/null", bench.client, "/dev/trapped", "sum")
    assert done.returncode != 0
    assert "PTRACE" in done.stderr


def test_coroutines_may_carry_out_accesses(bench: Bench) -> None:
    assert bench.told("threads", "2", device="Slow") == "sum 16, xadd 16, cmpxchg 16, fifo 16 of 24\n"


FAULTING = """
import mmap, os, sys
area = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4 * 4096)
assert [area[n * 4096] for n in range(4)] == [1, 2, 3, 4]
area[4094:4100] = b"across"
assert area[4094:4100] == b"across"
"""


def test_pages_of_fault_are_trapped_too(bench: Bench) -> None:
    done = bench.run(bench.person.python[0], "-c", FAULTING, "/dev/trapped", device="Faulting", options=("--trap",))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


# open("/dev/trapped"), mmap2, exit(-result): in 32-bit code, which needs no library
SHORT = """
.globl _start
_start:
    mov $5, %eax; mov $name, %ebx; mov $2, %ecx; int $0x80
    mov %eax, %edi; mov $192, %eax; xor %ebx, %ebx; mov $4096, %ecx; mov $3, %edx; mov $1, %esi; xor %ebp, %ebp; int $0x80
    mov %eax, %ebx; neg %ebx; mov $1, %eax; int $0x80
.data
name: .asciz "/dev/trapped"
"""


def test_a_32_bit_program_is_refused_in_one_line(bench: Bench) -> None:
    for tool in ("as", "ld"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (the package binutils)")
    source, program = bench.directory / "short.s", bench.directory / "short"
    source.write_text(SHORT)
    subprocess.run(["as", "--32", "-o", f"{program}.o", source], check=True, timeout=60)
    subprocess.run(["ld", "-m", "elf_i386", "-o", program, f"{program}.o"], check=True, timeout=60)
    try:
        subprocess.run([program], timeout=60, check=False)
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error.strerror}")
    done = bench.run(program)
    assert done.returncode == errno.ENODEV
    assert re.fullmatch(r"mapdev.trap: pid \d+ is a 32-bit program: .* its mmap gets ENODEV\n", done.stderr)


def test_serve_says_what_is_lost(bench: Bench) -> None:
    directory = bench.directory / "mnt"
    directory.mkdir()
    os.chown(directory, bench.person.uid, -1)
    target = f"{bench.directory / 'devices_trapped.py'}:Counters"
    process = bench.person.popen(*bench.person.python, "-m", "mapdev", "serve", target, "--mount", directory,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready: ")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.startswith("mapdev: counters: plain memory: load and store of this device cannot be called here")
    assert len(err.splitlines()) == 1


def test_in_a_test_the_model_is_at_hand(bench: Bench, mapdev_run: MapdevRun) -> None:
    if not bench.person.is_root and not os.geteuid():
        pytest.skip("the plugin runs as whoever runs the tests")
    model = Counters()
    done = mapdev_run([bench.client, "/dev/trapped", "threads", "5"], {"/dev/trapped": model}, timeout=100)
    assert (done.stdout, done.stderr, done.returncode) == ("sum 40, xadd 40, cmpxchg 40, fifo 40 of 120\n", "", 0)
    assert model.sum == 40
    assert len(model.threads) == 1
    done = mapdev_run([bench.client, "/dev/trapped", "bad"], {"/dev/trapped": Counters()}, timeout=100)
    assert done.returncode == -signal.SIGBUS
    done = mapdev_run(["sh", "-c", "exit 7"], {"/dev/trapped": Counters()}, timeout=100)
    assert done.returncode == 7
