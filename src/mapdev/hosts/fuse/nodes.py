"""What the kernel knows of us: nodes and open files. No I/O, no device is called here.

A **node** is what the kernel calls an inode: it has a number, a count of lookups, and at most one page cache.
Whatever does
not change has one node for ever, its **home**. A device whose opens share memory has one, too; a device with memory
of its own for every open has a new node for each. Nobody declares which it is; the session learns it from the
first opens.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from mapdev.file import File
from mapdev.hosts.base import Permissions
from mapdev.hosts.fuse.pagecache import PageCache
from mapdev.hosts.fuse.tree import DeviceEntry, Directory, Entry, Memory, Placeholder, Symlink
from mapdev.hosts.fuse.wire import ROOT_ID, Attr
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Mappable

FOREVER = 365 * 86400
"""Seconds for which a name or attributes hold that do not change."""


@dataclass(slots=True, eq=False)
class Node:
    """One inode: where it was looked up last, and how often.

    Of a device: its open files (the earliest first), the memory it maps and how.

    ``backing_id`` is that of shared memory mode, ``cache`` that of on-demand mode; ``told`` is the size in bytes that
    the kernel heard of last.
    """

    nodeid: int
    entry: Entry
    parent: int = ROOT_ID
    name: bytes = b""
    lookups: int = 0
    files: "list[OpenFile]" = field(default_factory=list)
    memory: Mappable | None = None
    backing_id: int = 0
    cache: PageCache | None = None
    told: int = 0


@dataclass(slots=True, eq=False)
class OpenFile:
    """What a file handle stands for. ``handles``: how many opens the kernel counts on it.

    ``fopen`` is what OPEN was answered with, ``direct`` and ``passthrough`` two of its flags.
    """

    fh: int
    file: File
    node: Node
    entry: DeviceEntry
    fopen: int = 0
    direct: bool = True
    passthrough: bool = False
    handles: int = 1


class Nodes:
    """The table of all nodes and open files; its lock guards every change of them.

    Inode numbers belong to entries, not to nodes: all opens of a device show the same.
    """

    def __init__(self, root: Directory, permissions: Permissions) -> None:
        self.lock = threading.RLock()
        self.root = root
        self.files: dict[int, OpenFile] = {}
        self._permissions = permissions
        self._ids = itertools.count(ROOT_ID)
        self._nodes: dict[int, Node] = {}
        self._homes: dict[Entry, Node] = {}
        self._inos: dict[Entry, int] = {}
        self._last_fh = 0
        self._born = int(time.time())
        self._nodes[ROOT_ID] = self.settle(root)

    def settle(self, entry: Entry) -> Node:
        """Make a new node the home of `entry`."""
        node = Node(next(self._ids), entry)
        self._homes[entry] = node
        return node

    def home(self, entry: Entry) -> Node | None:
        """The one node of `entry`, if it has one."""
        return self._homes.get(entry)

    def set_home(self, entry: Entry, node: Node | None) -> None:
        """From now on every lookup of `entry` leads to `node`; None: each to a new one."""
        if node is None:
            self._homes.pop(entry, None)
        else:
            self._homes[entry] = node

    def lookup(self, parent: Node, name: bytes) -> Node | None:
        """The node for `name`, with one lookup more: the entry's home, or a new one."""
        if not isinstance(parent.entry, Directory):
            return None
        with self.lock:
            entry = parent.entry.get(name)
            if entry is None:
                return None
            node = self._homes.get(entry)
            if node is None and isinstance(entry, DeviceEntry) and entry.memory is not Memory.SHARED:
                node = Node(next(self._ids), entry)
            elif node is None:
                node = self.settle(entry)
            self._nodes[node.nodeid] = node
            node.parent, node.name = parent.nodeid, name
            node.lookups += 1
            return node

    def get(self, nodeid: int) -> Node | None:
        """The node of this number, while the kernel knows it."""
        return self._nodes.get(nodeid)

    def forget(self, nodeid: int, nlookup: int) -> None:
        """The kernel drops `nlookup` of its lookups; a node without any is gone (a home waits for the next)."""
        with self.lock:
            node = self._nodes.get(nodeid)
            if node is not None and nodeid != ROOT_ID:
                node.lookups -= nlookup
                if node.lookups <= 0:
                    del self._nodes[nodeid]

    def new_file(self, node: Node, entry: DeviceEntry, flags: int, pid: int, uid: int, gid: int) -> OpenFile:
        """An open file with a handle of its own, for the device to accept or not."""
        with self.lock:
            self._last_fh += 1
            fh = self._last_fh
        return OpenFile(fh, File(entry.dispatch.name, fh, flags, pid, uid, gid), node, entry)

    def add_file(self, opened: OpenFile) -> None:
        """The device has accepted it: it is open."""
        with self.lock:
            self.files[opened.fh] = opened
            opened.node.files.append(opened)

    def entry_valid(self, node: Node) -> int:
        """How long the name of this node holds, in seconds."""
        return FOREVER if self._homes.get(node.entry) is node else 0

    def attr(self, node: Node) -> tuple[Attr, int]:
        """What stat(2) shows of a node, and for how many seconds it holds."""
        entry, mode, size, valid = node.entry, 0, 0, FOREVER
        if isinstance(entry, Directory):
            mode = 0o555
        elif isinstance(entry, Symlink):
            mode, valid = 0o777, 0 if callable(entry.target) else FOREVER
        elif isinstance(entry, DeviceEntry):
            mode = self._permissions.mode if entry.mode is None else entry.mode
            known = node.memory.nbytes if node.memory is not None else entry.size
            known = entry.dispatch.device.size if known is None else known
            # a page, as sysfs says of its files: of an empty file programs expect nothing, and some do not even read.
            # If the memory turns out to be larger, OPEN tells (see Session._tell_size).
            size = PAGE_SIZE if known is None else known
            valid = 0 if known is None and entry.dispatch.has_mmap else FOREVER
            node.told = size
        nlink = 2 if isinstance(entry, Directory) else 1
        uid, gid = self._permissions.uid, self._permissions.gid
        return Attr(self.ino(entry), size, entry.kind | mode, nlink, uid, gid, self._born), valid

    def ino(self, entry: Entry) -> int:
        """The inode number that programs see."""
        with self.lock:
            return self._inos.setdefault(entry, len(self._inos) + ROOT_ID)

    def listing(self, directory: Directory) -> Iterator[tuple[bytes, int, int]]:
        """(name, inode number, mode or 0) of the entries of a directory, in their order."""
        own = self.ino(directory)
        yield from ((name, own, directory.kind) for name in (b".", b".."))
        for name, entry in directory.listed():
            kind = entry.listed_kind if isinstance(entry, DeviceEntry | Placeholder) else entry.kind
            yield name, self.ino(entry), kind
