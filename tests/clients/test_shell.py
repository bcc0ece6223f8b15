"""What people type: coreutils, busybox, redirections. Content comes and goes; names, sizes and modes stay."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.conftest import Serve
from tests.people import Person

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Shell:
    """Runs command lines in the directory of the devices; ``away`` is another one that the person may write to."""

    person: Person
    directory: Path
    away: Path

    def run(self, line: str) -> "subprocess.CompletedProcess[str]":
        # root may not enter the directory of an ordinary user's devices, so it is the shell that does
        env = {"LC_ALL": "C", "away": str(self.away), "devices": str(self.directory)}
        return self.person.run("sh", "-c", f'cd "$devices" || exit 99; {line}', env=env)

    def out(self, line: str) -> str:
        """What `line` prints; it must succeed in silence otherwise."""
        done = self.run(line)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, line: str) -> str:
        """What `line` says when it fails."""
        done = self.run(line)
        assert done.returncode != 0, f"{line} succeeds: {done.stdout}"
        return done.stderr.strip()


@pytest.fixture
def shell(person: Person, serve: Serve, place: Callable[[Person], Path]) -> Shell:
    served = serve(person, "lkmc_mmap", "ram:1M", "array", "vmalloc")
    return Shell(person, served.directory, place(person))


def test_ls_and_stat_show_regular_files_of_the_size_of_the_memory(shell: Shell) -> None:
    assert shell.out("ls").split() == ["array", "lkmc_mmap", "ram", "vmalloc"]
    assert shell.out("stat -c '%n %s %a %h %F' *").splitlines() == [
        "array 65536 600 1 regular file",
        "lkmc_mmap 4096 600 1 regular file",
        "ram 1048576 600 1 regular file",
        "vmalloc 65536 600 1 regular file",
    ]
    lines = shell.out("ls -ln").splitlines()[1:]
    assert [line.split()[2] for line in lines] == [str(shell.person.uid)] * 4
    assert shell.out("find . -type f | wc -l; df . | wc -l; du -s ram").split() == ["4", "2", "1024", "ram"]


def test_what_is_copied_onto_memory_is_what_all_programs_read(shell: Shell) -> None:
    (shell.away / "data").write_bytes(data := os.urandom(MEBIBYTE))
    (shell.away / "data").chmod(0o644)
    need("xxd", "xxd")
    for copy in ("cp $away/data ram", "cat $away/data > ram", "dd if=$away/data of=ram bs=64k status=none"):
        shell.out("dd if=/dev/zero of=ram bs=1M count=1 status=none")
        shell.out(copy)
        shell.out("cmp ram $away/data")
    shell.out("cp ram $away/copy && cmp ram $away/copy")
    shell.out("dd if=ram of=$away/copy bs=1000 status=none && cmp ram $away/copy")
    shell.out("dd if=ram of=$away/copy bs=64k iflag=direct status=none && cmp ram $away/copy")
    shell.out("cat ram | cmp - $away/data")
    shell.out("gzip -c ram | gunzip | cmp - $away/data")
    shell.out("tar cf - ram | tar xOf - ram | cmp - $away/data")
    shell.out("split -b 100000 ram $away/part. && cat $away/part.* | cmp - ram")
    assert shell.out("head -c 5 ram | xxd -p").strip() == data[:5].hex()
    assert shell.out("tail -c 5 ram | xxd -p").strip() == data[-5:].hex()
    assert shell.out("xxd -s 5000 -l 8 -p ram").strip() == data[5000:5008].hex()
    assert shell.out("od -An -v -tx1 -j 70000 -N 4 ram").split() == [f"{byte:02x}" for byte in data[70000:70004]]
    assert shell.out("wc -c ram") == f"{MEBIBYTE} ram\n"


def test_a_device_that_reads_less_than_its_size_ends_where_it_says(shell: Shell) -> None:
    assert shell.out("cat lkmc_mmap; head -c 2 lkmc_mmap; tail -c 3 lkmc_mmap; wc -c < lkmc_mmap") == "asdfassdf4\n"
    assert shell.out("cp lkmc_mmap $away/copy; cat $away/copy") == "asdf"
    assert shell.out("cp lkmc_mmap ram; cat lkmc_mmap > ram; head -c 6 ram | tr '\\0' .") == "asdf.."


def test_redirections_write_and_change_no_size(shell: Shell) -> None:
    assert shell.out("printf first > ram; stat -c %s ram; head -c 5 ram") == f"{MEBIBYTE}\nfirst"
    assert shell.out("printf x > ram; head -c 5 ram") == "xirst"  # O_TRUNC empties no device
    assert shell.out("exec 3<> lkmc_mmap; printf qwer >&3; cat lkmc_mmap; cat /proc/self/fd/3") == "asdfqwer"
    assert shell.out("printf zxcv >> lkmc_mmap; : > ram; stat -c %s lkmc_mmap ram") == f"4096\n{MEBIBYTE}\n"
    assert shell.out("cat ram | head -c 5") == "xirst"


def test_past_the_end_there_is_no_space(shell: Shell) -> None:
    assert "No space left on device" in shell.refused("dd if=/dev/zero of=ram bs=1 count=1 seek=1M conv=notrunc")
    # O_APPEND goes to the end, where memory has no room
    assert "No space left on device" in shell.refused("echo asdf | dd of=ram oflag=append conv=notrunc status=none")
    assert "No space left on device" in shell.refused("head -c 2M /dev/zero | dd of=ram bs=1M iflag=fullblock")
    assert shell.out("printf asdf > ram; stat -c %s ram; head -c 4 ram") == f"{MEBIBYTE}\nasdf"


def test_what_cannot_be_written_says_so(shell: Shell) -> None:
    assert "Invalid argument" in shell.refused("cp ram array")
    assert "Invalid argument" in shell.refused("echo asdf | dd of=vmalloc")


@pytest.mark.parametrize("size", ["0", "4096", "2M", "+4096", "8E"])
def test_truncate_to_another_size_is_refused(shell: Shell, size: str) -> None:
    said = shell.refused(f"printf asdf > ram; truncate -s {size} ram")
    assert said.endswith("Invalid argument" if size != "8E" else "Value too large for defined data type")
    assert shell.out("stat -c %s ram; head -c 4 ram") == f"{MEBIBYTE}\nasdf"


def test_truncate_to_the_same_size_touch_and_sync_succeed(shell: Shell) -> None:
    before = shell.out("stat -c '%s %y %z' ram")
    assert shell.out("truncate -s 1M ram; touch ram; touch -d 2020-01-01 ram; sync ram; sync -d ram") == ""
    assert shell.out("stat -c '%s %y %z' ram") == before


@pytest.mark.parametrize(
    "line",
    [
        "touch new", ": > new", "mkdir new", "mkfifo new", "mv ram new", "mv -f ram array", "rm -f ram", "rm -rf array",
        "ln ram new", "ln -s ram new", "cp ram new", "install -m 600 /etc/hostname ram", "sed -i s/a/b/ ram",
    ],
)  # fmt: skip
def test_the_directory_cannot_be_changed(shell: Shell, line: str) -> None:
    # the directory is r-xr-xr-x: root passes that, and is told no by the host
    assert ("Operation not permitted" if shell.person.is_root else "Permission denied") in shell.refused(line)
    assert shell.out("ls").split() == ["array", "lkmc_mmap", "ram", "vmalloc"]
    assert shell.out("printf asdf > ram; head -c 4 ram") == "asdf"


def test_modes_and_owners_and_attributes_cannot_be_changed(shell: Shell) -> None:
    for line in ("chmod 666 ram", "chmod 700 .", f"chown {shell.person.uid} ram", "chgrp 1 ram"):
        assert "Operation not permitted" in shell.refused(line)
    assert "not supported" in shell.refused("fallocate -l 4096 ram")
    assert "unsupported" in shell.refused("fallocate -p -l 4096 ram")
    assert shell.out("stat -c %a . ram") == "555\n600\n"


def test_flock_locks_among_programs(shell: Shell) -> None:
    assert shell.out("flock ram echo locked") == "locked\n"
    assert shell.out("flock ram sh -c 'flock -n ram echo twice || echo busy'") == "busy\n"
    assert shell.out("flock -s ram flock -s -n ram echo shared") == "shared\n"


def test_busybox(shell: Shell) -> None:
    busybox = need("busybox", "busybox-static")
    commands = f'export PATH=; b() {{ {busybox} "$@"; }}; '
    assert shell.out(commands + "printf asdf > ram; b dd if=ram bs=4k count=1 2>/dev/null | b head -c 4") == "asdf"
    assert shell.out(commands + "b cp array $away/copy; b cmp array $away/copy; b wc -c < $away/copy") == "65536\n"
    assert shell.out(commands + "b cat array | b md5sum") == shell.out(commands + "b cat vmalloc | b md5sum")
    assert "70 61 67 65 20 32" in shell.out(commands + "b hexdump -C -s 8192 -n 6 array")
    assert shell.out(commands + "b cat ram | b wc -c") == f"{MEBIBYTE}\n"
    # its cat uses sendfile, which reads the memory on demand, and what `read` gives in shared memory
    assert shell.out(commands + "b cat lkmc_mmap | b wc -c") == ("4\n" if shell.person.is_root else "4096\n")
    assert shell.refused(commands + "b rm -f ram") != ""
    assert shell.refused(commands + "b truncate -s 0 ram") != ""


def test_a_program_runs_from_the_device(person: Person, serve: Serve) -> None:
    busybox = need("busybox", "busybox-static")
    # a mode other than 0600 is for all users, which fusermount3 grants only if /etc/fuse.conf says so
    served = serve(person, "ram:4M", "--mode", "0700", "--via", "mount" if person.is_root else "namespace")
    directory = served.ready.split()[1].rstrip(":")
    person.run("cp", busybox, f"{directory}/ram")
    done = person.run("bash", "-c", f"exec -a busybox {directory}/ram echo ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")


INOTIFY = """
import ctypes, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(fd, os.fsencode(sys.argv[1]), 0xfff) > 0
subprocess.run(["sh", "-c", f"cat {sys.argv[2]} > /dev/null; printf x > {sys.argv[2]}"], check=True, timeout=20)
seen, events, at = os.read(fd, 65536), 0, 0
while at < len(seen):
    _, mask, _, length = struct.unpack_from("iIII", seen, at)
    events, at = events | mask, at + 16 + length
print(*(name for name, bit in [("access", 1), ("modify", 2), ("close_write", 8), ("open", 0x20)] if events & bit))
"""


def test_inotify_on_the_directory_tells_of_opens_reads_and_writes(shell: Shell) -> None:
    for name in ("ram", "lkmc_mmap"):
        done = shell.person.run("/usr/bin/python3", "-c", INOTIFY, shell.directory, shell.directory / name)
        assert (done.stdout, done.stderr) == ("access modify close_write open\n", "")
