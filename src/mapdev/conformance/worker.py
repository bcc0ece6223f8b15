"""The process that runs the checks: it has one thread, so it may fork, and it never touches the path itself.

    the caller --- pipe: closed or written to = stop ---> this process --- fork ---> one child a check
               <-- pipe: one JSON object a line ---------              <-- pipe ---

Everything that opens, maps or stats the path does so in a child with a deadline: it may hang, or die of a
signal. What was at the start of the path is known here, and after every check another child puts it back;
whether the check passed, failed, died or was killed makes no difference. When the caller is gone, however it
went, its pipe ends: the running check is killed, the content put back, and this process ends.
"""

import json
import os
import resource
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Final

from mapdev import libc
from mapdev.conformance import area, descriptor, limits, sharing
from mapdev.conformance.check import Check, Failed, NotApplicable, Subject, load, name, store, width
from mapdev.conformance.forked import Died, Ended, NoAnswer, Stopped, ask, forked
from mapdev.conformance.result import Facts, Result, Verdict
from mapdev.libc import MAP_SHARED, PAGE_SIZE, PROT_READ, PROT_WRITE

CHECKS: Final = (
    sharing.mmap,
    sharing.physical_page,
    sharing.another_mapping,
    sharing.seen_by_read,
    sharing.write,
    sharing.inherited_descriptor,
    sharing.another_open,
    sharing.reopen,
    sharing.after_munmap,
    sharing.after_close,
    sharing.fork,
    area.partial_munmap,
    area.mprotect_none,
    area.mprotect_read,
    area.mremap_move,
    area.mremap_grow,
    area.dontneed,
    area.private_copy,
    area.msync_flags,
    area.msync_read,
    limits.second_page,
    limits.past_the_end,
    limits.huge_offset,
    limits.odd_offset,
    limits.no_length,
    descriptor.read_only_shared,
    descriptor.read_only_private,
    descriptor.write_only,
    descriptor.poll,
    descriptor.read_at_end,
)
RESTORED: Final = "content put back"

_PATIENCE: Final = 3
"""Checks without an answer after which the rest are not tried: each costs the whole time-out."""

_TYPES: Final = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def look(path: str) -> Facts:
    """The facts of a path. Raises ``OSError`` when it is not there or cannot be read; may block."""
    status = os.stat(path)
    kind = stat.S_IFMT(status.st_mode)
    flags = os.O_NOCTTY | os.O_CLOEXEC
    if kind == stat.S_IFIFO:
        flags |= os.O_NONBLOCK  # an open for reading waits for a writer
    unwritable = ""
    try:
        # O_EXCL: a block device in use by the system (mounted) answers EBUSY; its bytes are not for tests.
        fd = os.open(path, os.O_RDWR | flags | (os.O_EXCL if kind == stat.S_IFBLK else 0))
    except OSError as error:
        unwritable = f"not writable: {error.strerror}"
        fd = os.open(path, os.O_RDONLY | flags)
    filesystem = _filesystem(fd)
    page = os.fstatvfs(fd).f_bsize if filesystem == "hugetlbfs" else PAGE_SIZE
    size = os.lseek(fd, 0, os.SEEK_END) if kind == stat.S_IFBLK else status.st_size
    if filesystem == "hugetlbfs" and not size:
        unwritable = unwritable or "not writable: on hugetlbfs a writable mapping makes an empty file grow"
    unmappable = ""
    try:
        libc.mmap(None, page, PROT_READ, MAP_SHARED, fd)
    except OSError as error:
        unmappable = f"mmap answers {name(error)}"
    else:
        try:
            unwritable or libc.mmap(None, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd)
        except OSError as error:
            unwritable = f"not writable: mmap with PROT_WRITE answers {name(error)}"
    return Facts(
        path=path,
        type=_TYPES.get(kind, "file of an unknown type"),
        mode=stat.S_IMODE(status.st_mode),
        size=size,
        filesystem=filesystem,
        device=status.st_dev,
        inode=status.st_ino,
        page=page,
        unmappable=unmappable,
        unwritable=unwritable,
        memory_per_mapping=kind == stat.S_IFCHR and status.st_rdev == os.makedev(1, 5),
    )


def _filesystem(fd: int) -> str:
    """The type of the file system that `fd` was opened on: proc_pid_fdinfo(5), proc_pid_mountinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}") as fdinfo:
        mount = next((line.split()[1] for line in fdinfo if line.startswith("mnt_id:")), "")
    with open("/proc/self/mountinfo", errors="surrogateescape") as mountinfo:
        for line in mountinfo:
            if line.split()[0] == mount:
                return line.partition(" - ")[2].split()[0]
    return "a file system that is not mounted"


def probe(subject: Subject) -> Subject:
    """The subject with the first bytes of its first two pages, as far as there are any. May block."""
    fd = subject.open(os.O_RDONLY)
    for pages in (2, 1):
        try:
            address = libc.mmap(None, pages * subject.page, PROT_READ, MAP_SHARED, fd)
        except OSError:
            continue  # a device that checks lengths; `look` has seen that one page can be mapped
        saved: list[bytes] = []
        for offset in range(0, pages * subject.page, subject.page):
            try:
                saved.append(forked(partial(load, address + offset, width(subject.facts.size, offset))))
            except Died as death:
                if death.signal != signal.SIGBUS:
                    raise
                break
        return replace(subject, saved=tuple(saved))
    return subject


def put_back(subject: Subject) -> None:
    """Store what `subject.saved` has wherever the path holds anything else. May block.

    Raises `Failed` when it does not stay, or when the path names another file by now.
    """
    facts, fd = subject.facts, subject.open()
    status = os.fstat(fd)
    # The numbers of a FUSE file are its server's invention and need not stay.
    same = (status.st_dev, status.st_ino) == (facts.device, facts.inode)
    if not same and not facts.filesystem.startswith("fuse"):
        raise Failed("the path names another file now")
    address = subject.map(fd, pages=subject.pages)
    for number, saved in enumerate(subject.saved):
        at = address + number * subject.page
        if load(at, len(saved)) != saved:
            store(at, saved)
        if (seen := load(at, len(saved))) != saved:
            raise Failed(f"page {number} begins {seen!r}, it began {saved!r}")


class Lost(Exception):  # noqa: N818
    """The checks were ended, and the content could not be put back."""

    def __init__(self, reason: str, saved: tuple[bytes, ...]) -> None:
        super().__init__(f"{reason}; the first pages began {' and '.join(map(repr, saved))}")


def told(error: Exception, timeout: float) -> str:
    """In words, what ended a child."""
    if isinstance(error, NoAnswer):
        return "; ".join(filter(None, (f"no answer in {timeout:g} s", str(error))))
    if isinstance(error, Died):
        return f"died of {error}"
    if isinstance(error, OSError):
        return f"{name(error)} ({error.strerror})"
    return str(error)


def judge(check: Check, subject: Subject, timeout: float, stop: Sequence[int]) -> tuple[Result, bool]:
    """Run one check: its result, and whether it answered at all. Raises `Stopped`."""
    try:
        evidence = ask(lambda: check.run(subject), timeout, stop)
    except NotApplicable as reason:
        return Result(check.name, Verdict.NOT_APPLICABLE, str(reason)), True
    except (Ended, OSError) as error:
        return Result(check.name, Verdict.FAIL, told(error, timeout)), not isinstance(error, NoAnswer)
    return Result(check.name, Verdict.PASS, evidence), True


def put_back_in_time(subject: Subject, timeout: float) -> str:
    """`put_back` in a child that a wish to stop does not stop: why it failed; empty when it did not."""
    if subject.stores and subject.pages:
        try:
            ask(lambda: put_back(subject), timeout)
        except (Ended, OSError) as error:
            return told(error, timeout)
    return ""


def results(facts: Facts, read_only: bool, timeout: float, stop: Sequence[int]) -> Iterator[Result]:
    """Run all checks. Whatever ends it, the content is put back first; `Lost` if that cannot be done."""
    no_stores = facts.unmappable or ("stores are off (read-only)" if read_only else facts.unwritable)
    subject = Subject(facts, (), no_stores)
    if not facts.unmappable:
        try:
            subject = ask(lambda: probe(subject), timeout, stop)
        except (Ended, OSError) as error:
            reason = f"a load from the first pages: {told(error, timeout)}"
            yield Result(CHECKS[0].name, Verdict.FAIL, reason)
            for check in CHECKS[1:]:
                yield Result(check.name, Verdict.NOT_APPLICABLE, "the first page does not answer")
            return
    unanswered, lost = 0, ""
    try:
        for check in CHECKS:
            reason = check.not_applicable(subject)
            if unanswered >= _PATIENCE and not reason:
                reason = f"not tried after {unanswered} checks without an answer"
            if reason:
                yield Result(check.name, Verdict.NOT_APPLICABLE, reason)
                continue
            result, answered = judge(check, subject, timeout, stop)
            unanswered += not answered
            lost = put_back_in_time(subject, timeout)
            yield result
    except BaseException:
        if lost := put_back_in_time(subject, timeout):
            raise Lost(lost, subject.saved) from None
        raise
    if lost:
        lost = put_back_in_time(subject, timeout)  # what did not answer may do so by now
    if subject.stores and subject.pages:
        words = " and ".join(repr(word) for word in subject.saved)
        if lost:
            yield Result(RESTORED, Verdict.FAIL, f"{lost}; the first pages began {words}")
        else:
            yield Result(RESTORED, Verdict.PASS, f"opened again, the first pages begin {words}, as before")


def send(kind: str, message: object) -> None:
    os.write(1, json.dumps({kind: message}).encode() + b"\n")


def main(request: str) -> None:
    """Answer one request, JSON: path, timeout (seconds), checks (false: only the facts), read_only."""
    asked = json.loads(request)
    path, timeout = asked["path"], asked["timeout"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some children are meant to die of a signal
    signalled, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    stop = (0, signalled)
    try:
        facts = ask(lambda: look(path), timeout, stop)
        send("facts", asdict(facts))
        if asked["checks"]:
            for result in results(facts, asked["read_only"], timeout, stop):
                send("result", asdict(result))
        send("done", "")
    except Stopped:
        pass
    except BrokenPipeError:
        pass  # the caller is gone
    except Lost as error:
        send("lost", str(error))
    except NoAnswer as error:
        send("silent", told(error, timeout))
    except OSError as error:
        send("error", error.strerror)
