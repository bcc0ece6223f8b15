"""ioctl numbers, mountinfo: small things with a form that others define."""

import ctypes
import os
import struct
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev import IO, IOR, IOW, IOWR, IoctlArg
from mapdev.hosts.fuse.mount import mount_id, mountinfo, parse_mountinfo


class _Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint64))


def test_ioctl_numbers_are_those_of_the_headers() -> None:
    assert IO("T", 0x2F) == 0x542F
    assert IOR("T", 0x30, 4) == termios.TIOCGPTN if hasattr(termios, "TIOCGPTN") else 0x80045430
    assert IOW("E", 0x90, 4) == 0x40044590  # EVIOCGRAB
    assert IOWR("d", 0, 64) == 0xC0406400  # DRM_IOCTL_VERSION
    assert IOR(229, 1, struct.Struct("<iIQ")) == IOR(229, 1, 16)
    assert IOR("x", 1, _Pair) == IOR("x", 1, 16)
    for type_, nr, size in (("x", 256, 0), ("x", 1, 1 << 14), (256, 1, 4)):
        with pytest.raises(ValueError, match="no ioctl number"):
            IOR(type_, nr, size)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 16383))
def test_ioctl_numbers_hold_their_parts(type_: int, nr: int, size: int) -> None:
    for make, direction in ((IOW, 1), (IOR, 2), (IOWR, 3)):
        number = make(type_, nr, size)
        assert (number >> 30, number >> 16 & 0x3FFF, number >> 8 & 255, number & 255) == (direction, size, type_, nr)


def test_an_argument_without_a_process_is_a_bad_address() -> None:
    with pytest.raises(OSError, match="cannot be seen"):
        IoctlArg(4096).copy_from_user(4)
    with pytest.raises(OSError, match="pass a count"):
        IoctlArg(4096, pid=os.getpid()).copy_from_user()
    buffer = ctypes.create_string_buffer(b"asdf")
    argument = IoctlArg(ctypes.addressof(buffer), pid=os.getpid())
    assert argument.copy_from_user(4) == b"asdf"
    argument.copy_to_user(b"zx", ctypes.addressof(buffer) + 2)
    assert buffer.value == b"aszx"


def test_this_machines_mounts_are_understood() -> None:
    mounts = mountinfo()
    root = os.open("/", os.O_PATH)
    try:
        assert mount_id(root) in {mount.mount_id for mount in mounts}
    finally:
        os.close(root)
    assert {"/", "/proc"} <= {mount.path for mount in mounts}


def test_a_mount_point_with_odd_characters_is_read_back() -> None:
    line = r"36 35 98:0 /mnt1 /a\040b\134c rw,noatime master:1 - fuse.mapdev mapdev rw,user_id=0"
    found = parse_mountinfo(line)
    assert (found.mount_id, found.path, found.fstype) == (36, r"/a b\c", "fuse.mapdev")
