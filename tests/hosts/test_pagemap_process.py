"""Pagemap and its command on live processes: known mappings, as root and as an ordinary user."""

import ctypes
import errno
import fcntl
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapdev import libc
from mapdev.errors import ProcessError, UsageError
from mapdev.libc import PAGE_SIZE
from mapdev.pagemap import KPAGE_FLAGS, Frames, Pagemap, Run, flag_names

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
MADV_PAGEOUT, MADV_GUARD_INSTALL = 21, 102  # <asm-generic/mman-common.h>


@pytest.fixture(params=["root", "user"])
def account(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What to put before a command for it to run as root, or as an ordinary user."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("not root")
        return ()
    return _ordinary_user()


@pytest.fixture
def user() -> tuple[str, ...]:
    return _ordinary_user()


def _ordinary_user() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    tried = subprocess.run(
        [*NOBODY, sys.executable, "-c", "import mapdev.pagemap"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"uid 65534 cannot run mapdev here: {tried.stderr.strip().splitlines()[-1]}")
    return NOBODY


@pytest.fixture
def frames() -> Iterator[Frames]:
    """The frames of the machine, where this user is shown their numbers."""
    with Pagemap("self") as pagemap:
        if pagemap.frames_hidden:
            pytest.skip("the kernel hides frame numbers from this user (no CAP_SYS_ADMIN)")
    with Frames() as opened:
        yield opened


@contextmanager
def anonymous(pages: int, flags: int = 0) -> Iterator[int]:
    length = pages * PAGE_SIZE
    address = libc.mmap(None, length, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | flags)
    try:
        yield address
    finally:
        libc.munmap(address, length)


@contextmanager
def memfd_mappings(length: int, addresses: int) -> Iterator[list[int]]:
    fd = os.memfd_create("mapdev-test")
    mapped: list[int] = []
    try:
        os.ftruncate(fd, length)
        for _ in range(addresses):
            address = libc.mmap(None, length, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED, fd)
            mapped.append(address)
        yield mapped
    finally:
        os.close(fd)
        for address in mapped:
            libc.munmap(address, length)


def touch(address: int, pages: int = 1) -> None:
    for page in range(pages):
        ctypes.memset(address + page * PAGE_SIZE, 1, 1)


def runs_of(address: int, pages: int) -> list[Run]:
    with Pagemap("self") as pagemap:
        return list(pagemap.runs(address, pages * PAGE_SIZE))


def mapdev(*arguments: str | int, before: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    code = "from mapdev.cli import main; main(prog_name='mapdev')"
    command = [*before, sys.executable, "-c", code, "pagemap", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


MAPPING = """
import json, mmap, os, sys, time
{body}
print(json.dumps(answer), flush=True)
sys.stdin.read()
"""


@contextmanager
def running(body: str, before: tuple[str, ...] = ()) -> Iterator[tuple["subprocess.Popen[str]", Any]]:
    """A process that has run `body` and waits; with what that left in `answer`."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", MAPPING.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 30)[0], "the process says nothing"
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


ONE_AREA = """
import ctypes
area = mmap.mmap(-1, {pages} * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area[{touched} * mmap.PAGESIZE] = 1
address = answer = ctypes.addressof(ctypes.c_char.from_buffer(area))
"""

# --- the library, on this very process


def test_two_mappings_of_one_memfd_are_one_frame(frames: Frames) -> None:
    with memfd_mappings(PAGE_SIZE, 2) as (one, two), Pagemap("self") as pagemap:
        touch(one)
        touch(two)
        assert one != two
        physical = pagemap.physical_address(one + 5)
        assert physical is not None
        assert physical % PAGE_SIZE == 5
        assert pagemap.physical_address(two + 5) == physical

        pfn = physical // PAGE_SIZE
        assert frames.counts(pfn) == 2
        assert {"UPTODATE", "SWAPBACKED"} <= set(flag_names(int(frames.flags(pfn))))
        entry = pagemap.entries(one, 1)[0]
        assert entry["present"]
        assert entry["file"]  # shared memory counts as a file
        assert not entry["exclusive"]
        assert entry["pfn"] == pfn


def test_an_ordinary_user_is_told_that_frames_are_hidden(user: tuple[str, ...]) -> None:
    code = """
import ctypes, json
from mapdev.pagemap import Frames, Pagemap
page = ctypes.create_string_buffer(b"x")
address = ctypes.addressof(page)
with Pagemap("self") as pagemap:
    entry = pagemap.entries(address, 1)[0]
    (run,) = pagemap.runs(address, 1)
    print(json.dumps([pagemap.frames_hidden, pagemap.physical_address(address), bool(entry["present"]),
                      int(entry["pfn"]), run.pfn, len(run.frames)]))
try:
    Frames()
except Exception as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run(
        [*user, sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told, refused = result.stdout.splitlines()
    assert json.loads(told) == [True, None, True, 0, None, 0]
    assert refused == "HostError cannot open /proc/kpageflags: Permission denied; run as root"


def test_root_is_shown_frames() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    has_sys_admin = int(Path("/proc/self/status").read_text().split("CapEff:\t")[1][:16], 16) >> 21 & 1
    with Pagemap("self") as pagemap:
        assert pagemap.frames_hidden == (not has_sys_admin)


def test_a_collapsed_memfd_is_one_run(frames: Frames) -> None:
    size_file = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not size_file.exists():
        pytest.skip(f"no {size_file}: a kernel without transparent huge pages")
    size = int(size_file.read_text())
    pages = size // PAGE_SIZE
    with memfd_mappings(2 * size, 1) as (area,), Pagemap("self") as pagemap:
        # The huge page is aligned in memory as in the file: map the file again where it can be.
        address = -(-area // size) * size
        fd = os.memfd_create("mapdev-huge")
        try:
            os.ftruncate(fd, size)
            libc.mmap(address, size, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED | libc.MAP_FIXED, fd)
        finally:
            os.close(fd)
        touch(address, pages)
        try:
            libc.madvise(address, size, libc.MADV_COLLAPSE)
        except OSError as error:
            pytest.skip(f"the kernel does not collapse a memfd: {error}")
        touch(address, pages)
        (run,) = pagemap.runs(address, size)
        assert (run.start, run.pages, run.step, len(run.frames)) == (address, pages, 1, pages)
        assert run.frames.start % pages == 0
        entries = pagemap.entries(address, size)
        np.testing.assert_array_equal(entries["pfn"], np.arange(run.frames.start, run.frames.stop))
        summary = frames.summary(run)
        assert summary is not None
        assert "THP" in flag_names(summary.flags_all)
        assert (summary.count_min, summary.count_max) == (1, 1)


def test_untouched_pages_are_absent() -> None:
    with anonymous(16) as address, Pagemap("self") as pagemap:
        (run,) = runs_of(address, 16)
        assert (run.pages, run.flags) == (16, ())
        assert pagemap.physical_address(address) is None
        touch(address + 3 * PAGE_SIZE)
        assert [(run.pages, run.flags[:1]) for run in runs_of(address, 16)] == [
            (3, ()),
            (1, ("present",)),
            (12, ()),
        ]
        libc.madvise(address, 16 * PAGE_SIZE, libc.MADV_DONTNEED)
        assert [(run.pages, run.flags) for run in runs_of(address, 16)] == [(16, ())]


def test_the_zero_page_is_one_frame_behind_many_pages(frames: Frames) -> None:
    with anonymous(8) as address:
        for page in range(8):
            assert ctypes.string_at(address + page * PAGE_SIZE, 1) == b"\0"
        (run,) = runs_of(address, 8)
        assert (run.pages, len(run.frames)) == (8, 1)
        summary = frames.summary(run)
        assert summary is not None
        assert "ZERO_PAGE" in flag_names(summary.flags_all)


def test_a_range_is_widened_to_its_pages() -> None:
    with anonymous(4) as address, Pagemap("self") as pagemap:
        assert len(pagemap.entries(address + 1, PAGE_SIZE)) == 2
        assert len(pagemap.entries(address + 1, PAGE_SIZE - 1)) == 1
        assert len(pagemap.entries(address, 0)) == 0
        assert [run.start for run in pagemap.runs(address + 7, 1)] == [address]


def test_entries_of_a_range_that_takes_several_reads() -> None:
    pages = 200_000
    touched = [0, 65535, 65536, 131071, 131072, pages - 1]
    with anonymous(pages, libc.MAP_NORESERVE) as address, Pagemap("self") as pagemap:
        for page in touched:
            touch(address + page * PAGE_SIZE)
        entries = pagemap.entries(address, pages * PAGE_SIZE)
        assert len(entries) == pages
        assert np.flatnonzero(entries["present"]).tolist() == touched


@pytest.mark.parametrize(("address", "length"), [(-1, 1), (0, -1), (1 << 64, 1), ((1 << 64) - 1, 2)])
def test_what_is_no_range_is_refused(address: int, length: int) -> None:
    with Pagemap("self") as pagemap:
        with pytest.raises(UsageError, match="64-bit"):
            pagemap.entries(address, length)
        with pytest.raises(UsageError, match="64-bit"):
            pagemap.runs(address, length)


def test_an_address_of_no_region() -> None:
    with anonymous(3) as address, Pagemap("self") as pagemap:
        libc.munmap(address + PAGE_SIZE, PAGE_SIZE)
        assert pagemap.physical_address(address) is None
        with pytest.raises(ProcessError, match=f"{address + PAGE_SIZE + 9:#x} is in no region of process self"):
            pagemap.physical_address(address + PAGE_SIZE + 9)
        assert not pagemap.entries(address, 3 * PAGE_SIZE)["present"].any()


@pytest.mark.parametrize("address", [1 << 56, (1 << 64) - PAGE_SIZE])
def test_above_the_memory_of_any_process(address: int) -> None:
    with Pagemap("self") as pagemap:
        assert len(pagemap.entries(address, PAGE_SIZE)) == 0
        assert list(pagemap.runs(address, PAGE_SIZE)) == []
        with pytest.raises(ProcessError, match="in no region"):
            pagemap.physical_address(address)


def test_a_range_that_ends_above_user_memory_is_cut_there() -> None:
    with Pagemap("self") as pagemap:
        stack = next(region for region in pagemap.regions() if region.path == "[stack]")
        got = pagemap.entries(stack.start, 1 << 48)
        assert stack.end - stack.start <= len(got) * PAGE_SIZE < 1 << 48
        assert got["present"].any()


def test_vsyscall_has_no_page_table_to_show() -> None:
    with Pagemap("self") as pagemap:
        region = next((region for region in pagemap.regions() if region.path == "[vsyscall]"), None)
        if region is None:
            pytest.skip("no [vsyscall] on this kernel")
        assert len(pagemap.entries(region.start, PAGE_SIZE)) == 0
        assert pagemap.physical_address(region.start) is None


def test_a_sparse_region_of_64_gib_is_read_in_pieces() -> None:
    pages = (64 << 30) // PAGE_SIZE
    with anonymous(pages, libc.MAP_NORESERVE) as address, Pagemap("self") as pagemap:
        touch(address + (pages // 2) * PAGE_SIZE)
        tracemalloc.start()
        try:
            runs = list(pagemap.runs(address, pages * PAGE_SIZE))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [run.pages for run in runs] == [pages // 2, 1, pages // 2 - 1]
        assert peak < 32 << 20


def test_regions_are_the_lines_of_maps() -> None:
    with Pagemap("self") as pagemap:
        lines = Path("/proc/self/maps").read_text().splitlines()
        assert {line.rstrip() for line in lines} == {str(region) for region in pagemap.regions()}


def test_frames_in_any_order_and_shape(frames: Frames) -> None:
    with anonymous(4) as address, Pagemap("self") as pagemap:
        touch(address, 4)
        pfns = pagemap.entries(address, 4 * PAGE_SIZE)["pfn"]
        assert pfns.all()
        mixed = np.concatenate((pfns[::-1], pfns[:1], [1 << 50])).reshape(2, 3)
        counts = frames.counts(mixed)
        assert counts.tolist() == [[1, 1, 1], [1, 1, 0]]
        flags = frames.flags(mixed)
        assert flags[0, 0] == frames.flags(pfns[3])
        assert flag_names(int(flags[1, 2])) == ["NOPAGE"]
        assert all("ANON" in flag_names(int(word)) for word in flags.ravel()[:-1])
        assert frames.flags([]).shape == (0,)


def test_a_closed_pagemap_reads_no_other_file() -> None:
    pagemap = Pagemap("self")
    pagemap.close()
    pagemap.close()
    with pytest.raises(ValueError, match="closed"):
        pagemap.regions()
    with pytest.raises(ValueError, match="closed"):
        pagemap.entries(0, PAGE_SIZE)


def test_a_path_may_hold_anything(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/a b\n\x1b[31m\xff (deleted)"
    Path(os.fsdecode(name)).write_bytes(bytes(PAGE_SIZE))
    body = f"""
area = mmap.mmap(os.open({name!r}, os.O_RDONLY), 0, prot=mmap.PROT_READ)
answer = None
"""
    with running(body) as (process, _):
        with Pagemap(process.pid) as pagemap:
            paths = [os.fsencode(region.path) for region in pagemap.regions()]
        assert name.replace(b"\n", b"\\012") in paths
        text = mapdev(process.pid).stdout
        assert "\x1b" not in text
        assert "/a b\\012\\x1b[31m\\udcff (deleted)\n" in text
        found = [json.loads(line).get("path") for line in mapdev(process.pid, "--json").stdout.splitlines()]
        assert os.fsdecode(name.replace(b"\n", b"\\012")) in found


# --- swap, guards, soft-dirty, userfaultfd: each as far as this kernel has it


@contextmanager
def swap_area(directory: Path) -> Iterator[None]:
    """Some swap: what there is, or a small file for as long as the test takes."""
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        yield
        return
    mkswap, swapon, swapoff = (shutil.which(tool, path="/usr/sbin:/sbin") for tool in ("mkswap", "swapon", "swapoff"))
    if os.geteuid() != 0 or not (mkswap and swapon and swapoff):
        pytest.skip("no swap area, and one can be added only by root with mkswap, swapon and swapoff")
    file = directory / "swap"
    file.touch(0o600)
    with file.open("wb") as writer:
        writer.write(bytes(16 << 20))
    with ExitStack() as cleanup:
        for command in ([mkswap, str(file)], [swapon, str(file)]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode != 0:
                pytest.skip(f"no swap area, and none can be added: {done.stderr.strip()}")
        cleanup.callback(subprocess.run, [swapoff, str(file)], timeout=60, check=True)
        yield
    file.unlink()


def test_pages_in_swap(tmp_path: Path) -> None:
    with swap_area(tmp_path), anonymous(8) as address, Pagemap("self") as pagemap:
        touch(address, 8)
        for _ in range(50):
            libc.madvise(address, 8 * PAGE_SIZE, MADV_PAGEOUT)
            entries = pagemap.entries(address, 8 * PAGE_SIZE)
            if entries["swapped"].all():
                break
            time.sleep(0.1)
        else:
            pytest.skip("the kernel does not page out what MADV_PAGEOUT is given")
        runs = list(pagemap.runs(address, 8 * PAGE_SIZE))
        assert sum(run.pages for run in runs) == 8
        assert all("swapped" in run.flags and run.pfn is None for run in runs)
        assert pagemap.physical_address(address) is None
        if pagemap.frames_hidden:
            assert all(run.swap is None for run in runs)
        else:
            places = [run.swap for run in runs if run.swap is not None]
            assert len(places) == len(runs)
            assert all(offset > 0 for _, offset in places)  # page 0 is the header of the area
            swap_type, offset = places[0]
            assert (entries["swap_type"][0], entries["swap_offset"][0]) == (swap_type, offset)
            row = mapdev(os.getpid(), hex(address)).stdout.splitlines()[-1].split()
            assert row[2:7] == ["swap", f"{swap_type},", "page", str(offset), "swapped"]
        touch(address)
        assert "present" in runs_of(address, 1)[0].flags


def test_a_guard_region() -> None:
    with anonymous(8) as address:
        touch(address, 8)
        try:
            libc.madvise(address + 2 * PAGE_SIZE, 3 * PAGE_SIZE, MADV_GUARD_INSTALL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("this kernel has no MADV_GUARD_INSTALL (it is in 6.13)")
        flags = [run.flags[0] for run in runs_of(address, 8) for _ in range(run.pages)]
        if flags[2] == "swapped":
            pytest.skip("this kernel has guards but does not show them in pagemap (6.15 does)")
        assert flags == ["present"] * 2 + ["guard"] * 3 + ["present"] * 3
        guard = next(run for run in runs_of(address, 8) if "guard" in run.flags)
        assert (guard.pages, guard.flags, guard.swap, guard.pfn) == (3, ("guard",), None, None)
        row = mapdev(os.getpid(), hex(address + 2 * PAGE_SIZE), 3 * PAGE_SIZE).stdout.splitlines()[-1].split()
        assert row[1:] == ["3", "-", "guard"]


def test_soft_dirty() -> None:
    with anonymous(4) as address:
        touch(address, 4)
        smaps = Path("/proc/self/smaps").read_text().split(f"{address:x}-")[-1].split("VmFlags:")[1]
        if "sd" not in smaps.splitlines()[0].split():
            pytest.skip("this kernel does not track soft-dirty pages (no sd in VmFlags: CONFIG_MEM_SOFT_DIRTY)")
        Path("/proc/self/clear_refs").write_text("4")
        touch(address + PAGE_SIZE)
        dirty = ["soft_dirty" in run.flags for run in runs_of(address, 4) for _ in range(run.pages)]
        assert dirty == [False, True, False, False]


def test_userfaultfd_write_protection() -> None:
    # <linux/userfaultfd.h>: the numbers of its ioctls, struct uffdio_api, _register and _writeprotect.
    new, api, register, write_protect = 0x0000AA00, 0xC018AA3F, 0xC020AA00, 0xC018AA06
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/userfaultfd: {error.strerror}")
    try:
        fd = fcntl.ioctl(device, new, os.O_CLOEXEC)
    finally:
        os.close(device)
    try:
        fcntl.ioctl(fd, api, bytearray(struct.pack("3Q", 0xAA, 0, 0)))
        with anonymous(8) as address:
            touch(address, 8)
            try:
                fcntl.ioctl(fd, register, bytearray(struct.pack("4Q", address, 8 * PAGE_SIZE, 1 << 1, 0)))
            except OSError as error:
                pytest.skip(f"userfaultfd has no write-protection here: {error.strerror}")
            request = struct.pack("3Q", address + PAGE_SIZE, 2 * PAGE_SIZE, 1)
            fcntl.ioctl(fd, write_protect, bytearray(request))
            protected = ["uffd_wp" in run.flags for run in runs_of(address, 8) for _ in range(run.pages)]
            assert protected == [False, True, True, False, False, False, False, False]
    finally:
        os.close(fd)


# --- processes that are not there, not ours, or going


def test_a_process_that_exits_while_it_is_looked_at() -> None:
    with running(ONE_AREA.format(pages=4, touched=0)) as (process, address), Pagemap(process.pid) as pagemap:
        assert pagemap.entries(address, 1)["present"].all()
        started = pagemap.runs(address, 4 * PAGE_SIZE)
        looks: list[Callable[[], object]] = [
            pagemap.regions,
            lambda: pagemap.entries(address, 1),
            lambda: pagemap.physical_address(address),
            lambda: list(pagemap.runs(address, 1)),
            lambda: list(started),
        ]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        with pytest.raises(ProcessError, match=f"process {process.pid} has exited: nothing is left"):
            Pagemap(process.pid)
        for look in looks[:-1]:
            with pytest.raises(ProcessError, match="has exited, or executed another program"):
                look()
        process.wait(10)
        for look in looks:
            with pytest.raises(ProcessError, match="has exited, or executed another program"):
                look()
        with pytest.raises(ProcessError, match=f"there is no process {process.pid}"):
            Pagemap(process.pid)


def test_a_process_that_executes_another_program() -> None:
    body = ONE_AREA.format(pages=1, touched=0) + "\nanswer = address"
    code = body + "\nprint(address, flush=True); sys.stdin.readline(); os.execv('/bin/cat', ['cat'])"
    process = subprocess.Popen(
        [sys.executable, "-c", "import mmap, os, sys\n" + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            address = int(process.stdout.readline())
            with Pagemap(process.pid) as pagemap:
                assert pagemap.entries(address, 1)["present"].all()
                process.stdin.write("\n")
                process.stdin.flush()
                deadline = time.monotonic() + 20
                while Path(f"/proc/{process.pid}/comm").read_text() != "cat\n":
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                with pytest.raises(ProcessError, match="executed another program"):
                    pagemap.entries(address, 1)
            with Pagemap(process.pid) as pagemap:
                assert any(region.path.endswith("/cat") for region in pagemap.regions())
        finally:
            process.kill()


def test_a_kernel_thread_has_no_memory(account: tuple[str, ...]) -> None:
    threads = [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_kernel_thread(pid)]
    if not threads:
        pytest.skip("no kernel thread in this PID namespace")
    refused(mapdev(threads[0], before=account), 1, f"process {threads[0]} is a kernel thread", "no memory")


def _is_kernel_thread(pid: str) -> bool:
    try:
        return "Kthread:\t1" in Path(f"/proc/{pid}/status").read_text()  # proc_pid_status(5), since 6.8
    except OSError:
        return False  # it has gone


# --- the command


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    return process.pid


def refused(result: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.startswith("mapdev: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_the_command_on_one_address(account: tuple[str, ...]) -> None:
    with running(ONE_AREA.format(pages=16, touched=3), account) as (process, address):
        page = address + 3 * PAGE_SIZE
        result = mapdev(process.pid, hex(page), before=account)
        assert (result.returncode, result.stderr) == (0, "")
        *note, head, region, row = result.stdout.splitlines()
        assert head.split()[:4] == ["virtual", "pages", "physical", "flags"]
        assert region in Path(f"/proc/{process.pid}/maps").read_text()
        assert row.split()[:2] == [f"{page:#x}-{page + PAGE_SIZE:#x}", "1"]
        if account == () and os.geteuid() == 0:
            with Pagemap(process.pid) as pagemap:
                physical = pagemap.physical_address(page)
            assert physical is not None
            assert note == []
            assert row.split()[2:6] == [
                f"{physical:#x}-{physical + PAGE_SIZE:#x}",
                "present",
                "exclusive",
                "1",
            ]
            assert {"ANON", "MMAP"} <= set(row.split()[6:])
        else:
            assert len(note) == 1
            assert "hidden" in note[0]
            assert "CAP_SYS_ADMIN" in note[0]
            assert row.split()[2:] == ["hidden", "present", "exclusive"]
        for same in (str(page), hex(page + 123), str(page + PAGE_SIZE - 1)):  # decimal; not aligned
            again = mapdev(process.pid, same, before=account).stdout.splitlines()
            # The kernel moves frames between its lists meanwhile: their flags are not compared.
            assert again[-1].split()[:6] == row.split()[:6]
            assert again[:-1] == result.stdout.splitlines()[:-1]


def test_the_command_on_a_length(account: tuple[str, ...]) -> None:
    with running(ONE_AREA.format(pages=1024, touched=512), account) as (process, address):
        whole = mapdev(process.pid, hex(address), f"{PAGE_SIZE // 1024}M", before=account)
        rows = [line.split() for line in whole.stdout.splitlines() if line.startswith("  0x")]
        assert [row[1] for row in rows] == ["512", "1", "511"]
        assert rows[0][2:] == ["-", "absent"]
        part = (
            mapdev(process.pid, hex(address), f"{2 * PAGE_SIZE // 1024}k", before=account)
            .stdout.splitlines()[-1]
            .split()
        )
        assert part == [f"{address:#x}-{address + 2 * PAGE_SIZE:#x}", "2", "-", "absent"]


def test_the_command_on_a_whole_process(account: tuple[str, ...]) -> None:
    with running(ONE_AREA.format(pages=16, touched=0), account) as (process, _):
        maps = [line.rstrip() for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()]
        result = mapdev(process.pid, before=account)
        assert (result.returncode, result.stderr) == (0, "")
        assert [line for line in result.stdout.splitlines() if line in maps] == maps
        assert result.stdout.count("hidden:") == (0 if account == () and os.geteuid() == 0 else 1)


def test_json_lines(account: tuple[str, ...]) -> None:
    with running(ONE_AREA.format(pages=16, touched=3), account) as (process, address):
        result = mapdev(process.pid, "--json", before=account)
        assert (result.returncode, result.stderr) == (0, "")
        about, *lines = map(json.loads, result.stdout.splitlines())
        shown = account == () and os.geteuid() == 0
        assert about == {
            "kind": "process",
            "pid": process.pid,
            "page_size": PAGE_SIZE,
            "frames_hidden": not shown,
        }
        area = end = None
        for line in lines:
            if line["kind"] == "region":
                area, end = line, line["start"]
            else:
                assert area is not None
                assert line["start"] == end
                assert line["pages"] * PAGE_SIZE == line["end"] - line["start"]
                assert line["end"] <= area["end"]
                assert (line["physical"] is not None) == ("present" in line["flags"] and shown)
                end = line["end"]
        (run,) = (line for line in lines if line["kind"] == "run" and line["start"] == address + 3 * PAGE_SIZE)
        assert run["flags"] == ["present", "exclusive"]
        if shown:
            assert run["kpagecount"] == {"min": 1, "max": 1}
            assert set(run["kpageflags"]["all"]) <= set(KPAGE_FLAGS)
        else:
            assert "kpageflags" not in run


def test_the_command_on_itself() -> None:
    result = mapdev("self", "--json")
    assert result.returncode == 0
    about, *lines = map(json.loads, result.stdout.splitlines())
    assert about["pid"] > 0
    assert any(line.get("path") == "[stack]" for line in lines)


def test_a_64_gib_sparse_process_is_shown_in_seconds(account: tuple[str, ...]) -> None:
    pages = (64 << 30) // PAGE_SIZE
    with running(ONE_AREA.format(pages=pages, touched=pages // 2), account) as (process, address):
        began = time.monotonic()
        result = mapdev(process.pid, before=account)
        assert time.monotonic() - began < 20  # it takes about one
        first, touched, rest = (
            row.split()
            for row in result.stdout.splitlines()
            if row.startswith("  0x") and address <= int(row.split("-")[0], 16) < address + (64 << 30)
        )
        assert (first[1], touched[1], rest[1]) == (str(pages // 2), "1", str(pages // 2 - 1))
        assert first[2:] == rest[2:] == ["-", "absent"]


def test_a_process_that_is_not_there(account: tuple[str, ...]) -> None:
    pid = dead_pid()
    refused(mapdev(pid, before=account), 1, f"there is no process {pid}")
    refused(mapdev(0, before=account), 1, "there is no process 0")


def test_a_process_of_another_user(user: tuple[str, ...]) -> None:
    other = os.getpid() if os.geteuid() == 0 else 1
    refused(mapdev(other, before=user), 1, f"process {other}", "run as its user or as root")


def test_an_address_outside_the_process(account: tuple[str, ...]) -> None:
    with running(ONE_AREA.format(pages=1, touched=0), account) as (process, _):
        refused(mapdev(process.pid, "0x10", before=account), 1, f"0x0-{PAGE_SIZE:#x} is in no region")
        refused(mapdev(process.pid, hex(1 << 60), "1M", before=account), 1, "in no region", str(process.pid))


def test_what_is_not_a_number(account: tuple[str, ...]) -> None:
    refused(mapdev("init", before=account), 2, "PID 'init'")
    refused(mapdev("self", "stack", before=account), 2, "ADDRESS 'stack'")
    refused(mapdev("self", "0x1000", "1X", before=account), 2, "LENGTH '1X'")


def test_a_reader_that_stops_reading() -> None:
    code = "from mapdev.cli import main; main(prog_name='mapdev')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "pagemap", "self"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) in (0, 1)
