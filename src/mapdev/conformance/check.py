"""What a check is, what it is given, and the few ways in which a check touches memory."""

import ctypes
import errno
import os
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mapdev import libc
from mapdev.conformance.forked import Judged
from mapdev.conformance.result import Facts
from mapdev.libc import MAP_SHARED, PROT_READ, PROT_WRITE

WIDTH: Final = 4
"""Bytes that a check stores to or compares at the start of a page: a device register's usual width."""

_NO_CALL: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESPIPE)
"""How a file answers read(2) or write(2) that it does not have."""


class Failed(Judged):
    """The check failed; the text says what was seen."""


class NotApplicable(Judged):
    """The check says nothing about this file; the text says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A path under test. `saved` holds the first bytes of its first pages: of none, one or two of them."""

    facts: Facts
    saved: tuple[bytes, ...]
    no_stores: str
    """Why nothing may be stored; empty if it may."""

    @property
    def pages(self) -> int:
        """How many pages answered a load; 2 stands for two or more."""
        return len(self.saved)

    @property
    def page(self) -> int:
        return self.facts.page

    @property
    def stores(self) -> bool:
        return not self.no_stores

    @property
    def width(self) -> int:
        """Bytes at the start of the first page that are there to be compared."""
        return width(self.facts.size, 0)

    def open(self, flags: int | None = None) -> int:
        """Open the path: to be stored to if that is allowed, else for reading."""
        if flags is None:
            flags = os.O_RDWR if self.stores else os.O_RDONLY
        if self.facts.type == "FIFO":
            flags |= os.O_NONBLOCK  # or it waits for a writer
        return os.open(self.facts.path, flags | os.O_NOCTTY | os.O_CLOEXEC)

    def map(self, fd: int, *, pages: int = 1, flags: int = MAP_SHARED, offset: int = 0) -> int:
        """Map `pages` from `offset` (bytes), with PROT_WRITE if stores are allowed."""
        prot = PROT_READ | PROT_WRITE if self.stores else PROT_READ
        return libc.mmap(None, pages * self.page, prot, flags, fd, offset)

    def load(self, address: int) -> bytes:
        """The first bytes of a mapping of the first page."""
        return load(address, self.width)

    def change(self, address: int, *but: bytes) -> bytes:
        """Store what is neither there nor in `but`, in any of its bytes, and check that it is kept."""
        word = other(self.load(address), *but)
        store(address, word)
        if (kept := self.load(address)) != word:
            raise Failed(f"stored {word!r}, and the same mapping gives {kept!r}")
        return word


def width(size: int, offset: int) -> int:
    """Bytes at `offset` to compare: no more than a file of `size` bytes has there, if it reaches so far."""
    return min(WIDTH, size - offset) if size > offset else WIDTH


def load(address: int, count: int) -> bytes:
    """`count` bytes at `address`; four of them as one 32-bit load, as registers want it."""
    if count == WIDTH:
        return ctypes.c_uint32.from_address(address).value.to_bytes(WIDTH, sys.byteorder)
    return ctypes.string_at(address, count)


def store(address: int, data: bytes) -> None:
    """Store `data` at `address`; four bytes as one 32-bit store."""
    if len(data) == WIDTH:
        ctypes.c_uint32.from_address(address).value = int.from_bytes(data, sys.byteorder)
    else:
        ctypes.memmove(address, data, len(data))


def other(*words: bytes) -> bytes:
    """A word that differs from each of `words` (at most three) in every byte."""
    columns = zip(b"qwer", b"asdf", b"zxcv", b"tyui", strict=True)
    return bytes(
        next(byte for byte in column if all(word[i] != byte for word in words))
        for i, column in enumerate(columns)
        if i < len(words[0])
    )


def is_mapped(address: int, length: int) -> bool:
    """Whether `length` bytes at `address` are in this process's mappings: msync(2) answers ENOMEM if not."""
    try:
        libc.msync(address, length, libc.MS_ASYNC)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return False
        raise
    return True


def ready(fd: int, events: int, call: str) -> None:
    """Go on only if poll(2) says that `call` would not block; a file that has no poll is always ready."""
    poll = select.poll()
    poll.register(fd, events)
    if not any(mask & events for _, mask in poll.poll(0)):
        raise NotApplicable(f"poll says that {call} would block: it is not a view of the memory")


def answers(call: str, run: Callable[[], bytes]) -> bytes:
    """What `run` gives, or not applicable where the file does not have the system call."""
    try:
        return run()
    except OSError as error:
        if error.errno in _NO_CALL:
            raise NotApplicable(f"{call} answers {name(error)}") from None
        raise


def view(subject: Subject, fd: int, address: int) -> int:
    """How many of the first bytes pread(2) gives as the mapping at `address` holds them.

    Not applicable where reading is something else: there what a store or a write does cannot be foretold.
    """
    ready(fd, select.POLLIN, "read(2)")
    seen = answers("read(2)", lambda: os.pread(fd, subject.width, 0))
    if not seen:
        raise NotApplicable("read(2) is at the end of the file at position 0")
    if seen != (held := load(address, subject.width)[: len(seen)]):
        text = f"read(2) gives {seen!r} where the mapping holds {held!r}: it is not a view of the memory"
        raise NotApplicable(text)
    return len(seen)


def expect(what: str, seen: bytes, wanted: bytes) -> None:
    """Fail unless `what` gives the bytes that are wanted."""
    if seen != wanted:
        raise Failed(f"{what}: {seen!r} instead of {wanted!r}")


def refused(what: str, run: Callable[[], object], number: int) -> str:
    """Fail unless `run` is refused with errno `number`; its name."""
    try:
        run()
    except OSError as error:
        if error.errno != number:
            raise Failed(f"{what} answers {name(error)}, not {errno.errorcode[number]}") from None
        return f"{what}: {name(error)}"
    raise Failed(f"{what} succeeds instead of {errno.errorcode[number]}")


def name(error: OSError) -> str:
    """EINVAL and the like."""
    return errno.errorcode.get(error.errno or 0, str(error))


@dataclass(frozen=True, slots=True)
class Check:
    """A function that says what it saw, or raises; and what must be given for it to apply."""

    name: str
    run: Callable[[Subject], str]
    mapped: bool
    pages: int
    stores: bool
    common: bool

    def not_applicable(self, subject: Subject) -> str:
        """Why it does not apply to the subject; empty if it does."""
        facts = subject.facts
        if self.mapped and facts.unmappable:
            return facts.unmappable
        if self.pages > subject.pages:
            return "there is one page only" if subject.pages else "no page answers a load: it is empty"
        if self.common and facts.memory_per_mapping:
            return "each mapping of it has memory of its own"
        return subject.no_stores if self.stores else ""


def check(
    name: str, *, mapped: bool = True, pages: int = 1, stores: bool = False, common: bool = False
) -> Callable[[Callable[[Subject], str]], Check]:
    """Make a function a check: of a file that can be `mapped`, with so many `pages` at least.

    `stores`: it needs to store. `common`: it needs the mappings of a descriptor to have memory in common.
    """
    return lambda run: Check(name, run, mapped, pages, stores, common)
