"""Checks of who sees a store to a shared mapping: other mappings, read(2), other processes, the next open."""

import errno
import os
import select

from mapdev import libc
from mapdev.conformance.check import (
    Failed,
    NotApplicable,
    Subject,
    answers,
    check,
    expect,
    is_mapped,
    load,
    name,
    other,
    ready,
    store,
    view,
)
from mapdev.conformance.forked import Died, finish, forked, start
from mapdev.libc import MAP_PRIVATE, PROT_READ

_ATTEMPTS = 3
"""A page may be moved, or taken away, between the touch and the look at pagemap; not each time."""


@check("mmap", mapped=False, pages=0)
def mmap(subject: Subject) -> str:
    """The first page can be mapped shared and answers a load."""
    facts = subject.facts
    fd = subject.open()
    try:
        address = libc.mmap(None, facts.page, PROT_READ, libc.MAP_SHARED, fd)
    except OSError as error:
        text = f"MAP_SHARED answers {name(error)}; MAP_PRIVATE {_private(facts.page, fd)}"
        # ENODEV: there is no mmap operation (in /proc that reads EIO); EACCES, EPERM: there is one that
        # gives private or executable mappings only. All else is a device that means to map and cannot.
        none_meant = (errno.ENODEV, errno.EACCES, errno.EPERM)
        if error.errno in none_meant or (error.errno == errno.EIO and facts.filesystem == "proc"):
            raise NotApplicable(text) from None
        raise Failed(text) from None
    if subject.pages:
        return f"at {address:#x}, begins {subject.load(address)!r}"
    if facts.size:
        raise Failed(f"a load from the first page dies of SIGBUS, though st_size is {facts.size}")
    return f"at {address:#x}; st_size is 0 and a load dies of SIGBUS: the file is empty"


def _private(page: int, fd: int) -> str:
    try:
        libc.mmap(None, page, PROT_READ, MAP_PRIVATE, fd)
    except OSError as error:
        return name(error)
    return "works"


@check("two mappings share a physical page", common=True)
def physical_page(subject: Subject) -> str:
    """Two mappings of one open have one page frame behind them."""
    from mapdev.pagemap import Pagemap  # numpy comes with it, which no other check needs

    fd = subject.open()
    mappings = [subject.map(fd), subject.map(fd)]
    with Pagemap("self") as pagemap:
        if pagemap.frames_hidden:
            raise NotApplicable("frame numbers are hidden without CAP_SYS_ADMIN; run as root")
        for _ in range(_ATTEMPTS):
            for mapping in mappings:
                subject.load(mapping)
            first, second = (pagemap.physical_address(mapping) for mapping in mappings)
            if first is not None and first == second:
                return f"{mappings[0]:#x} and {mappings[1]:#x} are both physical {first:#x}"
    shown = " and ".join("absent" if seen is None else f"{seen:#x}" for seen in (first, second))
    raise Failed(f"the physical addresses are {shown}")


@check("store seen by another mapping", stores=True, common=True)
def another_mapping(subject: Subject) -> str:
    fd = subject.open()
    first, second = subject.map(fd), subject.map(fd)
    before = subject.load(second)  # so that its page is there already, and a copy would show
    word = subject.change(first)
    expect("the other mapping", subject.load(second), word)
    back = subject.change(second, before)
    expect("after a store through the other, the first mapping", subject.load(first), back)
    return f"{word!r} seen by the second, {back!r} by the first"


@check("store seen by read and pread", stores=True, common=True)
def seen_by_read(subject: Subject) -> str:
    fd = subject.open()
    address = subject.map(fd)
    count = view(subject, fd, address)
    word = subject.change(address)[:count]
    expect("pread", os.pread(fd, subject.width, 0), word)
    expect("read", os.read(fd, subject.width), word)
    return f"both give {word!r}"


@check("store seen through an inherited descriptor", stores=True, common=True)
def inherited_descriptor(subject: Subject) -> str:
    """A child maps the descriptor it has inherited: both see the other's stores."""
    fd = subject.open()
    address = subject.map(fd)
    before = subject.load(address)
    word = subject.change(address)

    def child() -> tuple[bytes, bytes]:
        mapping = subject.map(fd)
        return subject.load(mapping), subject.change(mapping, before)

    seen, answer = forked(child)
    expect("a new mapping of the inherited descriptor, in a child,", seen, word)
    expect("after a store of the child, its parent", subject.load(address), answer)
    return f"the child saw {word!r}, its parent {answer!r}"


@check("store seen through another process's open", stores=True, common=True)
def another_open(subject: Subject) -> str:
    """Another process opens the path itself: both see the other's stores, unless each open has its own."""
    fd = subject.open()
    address = subject.map(fd)
    before = subject.load(address)
    word = subject.change(address)

    def stranger() -> tuple[bytes, bytes]:
        mapping = subject.map(subject.open())
        return subject.load(mapping), subject.change(mapping, before, word)

    seen, answer = forked(stranger)
    if seen != word:
        inherited = forked(lambda: subject.load(subject.map(fd)))
        expect(f"another open gives {seen!r}, and even an inherited descriptor", inherited, word)
        raise NotApplicable(f"each open has memory of its own: another begins {seen!r}, not {word!r}")
    expect("after a store of the other process, this one", subject.load(address), answer)
    return f"the other saw {word!r}, this one {answer!r}"


@check("write seen by mappings", stores=True, common=True)
def write(subject: Subject) -> str:
    """write(2) of up to four bytes at position 0. Not tried where read(2) is no view of the memory."""
    fd = subject.open()
    first, second = subject.map(fd), subject.map(fd)
    view(subject, fd, first)
    word = other(subject.load(second))
    ready(fd, select.POLLOUT, "write(2)")
    written = answers("write(2)", lambda: b"\0" * os.write(fd, word))
    if len(written) != len(word):
        raise Failed(f"write(2) of {len(word)} bytes answers {len(written)}")
    expect("after write(2), the first mapping", subject.load(first), word)
    expect("after write(2), the second mapping", subject.load(second), word)
    return f"both give {word!r}"


@check("store outlives its mapping", stores=True, common=True)
def after_munmap(subject: Subject) -> str:
    fd = subject.open()
    address = subject.map(fd)
    word = subject.change(address)
    libc.munmap(address, subject.page)
    expect("after munmap, a new mapping", subject.load(subject.map(fd)), word)
    return f"after munmap, a new mapping gives {word!r}"


@check("mapping outlives its descriptor", common=True)
def after_close(subject: Subject) -> str:
    """A mapping holds the open file: it stays after close(2), and dup(2)'d descriptors map the same."""
    fd = subject.open()
    first = subject.map(fd)
    before = subject.load(first)
    duplicate = os.dup(fd)
    os.close(fd)
    expect("after close, the mapping", subject.load(first), before)
    second = subject.map(duplicate)
    os.close(duplicate)
    if not subject.stores:
        expect("a mapping of the duplicate", subject.load(second), before)
        return f"after close it gives {before!r}, a mapping of a duplicate too"
    word = subject.change(first)
    expect("a mapping of the duplicate", subject.load(second), word)
    return f"after close it keeps {word!r}, a mapping of a duplicate sees it"


@check("reopen", stores=True, common=True)
def reopen(subject: Subject) -> str:
    """Everything closed and opened again: what was stored is kept, or each open begins afresh."""
    fd = subject.open()
    address = subject.map(fd)
    word = subject.change(address)
    libc.munmap(address, subject.page)
    os.close(fd)
    seen = subject.load(subject.map(subject.open()))
    if seen == word:
        return f"kept: {word!r} is still there"
    if seen == subject.saved[0]:
        return f"fresh: it begins {seen!r} again"
    raise Failed(f"{seen!r} is neither what was stored ({word!r}) nor what was there ({subject.saved[0]!r})")


@check("fork", stores=True)
def fork(subject: Subject) -> str:
    """A child shares the mapping: stores made after the fork are seen both ways; its munmap is its own."""
    address = subject.map(subject.open())
    before = subject.change(address)
    turn, go = os.pipe()

    def child() -> tuple[bytes, bytes]:
        os.read(turn, 1)
        seen, word = load(address, subject.width), subject.change(address, before)
        libc.munmap(address, subject.page)
        return seen, word

    pid, reader = start(child)
    word = other(before)
    store(address, word)
    os.write(go, b"!")
    try:
        seen, answer = finish(pid, reader)
    except Died as death:
        raise Failed(f"the child, which used the mapping, died of {death}") from None
    expect("the child", seen, word)
    if not is_mapped(address, subject.page):
        raise Failed("the child's munmap took the parent's mapping")
    expect("after a store of the child, its parent", subject.load(address), answer)
    return f"the child saw {word!r}, its parent {answer!r}"
