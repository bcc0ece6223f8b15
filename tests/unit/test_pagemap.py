"""The decoders of pagemap and maps against plain ones; the folding of runs; what the command refuses."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.cli.pagemap import command
from mapdev.errors import UsageError
from mapdev.libc import PAGE_SIZE
from mapdev.pagemap import (
    ENTRY,
    FLAG_BITS,
    KPAGE_FLAGS,
    Region,
    Run,
    Words,
    decode,
    flag_names,
    fold,
    parse_maps,
)

BASE = 0x7F00_0000_0000
PRESENT, SWAPPED, FILE, GUARD, EXCLUSIVE, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 61, 1 << 58, 1 << 56, 1 << 55


class Entry(TypedDict):
    pfn: int
    swap_type: int
    swap_offset: int
    present: bool
    swapped: bool
    file: bool
    guard: bool
    uffd_wp: bool
    exclusive: bool
    soft_dirty: bool


def decode_one(word: int) -> Entry:
    """The table of pagemap.rst, read off a string of binary digits."""
    digits = f"{word:064b}"[::-1]

    def number(first: int, last: int) -> int:
        return int(digits[first : last + 1][::-1], 2)

    present, swapped = digits[63] == "1", digits[62] == "1"
    return {
        "pfn": number(0, 54) if present else 0,
        "swap_type": number(0, 4) if swapped else 0,
        "swap_offset": number(5, 54) if swapped else 0,
        "present": present,
        "swapped": swapped,
        "file": digits[61] == "1",
        "guard": digits[58] == "1",
        "uffd_wp": digits[57] == "1",
        "exclusive": digits[56] == "1",
        "soft_dirty": digits[55] == "1",
    }


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_decode_agrees_with_a_scalar_decoder(words: list[int]) -> None:
    entries = decode(b"".join(word.to_bytes(8, sys.byteorder) for word in words))
    assert entries.dtype == ENTRY
    assert [dict(zip(ENTRY.names or (), entry.item(), strict=True)) for entry in entries] == [
        decode_one(word) for word in words
    ]


def test_decode_refuses_part_of_a_word() -> None:
    with pytest.raises(ValueError, match="multiple"):
        decode(bytes(12))


# Text of a path as the kernel writes it: any byte but NUL and newline; it begins at what is not a space.
path_bytes = st.binary(max_size=30).map(lambda raw: raw.replace(b"\0", b"/").replace(b"\n", b"\\012").lstrip(b" "))
address = st.integers(0, (1 << 64) - 1)
regions = st.builds(
    Region,
    start=address,
    end=address,
    perms=st.tuples(*map(st.sampled_from, ("r-", "w-", "x-", "ps"))).map("".join),
    offset=address,
    device=st.tuples(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF)),
    inode=address,
    path=path_bytes.map(os.fsdecode),
)


def maps_line(region: Region) -> bytes:
    """A line of maps by the format of proc_pid_maps(5), its path in the column where the kernel starts it."""
    fixed = b"%08x-%08x %s %08x %02x:%02x %d " % (
        region.start,
        region.end,
        region.perms.encode(),
        region.offset,
        *region.device,
        region.inode,
    )
    return (fixed.ljust(73) + os.fsencode(region.path) if region.path else fixed) + b"\n"


@given(st.lists(regions, max_size=5))
def test_maps_are_parsed_back(expected: list[Region]) -> None:
    assert parse_maps(b"".join(map(maps_line, expected))) == expected


@given(regions)
def test_a_region_prints_as_its_line(region: Region) -> None:
    line = maps_line(region).removesuffix(b"\n")
    assert os.fsencode(str(region)) == (line if region.path else line.removesuffix(b" "))
    assert parse_maps(os.fsencode(str(region))) == [region]


@pytest.mark.parametrize("line", [b"Name:\tcat", b"1000-2000 rwxz 0 0:0 0", b"1000-2000 r--p 0 0:0"])
def test_what_is_not_a_line_of_maps_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(line))):
        parse_maps(line)


# Words as page tables make them: each one is often what continues the one before it, by one step or another.
flag_sets = st.sampled_from([0, SOFT_DIRTY, PRESENT, PRESENT | FILE, PRESENT | EXCLUSIVE, SWAPPED, SWAPPED | GUARD])
fresh_word = st.builds(
    lambda flags, low: flags | low if flags & (PRESENT | SWAPPED) else flags, flag_sets, st.integers(0, 40)
)
steps = st.sampled_from([0, 1, 2, 32])


@st.composite
def page_words(draw: st.DrawFn) -> list[int]:
    words = [draw(fresh_word)]
    for step in draw(st.lists(st.none() | steps, max_size=30)):
        counts = words[-1] & (PRESENT | SWAPPED) and step is not None
        words.append(words[-1] + step if counts else draw(fresh_word))
    return words


def step_between(word: int, following: int) -> int | None:
    if following == word:
        return 0
    by = 1 if word & PRESENT else 32
    return by if following == word + by else None


def fold_one_by_one(words: list[int]) -> list[tuple[int, int, int, int]]:
    """(first page, pages, word, step) of each run."""
    runs: list[tuple[int, int, int, int]] = []
    previous: int | None = None
    for page, raw in enumerate(words):
        word = 0 if raw == SOFT_DIRTY else raw
        step = None if previous is None else step_between(previous, word)
        if step is not None and (runs[-1][1] == 1 or runs[-1][3] == step):
            first, pages, first_word, _ = runs[-1]
            runs[-1] = (first, pages + 1, first_word, step)
        else:
            runs.append((page, 1, word, 0))
        previous = word
    return runs


def array(words: list[int]) -> Words:
    return np.array(words, np.uint64)


@given(page_words(), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_runs_are_those_of_a_scalar_fold_wherever_chunks_are_cut(
    words: list[int], cuts: list[int], hidden: bool
) -> None:
    places = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    chunks = [array(words[begin:end]) for begin, end in pairwise(places)]
    assert list(fold(chunks, BASE, hidden)) == [
        Run(BASE + first * PAGE_SIZE, pages, word, step, hidden)
        for first, pages, word, step in fold_one_by_one(words)
    ]


def test_a_fold_holds_no_more_than_a_chunk() -> None:
    taken = 0

    def endless() -> Iterator[Words]:
        nonlocal taken
        while True:
            taken += 1
            yield array([PRESENT | taken * 2])  # no frame follows the one before

    runs = fold(endless(), BASE)
    assert [next(runs).pfn for _ in range(3)] == [2, 4, 6]
    assert taken == 4  # that a run is over shows in the next chunk


def one(word: int, *, pages: int = 1, step: int = 0, hidden: bool = False) -> Run:
    return Run(BASE, pages, word, step, hidden)


def test_a_run_of_frames() -> None:
    run = one(PRESENT | EXCLUSIVE | 100, pages=3, step=1)
    assert (run.end, run.flags) == (BASE + 3 * PAGE_SIZE, ("present", "exclusive"))
    assert (run.pfn, run.frames, run.swap) == (100, range(100, 103), None)


def test_one_frame_behind_many_pages() -> None:
    assert one(PRESENT | 100, pages=3).frames == range(100, 101)


def test_a_hidden_frame_is_not_frame_0() -> None:
    run = one(PRESENT, pages=3, hidden=True)
    assert (run.flags, run.pfn, list(run.frames)) == (("present",), None, [])
    assert one(PRESENT, pages=3).pfn == 0  # what /dev/mem maps at its start


def test_swap() -> None:
    run = one(SWAPPED | 7 << 5 | 3, pages=2, step=32)
    assert (run.flags, run.swap, run.pfn) == (("swapped",), (3, 7), None)
    assert one(SWAPPED, hidden=True).swap is None


def test_a_guard_is_not_called_swapped() -> None:
    run = one(GUARD | SWAPPED | 0x9F)
    assert (run.flags, run.swap) == (("guard",), None)


def test_absent_pages_have_no_flags() -> None:
    (run,) = fold([array([0, SOFT_DIRTY, 0])], BASE)
    assert (run.pages, run.flags, run.pfn, run.swap) == (3, (), None, None)


def test_flag_names() -> None:
    every = (1 << len(KPAGE_FLAGS)) - 1
    assert flag_names(every) == list(KPAGE_FLAGS)
    assert flag_names(1 << 5 | 1 << 31 | 1 << 34) == ["LRU", "BIT_31"]
    assert flag_names(0) == []


def test_flag_names_are_those_of_the_header() -> None:
    header = Path("/usr/include/linux/kernel-page-flags.h")
    if not header.exists():
        pytest.skip(f"no {header} (kernel headers for user space are not installed)")
    defined = {int(bit): name for name, bit in re.findall(r"#define KPF_(\w+)\s+(\d+)", header.read_text())}
    assert {bit: KPAGE_FLAGS[bit] for bit in defined} == defined


def test_flag_bits_are_a_field_each() -> None:
    assert set(FLAG_BITS) == {name for name in ENTRY.names or () if ENTRY[name] == np.dtype(bool)}


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["abc"], "PID 'abc'"),
        (["1" * 5000], "PID"),
        (["self", "zz"], "ADDRESS 'zz'"),
        (["self", "7f12"], "0x"),
        (["self", "0x" + "f" * 17], "ADDRESS"),
        (["self", "9" * 20], "64-bit"),
        (["self", "0x1000", "many"], "LENGTH 'many'"),
        (["self", "0x1000", "0"], "LENGTH is 0"),
        (["self", "0xfffffffffffff000", "1G"], "64-bit"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        command.main(arguments, standalone_mode=False)
    assert caught.value.exit_code == 2
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_does_not_import_numpy_before_it_runs() -> None:
    code = "import sys, mapdev, mapdev.cli.pagemap; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
