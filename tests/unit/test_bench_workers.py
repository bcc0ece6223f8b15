"""The experiment with forked workers: what it answers, who has answered, and that nothing is left of it."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import contenders as who
from bench import jobs, workers
from bench.contenders import ROOT, is_mounted
from bench.loop import GET_COUNT, Answers, zeroed_counts
from bench.result import Result

from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.wire import Opcode

DEVICE = 2
TIMEOUT = 60
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}

EVERY_OTHER_PAGE = """
import os, sys
fd, mine = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2])
for at in range(mine * 4096, 1 << 20, 8192):
    assert os.pwrite(fd, bytes([mine + 1]) * 4096, at) == 4096
    assert os.pread(fd, 4096, at) == bytes([mine + 1]) * 4096
"""

LOOK_AT_ALL = """
import fcntl, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
wanted = (bytes([1]) * 4096 + bytes([2]) * 4096) * 128
assert os.pread(fd, 1 << 20, 0) == wanted
assert os.pread(fd, 4096, 1 << 20) == b""
if sys.argv[3] == "maps":
    assert mmap.mmap(fd, 1 << 20)[:] == wanted
opens = bytearray(8)
fcntl.ioctl(fd, int(sys.argv[2]), opens)
print(int.from_bytes(opens, "little"))
"""


@pytest.fixture
def server(dev_fuse: None, tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:  # noqa: ARG001
    """Starts two workers on tmp_path / "m"; whatever happens, it is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        (mount := tmp_path / "m").mkdir()
        cpus = sorted(os.sched_getaffinity(0))
        serve: list[str | Path] = [sys.executable, "-m", "bench.workers", "serve", mount, str(1 << 20), "read"]
        started.append(subprocess.Popen([*serve, str(cpus[-1]), str(cpus[0])], cwd=ROOT, env=ENVIRONMENT))
        until(lambda: is_mounted(tmp_path / "m") and len(children(started[-1])) == 3)  # and the watcher of the mount
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(TIMEOUT)
    until(lambda: not is_mounted(tmp_path / "m"))


def until(it_is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not it_is_so():
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.02)


def children(process: "subprocess.Popen[bytes]") -> list[int]:
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def are_gone(pids: list[int]) -> bool:
    """A zombie that waits for pid 1 is no process any more."""
    return not any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
    )


def client(code: str, *arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def test_two_workers_serve_two_clients(server: Callable[[], "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    process, device = server(), tmp_path / "m" / "device"
    workers_and_watcher = children(process)
    opens = 0

    def both_have_answered() -> bool:
        nonlocal opens
        for each in [client(EVERY_OTHER_PAGE, device, str(number)) for number in range(2)]:
            each.communicate(timeout=TIMEOUT)
            assert each.returncode == 0
            opens += 1
        counts = memoryview((tmp_path / "m" / "counts").read_bytes()).cast("Q").tolist()
        half = len(counts) // 2
        return any(counts[1:half]) and any(counts[half + 1 :])

    until(both_have_answered)  # which the kernel decides; it is so at once
    maps = "maps" if os.geteuid() == 0 else "does not map"
    look = client(LOOK_AT_ALL, device, str(GET_COUNT), maps)
    said, _ = look.communicate(timeout=TIMEOUT)
    assert (look.returncode, said) == (0, f"{opens + 1}\n")  # whoever of them has answered them

    process.terminate()
    assert process.wait(TIMEOUT) == 0
    assert not is_mounted(tmp_path / "m")
    assert are_gone(workers_and_watcher)


def test_nothing_is_left_of_a_server_that_is_killed(
    server: Callable[[], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = server()
    workers_and_watcher = children(process)
    process.kill()
    until(lambda: are_gone(workers_and_watcher) and not is_mounted(tmp_path / "m"))


def test_a_worker_that_dies_ends_the_server(server: Callable[[], "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    process = server()
    workers_and_watcher = children(process)
    os.kill(workers_and_watcher[-1], signal.SIGKILL)
    assert process.wait(TIMEOUT) == 1
    until(lambda: are_gone(workers_and_watcher) and not is_mounted(tmp_path / "m"))


def test_a_file_that_one_loop_has_opened_is_known_to_the_other() -> None:
    memory, counts = memoryview(bytearray(8192)), zeroed_counts(2)
    one, other = Answers(memory, counts, 0), Answers(memory, counts, 1)
    number, opened = one(Opcode.OPEN, DEVICE, os.getpid(), memoryview(wire.OPEN_IN.pack(os.O_RDWR, 0)))
    assert number == 0
    fh, _, _ = wire.OPEN_OUT.unpack(opened)
    write = memoryview(wire.WRITE_IN.pack(fh, 8190, 4, 0, 0, 0, 0) + b"abcd")
    assert other(Opcode.WRITE, DEVICE, 1, write) == (0, wire.WRITE_OUT.pack(2, 0))
    read = memoryview(wire.READ_IN.pack(fh, 8188, 100, 0, 0, 0, 0))
    assert one(Opcode.READ, DEVICE, 1, read) == (0, b"\0\0ab")
    ioctl = memoryview(wire.IOCTL_IN.pack(fh, 0, GET_COUNT, 0, 0, 8))
    assert other(Opcode.IOCTL, DEVICE, 1, ioctl) == (0, wire.IOCTL_OUT.pack(0, 0, 0, 0) + (1).to_bytes(8, "little"))
    # each has its own counts: one has answered the open and the read
    half = len(counts) // 2
    assert (counts[0], sum(counts[1:half]), sum(counts[half:])) == (1, 1, 0)
    assert counts[1 + min(os.sched_getaffinity(0))] == 1


def test_what_no_loop_answers() -> None:
    answers = Answers(memoryview(bytearray(4096)), zeroed_counts())
    beyond = memoryview(wire.WRITE_IN.pack(0, 4096, 1, 0, 0, 0, 0) + b"a")
    other_ioctl = memoryview(wire.IOCTL_IN.pack(0, 0, GET_COUNT + 1, 0, 0, 8))
    for opcode, body, wanted in (
        (Opcode.LOOKUP, memoryview(b"devices\0"), errno.ENOENT),
        (Opcode.WRITE, beyond, errno.ENOSPC),
        (Opcode.IOCTL, other_ioctl, errno.ENOTTY),
        (Opcode.POLL, memoryview(b""), errno.ENOSYS),
    ):
        assert answers(opcode, DEVICE, 1, body) == (wanted, b"")


def test_the_share_of_reads_on_their_cpu() -> None:
    # opens, reads of files of CPU 0, of CPU 1; the first worker is on CPU 1
    assert workers.share_on_their_cpu([9, 10, 30, 9, 40, 20], (1, 0)) == 0.7


def test_every_cpu_has_a_queue_and_workers_have_their_own() -> None:
    count = os.sysconf("SC_NPROCESSORS_CONF")
    found = workers.queues([{count - 1}, {0}])
    assert sorted(cpu for queues in found.values() for cpu in queues) == list(range(count))
    assert 0 in found[0]
    assert count - 1 in found[count - 1]


def test_the_table_has_the_ratio_to_c() -> None:
    result = Result()
    for c, ours in ((30_000.0, 10_000.0), (20_000.0, 10_000.0), (10_000.0, 10_000.0)):
        result.add(jobs.TWO_CLIENTS, who.C, c)
        result.add(jobs.TWO_CLIENTS, who.WORKERS, ours)
        result.add(workers.LOCAL[jobs.TWO_CLIENTS], who.WORKERS, 0.5)
    result.lacks(jobs.TWO_CLIENTS, workers.RINGS, "needs root")
    rows = workers.table(result, (who.C, who.WORKERS, workers.RINGS)).rows
    assert [row[0] for row in rows] == [who.C, who.WORKERS, workers.RINGS]
    assert rows[1][-3:] == ["2.00 (1.00 to 3.00)", "", "50% (50% to 50%)"]
    assert rows[2][1:] == ["needs root", "", "", ""]


@pytest.mark.parametrize("wrong", [["serve"], ["serve", "m", "4096", "read"], ["--doc"]])
def test_wrong_arguments(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "bench.workers", *wrong]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m bench.workers")
