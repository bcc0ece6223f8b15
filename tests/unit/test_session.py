"""The session without a kernel: lookups and forgets, which node, which file; requests built by hand."""

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mapdev import Device, File, OnDemandPages, Pages, Vma, VmFault, on_demand_pages, zeroed_pages
from mapdev.answer import finish, is_coming
from mapdev.devices import LkmcMmap, Ram
from mapdev.dispatch import Dispatch
from mapdev.hosts.base import Permissions
from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.nodes import Nodes
from mapdev.hosts.fuse.session import Mode, Request, Session
from mapdev.hosts.fuse.tree import DeviceEntry, Directory, Placeholder
from mapdev.hosts.fuse.wire import Fopen, Header, Opcode
from mapdev.libc import PAGE_SIZE


class Quiet:
    """A kernel that accepts everything, and counts backing files."""

    def __init__(self) -> None:
        self.unmappable: int | None = None
        self.backing: dict[int, int] = {}
        self.invalidated: list[bytes] = []
        self.stored: list[tuple[int, int, int]] = []

    def backing_open(self, fd: int) -> int:
        number = max(self.backing, default=0) + 1
        self.backing[number] = fd
        return number

    def backing_close(self, backing_id: int) -> None:
        del self.backing[backing_id]

    def notify_store(self, nodeid: int, offset: int, data: memoryview) -> None:
        self.stored.append((nodeid, offset, len(data)))

    def notify_retrieve(self, nodeid: int, offset: int, size: int) -> bytes:  # noqa: ARG002
        return b""

    def notify_inval_inode(self, nodeid: int, offset: int, size: int) -> None: ...

    def notify_inval_entry(self, parent: int, name: bytes) -> None:  # noqa: ARG002
        self.invalidated.append(name)

    def notify_poll(self, kh: int) -> None: ...

    def when_answered(self, work: Callable[[], None]) -> None:
        work()


class Kernel:
    """What a kernel would send, call by call; raises the ``OSError`` of an answer."""

    def __init__(self, *devices: Device, mode: Mode = Mode.ON_DEMAND) -> None:
        self.quiet = Quiet()
        self.dispatches = [Dispatch(device, device.node_name()) for device in devices]
        self.entries = {d.name: DeviceEntry(d) for d in self.dispatches}
        root = Directory({name.encode(): entry for name, entry in self.entries.items()})
        self.nodes = Nodes(root, Permissions(0o640, 1, 2))
        self.session = Session(self.nodes, self.quiet, mode)

    def ask(self, opcode: int, nodeid: int, body: bytes = b"") -> bytes:
        header = Header(wire.IN_HEADER.size + len(body), opcode, 1, nodeid, 1000, 1000, os.getpid())
        request = Request(header, memoryview(body))
        try:
            answer = self.session.handle(request)
            return bytes(asyncio.run(finish(answer)) if is_coming(answer) else answer)
        except OSError as error:
            raise OSError(self.session.errno_of(request, error), "") from error

    def lookup(self, name: str) -> tuple[int, int, int]:
        """nodeid, entry_valid, st_size"""
        answer = self.ask(Opcode.LOOKUP, wire.ROOT_ID, name.encode() + b"\0")
        nodeid, _, valid, *_ = wire.ENTRY_OUT.unpack_from(answer)
        return nodeid, valid, wire.ATTR.unpack_from(answer, wire.ENTRY_OUT.size)[1]

    def open(self, nodeid: int, flags: int = os.O_RDWR) -> tuple[int, Fopen, int]:
        fh, fopen, backing = wire.OPEN_OUT.unpack(self.ask(Opcode.OPEN, nodeid, wire.OPEN_IN.pack(flags, 0)))
        return fh, Fopen(fopen), backing

    def release(self, nodeid: int, fh: int) -> None:
        self.ask(Opcode.RELEASE, nodeid, wire.RELEASE_IN.pack(fh, 0, 0, 0))

    def forget(self, nodeid: int, count: int) -> None:
        self.ask(Opcode.FORGET, nodeid, wire.FORGET_IN.pack(count))

    def read(self, fh: int, pos: int, count: int, cached: bool = False) -> bytes:
        flags = 0 if cached else wire.READ_LOCKOWNER
        return self.ask(Opcode.READ, 0, wire.READ_IN.pack(fh, pos, count, flags, 0, os.O_RDWR, 0))

    def write(self, fh: int, pos: int, data: bytes, cached: bool = False) -> int:
        flags = wire.WRITE_CACHE if cached else 0
        answer = self.ask(Opcode.WRITE, 0, wire.WRITE_IN.pack(fh, pos, len(data), flags, 0, os.O_RDWR, 0) + data)
        return int(wire.WRITE_OUT.unpack(answer)[0])


def raises(number: int, call: Callable[[], Any]) -> bool:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno == number


def test_every_open_of_a_device_with_private_memory_has_a_node_of_its_own() -> None:
    kernel = Kernel(LkmcMmap())
    files = {}
    for _ in range(3):
        nodeid, valid, size = kernel.lookup("lkmc_mmap")
        assert (valid, size) == (0, PAGE_SIZE)
        fh, _, _ = kernel.open(nodeid)
        files[nodeid] = fh
    assert len(files) == 3
    first, *others = files.values()
    kernel.write(first, 0, b"qwer")
    assert kernel.read(first, 0, 100) == b"qwer"
    assert [kernel.read(fh, 0, 100) for fh in others] == [b"asdf", b"asdf"]


def test_opens_that_share_memory_share_one_node_from_the_first_on() -> None:
    kernel = Kernel(Ram())
    nodeid, valid, _ = kernel.lookup("ram")
    assert valid == 0
    kernel.open(nodeid)
    again, valid, _ = kernel.lookup("ram")
    assert again == nodeid
    assert valid > 1000


def test_an_open_that_was_looked_up_before_the_home_was_known_is_sent_there_by_estale() -> None:
    kernel = Kernel(Ram())
    first, other = kernel.lookup("ram")[0], kernel.lookup("ram")[0]
    assert first != other
    kernel.open(first)
    assert raises(errno.ESTALE, lambda: kernel.open(other))
    assert kernel.dispatches[0].device._files == {o.file for o in kernel.nodes.files.values()}
    assert kernel.lookup("ram")[0] == first


class Lazy(Device):
    """Memory that is made by the first open, and shared by all."""

    pages: Pages | None = None
    released = 0

    def open(self, file: File) -> None:  # noqa: ARG002
        if self.pages is None:
            self.pages = zeroed_pages(1)

    def release(self, file: File) -> None:  # noqa: ARG002
        self.released += 1

    def mmap(self, file: File, vma: Vma) -> Pages | None:  # noqa: ARG002
        return self.pages


def test_memory_made_by_the_first_open_and_shared_is_found_at_the_second() -> None:
    device = Lazy()
    kernel = Kernel(device)
    first = kernel.lookup("lazy")[0]
    kernel.open(first)
    other = kernel.lookup("lazy")[0]
    assert other != first
    assert raises(errno.ESTALE, lambda: kernel.open(other))
    assert device.released == 1
    assert kernel.lookup("lazy")[0] == first
    kernel.open(first)
    assert len(kernel.nodes.files) == 2


class Pool(Device):
    """Private memory that was made beforehand: it looks shared until the second open."""

    def __init__(self) -> None:
        self.pool = [zeroed_pages(1) for _ in range(4)]

    def open(self, file: File) -> None:
        file.private_data = self.pool.pop()

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        pages: Pages = file.private_data
        return pages


def test_private_memory_that_looked_shared_gets_nodes_of_its_own_at_the_second_open() -> None:
    kernel = Kernel(Pool())
    first = kernel.lookup("pool")[0]
    kernel.open(first)
    assert kernel.lookup("pool")[0] == first
    assert raises(errno.ESTALE, lambda: kernel.open(first))
    assert kernel.quiet.invalidated == [b"pool"]
    other = kernel.lookup("pool")[0]
    assert other != first
    kernel.open(other)
    assert len(kernel.nodes.files) == 2


def test_a_reopen_of_a_private_node_is_the_same_file_until_both_are_closed() -> None:
    kernel = Kernel(LkmcMmap())
    nodeid = kernel.lookup("lkmc_mmap")[0]
    fh, *_ = kernel.open(nodeid)
    assert kernel.open(nodeid)[0] == fh
    kernel.write(fh, 0, b"qwer")
    kernel.release(nodeid, fh)
    assert kernel.read(fh, 0, 4) == b"qwer"
    kernel.release(nodeid, fh)
    assert raises(errno.EBADF, lambda: kernel.read(fh, 0, 4))


def test_shared_memory_mode_registers_one_backing_file_for_each_node_and_gives_it_back() -> None:
    kernel = Kernel(LkmcMmap(), Ram(), mode=Mode.SHARED)
    wanted = Fopen.DIRECT_IO | Fopen.PASSTHROUGH | Fopen.PARALLEL_DIRECT_WRITES
    private = kernel.lookup("lkmc_mmap")[0]
    fh, fopen, backing = kernel.open(private)
    assert fopen == wanted
    shared = kernel.lookup("ram")[0]
    opens = [kernel.open(shared) for _ in range(3)]
    assert {(fopen, backing) for _, fopen, backing in opens} == {(wanted, opens[0][2])}
    assert len(kernel.quiet.backing) == 2
    kernel.release(private, fh)
    assert backing not in kernel.quiet.backing
    for fh, *_ in opens:
        kernel.release(shared, fh)
    assert len(kernel.quiet.backing) == 1  # that of the home is for the next open


def test_the_page_cache_reads_pages_and_an_error_past_the_end() -> None:
    kernel = Kernel(Ram(2 * PAGE_SIZE))
    nodeid = kernel.lookup("ram")[0]
    fh, fopen, _ = kernel.open(nodeid)
    assert fopen == Fopen.DIRECT_IO | Fopen.PARALLEL_DIRECT_WRITES
    assert kernel.write(fh, PAGE_SIZE, b"x" * PAGE_SIZE, cached=True) == PAGE_SIZE
    assert kernel.read(fh, 0, 2 * PAGE_SIZE, cached=True) == bytes(PAGE_SIZE) + b"x" * PAGE_SIZE
    assert kernel.read(fh, PAGE_SIZE + 5, 3) == b"xxx"
    for pos, count in ((2 * PAGE_SIZE, PAGE_SIZE), (0, 3 * PAGE_SIZE), (1 << 62, PAGE_SIZE)):
        assert raises(errno.EIO, partial(kernel.read, fh, pos, count, cached=True))
    assert kernel.write(fh, 1 << 40, b"lost", cached=True) == 4


def test_the_page_behind_the_end_is_no_error_where_read_asks_for_it_and_one_where_only_a_mapping_can() -> None:
    for mode, says in ((Mode.PAGE_CACHE, b""), (Mode.ON_DEMAND, None)):
        kernel = Kernel(Ram(PAGE_SIZE), mode=mode)
        nodeid, _, _ = kernel.lookup("ram")
        fh, _, _ = kernel.open(nodeid)
        assert len(kernel.read(fh, 0, PAGE_SIZE, cached=True)) == PAGE_SIZE
        if says is None:
            with pytest.raises(OSError) as failed:
                kernel.read(fh, PAGE_SIZE, PAGE_SIZE, cached=True)
            assert failed.value.errno == errno.EIO
        else:
            assert kernel.read(fh, PAGE_SIZE, PAGE_SIZE, cached=True) == says


class Lines(Device):
    """Every page is made of its number; counts its faults."""

    size = 100 * PAGE_SIZE

    def __init__(self) -> None:
        self.faults: list[int] = []

    def fault(self, file: File, vmf: VmFault) -> bytes:
        assert isinstance(file, File)
        self.faults.append(vmf.pgoff)
        if vmf.pgoff == 13:
            raise OSError(errno.EPERM, "unlucky")
        return bytes([vmf.pgoff]) * PAGE_SIZE


def test_a_page_is_faulted_once_and_keeps_what_is_stored() -> None:
    device = Lines()
    kernel = Kernel(device, mode=Mode.SHARED)
    nodeid, _, size = kernel.lookup("lines")
    assert size == 100 * PAGE_SIZE
    fh, fopen, _ = kernel.open(nodeid)
    assert not fopen & Fopen.PASSTHROUGH
    assert kernel.read(fh, 7 * PAGE_SIZE, 2 * PAGE_SIZE, cached=True) == b"\7" * PAGE_SIZE + b"\10" * PAGE_SIZE
    kernel.write(fh, 7 * PAGE_SIZE, b"z" * PAGE_SIZE, cached=True)
    assert kernel.read(fh, 7 * PAGE_SIZE, PAGE_SIZE, cached=True) == b"z" * PAGE_SIZE
    assert device.faults == [7, 8]
    assert raises(errno.EPERM, lambda: kernel.read(fh, 13 * PAGE_SIZE, PAGE_SIZE, cached=True))
    assert raises(errno.EIO, lambda: kernel.read(fh, 100 * PAGE_SIZE, PAGE_SIZE, cached=True))
    assert device.faults == [7, 8, 13]


class Sizeless(Device):
    """Nothing says its size before the first open."""

    def mmap(self, file: File, vma: Vma) -> OnDemandPages:  # noqa: ARG002
        return on_demand_pages(3)

    def fault(self, file: File, vmf: VmFault) -> bytes:  # noqa: ARG002
        return bytes(PAGE_SIZE)


def test_a_size_that_is_not_known_is_a_page_until_open_tells() -> None:
    kernel = Kernel(Sizeless())
    nodeid, _, size = kernel.lookup("sizeless")
    assert size == PAGE_SIZE
    assert kernel.quiet.stored == []
    kernel.open(nodeid)
    assert kernel.quiet.stored == [(nodeid, 3 * PAGE_SIZE - 1, 1)]
    answer = kernel.ask(Opcode.GETATTR, nodeid, wire.GETATTR_IN.pack(0, 0, 0))
    assert wire.ATTR.unpack_from(answer, wire.ATTR_OUT.size)[1] == 3 * PAGE_SIZE


class Refusing(Device):
    """Every operation says ENOSYS, which to the kernel would mean: never ask again."""

    def _refuse(self, *_: object) -> int:
        raise OSError(errno.ENOSYS, "")

    ioctl = poll = fsync = _refuse  # type: ignore[assignment]


def test_enosys_of_a_device_never_reaches_the_kernel() -> None:
    kernel = Kernel(Refusing())
    nodeid = kernel.lookup("refusing")[0]
    fh, *_ = kernel.open(nodeid)
    assert raises(errno.ENOTTY, lambda: kernel.ask(Opcode.IOCTL, nodeid, wire.IOCTL_IN.pack(fh, 0, 1, 0, 0, 0)))
    assert raises(errno.EIO, lambda: kernel.ask(Opcode.POLL, nodeid, wire.POLL_IN.pack(fh, 1, 0, 0)))
    assert raises(errno.EINVAL, lambda: kernel.ask(Opcode.FSYNC, nodeid, wire.FSYNC_IN.pack(fh, 0, 0)))


def test_an_open_that_fails_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Device):
        def open(self, file: File) -> None:  # noqa: ARG002
            raise RuntimeError("broken")

    kernel = Kernel(Broken())
    with caplog.at_level(logging.CRITICAL):
        assert raises(errno.EIO, lambda: kernel.open(kernel.lookup("broken")[0]))
    assert not kernel.nodes.files


def test_what_is_not_there() -> None:
    kernel = Kernel(Ram())
    assert raises(errno.ENOENT, lambda: kernel.lookup("nonesuch"))
    assert raises(errno.ESTALE, lambda: kernel.open(999))
    assert raises(errno.EBADF, lambda: kernel.read(999, 0, 4))
    assert raises(errno.ENOSYS, lambda: kernel.ask(Opcode.FLUSH, 1))
    for opcode in (8, 9, 10, 12, 35):  # MKNOD MKDIR UNLINK RENAME CREATE
        assert raises(errno.EPERM, partial(kernel.ask, opcode, 1, b"x\0"))


def test_the_directory_is_listed_in_as_many_pieces_as_it_takes() -> None:
    kernel = Kernel(LkmcMmap(), Ram())
    names, offset = [], 0
    while entries := kernel.ask(Opcode.READDIR, 1, wire.READ_IN.pack(0, offset, 40, 0, 0, 0, 0)):
        _, offset, length, _ = wire.DIRENT.unpack_from(entries)
        names.append(entries[wire.DIRENT.size :][:length])
    assert names == [b".", b"..", b"lkmc_mmap", b"ram"]


def test_a_listing_with_attributes_saves_lookups_of_what_is_mounted_on_and_leaves_devices_to_them() -> None:
    kernel = Kernel(Ram())
    kernel.nodes.root.entries |= {b"below": Directory(), b"null": Placeholder()}
    found, offset = {}, 0
    while entries := kernel.ask(Opcode.READDIRPLUS, 1, wire.READ_IN.pack(0, offset, 200, 0, 0, 0, 0)):
        nodeid, *_ = wire.ENTRY_OUT.unpack_from(entries)
        _, offset, length, _ = wire.DIRENT.unpack_from(entries, len(wire.NO_ENTRY))
        found[entries[len(wire.NO_ENTRY) + wire.DIRENT.size :][:length]] = nodeid
    assert found.keys() == {b".", b"..", b"ram", b"below", b"null"}
    assert {name for name, nodeid in found.items() if nodeid} == {b"below", b"null"}
    assert kernel.lookup("null")[0] == found[b"null"]
    kernel.forget(found[b"null"], 1)
    assert kernel.nodes.get(found[b"null"]) is not None  # looked up by both
    kernel.forget(found[b"null"], 1)
    assert kernel.nodes.get(found[b"null"]) is None


def test_truncation_changes_nothing_and_truncate_is_refused() -> None:
    kernel = Kernel(Ram())
    nodeid, _, size = kernel.lookup("ram")

    def setattr_(valid: int, size: int) -> int:
        answer = kernel.ask(Opcode.SETATTR, nodeid, wire.SETATTR_IN.pack(valid, 0, 0, size, *bytes(12)))
        return int(wire.ATTR.unpack_from(answer, wire.ATTR_OUT.size)[1])

    assert setattr_(wire.FATTR_SIZE, 0) == size  # O_TRUNC
    assert raises(errno.EINVAL, lambda: setattr_(wire.FATTR_SIZE | wire.FATTR_FH, 0))
    assert raises(errno.EINVAL, lambda: setattr_(wire.FATTR_SIZE, 5))
    assert raises(errno.EPERM, lambda: setattr_(wire.FATTR_MODE, 0))


class Lookups(RuleBasedStateMachine):
    """Whatever the kernel looks up, opens, closes and forgets: nothing is lost, and nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel(LkmcMmap(), Ram(), mode=Mode.SHARED)
        self.lookups: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.files: list[tuple[int, int]] = []

    @rule(name=st.sampled_from(["lkmc_mmap", "ram"]))
    def lookup(self, name: str) -> None:
        nodeid, *_ = self.kernel.lookup(name)
        assert self.names.setdefault(nodeid, name) == name
        self.lookups[nodeid] = self.lookups.get(nodeid, 0) + 1

    @precondition(lambda self: self.lookups)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        nodeid = data.draw(st.sampled_from(sorted(self.lookups)))
        home = self.kernel.nodes.home(self.kernel.entries["ram"])
        if self.names[nodeid] == "ram" and home is not None and home.nodeid != nodeid:
            assert raises(errno.ESTALE, lambda: self.kernel.open(nodeid))
        else:
            self.files.append((nodeid, self.kernel.open(nodeid)[0]))

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.kernel.release(*self.files.pop(data.draw(st.integers(0, len(self.files) - 1))))

    @precondition(lambda self: self.lookups)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        free = sorted(set(self.lookups) - {nodeid for nodeid, _ in self.files})
        if free:
            nodeid = data.draw(st.sampled_from(free))
            self.kernel.forget(nodeid, self.lookups.pop(nodeid))
            if nodeid != 2 and self.names[nodeid] != "ram":
                del self.names[nodeid]

    @invariant()
    def state_is_what_the_kernel_holds(self) -> None:
        nodes = self.kernel.nodes
        assert {
            nodeid: node.lookups for nodeid, node in nodes._nodes.items() if nodeid != wire.ROOT_ID
        } == self.lookups
        assert set(nodes.files) == {fh for _, fh in self.files}
        mapped = {nodeid for nodeid, _ in self.files if self.names[nodeid] == "lkmc_mmap"}
        assert len(self.kernel.quiet.backing) <= len(mapped) + 1


TestLookups = Lookups.TestCase
TestLookups.settings = settings(max_examples=60, stateful_step_count=40)
