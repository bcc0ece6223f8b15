"""Where the fake files of a run go: which real directories are shown anew, with what in them. Reads, but mounts
nothing.

A fake path that does not exist needs a directory that has it. Its deepest existing directory becomes a
**union**: a FUSE
directory in its place that holds the fakes, and a placeholder for each real entry, onto which the real one is bound.
A file that exists, and is no device, is simply mounted over (``Over``). /proc changes all the time, so its union
does not
hold placeholders but symbolic links to the real one, made when they are looked up.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from mapdev.errors import UsageError
from mapdev.hosts.fuse.tree import DeviceEntry, Directory, Entry, Placeholder, Symlink, add
from mapdev.run.mounts import REAL, Over, Union

_DYNAMIC = "/proc"
_KERNEL_FILES = ("/dev", "/proc", "/sys")


class Plan(NamedTuple):
    """``root``: the tree that the FUSE mount serves; ``unions`` and ``overs`` as the namespace is to have them."""

    root: Directory
    unions: list[Union]
    overs: list[Over]


class _Replaced:
    """A union while it is planned: with the FUSE directory that is shown in the place of the real one."""

    def __init__(self, path: str, name: str, directory: Directory, keep: bool = False) -> None:
        self.path = path
        self.name = name
        self.directory = directory
        self.binds: list[str] = []
        self.keep = keep


class ProcUnion(Directory):
    """/proc with more in it: what is not a fake is a symbolic link to the same name in the real one."""

    def get(self, name: bytes) -> Entry | None:
        entry = self.entries.get(name)
        if entry is not None:
            return entry
        if name in (b"self", b"thread-self"):
            return self.entries.setdefault(name, _myself(name))
        if not os.path.lexists(os.path.join(b"/proc", name)):
            return None
        return self.entries.setdefault(name, Symlink(REAL.encode() + b"/" + name))

    def listed(self) -> Iterator[tuple[bytes, Entry]]:
        real = {name: Symlink(b"") for name in os.listdir(b"/proc")}
        fakes = {name: entry for name, entry in self.entries.items() if not isinstance(entry, Symlink)}
        for name in {**real, **fakes}:
            entry = self.get(name)
            if entry is not None and name not in self.hidden:
                yield name, entry


def _myself(name: bytes) -> Symlink:
    # a link to REAL/self would do, but programs read this one to learn their pid
    if name == b"self":
        return Symlink(lambda pid: b"%d" % _tgid(pid))
    return Symlink(lambda pid: b"%d/task/%d" % (_tgid(pid), pid))


def _tgid(tid: int) -> int:
    try:
        with open(f"/proc/{tid}/status", "rb") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(b"Tgid:"))
    except (OSError, StopIteration):
        return tid


def plan(fakes: dict[str, Entry], companions: dict[str, str]) -> Plan:
    """`fakes`: absolute path -> what FUSE serves there; `companions`: absolute path -> a real file to show there.

    Raises ``UsageError`` for a path that cannot be had.
    """
    root = Directory()
    overs: list[Over] = []
    by_path: dict[str, _Replaced] = {}
    for path, entry in fakes.items():
        _check(path)
        if os.path.isfile(path) and _is_attribute(entry):
            source = f"over/{len(overs)}"
            add(root, source, entry)
            overs.append(Over(path, source, is_fuse=True))
        else:
            _into_union(by_path, path, entry)
    for path, source in companions.items():
        _check(path)
        if not os.path.exists(source):
            raise UsageError(f"there is no {source} to be shown as {path}")
        if not os.path.exists(path):
            _into_union(by_path, path, Directory() if os.path.isdir(source) else Placeholder())
        elif os.path.isdir(path) != os.path.isdir(source):
            raise UsageError(f"{path} and {source} are not both files or both directories")
        overs.append(Over(path, os.path.abspath(source), is_fuse=False))
    if any(over.is_fuse for over in overs) and not by_path:
        _union(by_path, "/dev")  # the mount has to begin somewhere
    unions = sorted(by_path.values(), key=lambda union: union.path.count("/"))
    for union in unions:
        root.entries[union.name.encode()] = union.directory
    return Plan(root, [Union(union.path, union.name, union.binds, union.keep) for union in unions], overs)


def _is_attribute(entry: Entry) -> bool:
    """Whether all opens of it are alike, so that one inode bound to a place serves them all."""
    return isinstance(entry, DeviceEntry) and not entry.dispatch.has_mmap


def _check(path: str) -> None:
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise UsageError(f"{path!r} is no place for a device: write an absolute path such as /dev/uio0")


def _into_union(unions: dict[str, _Replaced], path: str, entry: Entry) -> None:
    if os.path.isdir(path) and not isinstance(entry, Directory):
        raise UsageError(f"{path} exists and is a directory: put the device at another path")
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        if os.path.lexists(parent):
            raise UsageError(f"{path} cannot be: {parent} is not a directory")
        parent = os.path.dirname(parent)
    rest = path[len(parent) :].lstrip("/")
    union = _union(unions, os.path.realpath(parent))
    first = rest.partition("/")[0].encode(errors="surrogateescape")
    existing = union.directory.entries.get(first)
    if isinstance(existing, Placeholder) or (isinstance(existing, Symlink) and "/" not in rest):
        del union.directory.entries[first]  # the fake stands in for it
        union.binds = [name for name in union.binds if name.encode(errors="surrogateescape") != first]
    try:
        add(union.directory, rest, entry)
    except FileExistsError as error:
        raise UsageError(f"{path} is wanted twice, or a file is in its way") from error


def _union(unions: dict[str, _Replaced], path: str) -> _Replaced:
    if path in unions:
        return unions[path]
    if path == "/":
        raise UsageError("a new name in / is out of reach: choose a path in a directory that exists")
    if os.geteuid() and os.access(path, os.W_OK) and not path.startswith(_KERNEL_FILES):
        raise UsageError(
            f"{path} is yours to write, and a run would hide that: create the file itself, or another path"
        )
    hidden = frozenset({REAL.encode()})
    if path == _DYNAMIC:
        union = _Replaced(path, f"union-{len(unions)}", ProcUnion(hidden=hidden), keep=True)
    else:
        union = _Replaced(path, f"union-{len(unions)}", Directory(hidden=hidden))
        _fill(union)
    union.directory.entries[REAL.encode()] = Directory()
    unions[path] = union
    return union


def _fill(union: _Replaced) -> None:
    """A placeholder for every real entry."""
    try:
        found = sorted(os.scandir(union.path), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{union.path} cannot be read: {error.strerror}") from error
    for entry in found:
        name = entry.name.encode(errors="surrogateescape")
        if entry.is_symlink():
            union.directory.entries[name] = Symlink(os.readlink(entry.path).encode(errors="surrogateescape"))
        elif union.path == "/dev" and entry.name == "ptmx":
            # the driver looks for its pts directory beside the name that was opened
            union.directory.entries[name] = Symlink(f"{REAL}/ptmx".encode())
            union.keep = True
        else:
            is_directory = entry.is_dir(follow_symlinks=False)
            union.directory.entries[name] = Directory() if is_directory else Placeholder()
            union.binds.append(entry.name)
