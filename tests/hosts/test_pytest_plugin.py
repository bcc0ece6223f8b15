"""The pytest plugin, seen from outside: pytest as a process, on files of tests that use its fixtures."""

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import served
from tests.hosts.test_documents import blocks
from tests.hosts.test_run import FORBIDDEN
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

ROOT = Path(__file__).parent.parent.parent

DEVICE = """
import threading
import mapdev

class Bell(mapdev.Device):
    size = mapdev.PAGE_SIZE
    rings = 0

    def __init__(self):
        self.pages = mapdev.zeroed_pages(1)
        self.waited_for = threading.Event()

    def open(self, file):
        pass

    def read(self, file, count, pos):
        if pos:
            return b""
        self.waited_for.set()
        file.wait_event(lambda: self.rings)
        return b"%d rings" % self.rings

    def write(self, file, buf, pos):
        self.rings += int(buf)
        self.wake()
        return len(buf)

    def mmap(self, file, vma):
        return self.pages
"""

Pytest = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(person: Person, place: Callable[[Person], Path]) -> Path:
    """A directory of this person's, with the device that the tests in it use."""
    _need_pytest(person)
    directory = place(person)
    (directory / "bell.py").write_text(DEVICE)
    return directory


def _need_pytest(person: Person) -> None:
    if person.run(*person.python, "-c", "import pytest").returncode:
        pytest.skip(f"{person.python[0]} has no pytest for this user")


def command(person: Person, *options: str) -> list[str]:
    others = ("-p", "no:hypothesispytest", "-p", "no:timeout")  # they take half of the time
    return [*person.python, "-m", "pytest", "-p", "no:cacheprovider", *others, "-W", "error", *options]


def run(person: Person, project: Path, tests: str, *options: str) -> "subprocess.CompletedProcess[str]":
    (project / "test_it.py").write_text("import pytest, subprocess, sys\nfrom bell import Bell\n\n" + tests)
    return person.run(*command(person, *options), cwd=project, timeout=60)


def outcome(done: "subprocess.CompletedProcess[str]") -> str:
    """The last line, without the time: "1 failed, 2 passed"."""
    found = re.search(r"(\d+ (?:passed|failed|skipped|error).*?) in [\d.]+s", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return found[1]


def section(done: "subprocess.CompletedProcess[str]", title: str) -> list[str]:
    """The lines of a section of the report."""
    found = re.search(rf"^-+ {title} -+\n(.*?)^(?:[-=_]{{3,}})", done.stdout, re.MULTILINE | re.DOTALL)
    assert found is not None, done.stdout
    return found[1].splitlines()


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """In the environment of everything that this test starts."""
    value = f"{os.getpid()} {time.monotonic()}"
    monkeypatch.setenv("MAPDEV_PLUGIN_TEST", value)
    return f"MAPDEV_PLUGIN_TEST={value}".encode()


def marked(mark: bytes) -> list[str]:
    """The command lines of the processes that have it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                pass
    return found


def gone(mark: bytes) -> None:
    until = time.monotonic() + 10
    while left := marked(mark):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.02)


# -- what tests can do ----------------------------------------------------------------------------------------


def test_the_model_is_at_hand_while_programs_use_it(person: Person, project: Path) -> None:
    done = run(person, project, """
MAP = "import mmap; f = open({!r}, 'r+b', 0); m = mmap.mmap(f.fileno(), 4096); {}"

def test_run(mapdev_run):
    bell = Bell()
    bell.rings = 3
    done = mapdev_run(["cat", "/dev/bell"], {"/dev/bell": bell})
    assert (done.args, done.returncode, done.stdout, done.stderr) == (["cat", "/dev/bell"], 0, "3 rings", "")
    mapdev_run([sys.executable, "-c", MAP.format("/dev/bell", "m[:4] = b'mine'")], {"/dev/bell": bell})
    assert bell.pages[:4] == b"mine"

def test_start(mapdev_start):
    bell = Bell()
    program = mapdev_start(["cat", "/dev/bell"], {"/dev/bell": bell})
    assert bell.waited_for.wait(20)
    assert program.process.poll() is None
    bell.rings = 7
    bell.wake()
    assert program.wait(timeout=20).stdout == "7 rings"

def test_what_still_runs_at_the_end_is_killed(mapdev_start):
    mapdev_start(["cat", "/dev/bell"], {"/dev/bell": Bell()})

@pytest.mark.parametrize("memory", ["shared", "on-demand"])
def test_serve(mapdev_serve, memory):
    bell = Bell()
    served = mapdev_serve({"bell": bell, "other": Bell()}, memory=memory)
    program = MAP.format(str(served.path("bell")), "m[:4] = b'mine'; m.flush()")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
    assert bell.pages[:4] == b"mine"
    assert sorted(path.name for path in served.directory.iterdir()) == ["bell", "other"]
    with pytest.raises(KeyError, match="nonesuch: there is bell, other"):
        served.path("nonesuch")
    with pytest.raises(KeyError):
        served.path()
    served.close()
    assert not served.directory.exists()

def test_serve_one(mapdev_serve):
    path = mapdev_serve(Bell()).path()
    path.write_bytes(b"2")
    assert path.name == "bell"
    assert path.read_bytes() == b"2 rings"
""", "-rA")  # fmt: skip
    assert outcome(done) == "6 passed"
    assert "mapdev trace" not in done.stdout


def test_a_test_can_start_programs_while_it_has_its_own_device_open_and_in_its_directory(
    person: Person, project: Path
) -> None:
    done = run(person, project, """
def test(mapdev_serve):
    served = mapdev_serve({"bell": Bell(), "other": Bell()})
    assert subprocess.run(["ls"], cwd=served.directory, capture_output=True, timeout=20).stdout == b"bell\\nother\\n"
    with served.path("bell").open("r+b", buffering=0) as file, served.path("bell").open("rb") as other:
        file.write(b"1")
        done = subprocess.run(["cat"], stdin=other, capture_output=True, timeout=20)
        assert done.stdout == b"1 rings"
    assert subprocess.run(["true"], timeout=20).returncode == 0
""")  # fmt: skip
    assert outcome(done) == "1 passed"


def test_programs_have_files_input_directory_and_environment_as_asked(person: Person, project: Path) -> None:
    done = run(person, project, """
def test(mapdev_run, tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_text("shown")
    done = mapdev_run(["cat", "/proc/cpuinfo", "/sys/class/none/such"],
                      files={"/proc/cpuinfo": text, "/sys/class/none/such": text})
    assert done.stdout == "shownshown"
    assert mapdev_run(["cat"], input="typed").stdout == "typed"
    assert mapdev_run(["cat"]).stdout == ""
    assert mapdev_run(["pwd"], cwd=tmp_path).stdout == f"{tmp_path}\\n"
    assert mapdev_run(["/usr/bin/env"], env={"A": "1"}).stdout == "A=1\\n"
    monkeypatch.setenv("B", "2")
    assert "B=2" in mapdev_run(["env"]).stdout.splitlines()
    assert mapdev_run(["sh", "-c", "kill -SEGV $$"]).returncode == -11
    assert mapdev_run(["cat", "/dev/lkmc"], {"/dev/lkmc": "lkmc_mmap"}).stdout == "asdf"
    assert mapdev_run(["test", "-c", "/dev/lkmc"], {"/dev/lkmc": "lkmc_mmap"}, chardev=True).returncode == 0
""")  # fmt: skip
    assert outcome(done) == "1 passed", done.stdout


def test_root_serves_other_users_whom_the_mode_admits(root: Person, place: Callable[[Person], Path]) -> None:
    project = place(root)
    (project / "bell.py").write_text(DEVICE)
    done = run(root, project, """
@pytest.mark.parametrize(("mode", "code"), [(0o666, 0), (0o600, 1), (None, 1)])
def test(mapdev_serve, mode, code):
    path = mapdev_serve(Bell(), mode=mode).path()
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert subprocess.run([*as_user, "sh", "-c", f"echo 1 > {path}"], timeout=20).returncode == (2 if code else 0)
""")  # fmt: skip
    assert outcome(done) == "3 passed"


# -- what a failing test shows --------------------------------------------------------------------------------


def test_a_failing_test_shows_the_callbacks_and_what_became_of_its_programs(person: Person, project: Path) -> None:
    done = run(person, project, """
def test_run(mapdev_run):
    bell = Bell()
    bell.rings = 1
    mapdev_run(["sh", "-c", "cat /dev/bell; echo; echo 'not well' >&2; exit 5"], {"/dev/bell": bell})
    assert bell.rings == 0
""")  # fmt: skip
    assert outcome(done) == "1 failed"
    operations = [line.split()[2].partition("(")[0] for line in section(done, "mapdev trace")]
    assert operations == ["open", "mmap", "read", "read"]
    assert section(done, "mapdev programs") == [
        "$ sh -c 'cat /dev/bell; echo; echo '\"'\"'not well'\"'\"' >&2; exit 5'",
        "  ended with exit code 5",
        "  stdout: 1 rings",
        "  stderr: not well",
    ]


def test_a_failing_test_shows_the_programs_that_it_did_not_wait_for(person: Person, project: Path) -> None:
    done = run(person, project, """
def test(mapdev_start):
    bell = Bell()
    mapdev_start(["sh", "-c", "echo begun; cat /dev/bell"], {"/dev/bell": bell})
    assert bell.waited_for.wait(20)
    assert False
""")  # fmt: skip
    assert outcome(done) == "1 failed"
    assert section(done, "mapdev programs")[1:] == ["  was still running, and was killed", "  stdout: begun"]
    assert " read(count=" in section(done, "mapdev trace")[-1]
    assert " = -EINTR " in section(done, "mapdev trace")[-1]


def test_of_very_many_callbacks_the_last_thousand_are_shown(user: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(user)
    project = place(user)
    (project / "bell.py").write_text(DEVICE)
    done = run(user, project, """
def test(mapdev_serve):
    with mapdev_serve(Bell()).path().open("r+b", buffering=0) as file:
        for _ in range(1500):
            file.write(b"1")
    assert False
""")  # fmt: skip
    lines = section(done, "mapdev trace")
    assert len(lines) == 1001
    assert lines[0] == "(502 earlier callbacks)"


def test_a_failure_before_any_callback_says_so(user: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(user)
    project = place(user)
    (project / "bell.py").write_text(DEVICE)
    done = run(user, project, "def test(mapdev_serve):\n    mapdev_serve(Bell())\n    assert False\n")
    assert section(done, "mapdev trace") == ["(no callback has come)"]


def test_a_wrong_request_is_one_line_at_the_place_in_the_test(user: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(user)
    project = place(user)
    (project / "bell.py").write_text(DEVICE + "\nclass Bad(Bell):\n    def __init__(self):\n        self.nonesuch\n")
    tests = {
        'mapdev_run(["nonesuch"], {"/dev/bell": Bell()})': "nonesuch: there is no such program",
        'mapdev_run("cat /dev/bell", {"/dev/bell": Bell()})': "the program is a list of words: ['cat', '/dev/bell']",
        'mapdev_run(["true"], {"dev/bell": Bell()})': "'dev/bell' is no place for a device: write an absolute path",
        'mapdev_run(["true"], {"/dev/bell": "nonesuch"})': "there is no device 'nonesuch'",
        'mapdev_run(["true"], {"/dev/bell": "bell.py:Bad"})': "bell.py:Bad cannot be loaded: AttributeError",
        'mapdev_run(["true"], files={"/proc/cpuinfo": "/nonesuch"})': "there is no /nonesuch to be shown as",
        'mapdev_serve({"a/b": Bell()})': "'a/b' cannot be the name of a file",
        'bell = Bell(); mapdev_serve({"a": bell, "b": bell})': "the device for b is served already",
        'bell = Bell(); mapdev_serve(bell); mapdev_run(["true"], {"/dev/b": bell})': "the device for /dev/b is served",
    }
    functions = [f"def test_{n}(mapdev_run, mapdev_serve):\n    {line}\n" for n, line in enumerate(tests)]
    done = run(user, project, "\n".join(functions))
    assert outcome(done) == f"{len(tests)} failed"
    reports = re.split(r"^_+ test_\d+ _+$", done.stdout, flags=re.MULTILINE)[1:]
    for text, report in zip(tests.values(), reports, strict=True):
        assert text in report
        assert "/mapdev/run/" not in report


# -- time-outs, and what is left ------------------------------------------------------------------------------


def test_after_the_time_out_everything_is_killed_and_the_trace_is_shown(
    person: Person, project: Path, mark: bytes
) -> None:
    done = run(person, project, """
def test(mapdev_run):
    child = "trap '' TERM INT; echo begun; sleep 300 & setsid sleep 300 & cat /dev/bell"
    mapdev_run(["sh", "-c", child], {"/dev/bell": Bell()}, timeout=1.5)
""")  # fmt: skip
    assert outcome(done) == "1 failed"
    assert "subprocess.TimeoutExpired: Command '['sh', '-c'," in done.stdout
    assert "timed out after 1.5 seconds" in done.stdout
    assert section(done, "mapdev programs")[1:] == ["  was killed after 1.5 s", "  stdout: begun"]
    assert any(" read(count=" in line and " = -EINTR " in line for line in section(done, "mapdev trace"))
    assert marked(mark) == []


def test_what_a_program_has_started_ends_with_it(person: Person, project: Path, mark: bytes) -> None:
    done = run(person, project, """
def test(mapdev_run):
    done = mapdev_run(["sh", "-c", "setsid sleep 300 & echo done"], {"/dev/bell": Bell()}, timeout=50)
    assert done.stdout == "done\\n"
""")  # fmt: skip
    assert outcome(done) == "1 passed"
    assert marked(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_when_pytest_ends_its_programs_and_mounts_end(
    person: Person, project: Path, mark: bytes, number: int
) -> None:
    (project / "test_it.py").write_text("""
from bell import Bell

def test(mapdev_start, mapdev_serve):
    served, bell = mapdev_serve(Bell()), Bell()
    program = mapdev_start(["cat", "/dev/bell"], {"/dev/bell": bell})
    assert bell.waited_for.wait(20)
    print("mounted:", served.directory, flush=True)
    program.wait(100)
""")
    process = person.popen(*command(person, "-s", "-q"), cwd=project, stdout=subprocess.PIPE,
                           start_new_session=True)  # fmt: skip
    assert process.stdout is not None
    directory = Path(next(line for line in process.stdout if "mounted:" in line).split()[-1])
    assert is_mounted(directory)
    assert any("cat /dev/bell" in line for line in marked(mark))
    process.send_signal(number)
    process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert (process.returncode, marked(mark), directory.exists()) == (2, [], False)
    else:
        gone(mark)
        assert not is_mounted(directory)
        directory.rmdir()


def is_mounted(directory: Path) -> bool:
    return any(mount.endswith(f" {directory}") for mount in served.mounts())


def test_many_runs_leave_no_thread_and_no_descriptor(person: Person, project: Path) -> None:
    done = run(person, project, """
import gc, os, threading, time

def state():
    gc.collect()
    return {thread.name for thread in threading.enumerate()}, len(os.listdir("/proc/self/fd"))

def test(mapdev_run):
    mapdev_run(["cat", "/dev/lkmc"], {"/dev/lkmc": "lkmc_mmap"}, chardev=True)
    before = state()
    for _ in range(5):
        mapdev_run(["cat", "/dev/lkmc"], {"/dev/lkmc": "lkmc_mmap"}, chardev=True)
        with pytest.raises(subprocess.TimeoutExpired):
            mapdev_run(["sleep", "100"], {"/dev/lkmc": "lkmc_mmap"}, chardev=True, timeout=0.01)
    until = time.monotonic() + 10
    while state() != before and time.monotonic() < until:
        time.sleep(0.05)
    assert state() == before
""")  # fmt: skip
    assert outcome(done) == "1 passed", done.stdout


# -- where it cannot be ---------------------------------------------------------------------------------------

BOTH = """
def test_run(mapdev_run):
    mapdev_run(["true"], {"/dev/bell": Bell()})

def test_serve(mapdev_serve):
    mapdev_serve(Bell())
"""


def said(done: "subprocess.CompletedProcess[str]", test: str) -> str:
    """The one line by which this test has failed."""
    found = re.search(rf"^_+ {test} _+\n(.*)\n-+ mapdev trace", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return found[1]


@pytest.mark.parametrize("missing", ["not open", "not there"])
def test_without_dev_fuse_tests_fail_with_the_reason_or_are_skipped_with_it(
    user: Person, root: Person, place: Callable[[Person], Path], missing: str
) -> None:
    _need_pytest(user)
    project, closed = place(user), place(root)
    (project / "bell.py").write_text(DEVICE)
    (project / "test_it.py").write_text(f"import pytest\nfrom bell import Bell\n{BOTH}")
    if missing == "not open":
        (closed / "fuse").touch(mode=0)
        hide = f"mount --bind {closed}/fuse /dev/fuse"
    else:
        hide = f"""
            mount -t tmpfs tmpfs {closed}; for node in null urandom shm pts; do
            if test -d /dev/$node; then mkdir {closed}/$node; else touch {closed}/$node; fi
            mount --bind /dev/$node {closed}/$node; done; mount --rbind {closed} /dev"""
    script = f'set -e; mount --make-rprivate /; {hide}; exec "$@"'
    inside = ["unshare", "-m", "sh", "-c", script, "sh", *user.prefix]
    reason = "/dev/fuse may not be opened by this user" if missing == "not open" else "there is no /dev/fuse"
    done = root.run(*inside, *command(user), cwd=project, env=user.env)
    assert outcome(done) == "2 failed", done.stdout + done.stderr
    assert said(done, "test_run").startswith(f"mapdev: {reason}")
    assert said(done, "test_serve").startswith("mapdev: cannot mount on /tmp/mapdev-")
    done = root.run(*inside, *command(user, "--mapdev-skip", "-rs"), cwd=project, env=user.env)
    assert (outcome(done), done.returncode) == ("2 skipped", 0)
    assert f"mapdev: {reason}" in done.stdout


def test_without_user_namespaces_a_run_says_so(user: Person, root: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(user)
    project = place(user)
    (project / "bell.py").write_text(DEVICE)
    (project / "test_it.py").write_text(f"from bell import Bell\n{BOTH}")
    done = root.run(*root.python, "-c", FORBIDDEN, *command(user, "-k", "test_run"), cwd=project, env=user.env)
    assert outcome(done) == "1 failed, 1 deselected", done.stdout + done.stderr
    assert said(done, "test_run").startswith("mapdev: user namespaces are forbidden here")


def test_without_fusermount_an_ordinary_user_cannot_serve_and_the_process_stays_where_it_was(
    user: Person, place: Callable[[Person], Path]
) -> None:
    _need_pytest(user)
    project = place(user)
    (project / "bell.py").write_text(DEVICE)
    done = run(user, project, """
import os, pathlib

def test(mapdev_serve, monkeypatch):
    monkeypatch.setenv("PATH", "/nonesuch")
    before = os.readlink("/proc/self/ns/mnt"), list(pathlib.Path("/tmp").glob("mapdev-????????"))
    with pytest.raises(pytest.fail.Exception, match="needs the program fusermount3: install the package fuse3"):
        mapdev_serve(Bell())
    assert before[0] == os.readlink("/proc/self/ns/mnt")
""")  # fmt: skip
    assert outcome(done) == "1 passed", done.stdout


def test_a_device_that_fails_is_no_reason_to_skip(user: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(user)
    project = place(user)
    (project / "bell.py").write_text(DEVICE + "\n    def surroundings(self, path):\n        raise ValueError(path)\n")
    done = run(user, project, BOTH, "--mapdev-skip", "-k", "test_run")
    assert outcome(done) == "1 failed, 1 deselected"
    assert "surroundings() failed: ValueError: /dev/bell" in done.stdout


# -- every pytest run loads it --------------------------------------------------------------------------------


def test_loading_it_imports_nothing_heavy() -> None:
    heavy = (
        "numpy",
        "click",
        "rich",
        "asyncio",
        "PIL",
        "mapdev.hosts",
        "mapdev.run",
        "mapdev.devices",
        "mapdev.trace",
    )
    program = f"""
import sys, pytest
before = set(sys.modules)
import mapdev.pytest_plugin
print([name for name in {heavy} if name in set(sys.modules) - before])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_it_is_silent_even_if_mapdev_was_imported_before_pytest(tmp_path: Path) -> None:
    """As from a wheel: only there pytest wants to rewrite the assertions of the whole package."""
    shutil.copytree(ROOT / "src" / "mapdev", tmp_path / "mapdev", ignore=shutil.ignore_patterns("__pycache__"))
    info = tmp_path / "mapdev-0.1.0.dist-info"
    info.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (info / name).write_text(importlib.metadata.distribution("mapdev").read_text(name) or "")
    (info / "RECORD").write_text("mapdev/__init__.py,,\nmapdev/pytest_plugin.py,,\n")
    (tmp_path / "test_it.py").write_text("def test(mapdev_run):\n    assert mapdev_run(['true']).returncode == 0\n")
    program = "import sys, mapdev, pytest; sys.exit(pytest.main(['-q', '-W', 'error', '-p', 'no:cacheprovider']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False)  # fmt: skip
    assert done.stderr == ""
    assert outcome(done) == "1 passed"


# -- the example, and the guide -------------------------------------------------------------------------------


def test_the_example_s_own_tests_pass(person: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(person)
    copy = place(person) / "uio_timer"
    shutil.copytree(ROOT / "examples" / "uio_timer", copy, ignore=shutil.ignore_patterns("driver", "__pycache__"))
    for path in (copy, *copy.iterdir()):
        os.chown(path, person.uid, -1)
    done = person.run(*command(person), cwd=copy, timeout=100)
    assert outcome(done) == "4 passed", done.stdout
    done = person.mapdev(
        "run", "--device", "/dev/uio0=timer.py", "--", "./driver", "/dev/uio0", "3", "5000", cwd=copy
    )
    assert (done.stdout, done.stderr) == ("3 ticks of 5000 us, spurious interrupts: 0\n", "")


def test_the_example_s_tests_find_a_driver_that_does_not_clear_the_interrupt(
    person: Person, place: Callable[[Person], Path]
) -> None:
    _need_pytest(person)
    copy = place(person) / "uio_timer"
    shutil.copytree(ROOT / "examples" / "uio_timer", copy, ignore=shutil.ignore_patterns("driver", "__pycache__"))
    source = copy / "driver.c"
    source.write_text(source.read_text().replace("regs[INT_CLR] = 1;", ""))
    for path in (copy, *copy.iterdir()):
        os.chown(path, person.uid, -1)
    done = person.run(*command(person, "-k", "stopped"), cwd=copy, timeout=100)
    assert outcome(done) == "1 failed, 3 deselected", done.stdout


def test_the_steps_of_the_guide_to_ci(person: Person, place: Callable[[Person], Path]) -> None:
    _need_pytest(person)
    guide = (ROOT / "docs" / "howto-uio-in-ci.md").read_text()
    directory = place(person)
    for language in ("python", "c"):
        for block in blocks(guide, language):
            name = re.match(r"(?:#|//) (\w+\.\w+)\n", block)
            assert name is not None
            (directory / name[1]).write_text(block)
    install, steps = blocks(guide, "sh")
    assert "pip install pytest" in install  # it was
    shown = f'pytest() {{ {" ".join(command(person))} "$@"; }}\n'
    done = person.run("sh", "-ec", shown + steps, cwd=directory, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert outcome(done) == "2 passed", done.stdout + done.stderr

    source = directory / "read_adc.c"
    source.write_text(source.read_text().replace("    regs[0] = 1;\n", ""))
    done = person.run("sh", "-ec", shown + steps, cwd=directory)
    assert outcome(done) == "1 failed, 1 passed"
    promised = next(block for block in blocks(guide, "") if "mapdev trace" in block)

    def lasting(text: str) -> list[str]:
        """Without times and pids."""
        return re.sub(r"^[\d:.]{15}|\[\d+ us, pid \d+\]", "", text, flags=re.MULTILINE).splitlines()

    written = lasting(done.stdout)
    assert [line for line in lasting(promised) if line != "..." and line not in written] == []
