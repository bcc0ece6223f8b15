"""Checks of where a mapping may begin: past the end, at huge and odd offsets, at the second page."""

import errno
import signal

from mapdev import libc
from mapdev.conformance.check import (
    Failed,
    NotApplicable,
    Subject,
    check,
    expect,
    load,
    name,
    other,
    refused,
    store,
    width,
)
from mapdev.conformance.forked import Died, forked
from mapdev.libc import MAP_SHARED, PROT_READ

_REFUSALS = (
    errno.EINVAL,
    errno.ENXIO,
    errno.ENODEV,
    errno.EOVERFLOW,
    errno.EFBIG,
    errno.ENOMEM,
    errno.EPERM,
)
"""How mmap(2) may refuse what lies past the end."""

_HUGE = 1 << 62
_END_OF_FILES = 1 << 63


def _nothing_at(subject: Subject, offset: int, where: str) -> str:
    """Mapping a page at `offset` is refused, or a load from it dies of SIGBUS; fail if not."""
    fd = subject.open()
    try:
        address = libc.mmap(None, subject.page, PROT_READ, MAP_SHARED, fd, offset)
    except OSError as error:
        if error.errno in _REFUSALS:
            return f"{where}: mmap answers {name(error)}"
        raise Failed(f"{where}: mmap answers {name(error)}") from None
    try:
        seen = forked(lambda: load(address, 1))
    except Died as death:
        if death.signal == signal.SIGBUS:
            return f"{where}: a load dies of SIGBUS"
        raise Failed(f"{where}: a load dies of {death}, not of SIGBUS") from None
    raise Failed(f"{where}: a load gives {seen!r}: it is neither refused nor SIGBUS")


@check("access past the end", pages=0)
def past_the_end(subject: Subject) -> str:
    """The page after st_size, rounded up; where that is 0, the first page that did not answer."""
    size, page = subject.facts.size, subject.page
    if size:
        end = -(-size // page) * page
    elif subject.pages < 2:
        end = subject.pages * page
    else:
        raise NotApplicable("st_size is 0 and two pages answer: where it ends is not known")
    if end > _END_OF_FILES - page:
        raise NotApplicable(f"st_size is {size}: no offset is past it")
    return _nothing_at(subject, end, f"page at {end:#x}")


@check("huge offset", pages=0)
def huge_offset(subject: Subject) -> str:
    if subject.facts.memory_per_mapping:
        raise NotApplicable("it has no end")
    if subject.facts.size > _HUGE:
        raise NotApplicable(f"st_size is {subject.facts.size}")
    return _nothing_at(subject, _HUGE, "page at 2^62")


@check("odd offset", pages=0)
def odd_offset(subject: Subject) -> str:
    fd = subject.open()
    return refused("mmap at offset 1", lambda: subject.map(fd, offset=1), errno.EINVAL)


@check("no length", pages=0)
def no_length(subject: Subject) -> str:
    fd = subject.open()
    return refused("mmap of 0 bytes", lambda: subject.map(fd, pages=0), errno.EINVAL)


@check("offset of the second page", pages=2, common=True)
def second_page(subject: Subject) -> str:
    """A mapping at the offset of the second page is the second page of a longer mapping."""
    page, fd = subject.page, subject.open()
    both = subject.map(fd, pages=2)
    alone = subject.map(fd, offset=page)
    count = width(subject.facts.size, page)
    first, second = subject.load(both), load(both + page, count)
    expect("a mapping at its offset", load(alone, count), second)
    if not subject.stores:
        same = " (so does the first page: which it is, a store would tell)" if second == first[:count] else ""
        return f"at its offset and in a longer mapping it begins {second!r}{same}"
    word = other(first[:count], second)
    store(alone, word)
    expect("after a store at its offset, the second page of a longer mapping", load(both + page, count), word)
    expect("after a store to the second page, the first", subject.load(both), first)
    return f"{word!r}, stored at its offset, is in the second page and not in the first"
