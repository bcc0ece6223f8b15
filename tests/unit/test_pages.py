"""Memory: a buffer for Python, sealed, zeroed; copies are pushed and pulled."""

import errno
import fcntl
import mmap
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.libc import PAGE_SIZE
from mapdev.pages import OnDemandPages, Pages, contiguous_pages, on_demand_pages, page_array, zeroed_pages


class Recorded:
    """A copy that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def push(self, offset: int, length: int) -> None:
        self.calls.append(("push", offset, length))

    def pull(self, offset: int, length: int) -> None:
        self.calls.append(("pull", offset, length))

    def invalidate(self, offset: int, length: int) -> None:
        self.calls.append(("invalidate", offset, length))

    def write_protect(self, offset: int, length: int) -> None:
        self.calls.append(("write_protect", offset, length))


@pytest.mark.parametrize("make", [zeroed_pages, page_array, contiguous_pages])
def test_pages_are_zeroed_and_one_memory_for_slices_memoryview_numpy_and_the_memfd(make) -> None:  # type: ignore[no-untyped-def]
    pages: Pages = make(3)
    assert bytes(pages[:]) == bytes(3 * PAGE_SIZE)
    pages[10:14] = b"qwer"
    assert bytes(memoryview(pages)[10:14]) == b"qwer"
    numbers = np.frombuffer(pages, dtype="<u4")
    numbers[PAGE_SIZE // 4] = 0x01020304
    assert pages[PAGE_SIZE : PAGE_SIZE + 4] == b"\4\3\2\1"
    assert os.pread(pages.fd, 4, 10) == b"qwer"
    pages.page(2)[:2] = b"xy"
    assert os.pread(pages.fd, 2, 2 * PAGE_SIZE) == b"xy"


def test_nobody_can_shrink_or_grow_the_memory() -> None:
    pages = zeroed_pages(2)
    for size in (0, PAGE_SIZE, 3 * PAGE_SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(pages.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(pages.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_memory_goes_with_its_last_reference() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pages = zeroed_pages(1)
    view = memoryview(pages)
    assert len(os.listdir("/proc/self/fd")) > before
    del pages
    view.release()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_page_array_may_be_larger_than_the_machine_and_costs_what_is_touched() -> None:
    pages = page_array((1 << 40) // PAGE_SIZE)
    pages[1 << 39 : (1 << 39) + 4] = b"asdf"
    assert os.fstat(pages.fd).st_blocks * 512 == PAGE_SIZE


def test_zeroed_pages_are_all_there_or_enomem() -> None:
    assert os.fstat(zeroed_pages(600).fd).st_blocks * 512 == 600 * PAGE_SIZE
    with pytest.raises(OSError) as caught:
        zeroed_pages((1 << 45) // PAGE_SIZE)
    assert caught.value.errno == errno.ENOMEM


def test_sizes_that_cannot_be() -> None:
    for make in (zeroed_pages, page_array, contiguous_pages, on_demand_pages):
        for npages in (0, -1):
            with pytest.raises(ValueError, match="at least one page"):
                make(npages)
    with pytest.raises(ValueError, match="at most 512"):
        contiguous_pages(513)
    with pytest.raises(OSError) as caught:
        page_array(1 << 62)
    assert caught.value.errno == errno.EFBIG


def test_contiguous_pages_lie_in_adjacent_frames() -> None:
    pages = contiguous_pages(37)
    addresses = [pages.physical_address(n * PAGE_SIZE) for n in range(37)]
    if None in addresses:
        pytest.skip("frame numbers are hidden without CAP_SYS_ADMIN")
    first = addresses[0]
    assert first is not None
    assert addresses == [first + n * PAGE_SIZE for n in range(37)]


def test_huge_pages_are_2_mib_of_adjacent_frames_or_plain_pages() -> None:
    pages = zeroed_pages(1024 + 5, huge=True)
    assert bytes(pages[:]) == bytes(pages.nbytes)
    addresses = [pages.physical_address(n * PAGE_SIZE) for n in range(512)]
    if None in addresses:
        pytest.skip("frame numbers are hidden without CAP_SYS_ADMIN")
    steps = {b - a for a, b in pairwise(addresses) if a is not None and b is not None}
    assert steps == {PAGE_SIZE}


@given(st.slices(2 * PAGE_SIZE))
def test_an_assigned_slice_is_pushed_and_nothing_else(key: slice) -> None:
    pages, copy = zeroed_pages(2), Recorded()
    pages.attach(copy)
    start, stop, step = key.indices(len(pages))
    count = len(range(start, stop, step))
    pages[key] = bytes(count)
    touched = range(start, stop, step)
    pushed = [("push", min(touched), max(touched) + 1 - min(touched))] if count else []
    assert copy.calls == pushed


def test_push_and_pull_reach_every_copy_that_is_attached() -> None:
    pages, one, other = zeroed_pages(2), Recorded(), Recorded()
    pages.attach(one)
    pages.attach(other)
    pages[5] = 7
    pages.pull(0, 10)
    assert one.calls == other.calls == [("push", 5, 1), ("pull", 0, 10)]
    pages.detach(one)
    pages.push()
    assert one.calls[2:] == []
    assert other.calls[2:] == [("push", 0, 2 * PAGE_SIZE)]
    pages.stored(other, 3, 4)
    assert other.calls[3:] == []
    for offset, length in ((-1, 4), (0, 2 * PAGE_SIZE + 1), (2 * PAGE_SIZE, 1), (0, -1)):
        with pytest.raises(ValueError, match="of a memory of"):
            pages.push(offset, length)


def test_an_on_demand_page_is_the_buffer_that_was_handed_over_and_bytes_are_copied() -> None:
    memory = OnDemandPages(3)
    assert memory.present(1) is None
    own = bytearray(PAGE_SIZE)
    memory.insert(1, own)
    memory.store(PAGE_SIZE + 4, memoryview(b"asdf"))
    assert own[4:8] == b"asdf"
    page = memory.insert(2, b"x" * PAGE_SIZE)
    memory.store(2 * PAGE_SIZE - 2, memoryview(b"1234"))
    assert own[-2:] == b"12"
    assert bytes(page[:3]) == b"34x"
    memory.store(0, memoryview(b"lost: page 0 is not there"))
    assert memory.present(0) is None
    for wrong in (b"", b"x" * (PAGE_SIZE - 1), b"x" * (PAGE_SIZE + 1)):
        with pytest.raises(ValueError, match="a page of"):
            memory.insert(0, wrong)


def test_pages_taken_back_fault_again() -> None:
    memory, copy = OnDemandPages(8), Recorded()
    memory.attach(copy)
    for number in (0, 3, 4, 7):
        memory.insert(number, bytes(PAGE_SIZE))
    memory.unmap_mapping_range(3 * PAGE_SIZE, PAGE_SIZE + 1)
    assert [n for n in range(8) if memory.present(n) is not None] == [0, 7]
    assert copy.calls == [("invalidate", 3 * PAGE_SIZE, PAGE_SIZE + 1)]
    memory.unmap_mapping_range()
    assert all(memory.present(n) is None for n in range(8))


def test_pages_are_an_mmap_so_whatever_takes_a_buffer_takes_them() -> None:
    pages = zeroed_pages(1)
    assert isinstance(pages, mmap.mmap)
    assert len(pages) == pages.nbytes == PAGE_SIZE
    assert not memoryview(pages).readonly
