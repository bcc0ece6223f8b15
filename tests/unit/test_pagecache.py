"""The page cache as a model: what is pushed and pulled, against a pretended kernel."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mapdev.hosts.fuse.pagecache import PageCache
from mapdev.libc import PAGE_SIZE
from mapdev.pages import OnDemandPages, zeroed_pages

NPAGES = 12


class Cached:
    """A kernel with a page cache for one inode: ``pages`` are those it has."""

    unmappable: int | None = None

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def notify_store(self, nodeid: int, offset: int, data: memoryview) -> None:
        assert nodeid == 5
        for at, byte in enumerate(data, offset):
            if at // PAGE_SIZE in self.pages:
                self.pages[at // PAGE_SIZE][at % PAGE_SIZE] = byte

    def notify_retrieve(self, nodeid: int, offset: int, size: int) -> bytes:
        assert nodeid == 5
        found = bytearray()
        while len(found) < size and (page := self.pages.get((offset + len(found)) // PAGE_SIZE)) is not None:
            start = (offset + len(found)) % PAGE_SIZE
            found += page[start : start + size - len(found)]
        return bytes(found)

    def notify_inval_inode(self, nodeid: int, offset: int, size: int) -> None:
        assert nodeid == 5
        for page in range(offset // PAGE_SIZE, -(-(offset + size) // PAGE_SIZE)):
            self.pages.pop(page, None)

    def backing_open(self, fd: int) -> int:
        raise NotImplementedError

    def backing_close(self, backing_id: int) -> None:
        raise NotImplementedError

    def notify_inval_entry(self, parent: int, name: bytes) -> None:
        raise NotImplementedError

    def notify_poll(self, kh: int) -> None:
        raise NotImplementedError

    def when_answered(self, work: Callable[[], None]) -> None:
        work()


pages_of = st.sets(st.integers(0, NPAGES - 1))
ranges = st.tuples(st.integers(0, NPAGES * PAGE_SIZE), st.integers(0, NPAGES * PAGE_SIZE)).map(
    lambda pair: (min(pair), max(pair) - min(pair))
)


@given(pages_of, pages_of, ranges)
def test_push_makes_cached_pages_what_memory_is_and_adds_none(
    handed: set[int], cached: set[int], at: tuple[int, int]
) -> None:
    kernel, memory = Cached(), zeroed_pages(NPAGES)
    cache = PageCache(5, memory, kernel)
    cache.handed |= handed | cached
    kernel.pages = {page: bytearray(PAGE_SIZE) for page in cached}
    memory[:] = b"\1" * memory.nbytes
    offset, length = at
    cache.push(offset, length)
    for page, content in kernel.pages.items():
        wanted = [offset <= page * PAGE_SIZE + n < offset + length for n in range(PAGE_SIZE)]
        assert content == bytes(wanted)
    assert set(kernel.pages) == cached


@given(pages_of, pages_of, ranges)
def test_pull_makes_memory_what_cached_pages_are(handed: set[int], cached: set[int], at: tuple[int, int]) -> None:
    kernel, memory = Cached(), zeroed_pages(NPAGES)
    cache = PageCache(5, memory, kernel)
    cache.handed |= handed | cached
    kernel.pages = {page: bytearray(b"\1" * PAGE_SIZE) for page in cached}
    offset, length = at
    cache.pull(offset, length)
    for page in range(NPAGES):
        start, stop = max(offset, page * PAGE_SIZE), min(offset + length, (page + 1) * PAGE_SIZE)
        wanted = bytearray(PAGE_SIZE)
        if page in cached and start < stop:
            wanted[start - page * PAGE_SIZE : stop - page * PAGE_SIZE] = b"\1" * (stop - start)
        assert memory[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] == wanted
    assert cached <= cache.handed


def test_pages_taken_back_are_not_pushed_any_more() -> None:
    kernel, memory = Cached(), OnDemandPages(NPAGES)
    cache = PageCache(5, memory, kernel)
    memory.attach(cache)
    for number in (1, 2, 3):
        memory.insert(number, b"\2" * PAGE_SIZE)
        cache.handed.add(number)
        kernel.pages[number] = bytearray(PAGE_SIZE)
    memory.unmap_mapping_range(2 * PAGE_SIZE, PAGE_SIZE)
    assert cache.handed == {1, 3} == set(kernel.pages)
    memory.push()
    assert kernel.pages == {1: b"\2" * PAGE_SIZE, 3: b"\2" * PAGE_SIZE}


def test_a_pull_does_not_undo_what_was_written_back_while_it_was_under_way() -> None:
    memory = zeroed_pages(1)

    class Racing(Cached):
        def notify_retrieve(self, nodeid: int, offset: int, size: int) -> bytes:
            old = super().notify_retrieve(nodeid, offset, size)
            if self.pages[0] != b"\2" * PAGE_SIZE:  # a program stores once more, and ends: the kernel writes it back
                self.pages[0] = bytearray(b"\2" * PAGE_SIZE)
                cache.written_back(0, memoryview(bytes(self.pages[0])))
            return old

    kernel = Racing()
    kernel.pages = {0: bytearray(b"\1" * PAGE_SIZE)}
    cache = PageCache(5, memory, kernel)
    cache.handed.add(0)
    cache.pull(0, PAGE_SIZE)
    assert memory[:] == b"\2" * PAGE_SIZE
