"""The wire format: against the kernel's header as a C compiler sees it, and against itself with hypothesis."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.wire import Attr, Fopen, Init, InitIn, Notify, Opcode

# the fields of each structure, in the order of our format
FIELDS = {
    "fuse_in_header": "len opcode unique nodeid uid gid pid total_extlen padding",
    "fuse_out_header": "len error unique",
    "fuse_attr": "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize "
    "flags",
    "fuse_entry_out": "nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec attr",
    "fuse_attr_out": "attr_valid attr_valid_nsec dummy attr",
    "fuse_forget_in": "nlookup",
    "fuse_forget_one": "nodeid nlookup",
    "fuse_batch_forget_in": "count dummy",
    "fuse_getattr_in": "getattr_flags dummy fh",
    "fuse_setattr_in": "valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode unused4 "
    "uid gid unused5",
    "fuse_open_in": "flags open_flags",
    "fuse_open_out": "fh open_flags backing_id",
    "fuse_release_in": "fh flags release_flags lock_owner",
    "fuse_read_in": "fh offset size read_flags lock_owner flags padding",
    "fuse_write_in": "fh offset size write_flags lock_owner flags padding",
    "fuse_write_out": "size padding",
    "fuse_statfs_out": "st.blocks st.bfree st.bavail st.files st.ffree st.bsize st.namelen st.frsize st.padding",
    "fuse_fsync_in": "fh fsync_flags padding",
    "fuse_init_in": "major minor max_readahead flags flags2",
    "fuse_init_out": "major minor max_readahead flags max_background congestion_threshold max_write time_gran "
    "max_pages map_alignment flags2 max_stack_depth",
    "fuse_interrupt_in": "unique",
    "fuse_ioctl_in": "fh flags cmd arg in_size out_size",
    "fuse_ioctl_out": "result flags in_iovs out_iovs",
    "fuse_poll_in": "fh kh flags events",
    "fuse_poll_out": "revents padding",
    "fuse_dirent": "ino off namelen type",
    "fuse_notify_poll_wakeup_out": "kh",
    "fuse_notify_inval_inode_out": "ino off len",
    "fuse_notify_inval_entry_out": "parent namelen flags",
    "fuse_notify_store_out": "nodeid offset size padding",
    "fuse_notify_retrieve_out": "notify_unique nodeid offset size padding",
    "fuse_notify_retrieve_in": "dummy1 offset size dummy2 dummy3 dummy4",
    "fuse_backing_map": "fd flags padding",
}

# what headers of protocol 7.31 (Debian 11) to 7.39 do not have yet
NEWER = {
    "fuse_in_header.total_extlen", "fuse_open_in.open_flags", "fuse_open_out.backing_id", "fuse_init_in.flags2",
    "fuse_init_out.flags2", "fuse_init_out.max_stack_depth", "fuse_notify_inval_entry_out.flags", "fuse_attr.flags",
    "fuse_backing_map",
}  # fmt: skip

CONSTANTS: dict[str, int] = {
    **{f"FUSE_{code.name}": code for code in Opcode},
    **{f"FUSE_NOTIFY_{code.name}": code for code in Notify},
    **{f"FUSE_{flag.name}": flag for flag in Init},
    **{f"FOPEN_{flag.name}": flag for flag in Fopen if flag},
    "FUSE_KERNEL_VERSION": wire.MAJOR,
    "FUSE_ROOT_ID": wire.ROOT_ID,
    "FUSE_READ_LOCKOWNER": wire.READ_LOCKOWNER,
    "FUSE_WRITE_CACHE": wire.WRITE_CACHE,
    "FUSE_FSYNC_FDATASYNC": wire.FSYNC_FDATASYNC,
    "FUSE_IOCTL_COMPAT": wire.IOCTL_COMPAT,
    "FUSE_POLL_SCHEDULE_NOTIFY": wire.POLL_SCHEDULE_NOTIFY,
    "FATTR_MODE": wire.FATTR_MODE,
    "FATTR_UID": wire.FATTR_UID,
    "FATTR_GID": wire.FATTR_GID,
    "FATTR_SIZE": wire.FATTR_SIZE,
    "FATTR_FH": wire.FATTR_FH,
    "FUSE_DEV_IOC_BACKING_OPEN": wire.DEV_IOC_BACKING_OPEN,
    "FUSE_DEV_IOC_BACKING_CLOSE": wire.DEV_IOC_BACKING_CLOSE,
}


def _program(missing: set[str]) -> str:
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <sys/ioctl.h>", "#include <linux/fuse.h>"]
    lines.append("int main(void) {")
    for name, fields in FIELDS.items():
        if name in missing:
            continue
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        present = [field for field in fields.split() if f"{name}.{field}" not in missing]
        lines += [f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));' for field in present]
    for name in CONSTANTS:
        # enumerators are not macros; those that are used here are older than any header that is met
        is_enum = name.removeprefix("FUSE_") in Opcode.__members__ or name.startswith("FUSE_NOTIFY_")
        text = f'printf("{name} %llu\\n", (unsigned long long){name});'
        lines.append(text if is_enum else f"#ifdef {name}\n{text}\n#endif")
    return "\n".join([*lines, "return 0; }", ""])


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes, offsets and constants as the C compiler has them; an older header may lack those in NEWER."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    if not Path("/usr/include/linux/fuse.h").exists():
        pytest.skip("linux/fuse.h is not installed (linux-libc-dev)")
    place = tmp_path_factory.mktemp("header")
    source, program = place / "header.c", place / "header"
    missing: set[str] = set()
    english = {**os.environ, "LC_ALL": "C"}  # the messages are read
    while True:
        source.write_text(_program(missing))
        command = ["gcc", "-std=c11", "-Wall", "-o", str(program), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=english)
        if done.returncode == 0:
            break
        lacking = {f"{s}.{f}" for s, f in re.findall(r"'struct (\w+)' has no member named '(\w+)'", done.stderr)}
        lacking |= set(re.findall(r"(?:incomplete|undefined) type 'struct (\w+)'", done.stderr))
        lacking -= missing
        assert lacking, done.stderr
        assert lacking <= NEWER
        missing |= lacking
    output = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


@pytest.mark.parametrize("name", FIELDS)
def test_structures_are_those_of_the_header(header: dict[str, int], name: str) -> None:
    if name not in header:
        assert name in NEWER
        pytest.skip(f"this linux/fuse.h is older than struct {name}")
    parts = wire.STRUCTS[name]
    assert sum(part.size for part in parts) == header[name]
    codes = "".join(code * int(n or 1) for n, code in re.findall(r"(\d*)([A-Za-z])", parts[0].format) if code != "x")
    fields = FIELDS[name].split()
    # the last field may be a structure of its own (attr), for which the format has no code
    assert len(codes) == len(fields) - (len(parts) - 1)
    for number, field in enumerate(fields):
        offset = struct.calcsize("=" + codes[:number])
        assert header.get(f"{name}.{field}", offset) == offset, field


def test_constants_are_those_of_the_header(header: dict[str, int]) -> None:
    known = {name: value for name, value in CONSTANTS.items() if name in header}
    assert {name: header[name] for name in known} == {name: int(value) for name, value in known.items()}
    assert len(known) >= 45


def test_every_structure_is_compared() -> None:
    assert FIELDS.keys() == wire.STRUCTS.keys()


u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@given(u32, u64, u64, u32, u32, u32, st.binary(max_size=200))
def test_header_round_trip(opcode: int, unique: int, nodeid: int, uid: int, gid: int, pid: int, body: bytes) -> None:
    length = wire.IN_HEADER.size + len(body)
    data = wire.IN_HEADER.pack(length, opcode, unique, nodeid, uid, gid, pid, 0, 0) + body
    assert wire.parse_header(data) == (length, opcode, unique, nodeid, uid, gid, pid, 0, 0)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_a_protocol_error(data: bytes) -> None:
    try:
        assert wire.parse_header(data).length == len(data)
    except wire.ProtocolError:
        assert len(data) < wire.IN_HEADER.size or int.from_bytes(data[:4], "little") != len(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_name_or_a_protocol_error(data: bytes) -> None:
    try:
        name = wire.parse_name(data)
    except wire.ProtocolError:
        assert b"\0" not in data or data[:1] == b"\0" or b"/" in data.split(b"\0")[0]
    else:
        assert data.startswith(name + b"\0")


@given(st.lists(st.tuples(u64, u64), max_size=20), st.binary(max_size=15))
def test_batch_forget_round_trip(nodes: list[tuple[int, int]], rest: bytes) -> None:
    body = wire.BATCH_FORGET_IN.pack(len(nodes), 0) + b"".join(wire.FORGET_ONE.pack(*node) for node in nodes)
    assert wire.parse_batch_forget(body + rest) == nodes
    if nodes:
        with pytest.raises(wire.ProtocolError):
            wire.parse_batch_forget(body[:-1])


@given(u32, u32, u32, u32, u32)
def test_init_is_understood_from_old_and_new_kernels(
    major: int, minor: int, ahead: int, flags: int, more: int
) -> None:
    old = struct.pack("=IIII", major, minor, ahead, flags & ~Init.INIT_EXT)
    assert InitIn.parse(old) == (major, minor, ahead, Init(flags & ~Init.INIT_EXT))
    new = wire.INIT_IN.pack(major, minor, ahead, flags | Init.INIT_EXT, more)
    assert InitIn.parse(new).flags == (flags | Init.INIT_EXT | more << 32)
    assert not InitIn.parse(wire.INIT_IN.pack(major, minor, ahead, flags & ~Init.INIT_EXT, more)).flags >> 32


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), u32)
def test_init_answers_only_what_was_offered(offered: int, wanted: int, ahead: int) -> None:
    offer = InitIn(7, 45, ahead, Init(offered))
    answer = wire.INIT_OUT.unpack(wire.init_out(offer, Init(wanted), 1 << 20, 256, 1))
    assert answer[3] | answer[10] << 32 == offered & wanted
    assert answer[0] == 7
    assert answer[1] <= wire.MINOR
    assert answer[2] == min(1 << 20, ahead)


@given(u64, u64, u32, st.integers(0, 2**63), st.binary(min_size=1, max_size=255))
def test_dirents_are_aligned_and_read_back(ino: int, off: int, mode: int, size: int, name: bytes) -> None:
    entry = wire.dirent(ino, off, name, mode)
    assert len(entry) % 8 == 0
    got_ino, got_off, length, kind = wire.DIRENT.unpack_from(entry)
    assert (got_ino, got_off, entry[wire.DIRENT.size :][:length], kind) == (ino, off, name, mode >> 12 & 15)
    attr = Attr(ino, size, mode, 1, 0, 0, 0)
    assert wire.ATTR.unpack(attr.pack())[:3] == (ino, size, -(-size // 512))


@given(st.sampled_from(Notify), st.lists(st.binary(max_size=50), max_size=4))
def test_notifications_say_their_length(code: Notify, parts: list[bytes]) -> None:
    data = b"".join(bytes(piece) for piece in wire.notification(code, *parts))
    assert wire.OUT_HEADER.unpack_from(data) == (len(data), code, 0)
