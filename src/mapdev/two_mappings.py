"""The user-space test of ``lkmc_mmap``: two mappings of one open are one page. ``python -m mapdev.two_mappings PATH``.

A program of its own: it knows nothing of who serves PATH, and maps it as any other would.
"""

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mapdev import libc
from mapdev.libc import MAP_SHARED, PAGE_SIZE, PROT_READ, PROT_WRITE
from mapdev.pagemap import Pagemap


class Failed(Exception):  # noqa: N818 - a verdict, not an error of this program
    """A step that did not come out as it should."""


def run(path: Path, say: Callable[[str], None]) -> dict[str, object]:
    """The steps, each said when it is done; the two addresses, virtual and physical (None if hidden).

    Raises ``Failed``, and ``OSError`` for a system call that failed. Blocks as long as the device does.
    """
    fd = os.open(path, os.O_RDWR | os.O_SYNC)
    try:
        say(f"open {path}")
        one, other = (libc.mmap(None, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd) for _ in range(2))
        _expect(one != other, "two mappings have two addresses", say, f"{one:#x} and {other:#x}")
        try:
            return {"virtual": [one, other], "physical": _steps(fd, one, other, say)}
        finally:
            libc.munmap(one, PAGE_SIZE)
            libc.munmap(other, PAGE_SIZE)
            say("munmap both")
    finally:
        os.close(fd)
        say("close")


def _steps(fd: int, one: int, other: int, say: Callable[[str], None]) -> list[int | None]:
    for address in (one, other):
        _expect(_load(address) == b"asdf", "a mapping begins with asdf", say, repr(_load(address)))
    ctypes.memmove(one, b"qwer\0", 5)
    _expect(_load(other) == b"qwer", "a store of qwer to the first is seen by the second", say, repr(_load(other)))
    with Pagemap("self") as pagemap:
        physical = [pagemap.physical_address(address) for address in (one, other)]
        if pagemap.frames_hidden:
            say("physical addresses are hidden: they need CAP_SYS_ADMIN (run as root to see them)")
        else:
            same = physical[0] is not None and physical[0] == physical[1]
            shown = " and ".join("not present" if a is None else f"{a:#x}" for a in physical)
            _expect(same, "both are one physical page", say, shown)
    data = os.read(fd, 4)
    _expect(data == b"qwer", "read gives qwer", say, repr(data))
    written = os.write(fd, b"zxcv")
    _expect(written == 4, "write takes 4 bytes, zxcv", say, str(written))
    for address in (one, other):
        _expect(_load(address) == b"zxcv", "a mapping sees zxcv", say, repr(_load(address)))
    return physical


def _load(address: int) -> bytes:
    return ctypes.string_at(address, 4)


def _expect(truth: bool, what: str, say: Callable[[str], None], seen: str) -> None:
    if not truth:
        raise Failed(f"expected: {what}; seen: {seen}")
    say(f"{what}: {seen}")


def main() -> int:
    """The exit code: 0 if every step came out, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m mapdev.two_mappings", description=__doc__)
    parser.add_argument("path", type=Path, help="the device, for example ./dev/lkmc_mmap")
    parser.add_argument("--json", action="store_true", help="print the addresses as JSON in the last line")
    arguments = parser.parse_args()
    number = 0

    def say(line: str) -> None:
        nonlocal number
        number += 1
        print(f"{number:3}. {line}", flush=True)  # noqa: T201

    try:
        addresses = run(arguments.path, say)
    except (Failed, OSError) as error:
        print(f"FAILED: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if arguments.json:
        print(json.dumps(addresses))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
