"""What physical page is behind an address: ``/proc/PID/pagemap`` and ``maps``, ``/proc/kpage*``.

    bytes of pagemap -- decode() --> one entry per page
                     -- fold() ----> one Run per stretch of pages that continue each other
    bytes of maps ---- parse_maps() --> one Region per area of the process

These three are pure; all the reading is done by `Pagemap` (one process) and `Frames` (the machine).

A page frame number (PFN) counts pages of physical memory: the physical address is ``PFN * PAGE_SIZE``. The
kernel shows it only to whoever opens pagemap with CAP_SYS_ADMIN; for everyone else it reads as zero, which
is not an address. `Pagemap.frames_hidden` tells which of the two it is.

Sources: Documentation/admin-guide/mm/pagemap.rst, proc_pid_maps(5), ``<linux/kernel-page-flags.h>``.
"""

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapdev.errors import HostError, ProcessError, UsageError
from mapdev.libc import PAGE_SIZE

FLAG_BITS: Final = {
    "present": 63,
    "swapped": 62,
    "file": 61,
    "guard": 58,
    "uffd_wp": 57,
    "exclusive": 56,
    "soft_dirty": 55,
}
"""The flags of an entry and the bit of each. ``file`` is a page of a file or shared anonymous memory."""

ENTRY: Final = np.dtype(
    [("pfn", "u8"), ("swap_type", "u1"), ("swap_offset", "u8"), *((name, "?") for name in FLAG_BITS)]
)
"""One page as `decode` answers it: ``pfn`` (0 unless present), ``swap_type`` and ``swap_offset`` (0 unless
swapped; the offset is in pages of the swap area), and a boolean for each of `FLAG_BITS`."""

KPAGE_FLAGS: Final = (
    *("LOCKED", "ERROR", "REFERENCED", "UPTODATE", "DIRTY", "LRU", "ACTIVE", "SLAB", "WRITEBACK", "RECLAIM"),
    *("BUDDY", "MMAP", "ANON", "SWAPCACHE", "SWAPBACKED", "COMPOUND_HEAD", "COMPOUND_TAIL", "HUGE"),
    *("UNEVICTABLE", "HWPOISON", "NOPAGE", "KSM", "THP", "OFFLINE", "ZERO_PAGE", "IDLE", "PGTABLE"),
)
"""The KPF_* names of ``<linux/kernel-page-flags.h>``, by bit number from 0."""

_WORD: Final = 8
_LOW: Final = (1 << 55) - 1  # the PFN, or the place in swap
_SWAP_TYPE_BITS: Final = 5
_PRESENT, _SWAPPED = 1 << FLAG_BITS["present"], 1 << FLAG_BITS["swapped"]
_GUARD, _SOFT_DIRTY = 1 << FLAG_BITS["guard"], 1 << FLAG_BITS["soft_dirty"]
_NOPAGE: Final = 1 << KPAGE_FLAGS.index("NOPAGE")
_CHUNK_PAGES: Final = 1 << 16  # 512 KiB of pagemap: a sparse terabyte must not become gigabytes here
_PF_EXITING, _PF_KTHREAD = 0x00000004, 0x00200000  # the kernel's sched.h; in the flags of proc_pid_stat(5)

Words = NDArray[np.uint64]


def decode(data: bytes) -> NDArray[np.void]:
    """The entries in `data`, the content of ``/proc/PID/pagemap``: an array of dtype `ENTRY`, one per page.

    Raises ``ValueError`` when `data` is not a whole number of 8-byte words.
    """
    return _decode(np.frombuffer(data, np.uint64))


def _decode(words: Words) -> NDArray[np.void]:
    entries = np.zeros(words.shape, ENTRY)
    for name, bit in FLAG_BITS.items():
        entries[name] = words >> np.uint64(bit) & np.uint64(1)
    low = words & np.uint64(_LOW)
    entries["pfn"] = np.where(entries["present"], low, 0)
    entries["swap_type"] = np.where(entries["swapped"], low & np.uint64((1 << _SWAP_TYPE_BITS) - 1), 0)
    entries["swap_offset"] = np.where(entries["swapped"], low >> np.uint64(_SWAP_TYPE_BITS), 0)
    return entries


@dataclass(frozen=True, slots=True)
class Region:
    """One area (vma) of a process, a line of ``/proc/PID/maps``; ``str`` gives that line back.

    `start`, `end` (exclusive) and `offset` (of the start in its file) are in bytes; `device` is (major,
    minor). `path` is the kernel's text: a file (``\\012`` stands for a newline in it), ``[heap]``, or empty.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    path: str

    def __str__(self) -> str:
        major, minor = self.device
        line = f"{self.start:08x}-{self.end:08x} {self.perms} {self.offset:08x}"
        line += f" {major:02x}:{minor:02x} {self.inode}"
        return f"{line:<72} {self.path}" if self.path else line


_MAPS_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([-r][-w][-x][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+) *(.*)",
    re.DOTALL,
)


def parse_maps(data: bytes) -> list[Region]:
    """The regions in `data`, the content of ``/proc/PID/maps``, in its order (by address).

    Raises ``ValueError`` for a line that is not one of proc_pid_maps(5). Bytes of a path that are not UTF-8
    become surrogates, as everywhere in Python (``os.fsencode`` turns them back).
    """
    regions = []
    for line in data.split(b"\n"):  # and not splitlines(): a path may hold any other separator
        if not line:
            continue
        match = _MAPS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
        start, end, perms, offset, major, minor, inode, path = match.groups()
        regions.append(
            Region(
                start=int(start, 16),
                end=int(end, 16),
                perms=perms.decode(),
                offset=int(offset, 16),
                device=(int(major, 16), int(minor, 16)),
                inode=int(inode),
                path=os.fsdecode(path),
            )
        )
    return regions


@dataclass(frozen=True, slots=True)
class Run:
    """Pages that follow each other in virtual memory and, by one rule, wherever else they are.

    `start` is the address of the first page, `pages` how many there are, `word` the pagemap word of the
    first and `step` what that word grows by from page to page: 1 for consecutive frames, 32 for consecutive
    places in swap, 0 when all words are equal (absent pages, hidden frames, or one frame behind many pages:
    the kernel's zero page).
    """

    start: int
    pages: int
    word: int
    step: int
    frames_hidden: bool

    @property
    def end(self) -> int:
        """The address after the last page."""
        return self.start + self.pages * PAGE_SIZE

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of `FLAG_BITS` that hold for every page; none when the pages are absent.

        A guard is not called swapped, although the kernel keeps it as a special entry of swap (bit 62).
        Soft-dirty is not told of absent pages.
        """
        word = self.word & ~_SWAPPED if self.word & _GUARD else self.word
        return tuple(name for name, bit in FLAG_BITS.items() if word >> bit & 1)

    @property
    def pfn(self) -> int | None:
        """The frame of the first page; None when it is hidden or the pages are not present."""
        return None if self.frames_hidden or not self.word & _PRESENT else self.word & _LOW

    @property
    def frames(self) -> range:
        """The frames behind the run, in order: as many as pages, or a single one behind all; maybe none."""
        if self.pfn is None:
            return range(0)
        return range(self.pfn, self.pfn + (self.pages if self.step else 1))

    @property
    def swap(self) -> tuple[int, int] | None:
        """The type (number of the swap area) and offset (in pages) of the first page; None as for `pfn`."""
        if self.frames_hidden or not self.word & _SWAPPED or self.word & _GUARD:
            return None
        low = self.word & _LOW
        return low & (1 << _SWAP_TYPE_BITS) - 1, low >> _SWAP_TYPE_BITS


def fold(chunks: Iterable[Words], address: int, frames_hidden: bool = False) -> Iterator[Run]:
    """Fold pagemap words into runs: a run takes every next page that continues it.

    `chunks` are the words of consecutive pages, the first of them at `address`, cut anywhere: the runs do not
    depend on the cuts, and no more than a chunk is held. What continues a run is decided by its second page,
    which sets the step (see `Run`).
    """
    held: Run | None = None  # the last run so far, which the next chunk may continue
    for chunk in chunks:
        words = np.where(chunk == np.uint64(_SOFT_DIRTY), np.uint64(0), chunk)  # absent is absent
        overlap = 0
        if held is not None:
            # Its last two words say all that matters of the held run: where it is and how it steps.
            overlap = min(held.pages, 2)
            tail = [held.word + held.step * page for page in range(held.pages - overlap, held.pages)]
            words = np.concatenate((np.array(tail, np.uint64), words))
        for first, last in _stretches(words):
            step = int(words[first + 1] - words[first]) if last > first else 0
            if first == 0 and held is not None:
                pages = held.pages - overlap + last + 1
                held = Run(held.start, pages, held.word, step, frames_hidden)
                continue
            if held is not None:
                yield held
            start = address + (first - overlap) * PAGE_SIZE
            held = Run(start, last - first + 1, int(words[first]), step, frames_hidden)
        address += len(chunk) * PAGE_SIZE
    if held is not None:
        yield held


_EQUAL, _NEXT, _BREAK = 0, 1, 2  # how a word follows the one before it


def _stretches(words: Words) -> Iterator[tuple[int, int]]:
    """The first and last index of each run in `words`."""
    if not words.any():  # most of a sparse region
        if len(words):
            yield 0, len(words) - 1
        return
    before, after = words[:-1], words[1:]
    unit = np.where(before & np.uint64(_PRESENT), np.uint64(1), np.uint64(1 << _SWAP_TYPE_BITS))
    links = np.full(len(before), _BREAK, np.uint8)
    links[after - before == unit] = _NEXT
    links[after == before] = _EQUAL

    # Between two changes the links are alike, so the loop turns once per run and not once per page.
    changes = (np.flatnonzero(links[1:] != links[:-1]) + 1).tolist()
    first = 0
    for begin, end in zip([0, *changes], [*changes, len(links)], strict=True):
        if begin == end:
            continue  # a single word has no links
        if links[begin] == _BREAK:
            yield first, begin
            for index in range(begin + 1, end):
                yield index, index
            first = end
        elif first < begin:  # the pages so far have a step already, and it is another one
            yield first, begin
            first = begin + 1
    yield first, len(words) - 1


class Pagemap:
    """The pages behind the memory of one process; a with-statement closes it.

    It stays with the memory the process had when it was opened: after an exit or an execve(2) every method
    raises `ProcessError`, and a new process with the same number is not mistaken for the old one.
    Reading waits while the process changes its mappings; what it tells may be past when it is told.
    """

    def __init__(self, pid: int | Literal["self"]) -> None:
        """Open process `pid` (or a thread of it), or "self", the calling process.

        Raises `ProcessError` when there is no such process, when this user may not look at it (the rule is
        that of ptrace(2), PTRACE_MODE_READ), when it has exited, and for a kernel thread: it has no memory.
        """
        self.pid: Final = pid
        with ExitStack() as files:
            self._maps = files.enter_context(_open_of(pid, "maps"))
            self._pagemap = files.enter_context(_open_of(pid, "pagemap"))
            if not self._read_maps():
                raise _memoryless(pid) or ProcessError(f"process {pid} has no memory")
            self._frames_hidden = _frames_hidden()
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a second call does nothing, any other then raises ``ValueError``."""
        self._files.close()

    @property
    def frames_hidden(self) -> bool:
        """Whether the kernel hides frame numbers and places in swap from this user (no CAP_SYS_ADMIN)."""
        return self._frames_hidden

    def regions(self) -> list[Region]:
        """The areas of the process now, by address. Raises `ProcessError` when it has exited."""
        data = self._read_maps()
        if not data:
            raise self._gone()
        return parse_maps(data)

    def entries(self, address: int, length: int) -> NDArray[np.void]:
        """An array of dtype `ENTRY`: every page that the `length` bytes from `address` touch.

        A page that is in no region reads as absent. The array is shorter than the range where the kernel
        keeps no page table to show: past the end of user memory, and for ``[vsyscall]``. It takes 24 bytes
        for a page (6 MiB for a GiB of addresses); `runs` does not. Raises `ProcessError` when the process
        has exited, `UsageError` when the range is not one of 64-bit addresses.
        """
        first, last = _pages(address, length)
        return _decode(self._read(first, last - first))

    def runs(self, address: int, length: int) -> Iterator[Run]:
        """The pages that the `length` bytes from `address` touch, folded; as `entries` otherwise.

        Reads in chunks as it is iterated, thus any range will do; an empty TiB takes a few seconds.
        """
        first, last = _pages(address, length)
        return fold(self._chunks(first, last), first * PAGE_SIZE, self._frames_hidden)

    def physical_address(self, address: int) -> int | None:
        """The physical address of the byte at `address`, or None.

        None means that its page is not in memory (never touched, or swapped), or, if `frames_hidden`, that
        the kernel does not say. Raises `ProcessError` when `address` is in no region, or the process has
        exited.
        """
        first, last = _pages(address, 1)
        words = self._read(first, last - first)
        word = int(words[0]) if len(words) else 0
        if word & _PRESENT:
            return None if self._frames_hidden else (word & _LOW) * PAGE_SIZE + address % PAGE_SIZE
        if not any(region.start <= address < region.end for region in self.regions()):
            raise ProcessError(f"address {address:#x} is in no region of process {self.pid} (/proc/PID/maps)")
        return None

    def _chunks(self, first: int, last: int) -> Iterator[Words]:
        for page in range(first, last, _CHUNK_PAGES):
            wanted = min(_CHUNK_PAGES, last - page)
            words = self._read(page, wanted)
            yield words
            if len(words) < wanted:
                return

    def _read(self, page: int, pages: int) -> Words:
        words = _read_words(self._pagemap, page, pages)
        if len(words) < pages and not self._read_maps():
            raise self._gone()  # the kernel says so by an end of file only
        return words

    def _read_maps(self) -> bytes:
        """All of maps; nothing when the process has no memory (any more)."""
        data = bytearray()
        try:
            while part := os.pread(self._maps.fileno(), 1 << 16, len(data)):
                data += part
        except ProcessLookupError:
            return b""
        return bytes(data)

    def _gone(self) -> ProcessError:
        return ProcessError(f"process {self.pid} has exited, or executed another program, while it was looked at")


@dataclass(frozen=True, slots=True)
class FrameSummary:
    """What the kernel knows of a run's frames: flags (bits of `KPAGE_FLAGS`) and how often each is mapped."""

    flags_all: int
    flags_any: int
    count_min: int
    count_max: int


class Frames:
    """The page frames of the machine: ``/proc/kpageflags`` and ``kpagecount``; a with-statement closes it."""

    def __init__(self) -> None:
        """Raises `HostError` when this user may not read the two files (root may), or the kernel has none."""
        with ExitStack() as files:
            try:
                self._flags = files.enter_context(_open("/proc/kpageflags"))
                self._counts = files.enter_context(_open("/proc/kpagecount"))
            except OSError as error:
                raise HostError(f"cannot open {error.filename}: {error.strerror}; run as root") from error
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a second call does nothing, any other then raises ``ValueError``."""
        self._files.close()

    def flags(self, pfns: ArrayLike) -> Words:
        """The flags of each frame in `pfns` (any shape): bits of `KPAGE_FLAGS`, above them the kernel's own.

        A number past the end of memory has NOPAGE, as one in a hole of it.
        """
        return _by_pfn(self._flags, pfns, _NOPAGE)

    def counts(self, pfns: ArrayLike) -> Words:
        """How often each frame in `pfns` (any shape) is mapped by page tables of user space."""
        return _by_pfn(self._counts, pfns, 0)

    def summary(self, run: Run) -> FrameSummary | None:
        """Both for the frames behind `run`; None when it has none to show (hidden or not present)."""
        frames = run.frames
        if not frames:
            return None
        flags_all, flags_any = -1, 0
        counts_seen: set[int] = set()
        for pfn in range(frames.start, frames.stop, _CHUNK_PAGES):
            number = min(_CHUNK_PAGES, frames.stop - pfn)
            flags = _consecutive(self._flags, pfn, number, _NOPAGE)
            counts = _consecutive(self._counts, pfn, number, 0)
            flags_all &= int(np.bitwise_and.reduce(flags))
            flags_any |= int(np.bitwise_or.reduce(flags))
            counts_seen |= {int(counts.min()), int(counts.max())}
        return FrameSummary(flags_all, flags_any, min(counts_seen), max(counts_seen))


def flag_names(flags: int) -> list[str]:
    """The names of `KPAGE_FLAGS` that are set in `flags`; ``BIT_n`` for a newer one, which has no name here.

    The upper 32 bits are left out: there the kernel shows bits of its own, whose meaning changes.
    """
    return [KPAGE_FLAGS[bit] if bit < len(KPAGE_FLAGS) else f"BIT_{bit}" for bit in range(32) if flags >> bit & 1]


def _by_pfn(file: FileIO, pfns: ArrayLike, beyond: int) -> Words:
    """The word of each frame; `beyond` for those the file does not reach."""
    asked = np.asarray(pfns, np.uint64)
    frames, places = np.unique(asked.ravel(), return_inverse=True)
    words = np.empty(len(frames), np.uint64)
    gaps = (np.flatnonzero(np.diff(frames) != 1) + 1).tolist()
    for begin, end in zip([0, *gaps], [*gaps, len(frames)], strict=True):
        if begin < end:
            words[begin:end] = _consecutive(file, int(frames[begin]), end - begin, beyond)
    answer: Words = words[places].reshape(asked.shape)
    return answer


def _consecutive(file: FileIO, pfn: int, count: int, beyond: int) -> Words:
    words = _read_words(file, pfn, count)
    if len(words) == count:
        return words
    return np.concatenate((words, np.full(count - len(words), beyond, np.uint64)))


def _read_words(file: FileIO, index: int, count: int) -> Words:
    """`count` 8-byte words from word `index`; fewer where the file ends."""
    fd, begin, end = file.fileno(), index * _WORD, (index + count) * _WORD
    parts = []
    while begin < end:
        # The buffer of a read is allocated before the file is known to be shorter.
        part = os.pread(fd, min(end - begin, _CHUNK_PAGES * _WORD), begin)
        if not part:
            break
        parts.append(part)
        begin += len(part)
    return np.frombuffer(b"".join(parts), np.uint64)


def _pages(address: int, length: int) -> tuple[int, int]:
    """The first page that the range touches, and the one after the last."""
    if address < 0 or length < 0 or address + length > 1 << 64:
        raise UsageError(f"{length} bytes from {address:#x}: not a range of 64-bit addresses")
    return address // PAGE_SIZE, -(-(address + length) // PAGE_SIZE)


def _open(path: str) -> FileIO:
    return open(path, "rb", buffering=0)


def _open_of(pid: int | str, name: str) -> FileIO:
    try:
        return _open(f"/proc/{pid}/{name}")
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}"):
            raise ProcessError(f"this kernel has no /proc/PID/{name} (CONFIG_PROC_PAGE_MONITOR)") from None
        raise ProcessError(f"there is no process {pid}") from None
    except PermissionError:
        # The memory of a kernel thread, or of what has exited, is also refused, to all but root.
        hint = "it has more rights than you" if os.geteuid() == 0 else "run as its user or as root"
        refused = f"not permitted to look at the memory of process {pid}: {hint}"
        raise _memoryless(pid) or ProcessError(refused) from None
    except ProcessLookupError:
        raise _memoryless(pid) or ProcessError(f"process {pid} has no memory") from None


def _memoryless(pid: int | str) -> ProcessError | None:
    """Why a process has no memory to look at, by proc_pid_stat(5); None if that gives no reason."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ProcessError(f"there is no process {pid}")
    flags = int(stat.rpartition(b")")[2].split()[6])  # what is before them is a name, which may hold anything
    if flags & _PF_KTHREAD:
        return ProcessError(f"process {pid} is a kernel thread: it has no memory of its own")
    if flags & _PF_EXITING:
        return ProcessError(f"process {pid} has exited: nothing is left but its exit status")
    return None


def _frames_hidden() -> bool:
    """Ask the kernel for a frame of ours: in a user namespace a set of capabilities would not tell."""
    page = ctypes.c_char()
    address = ctypes.addressof(page)
    try:
        pagemap = _open("/proc/self/pagemap")
    except PermissionError:
        return True  # not even our own: a process that has changed its user without an execve
    with pagemap:
        for _ in range(100):
            page.value = b"\1"  # brings it in, should it have been swapped
            word = int(_read_words(pagemap, address // PAGE_SIZE, 1)[0])
            if word & _PRESENT:
                return not word & _LOW
    return True
