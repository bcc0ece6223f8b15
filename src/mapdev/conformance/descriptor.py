"""Checks of a descriptor: what its open mode lets it map, poll(2), and read(2) at the end."""

import errno
import os
import select
from functools import partial
from typing import Final

from mapdev import libc
from mapdev.conformance.check import (
    Failed,
    NotApplicable,
    Subject,
    answers,
    check,
    expect,
    name,
    ready,
    refused,
    view,
)
from mapdev.libc import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE

_READ_LIMIT: Final = 1 << 16
"""Bytes to read in search of an end that st_size does not tell."""


@check("O_RDONLY, shared and writable", pages=0)
def read_only_shared(subject: Subject) -> str:
    fd = subject.open(os.O_RDONLY)

    def map_() -> int:
        return libc.mmap(None, subject.page, PROT_READ | PROT_WRITE, MAP_SHARED, fd)

    return refused("mmap", map_, errno.EACCES)


@check("O_RDONLY, private and writable")  # not of an empty file: on hugetlbfs this makes it grow
def read_only_private(subject: Subject) -> str:
    fd = subject.open(os.O_RDONLY)
    try:
        libc.mmap(None, subject.page, PROT_READ, MAP_PRIVATE, fd)
    except OSError as error:
        raise NotApplicable(f"MAP_PRIVATE answers {name(error)}") from None
    try:
        libc.mmap(None, subject.page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd)
    except OSError as error:
        raise Failed(f"MAP_PRIVATE works, but with PROT_WRITE it answers {name(error)}") from None
    return "mmap works"


@check("O_WRONLY", pages=0)
def write_only(subject: Subject) -> str:
    if subject.facts.unwritable:
        raise NotApplicable(subject.facts.unwritable)
    fd = subject.open(os.O_WRONLY)
    return refused("mmap", lambda: libc.mmap(None, subject.page, PROT_READ, MAP_SHARED, fd), errno.EACCES)


@check("poll", pages=0)
def poll(subject: Subject) -> str:
    """poll(2) answers, and not with an error alone."""
    polled = select.poll()
    polled.register(subject.open(), select.POLLIN | select.POLLPRI | select.POLLOUT)
    mask = next((mask for _, mask in polled.poll(0)), 0)
    flags = ("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL")
    shown = "|".join(flag for flag in flags if mask & getattr(select, flag)) or "nothing is ready"
    if mask and not mask & (select.POLLIN | select.POLLPRI | select.POLLOUT):
        raise Failed(f"it answers {shown} alone")
    return shown


@check("read at the end", pages=0)
def read_at_end(subject: Subject) -> str:
    """At st_size and past it there is nothing; a file whose st_size is 0 ends, and stays at its end."""
    size, fd = subject.facts.size, subject.open()
    if size:
        ready(fd, select.POLLIN, "read(2)")
        for offset in (size, size + subject.page):
            expect(f"pread at {offset}", answers("read(2)", partial(os.pread, fd, 1, offset)), b"")
        return f"pread at {size} and at {size + subject.page}: end of file"
    if subject.pages:
        view(subject, fd, subject.map(fd))
    count = 0
    while data := answers("read(2)", lambda: os.read(fd, _READ_LIMIT)):
        count += len(data)
        if count >= _READ_LIMIT:
            raise NotApplicable(f"st_size is 0, and {count} bytes do not end")
    expect("read at the end of the file, again,", os.read(fd, _READ_LIMIT), b"")
    return f"after {count} bytes: end of file, and again"
