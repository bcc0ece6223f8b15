"""`mapdev run`: a program in which devices exist."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

DEVICE = """
import mapdev
from mapdev.surroundings import Attribute, Symlink

class Sensor(mapdev.Device):
    size = mapdev.PAGE_SIZE

    def __init__(self):
        self.registers = mapdev.zeroed_pages(1)
        self.registers[:4] = b"temp"
        self.rate = 10

    def surroundings(self, path):
        return {
            "/sys/class/sensors/sensor0/rate": Attribute(lambda: f"{self.rate}\\n", self.set_rate),
            "/sys/class/sensors/sensor0/name": "sensor of " + path + "\\n",
            "/sys/class/sensors/first": Symlink("sensor0"),
            "/proc/sensors": lambda: "sensor0 %d\\n" % self.rate,
        }

    def set_rate(self, data):
        if not data.strip().isdigit():
            raise OSError(22, "no number")
        self.rate = int(data)

    def read(self, file, count, pos):
        if pos:
            raise RuntimeError("no second read")
        return bytes(self.registers[:4])

    def mmap(self, file, vma):
        return self.registers
"""


@pytest.fixture
def sensor(person: Person, place: Callable[[Person], Path]) -> str:
    file = place(person) / "sensor.py"
    file.write_text(DEVICE)
    return f"/dev/sensor0={file}"


def run(person: Person, *args: str, timeout: float = 60, **options: Any) -> "subprocess.CompletedProcess[str]":
    return person.mapdev("run", *args, timeout=timeout, **options)


LKMC = ("--device", "/dev/lkmc_mmap=lkmc_mmap", "--")


def test_the_device_is_there_and_nothing_else_on_the_machine_sees_it(person: Person) -> None:
    done = run(person, *LKMC, "cat", "/dev/lkmc_mmap")
    assert (done.returncode, done.stdout, done.stderr) == (0, "asdf", "")
    assert not Path("/dev/lkmc_mmap").exists()


@pytest.mark.parametrize("path", ["/dev/lkmc_mmap", "/proc/lkmc_mmap", "/sys/class/lkmc_mmap/a", "/dev/bus/new/deep"])
def test_the_two_mappings_test_passes_wherever_the_device_is(person: Person, path: str) -> None:
    done = run(person, "--device", f"{path}=lkmc_mmap", "--", *person.python, "-m", "mapdev.two_mappings", path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15), ("kill -KILL $$", -9), ("kill -SEGV $$", -11)],
)
def test_it_ends_as_the_program_ends(user: Person, script: str, code: int) -> None:
    assert run(user, *LKMC, "sh", "-c", script).returncode == code


def test_a_program_that_is_not_there_is_127_and_one_that_cannot_be_executed_126(
    user: Person, place: Callable[[Person], Path]
) -> None:
    done = run(user, *LKMC, "nonesuch-program")
    assert (done.returncode, done.stderr) == (127, "mapdev: nonesuch-program: there is no such program\n")
    done = run(user, *LKMC, "/etc/passwd")
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr == "mapdev: /etc/passwd: it cannot be executed (Permission denied)\n"
    script = place(user) / "script"
    script.write_text("echo without a first line\n")
    script.chmod(0o755)
    assert run(user, *LKMC, str(script)).stdout == "without a first line\n"


def test_directory_environment_descriptors_and_streams_are_the_programs_own(
    person: Person, place: Callable[[Person], Path]
) -> None:
    directory = place(person)
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe\n")
    os.close(writing)
    os.fchown(reading, person.uid, -1)  # /dev/fd opens it anew
    mine = 'pwd; echo "$MINE"; env | grep -c ^LC_CTYPE; ls /proc/self/fd | wc -l; cat; echo err >&2'
    mine += f"; cat /dev/fd/{reading}"
    options: dict[str, Any] = {
        "cwd": directory,
        "env": {"MINE": "it is", "LC_ALL": "", "LC_CTYPE": ""},
        "pass_fds": [reading],
    }
    direct = person.run("sh", "-c", "ls /proc/self/fd | wc -l", **options).stdout
    done = run(person, *LKMC, "sh", "-c", mine, input="from stdin\n", **options)
    os.close(reading)
    lines = done.stdout.splitlines()
    assert lines[:3] == [str(directory), "it is", "1"]
    assert lines[3] == direct.strip()
    assert lines[4:] == ["from stdin", "through a pipe"]
    assert done.stderr == "err\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed_stay_closed(person: Person, closed: str) -> None:
    mapdev = shlex.join([*person.python, "-m", "mapdev", "run", *LKMC])
    left = "test ! -e /proc/self/fd/0 || test ! -e /proc/self/fd/1 && grep -q asdf /dev/lkmc_mmap && exit 5"
    done = person.run("sh", "-c", f"{mapdev} sh -c {shlex.quote(left)} {closed}", timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")


def test_python_s_own_signal_settings_do_not_reach_the_program(user: Person) -> None:
    script = "grep -E 'SigIgn|SigBlk' /proc/self/status"
    assert run(user, *LKMC, "sh", "-c", script).stdout == user.run(
        "sh", "-c", f"trap - PIPE XFSZ; {script}"
    ).stdout.replace("1001000", "0000000")


def test_real_nodes_keep_working(person: Person) -> None:
    script = r"""
        set -e
        echo lost > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 4 /dev/urandom | wc -c
        echo kept > /dev/shm/mapdev-$$ && cat /dev/shm/mapdev-$$ && rm /dev/shm/mapdev-$$
        echo x | cat /dev/stdin; ls /dev/fd/ > /dev/null
        script -qec 'tty > /dev/null && echo in a pty' /dev/null
        test -c /dev/null && test -c /dev/tty && test -d /dev/pts && echo nodes
        cat /proc/self/comm; test "$(readlink /proc/self)" -gt 1; ps -p $$ -o comm=; test -d /sys/class/net && echo sys
    """
    done = run(
        person,
        "--device",
        "/dev/x=ram",
        "--device",
        "/proc/x=ram",
        "--device",
        "/sys/class/x/x=ram",
        "--",
        "sh",
        "-c",
        script,
    )
    assert done.stderr == ""
    assert done.stdout.split() == [*["00"] * 4, "4", "kept", "x", "in", "a", "pty", "nodes", "cat", "sh", "sys"]


def test_surroundings_are_files_links_and_attributes(person: Person, sensor: str) -> None:
    script = """
        cat /sys/class/sensors/sensor0/name /sys/class/sensors/first/rate /proc/sensors
        echo 25 > /sys/class/sensors/sensor0/rate; cat /sys/class/sensors/sensor0/rate /proc/sensors
        echo x | tee /sys/class/sensors/sensor0/rate; readlink /sys/class/sensors/first
        ls /sys/class/sensors /sys/class/net
        stat -c %A /sys/class/sensors/sensor0/*
    """
    done = run(person, "--device", sensor, "--", "sh", "-c", script)
    assert done.stderr == "tee: /sys/class/sensors/sensor0/rate: Invalid argument\n"
    assert done.stdout.splitlines() == [
        "sensor of /dev/sensor0", "10", "sensor0 10", "25", "sensor0 25", "x", "sensor0", "/sys/class/net:",
        *sorted(os.listdir("/sys/class/net")), "", "/sys/class/sensors:", "first", "sensor0",
        "-r--r--r--", "-rw-rw-rw-",
    ]  # fmt: skip


def test_files_are_shown_where_there_was_one_and_where_there_was_none(
    person: Person, place: Callable[[Person], Path]
) -> None:
    directory = place(person)
    text = directory / "text"
    text.write_text("shown\n")
    places = ["/proc/cpuinfo", "/etc/hostname", "/etc/none-such/board", "/sys/class/none/name", "/dev/text"]
    files = [word for path in places for word in ("--file", f"{path}={text}")]
    done = run(person, *files, "--file", f"/etc/whole={directory}", "--", "cat", *places, "/etc/whole/text")
    assert (done.stdout, done.stderr) == ("shown\n" * 6, "")
    assert (
        run(person, "--file", f"/proc/cpuinfo={text}", "--", "sh", "-c", "sleep 0.5; cat /proc/cpuinfo").stdout
        == "shown\n"
    )
    assert run(person, *files, "--", "sh", "-c", "ls -A /etc | wc -l").stdout.strip() == str(
        len(os.listdir("/etc")) + 1
    )


def test_what_the_program_starts_sees_the_device_even_as_a_daemon(
    person: Person, place: Callable[[Person], Path]
) -> None:
    out = place(person) / "out"
    daemon = f"setsid sh -c 'sleep 1; cat /dev/lkmc_mmap > {out}' > /dev/null 2>&1 &"
    began = time.monotonic()
    done = run(person, *LKMC, "sh", "-c", f"sh -c 'cat /dev/lkmc_mmap'; {daemon} exit 3")
    assert (done.returncode, done.stdout) == (3, "asdf")
    until = time.monotonic() + 20
    while not out.exists() or out.read_text() != "asdf":
        assert time.monotonic() < until, "the daemon did not see the device"
        time.sleep(0.05)
    assert time.monotonic() - began >= 1


def started(person: Person, *args: str) -> "subprocess.Popen[str]":
    process = person.popen(
        *person.python, "-m", "mapdev", "run", *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, err = process.communicate(timeout=20)
    return process.returncode, err


def descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def gone(pids: list[int]) -> None:
    until = time.monotonic() + 10
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.01)


WAIT = 'trap "echo caught; exit 9" TERM USR1; echo ready; while :; do sleep 0.05; done'


def test_ctrl_c_while_the_devices_are_loaded_ends_it_all(person: Person, place: Callable[[Person], Path]) -> None:
    file = place(person) / "slow.py"
    file.write_text(DEVICE + "import sys, time\nprint('loading', file=sys.stderr)\ntime.sleep(100)\n")
    process = person.popen(
        *person.python, "-m", "mapdev", "run", "--device", f"/dev/slow={file}", "--", "echo", "it runs",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "loading\n"
    pids = descendants(process.pid)
    assert len(pids) == 1
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (1, "", "Aborted!")
    gone(pids)


def test_a_signal_to_mapdev_goes_to_the_program(person: Person) -> None:
    process = started(person, *LKMC, "sh", "-c", WAIT)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (9, "caught\n")


def test_if_mapdev_is_killed_so_is_the_program(person: Person) -> None:
    process = started(person, *LKMC, "sh", "-c", WAIT)
    pids = descendants(process.pid)
    assert len(pids) >= 2
    process.kill()
    ended(process)
    gone(pids)


def test_if_the_host_dies_everything_in_the_namespace_ends(person: Person) -> None:
    process = started(person, *LKMC, "sh", "-c", "setsid sleep 100 & " + WAIT)
    pids = descendants(process.pid)
    comm = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    host = next(
        pid
        for pid in pids
        if b"mapdev" in comm[pid] and os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    )
    os.kill(host, signal.SIGKILL)
    assert ended(process) == (1, "mapdev: the host of the devices has died, and the program was ended with it\n")
    gone(pids)


def test_a_model_that_raises_is_eio_to_the_program_and_a_traceback_to_the_author(person: Person, sensor: str) -> None:
    done = run(person, "--device", sensor, "--", "cat", "/dev/sensor0")
    assert done.returncode == 1
    assert "cat: /dev/sensor0: Input/output error" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "RuntimeError: no second read" in done.stderr


def test_the_trace_has_what_happened_until_the_end(person: Person, place: Callable[[Person], Path]) -> None:
    file = place(person) / "trace"
    run(person, "--trace-file", str(file), *LKMC, "cat", "/dev/lkmc_mmap")
    operations = [line.partition('"op": "')[2].partition('"')[0] for line in file.read_text().splitlines()]
    assert [op for op in operations if op != "log"] == ["open", "mmap", "read", "read", "release"]


BAD: list[tuple[list[str], int, str]] = [
    (["--", "true"], 2, "nothing to run it with"),
    (["--device", "/dev/x", "--", "true"], 2, "is not PATH=..."),
    (["--device", "/dev/x=nonesuch", "--", "true"], 2, "there is no device 'nonesuch'"),
    (["--device", "dev/x=ram", "--", "true"], 2, "is no place for a device"),
    (["--device", "/dev/../x=ram", "--", "true"], 2, "is no place for a device"),
    (["--device", "/x=ram", "--", "true"], 2, "out of reach"),
    (["--device", "/dev/shm=ram", "--", "true"], 2, "is a directory"),
    (["--device", "/dev/null/x=ram", "--", "true"], 2, "is not a directory"),
    (["--device", "/dev/x=ram", "--device", "/dev/x=array", "--", "true"], 2, "named twice"),
    (
        ["--device", "/dev/x=ram", "--device", "/dev/x/y=ram", "--", "true"],
        2,
        "wanted twice, or a file is in its way",
    ),
    (["--device", "/tmp/x=ram", "--", "true"], 2, "is yours to write"),
    (["--file", "/proc/cpuinfo=/nonesuch", "--", "true"], 2, "there is no /nonesuch"),
    (["--file", "/proc/cpuinfo=/etc", "--", "true"], 2, "not both files or both directories"),
]


@pytest.mark.parametrize(("args", "code", "says"), BAD, ids=[" ".join(args[:-2]) or "nothing" for args, _, _ in BAD])
def test_bad_input_is_one_line(user: Person, args: list[str], code: int, says: str) -> None:
    done = run(user, *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


FORBIDDEN = """
import os, sys
child = os.fork()
if child == 0:
    import ctypes
    ctypes.CDLL(None).unshare(0x10000000)
    os.kill(os.getpid(), 19)
    with open("/proc/sys/user/max_user_namespaces", "w") as limit:
        limit.write("0")
    os.setresuid(65534, 65534, 65534)
    os.execvp(sys.argv[1], sys.argv[1:])
os.waitpid(child, os.WUNTRACED)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as ids:
        ids.write("0 0 65535")
os.kill(child, 18)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_without_user_namespaces_it_says_what_is_forbidden(user: Person, root: Person) -> None:
    command = [*user.python, "-m", "mapdev", "run", *LKMC, "true"]
    done = root.run(*root.python, "-c", FORBIDDEN, *command, env=user.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mapdev: user namespaces are forbidden here")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.timeout(600)  # 200 times Python, started
def test_many_runs_in_a_row_and_eight_at_once_leave_nothing(user: Person) -> None:
    before = len(os.listdir("/proc"))
    for _ in range(25):
        processes = [user.popen(*user.python, "-m", "mapdev", "run", *LKMC, "cat", "/dev/lkmc_mmap",
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]  # fmt: skip
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (0, "asdf", "")
    until = time.monotonic() + 10
    while len([p for p in Path("/proc").iterdir() if p.name.isdecimal() and _runs(p)]) > 0:
        assert time.monotonic() < until, f"hosts are left ({before} processes before)"
        time.sleep(0.05)


def _runs(process: Path) -> bool:
    try:
        mark = f"MAPDEV_TESTS={os.environ['MAPDEV_TESTS']}".encode()
        return b"mapdev\0run" in (process / "cmdline").read_bytes() and mark in (process / "environ").read_bytes()
    except OSError:
        return False
