"""`mapdev verify`: all pass on ordinary files, each check can fail, and what was there is there again."""

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mapdev import libc
from mapdev.conformance import Facts, Result, Verdict, inspect, verify, worker
from mapdev.conformance.check import Check, Failed, Subject, check, load, other, store
from mapdev.conformance.forked import NoAnswer, Stopped, ask
from mapdev.conformance.worker import CHECKS, RESTORED, Lost, judge, look, probe, put_back, results
from mapdev.errors import HostError, UsageError
from mapdev.libc import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, PAGE_SIZE, PROT_READ, PROT_WRITE

# numpy, which other tests import, has threads of its own; what is forked here does not use them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

PASS, FAIL, NOT_APPLICABLE = Verdict.PASS, Verdict.FAIL, Verdict.NOT_APPLICABLE
NAMES = [each.name for each in CHECKS]
STORING = {each.name for each in CHECKS if each.stores}
PHYSICAL = "two mappings share a physical page"
SECOND_PAGE = "offset of the second page"

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
VERIFY = [sys.executable, "-c", "from mapdev.cli import main; main()", "verify"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: setpriv, mount, losetup")


@pytest.fixture(params=["/dev/shm", "/var/tmp"], ids=["tmpfs", "ordinary"])
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that other users may enter too, unlike pytest's."""
    path = Path(request.param) / f"mapdev-test-{os.getpid()}"
    path.mkdir()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def two_pages(tmp_path: Path) -> Path:
    path = tmp_path / "two_pages"
    path.write_bytes(os.urandom(2 * PAGE_SIZE))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*arguments: object, prefix: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [*(prefix or []), *VERIFY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def run_json(*arguments: object, prefix: list[str] | None = None) -> tuple[int, dict[str, Result], dict[str, Any]]:
    """The exit code, the results by name, and the facts."""
    done = run("--json", *arguments, prefix=prefix)
    told = json.loads(done.stdout)
    listed = [Result(each["name"], Verdict(each["verdict"]), each["evidence"]) for each in told["results"]]
    assert [each.name for each in listed if each.name != RESTORED] == NAMES
    return done.returncode, {each.name: each for each in listed}, told["facts"]


def having(results: dict[str, Result], verdict: Verdict) -> set[str]:
    return {name for name, result in results.items() if result.verdict == verdict}


def processes(word: str) -> list[int]:
    """The processes with `word` in their command line, but for the zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# Calibration: files whose mappings behave.


@pytest.mark.parametrize("size", [1, 3, PAGE_SIZE, PAGE_SIZE + 2, 3 * PAGE_SIZE + 5])
def test_all_pass(directory: Path, size: int) -> None:
    path = directory / "f"
    path.write_bytes(os.urandom(size))
    before = digest(path)
    code, found, facts = run_json(path)
    expected = {SECOND_PAGE} if size <= PAGE_SIZE else set()
    if os.geteuid() != 0:
        expected.add(PHYSICAL)
    assert having(found, FAIL) == set()
    assert having(found, NOT_APPLICABLE) == expected
    assert (code, facts["size"], facts["unwritable"]) == (0, size, "")
    assert facts["filesystem"] == "tmpfs" or not str(directory).startswith("/dev/shm")
    assert RESTORED in found
    assert digest(path) == before
    assert processes(str(path)) == []


@as_root
def test_all_pass_for_an_ordinary_user(directory: Path) -> None:
    path = directory / "f"
    path.write_bytes(os.urandom(2 * PAGE_SIZE))
    os.chown(path, NOBODY, NOBODY)
    before = digest(path)
    code, found, _ = run_json(path, prefix=AS_NOBODY)
    assert having(found, FAIL) == set()
    assert having(found, NOT_APPLICABLE) == {PHYSICAL}
    assert found[PHYSICAL].evidence == "frame numbers are hidden without CAP_SYS_ADMIN; run as root"
    assert code == 0
    assert digest(path) == before


def test_read_only_makes_no_stores(directory: Path) -> None:
    path = directory / "f"
    path.write_bytes(os.urandom(2 * PAGE_SIZE))
    before, times = digest(path), path.stat().st_mtime_ns
    code, found, _ = run_json("--read-only", path)
    assert having(found, FAIL) == set()
    assert having(found, NOT_APPLICABLE) - {PHYSICAL} == STORING
    assert code == 0
    assert (digest(path), path.stat().st_mtime_ns) == (before, times)


@as_root
def test_not_writable(directory: Path) -> None:
    path = directory / "f"
    path.write_bytes(os.urandom(2 * PAGE_SIZE))
    path.chmod(0o444)
    code, found, facts = run_json(path, prefix=AS_NOBODY)
    assert facts["unwritable"] == "not writable: Permission denied"
    assert having(found, FAIL) == set()
    assert having(found, NOT_APPLICABLE) == STORING | {PHYSICAL, "O_WRONLY"}
    assert found["fork"].evidence == "not writable: Permission denied"
    assert code == 0


def test_an_empty_file(directory: Path) -> None:
    path = directory / "f"
    path.touch()
    code, found, _ = run_json(path)
    assert having(found, FAIL) == set()
    needing_a_page = {each.name for each in CHECKS if each.pages}
    assert having(found, NOT_APPLICABLE) == needing_a_page
    assert "SIGBUS" in found["mmap"].evidence
    assert (code, path.stat().st_size) == (0, 0)


def test_a_hole_stays_zero_and_of_its_size(directory: Path) -> None:
    path = directory / "f"
    path.touch()
    os.truncate(path, 1 << 41)
    code, found, _ = run_json(path)
    assert (having(found, FAIL), code) == (set(), 0)
    assert path.stat().st_size == 1 << 41
    with path.open("rb") as file:
        assert file.read(2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)


# What is not a file, or cannot be mapped.


@pytest.mark.parametrize(
    ("path", "words"),
    [("/dev/null", "ENODEV"), ("/proc/version", "EIO"), ("/proc/self/maps", "ENODEV"), ("/", "ENODEV")],
)
def test_unmappable(path: str, words: str) -> None:
    code, found, facts = run_json(path)
    assert having(found, NOT_APPLICABLE) == set(NAMES) == set(found)
    assert all(words in result.evidence for result in found.values())
    assert (code, facts["unmappable"]) == (0, f"mmap answers {words}")


@pytest.mark.parametrize("mode", [0o666, 0o444])
def test_fifo_does_not_hang(directory: Path, mode: int) -> None:
    """Without a writer an open for reading would wait; an ordinary user may not be able to open for both."""
    path = directory / "fifo"
    os.mkfifo(path)
    path.chmod(mode)
    begin = time.monotonic()
    code, found, facts = run_json("--timeout", 20, path, prefix=AS_NOBODY if os.geteuid() == 0 else None)
    assert having(found, NOT_APPLICABLE) == set(NAMES)
    assert (code, facts["type"]) == (0, "FIFO")
    assert time.monotonic() - begin < 20


def test_dev_zero_has_memory_for_each_mapping() -> None:
    code, found, facts = run_json("/dev/zero")
    assert (having(found, FAIL), code, facts["type"]) == (set(), 0, "character device")
    assert having(found, NOT_APPLICABLE) >= {each.name for each in CHECKS if each.common}
    assert having(found, PASS) >= {"fork", "mprotect PROT_READ", "mremap moves", "mremap grows"}


@as_root
def test_block_device(tmp_path: Path) -> None:
    """One in use by the system, here by an exclusive open as mount(2) makes it, is not stored to."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(1 << 20))
    before = digest(image)
    command = ["losetup", "--find", "--show", str(image)]
    losetup = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if losetup.returncode:
        pytest.skip(f"no loop device: {losetup.stderr.strip()}")
    device = losetup.stdout.strip()
    try:
        code, found, facts = run_json(device)
        assert (having(found, FAIL), having(found, NOT_APPLICABLE), code) == (set(), set(), 0)
        assert (facts["type"], facts["size"]) == ("block device", 1 << 20)
        held = os.open(device, os.O_RDWR | os.O_EXCL)
        _, found, facts = run_json(device)
        os.close(held)
        assert facts["unwritable"] == "not writable: Device or resource busy"
        assert having(found, NOT_APPLICABLE) >= STORING
    finally:
        subprocess.run(["losetup", "--detach", device], timeout=60, check=True)
    assert digest(image) == before


def test_missing_path() -> None:
    done = run("/nonexistent/device")
    assert done.returncode == 2
    assert done.stderr == "mapdev: cannot open /nonexistent/device for reading: No such file or directory\n"
    assert done.stdout == ""


@as_root
def test_unreadable_path(directory: Path) -> None:
    path = directory / "f"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    done = run(path, prefix=AS_NOBODY)
    assert done.returncode == 2
    assert done.stderr == f"mapdev: cannot open {path} for reading: Permission denied\n"


def test_path_that_is_not_text(directory: Path) -> None:
    path = os.fsencode(directory) + b"/\xff\n"
    Path(os.fsdecode(path)).write_bytes(b"content")
    done = run(os.fsdecode(path))
    assert done.returncode == 0, done.stderr
    assert "0 fail" in done.stdout


@as_root
def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """A FUSE mount that nobody serves: stat(2) waits for ever."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
        command = ["mount", "-i", "-t", "fuse", "-o", options, "silent", str(tmp_path)]
        subprocess.run(command, pass_fds=[fuse], timeout=60, check=True)
        try:
            begin = time.monotonic()
            with pytest.raises(HostError, match=r"no answer in 0\.3 s"):
                inspect(tmp_path / "device", timeout=0.3)
            assert time.monotonic() - begin < 10
        finally:
            subprocess.run(["umount", "-l", str(tmp_path)], timeout=60, check=True)
    finally:
        os.close(fuse)
    assert processes(str(tmp_path)) == []


# The command's output.


def test_table_says_first_what_it_will_do(two_pages: Path) -> None:
    lines = run(two_pages).stdout.splitlines()
    assert lines[0].startswith(f"{two_pages}: regular file on ")
    assert "st_size 8192" in lines[0]
    assert lines[1].startswith(f"will store to the first page(s) of {two_pages} and put back what was there")
    assert "--read-only makes no stores" in lines[1]
    assert lines[3].split() == ["check", "verdict", "evidence"]
    assert [line[:44].rstrip() for line in lines[4:-2]] == [*NAMES, RESTORED]
    assert {line[44:60].rstrip() for line in lines[4:-2]} <= set(Verdict)
    assert "0 fail" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_help_has_an_example() -> None:
    assert "Example:  mapdev verify" in run("--help").stdout


# Each check can fail.


def subject_of(path: Path) -> Subject:
    """In children, as everything that opens or maps: nothing stays open here."""
    facts = ask(partial(look, str(path)), 10)
    return ask(partial(probe, Subject(facts, (), "")), 10)


@pytest.fixture
def subject(two_pages: Path) -> Subject:
    return subject_of(two_pages)


def mmap_as(change: Callable[..., tuple[Any, ...]]) -> Callable[[pytest.MonkeyPatch], None]:
    """mmap(2) with other arguments than it was called with."""
    original = libc.mmap

    def mmap(addr: int | None, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        return original(*change(addr, length, prot, flags, fd, offset))

    return lambda patch: patch.setattr(libc, "mmap", mmap)


def replaced(owner: object, name: str, function: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, function)


def of_files(name: str, function: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """A call of `os` replaced for regular files; the pipes between the processes are not under test."""
    original = getattr(os, name)

    def call(fd: int, *rest: Any) -> Any:
        return (function if stat.S_ISREG(os.fstat(fd).st_mode) else original)(fd, *rest)

    return replaced(os, name, call)


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def private(addr: Any, length: int, prot: int, flags: int, fd: int, offset: int) -> tuple[Any, ...]:
    return addr, length, prot, flags & ~MAP_SHARED | MAP_PRIVATE, fd, offset


def shared(addr: Any, length: int, prot: int, flags: int, fd: int, offset: int) -> tuple[Any, ...]:
    return addr, length, prot, flags & ~MAP_PRIVATE | MAP_SHARED, fd, offset


def memory_of_its_own(addr: Any, length: int, prot: int, *_: int) -> tuple[Any, ...]:
    return addr, length, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0


def no_offset(addr: Any, length: int, prot: int, flags: int, fd: int, _: int) -> tuple[Any, ...]:
    return addr, length, prot, flags, fd, 0


def some_length(addr: Any, length: int, *rest: int) -> tuple[Any, ...]:
    return addr, length or PAGE_SIZE, *rest


def private_reads_only(addr: Any, length: int, prot: int, flags: int, fd: int, offset: int) -> tuple[Any, ...]:
    if flags & MAP_PRIVATE and prot & PROT_WRITE:
        raise OSError(errno.EACCES, "")
    return addr, length, prot, flags, fd, offset


def munmap_all(addr: int, length: int, *, original: Callable[..., None] = libc.munmap) -> None:
    original(addr - PAGE_SIZE, 2 * length)


def mremap_loses(addr: int, old: int, new: int, flags: int = 1, place: int | None = None) -> int:
    libc.munmap(addr, old)
    if not flags & MREMAP_FIXED:
        raise OSError(errno.EFAULT, "")
    return libc.mmap(place, new, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | libc.MAP_FIXED)


def always_for_both(path: Any, flags: int, *rest: Any, original: Callable[..., int] = os.open) -> int:
    return original(path, flags & ~os.O_ACCMODE | os.O_RDWR, *rest)


def other_file_the_second_time(patch: pytest.MonkeyPatch) -> None:
    original, opens = os.open, iter([True])

    def open_(path: Any, flags: int, *rest: Any) -> int:
        if next(opens, False):
            return original(path, flags, *rest)
        fd = os.memfd_create("other")
        os.write(fd, b"else" * PAGE_SIZE)
        return fd

    patch.setattr(os, "open", open_)


def hung_up(*_: object) -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def nothing(*_: object) -> None:
    pass


def untold(fd: int, data: bytes) -> int:  # noqa: ARG001 - the arguments of write(2)
    return len(data)


BROKEN: list[tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = [
    ("mmap", replaced(libc, "mmap", refuse(errno.EINVAL)), "MAP_SHARED answers EINVAL"),
    (PHYSICAL, mmap_as(memory_of_its_own), "the physical addresses are 0x"),
    ("store seen by another mapping", mmap_as(private), "the other mapping"),
    ("store seen by read and pread", mmap_as(private), "pread"),
    ("store seen by read and pread", of_files("read", lambda *_: b"    "), "read: b'    '"),
    ("write seen by mappings", of_files("write", untold), "after write(2), the first mapping"),
    ("write seen by mappings", of_files("write", lambda *_: 1), "write(2) of 4 bytes answers 1"),
    ("store seen through an inherited descriptor", mmap_as(private), "inherited descriptor, in a child"),
    ("store seen through another process's open", mmap_as(private), "even an inherited descriptor"),
    ("reopen", other_file_the_second_time, "b'else' is neither what was stored"),
    ("store outlives its mapping", mmap_as(private), "after munmap, a new mapping"),
    ("mapping outlives its descriptor", mmap_as(private), "a mapping of the duplicate"),
    ("fork", mmap_as(private), "the child: "),
    ("munmap of a part", replaced(libc, "munmap", nothing), "the second page is still mapped"),
    ("munmap of a part", replaced(libc, "munmap", munmap_all), "the first page is gone with the second"),
    ("mprotect PROT_NONE", replaced(libc, "mprotect", nothing), "does not fault"),
    ("mprotect PROT_READ", replaced(libc, "mprotect", nothing), "does not fault"),
    ("mprotect PROT_READ", replaced(libc, "mprotect", refuse(errno.EACCES)), "EACCES (Permission denied)"),
    ("mremap moves", replaced(libc, "mremap", mremap_loses), "the moved mapping"),
    ("mremap moves", replaced(libc, "mremap", lambda *_: _[0]), "it went to"),
    ("mremap grows", replaced(libc, "mremap", mremap_loses), "refused (EFAULT), and the mapping is gone"),
    ("MADV_DONTNEED keeps shared content", mmap_as(private), "after MADV_DONTNEED"),
    ("MAP_PRIVATE copies on write", mmap_as(shared), "after a store to a private mapping, the shared one"),
    ("msync flags", replaced(libc, "msync", nothing), "succeeds instead of EINVAL"),
    ("store, msync, read", mmap_as(private), "after msync, pread"),
    (SECOND_PAGE, mmap_as(no_offset), "a mapping at its offset"),
    ("access past the end", mmap_as(no_offset), "neither refused nor SIGBUS"),
    ("access past the end", replaced(libc, "mmap", refuse(errno.EIO)), "mmap answers EIO"),
    ("huge offset", mmap_as(no_offset), "neither refused nor SIGBUS"),
    ("odd offset", mmap_as(no_offset), "succeeds instead of EINVAL"),
    ("no length", mmap_as(some_length), "succeeds instead of EINVAL"),
    ("O_RDONLY, shared and writable", replaced(os, "open", always_for_both), "instead of EACCES"),
    ("O_RDONLY, private and writable", mmap_as(private_reads_only), "with PROT_WRITE it answers EACCES"),
    ("O_WRONLY", replaced(os, "open", always_for_both), "succeeds instead of EACCES"),
    ("poll", replaced(os, "open", hung_up), "POLLHUP alone"),
    ("read at the end", replaced(os, "pread", lambda *_: b"x"), "pread at 8192: b'x' instead of b''"),
]


def check_named(name: str) -> Check:
    return next(each for each in CHECKS if each.name == name)


def test_every_check_is_broken_here() -> None:
    assert {name for name, _, _ in BROKEN} == set(NAMES)


@pytest.mark.parametrize(("name", "breaks", "words"), BROKEN, ids=[f"{name}: {w}" for name, _, w in BROKEN])
def test_each_check_fails_where_something_is_wrong(
    name: str,
    breaks: Callable[[pytest.MonkeyPatch], None],
    words: str,
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == PHYSICAL and os.geteuid() != 0:
        pytest.skip("frame numbers are hidden without CAP_SYS_ADMIN")
    healthy, _ = judge(check_named(name), subject, 20, ())
    assert healthy.verdict == PASS, healthy
    ask(partial(put_back, subject), 20)
    with monkeypatch.context() as patch:
        breaks(patch)
        result, answered = judge(check_named(name), subject, 20, ())
    assert result.verdict == FAIL, result
    assert words in result.evidence
    assert answered


def test_a_child_that_does_not_get_the_mapping(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    original, dontfork = libc.mmap, 10

    def mmap(addr: int | None, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        address = original(addr, length, prot, flags, fd, offset)
        libc.madvise(address, length, dontfork)
        return address

    monkeypatch.setattr(libc, "mmap", mmap)
    result, _ = judge(check_named("fork"), subject, 20, ())
    assert result.verdict == FAIL
    assert result.evidence.endswith("died of SIGSEGV")


def test_memory_for_each_open_is_told_apart(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second open shows other memory, an inherited descriptor the same: a device may be made so."""
    original = os.open

    def open_(path: Any, flags: int, *rest: Any) -> int:
        if path != subject.facts.path:
            return original(path, flags, *rest)
        fd = os.memfd_create("own")
        os.write(fd, b"asdf" * PAGE_SIZE)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    monkeypatch.setattr(os, "open", open_)
    verdicts = {each.name: judge(each, subject, 20, ())[0] for each in CHECKS}
    others = verdicts["store seen through another process's open"]
    assert others.verdict == NOT_APPLICABLE
    assert others.evidence == "each open has memory of its own: another begins b'asdf', not b'qwer'"
    assert verdicts["store seen through an inherited descriptor"].verdict == PASS
    assert verdicts["fork"].verdict == PASS


def test_fresh_memory_for_each_open_passes_reopen(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(*_: object) -> int:
        fd = os.memfd_create("own")
        os.write(fd, subject.saved[0] * PAGE_SIZE)
        return fd

    monkeypatch.setattr(os, "open", open_)
    result, _ = judge(check_named("reopen"), subject, 20, ())
    assert result.verdict == PASS
    assert result.evidence.startswith("fresh: ")


@pytest.mark.parametrize("name", ["store seen by read and pread", "write seen by mappings", "store, msync, read"])
@pytest.mark.parametrize(
    ("pread", "words"),
    [
        (lambda *_: b"else", "read(2) gives b'else' where the mapping holds"),
        (lambda *_: b"", "end of the file at position 0"),
        (refuse(errno.EINVAL), "read(2) answers EINVAL"),
    ],
)
def test_a_read_that_is_not_a_view_of_the_memory(
    name: str,
    pread: Callable[..., bytes],
    words: str,
    subject: Subject,
    two_pages: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Devices answer read(2) with something else: events, interrupts. There nothing is written either."""
    monkeypatch.setattr(os, "pread", pread)
    before = digest(two_pages)
    result, _ = judge(check_named(name), subject, 20, ())
    assert result.verdict == NOT_APPLICABLE
    assert words in result.evidence
    assert digest(two_pages) == before


def test_read_and_write_as_lkmc_mmap_has_them(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """read(2) ends after 4 bytes; write(2) always goes to the start of the page and leaves the position."""
    pread, pwrite = os.pread, os.pwrite

    def end_at_four(fd: int, count: int, position: int) -> bytes:
        return pread(fd, min(count, 4 - position), position) if position < 4 else b""

    def to_the_start(fd: int, data: bytes) -> int:
        pwrite(fd, data[:4], 0)
        return len(data)

    monkeypatch.setattr(os, "pread", end_at_four)
    of_files("write", to_the_start)(monkeypatch)
    for name in (
        "store seen by read and pread",
        "write seen by mappings",
        "store, msync, read",
        "read at the end",
    ):
        result, _ = judge(check_named(name), subject, 20, ())
        assert result.verdict == PASS, result


# Checks that hang, die, or leave a process; what was there is put back all the same.


def storing(run: Callable[[Subject], object]) -> Check:
    """A check that stores to both pages, and then runs."""

    @check("broken", stores=True)
    def broken(subject: Subject) -> str:
        address = subject.map(subject.open(), pages=2)
        for at in (address, address + PAGE_SIZE):
            store(at, other(load(at, 4)))
        return str(run(subject))

    return broken


def facts_and_digest(path: Path) -> tuple[Facts, str]:
    return ask(partial(look, str(path)), 10), digest(path)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (lambda _: time.sleep(60), "no answer in 0.5 s"),
        (lambda _: os.kill(os.getpid(), signal.SIGBUS), "died of SIGBUS"),
        (lambda subject: subject.map(-1), "EBADF"),
        (lambda _: os.open("/nonexistent", 0), "ENOENT"),
    ],
)
def test_put_back_after_a_check_that(
    ends: Callable[[Subject], object], words: str, two_pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, before = facts_and_digest(two_pages)
    monkeypatch.setattr(worker, "CHECKS", (storing(ends),))
    begin = time.monotonic()
    broken, restored = results(facts, False, 0.5, ())
    assert broken.verdict == FAIL
    assert words in broken.evidence
    assert restored.verdict == PASS
    assert digest(two_pages) == before
    assert time.monotonic() - begin < 10


def test_put_back_when_stopped(two_pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller goes while a check has stored and is busy."""
    facts, before = facts_and_digest(two_pages)
    stop, stopper = os.pipe()
    seen, see = os.pipe()

    def busy(_: Subject) -> None:
        os.write(see, two_pages.read_bytes()[:4])
        os.write(stopper, b"!")
        time.sleep(60)

    monkeypatch.setattr(worker, "CHECKS", (storing(busy),))
    with pytest.raises(Stopped):
        next(results(facts, False, 30, (stop,)))
    assert os.read(seen, 4) != two_pages.read_bytes()[:4]  # it had been stored to
    assert digest(two_pages) == before
    for fd in (stop, stopper, seen, see):
        os.close(fd)


def test_a_file_truncated_under_it_is_told(two_pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, _ = facts_and_digest(two_pages)
    was = two_pages.read_bytes()[:4]
    monkeypatch.setattr(worker, "CHECKS", (storing(lambda _: os.truncate(two_pages, 0)),))
    *_, restored = results(facts, False, 5, ())
    assert restored == Result(RESTORED, FAIL, restored.evidence)
    assert "died of SIGBUS" in restored.evidence
    assert repr(was) in restored.evidence


def test_lost_content_is_told_when_stopped(two_pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, _ = facts_and_digest(two_pages)
    was = two_pages.read_bytes()[:4]
    stop, stopper = os.pipe()

    def busy(_: Subject) -> None:
        os.truncate(two_pages, 0)
        os.write(stopper, b"!")
        time.sleep(60)

    monkeypatch.setattr(worker, "CHECKS", (storing(busy),))
    with pytest.raises(Lost) as lost:
        next(results(facts, False, 30, (stop,)))
    assert repr(was) in str(lost.value)
    os.close(stop)
    os.close(stopper)


def test_another_file_of_that_name_is_not_stored_to(subject: Subject, two_pages: Path) -> None:
    two_pages.rename(two_pages.with_suffix(".old"))
    two_pages.write_bytes(bytes(2 * PAGE_SIZE))
    with pytest.raises(Failed, match="names another file"):
        ask(partial(put_back, subject), 10)
    assert two_pages.read_bytes() == bytes(2 * PAGE_SIZE)


def test_the_rest_is_not_tried_when_nothing_answers(two_pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, _ = facts_and_digest(two_pages)
    monkeypatch.setattr(worker, "CHECKS", (storing(lambda _: time.sleep(60)),) * 5)
    found = list(results(facts, False, 0.2, ()))
    assert [result.verdict for result in found] == [FAIL] * 3 + [NOT_APPLICABLE] * 2 + [PASS]


def test_a_first_page_that_does_not_answer(two_pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, _ = facts_and_digest(two_pages)
    monkeypatch.setattr(worker, "load", lambda *_: time.sleep(60))
    first, *rest = results(facts, False, 0.3, ())
    assert first == Result("mmap", FAIL, "a load from the first pages: no answer in 0.3 s")
    assert {result.verdict for result in rest} == {NOT_APPLICABLE}


def test_a_child_that_cannot_be_killed_is_left(tmp_path: Path) -> None:
    """One that has left the process group stands for one in state D: it stays, and nobody waits for it."""
    left = tmp_path / "pid"

    def leave() -> None:
        os.setpgid(0, 0)
        if os.fork() == 0:
            os.setsid()
            left.write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)

    begin = time.monotonic()
    try:
        with pytest.raises(NoAnswer, match="cannot be killed"):
            ask(leave, 0.5)
        assert time.monotonic() - begin < 5
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


# The caller: a library's user with threads, or a command that is killed.


def test_from_a_process_with_threads(two_pages: Path) -> None:
    before, done = digest(two_pages), threading.Event()
    threads = [threading.Thread(target=lambda: done.wait(60)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        found = list(verify(two_pages))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert [result.name for result in found] == [*NAMES, RESTORED]
    assert [result for result in found if result.verdict == FAIL] == []
    assert digest(two_pages) == before


def test_the_checking_process_has_one_thread() -> None:
    """It forks; numpy, which may come with the package, would bring threads."""
    from mapdev.conformance import _ENVIRONMENT  # the process is started so

    code = "import os, mapdev.conformance.worker; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"1\n"


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_an_early_end_puts_back(two_pages: Path, rows: int) -> None:
    before = digest(two_pages)
    with closing(verify(two_pages)) as coming:
        for _ in range(rows):
            next(coming)
    assert digest(two_pages) == before
    assert processes(str(two_pages)) == []


def test_bad_paths_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        next(verify(tmp_path / "missing"))


def kill_checking_process(path: Path, number: signal.Signals) -> str:
    """What is raised when a signal ends that process; on a busy machine it may be done before it comes."""
    for _ in range(20):
        coming = verify(path)
        next(coming)
        for pid in processes(str(path)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        try:
            list(coming)
        except HostError as error:
            return str(error)
    pytest.fail("it was done each time before the signal came")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_checking_process(two_pages: Path, number: signal.Signals) -> None:
    before = digest(two_pages)
    told = kill_checking_process(two_pages, number)
    assert told == f"the checking process was stopped before it was done with {two_pages}"
    assert digest(two_pages) == before


def test_a_killed_checking_process_is_told(two_pages: Path) -> None:
    told = kill_checking_process(two_pages, signal.SIGKILL)
    assert told == f"SIGKILL ended the checking process: the start of {two_pages} may not be put back"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_in_the_middle(two_pages: Path, number: signal.Signals, code: int) -> None:
    """At different times among the checks: the command is killed, the content is there again."""
    before, codes = digest(two_pages), []
    for attempt in range(6):
        command = [*VERIFY, str(two_pages)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as killed:
            assert killed.stdout is not None
            assert killed.stderr is not None
            for _ in range(6):  # facts, intention, empty, heading, two results
                assert killed.stdout.readline()
            time.sleep(attempt * 0.011)
            killed.send_signal(number)
            codes.append(killed.wait(30))
            if codes[-1] == code and number != signal.SIGKILL:
                assert killed.stderr.read() == "mapdev: interrupted; what was there before is there again\n"
                assert digest(two_pages) == before
        assert eventually(lambda: processes(str(two_pages)) == [])
        assert digest(two_pages) == before
    assert code in codes  # on a busy machine some may have been done before the signal came
    assert set(codes) <= {code, 0}
