"""Checks of what is done to a mapping: munmap(2), mprotect(2), mremap(2), madvise(2), msync(2), copies."""

import errno
import os
import signal
from collections.abc import Callable

from mapdev import libc
from mapdev.conformance.check import (
    Failed,
    NotApplicable,
    Subject,
    check,
    expect,
    is_mapped,
    load,
    name,
    other,
    store,
    view,
    width,
)
from mapdev.conformance.forked import Died, forked
from mapdev.libc import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    MS_ASYNC,
    MS_SYNC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)


def _faults(what: str, run: Callable[[], object]) -> None:
    """Fail unless `run` dies of SIGSEGV, in a child."""
    try:
        forked(run)
    except Died as death:
        if death.signal != signal.SIGSEGV:
            raise Failed(f"{what} dies of {death}, not of SIGSEGV") from None
        return
    raise Failed(f"{what} does not fault")


@check("munmap of a part")
def partial_munmap(subject: Subject) -> str:
    """Of two pages, either is unmapped; the other stays."""
    page, fd = subject.page, subject.open()

    def map_two() -> int:
        # Without PROT_WRITE: with it, hugetlbfs lets a file grow to what is mapped.
        return libc.mmap(None, 2 * page, PROT_READ, MAP_SHARED, fd)

    try:
        address = map_two()
    except OSError as error:
        raise NotApplicable(f"two pages cannot be mapped: {name(error)}") from None
    before = subject.load(address)
    libc.munmap(address + page, page)
    if is_mapped(address + page, page):
        raise Failed("the second page is still mapped")
    if not is_mapped(address, page):
        raise Failed("the first page is gone with the second")
    expect("without the second page, the first", subject.load(address), before)

    address = map_two()
    libc.munmap(address, page)
    if is_mapped(address, page):
        raise Failed("the first page is still mapped")
    if not is_mapped(address + page, page):
        raise Failed("the second page is gone with the first")
    if subject.pages < 2:
        return "the first page stays without the second (which holds no memory)"
    rest = load(address + page, len(subject.saved[1]))
    expect("without the first page, the second", rest, subject.saved[1])
    return f"the first page stays ({before!r}), and the second without the first ({rest!r})"


@check("mprotect PROT_NONE")
def mprotect_none(subject: Subject) -> str:
    address = subject.map(subject.open())
    before = subject.load(address)
    libc.mprotect(address, subject.page, PROT_NONE)
    _faults("a load under PROT_NONE", lambda: subject.load(address))
    libc.mprotect(address, subject.page, PROT_READ)
    expect("back under PROT_READ, the mapping", subject.load(address), before)
    return f"a load dies of SIGSEGV; back under PROT_READ it gives {before!r}"


@check("mprotect PROT_READ", stores=True)
def mprotect_read(subject: Subject) -> str:
    address = subject.map(subject.open())
    before = subject.change(address)
    libc.mprotect(address, subject.page, PROT_READ)
    _faults("a store under PROT_READ", lambda: store(address, other(before)))
    expect("under PROT_READ, the mapping", subject.load(address), before)
    libc.mprotect(address, subject.page, PROT_READ | PROT_WRITE)
    word = subject.change(address)
    return f"a store dies of SIGSEGV; back under PROT_READ|PROT_WRITE {word!r} is stored"


@check("mremap moves")
def mremap_move(subject: Subject) -> str:
    """MREMAP_FIXED to another place: the content goes along, and nothing stays behind."""
    page, fd = subject.page, subject.open()
    address = subject.map(fd)
    before = subject.load(address)
    place = libc.mmap(None, 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS)
    place += -place % page  # a huge page has its own alignment
    moved = libc.mremap(address, page, page, libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED, place)
    if moved != place:
        raise Failed(f"asked for {place:#x}, it went to {moved:#x}")
    if is_mapped(address, page):
        raise Failed("the old place is still mapped")
    expect("the moved mapping", subject.load(moved), before)
    if subject.stores and not subject.facts.memory_per_mapping:
        word = subject.change(moved)
        expect("after a store through the moved mapping, another", subject.load(subject.map(fd)), word)
    return f"from {address:#x} to {moved:#x}, {before!r} went along"


@check("mremap grows")
def mremap_grow(subject: Subject) -> str:
    """From one page to two: it works, or it is refused and the mapping is as before."""
    page = subject.page
    address = subject.map(subject.open())
    before = subject.load(address)
    try:
        grown = libc.mremap(address, page, 2 * page)
    except OSError as error:
        if not is_mapped(address, page):
            raise Failed(f"refused ({name(error)}), and the mapping is gone") from None
        expect(f"refused ({name(error)}), and the mapping", subject.load(address), before)
        return f"refused ({name(error)}), the mapping stays as it was"
    expect("the grown mapping", subject.load(grown), before)
    try:
        second = forked(lambda: load(grown + page, width(subject.facts.size, page)))
    except Died as death:
        # /dev/zero made the memory when it was mapped: as much as the mapping had then.
        there = subject.pages > 1 and not subject.facts.memory_per_mapping
        if there or death.signal != signal.SIGBUS:
            raise Failed(f"a load from the second page dies of {death}") from None
        return "to two pages; the second holds no memory: SIGBUS"
    if subject.pages < 2:
        raise Failed(f"a second page, which does not exist, gives {second!r}")
    expect("the second page", second, subject.saved[1])
    return f"to two pages, the second begins {second!r}"


@check("MADV_DONTNEED keeps shared content")
def dontneed(subject: Subject) -> str:
    """madvise(2): of a shared mapping it drops the page table entries, never the memory."""
    address = subject.map(subject.open())
    word = subject.change(address) if subject.stores else subject.load(address)
    try:
        libc.madvise(address, subject.page, libc.MADV_DONTNEED)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a mapping of bare frames (VM_PFNMAP) has no pages to do without
            raise NotApplicable("madvise answers EINVAL") from None
        raise
    expect("after MADV_DONTNEED, the mapping", subject.load(address), word)
    return f"{word!r} is still there"


@check("MAP_PRIVATE copies on write", stores=True, common=True)
def private_copy(subject: Subject) -> str:
    fd = subject.open()
    shared = subject.map(fd)
    before = subject.load(shared)
    try:
        private = subject.map(fd, flags=MAP_PRIVATE)
    except OSError as error:
        raise NotApplicable(f"MAP_PRIVATE answers {name(error)}") from None
    expect("before a store, the private mapping", subject.load(private), before)
    word = subject.change(private)
    expect("after a store to a private mapping, the shared one", subject.load(shared), before)
    expect("after a store to a private mapping, a new shared one", subject.load(subject.map(fd)), before)
    return f"the copy holds {word!r}, shared mappings still {before!r}"


@check("msync flags")
def msync_flags(subject: Subject) -> str:
    """MS_SYNC and MS_ASYNC work; both at once, an unknown flag and an odd address are EINVAL."""
    fd = subject.open()
    address = subject.map(fd)
    libc.msync(address, subject.page, MS_ASYNC)
    sync = _sync(fd, address, subject.page)
    for what, start, flags in (
        ("MS_SYNC|MS_ASYNC", address, MS_SYNC | MS_ASYNC),
        ("an unknown flag", address, MS_SYNC | 1 << 10),
        ("an odd address", address + 1, MS_SYNC),
    ):
        try:
            libc.msync(start, subject.page, flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise Failed(f"msync with {what} answers {name(error)}, not EINVAL") from None
        else:
            raise Failed(f"msync with {what} succeeds instead of EINVAL")
    return f"MS_ASYNC works; {sync}; MS_SYNC|MS_ASYNC, an unknown flag, an odd address: EINVAL"


def _sync(fd: int, address: int, length: int) -> str:
    """MS_SYNC a mapping. A file without an fsync operation answers EINVAL, to fsync(2) too."""
    try:
        libc.msync(address, length, MS_SYNC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        try:
            os.fsync(fd)
        except OSError as fsync:
            if fsync.errno == errno.EINVAL:
                return "MS_SYNC is EINVAL, as is fsync: nothing is to be synchronised"
        raise Failed("MS_SYNC answers EINVAL, though fsync(2) works") from None
    return "MS_SYNC works"


@check("store, msync, read", stores=True, common=True)
def msync_read(subject: Subject) -> str:
    fd = subject.open()
    address = subject.map(fd)
    count = view(subject, fd, address)
    word = subject.change(address)
    sync = _sync(fd, address, subject.page)
    expect("after msync, pread", os.pread(fd, subject.width, 0), word[:count])
    expect("after msync, the mapping", subject.load(address), word)
    return f"{sync}; pread gives {word[:count]!r}"
