"""Kernels that can do less: what is agreed with them, and how memory is given to programs then.

The test is the kernel, at the other end of a socket, of a host in a process of its own.
"""

import socket
import struct
import subprocess
import sys

import pytest

from mapdev.hosts.fuse import wire
from mapdev.hosts.fuse.wire import Init

HOST = """
import os, sys
from mapdev.devices import Ram
from mapdev.dispatch import Dispatch
from mapdev.hosts.fuse.channel import Channel
from mapdev.hosts.base import Permissions
from mapdev.hosts.fuse.nodes import Nodes
from mapdev.hosts.fuse.session import Mode, Session
from mapdev.hosts.fuse.tree import DeviceEntry, Directory

channel = Channel(int(sys.argv[1]))
root = Directory({b"ram": DeviceEntry(Dispatch(Ram(), "ram"))})
session = Session(Nodes(root, Permissions(0o600, 0, 0)), channel, Mode.SHARED)
try:
    channel.serve(session, 0)
    print(session.mode.value, flush=True)
except OSError as error:
    print(error, flush=True)
os._exit(0)
"""
NEW = Init.MAX_PAGES | Init.INIT_EXT | Init.DIRECT_IO_ALLOW_MMAP | Init.PASSTHROUGH | Init.ASYNC_READ
OLD = Init.MAX_PAGES | Init.ASYNC_READ


def init(major: int, minor: int, flags: Init, short: bool = False) -> bytes:
    """An INIT request; kernels before 5.17 send the `short` form, without further flags."""
    body = wire.INIT_IN.pack(major, minor, 1 << 17, flags & 0xFFFFFFFF, flags >> 32)
    body = body[:16] if short else body
    return wire.IN_HEADER.pack(wire.IN_HEADER.size + len(body), wire.Opcode.INIT, 2, 0, 0, 0, 0, 0, 0) + body


def agree(*requests: bytes) -> tuple[str, list[tuple[int, int, Init]]]:
    """What the host says of it, and what it replied to each request: major, minor, flags."""
    kernel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, its:
        host = subprocess.Popen(
            [sys.executable, "-c", HOST, str(its.fileno())], pass_fds=[its.fileno()], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        kernel.settimeout(20)
        replies = []
        try:
            for request in requests:
                kernel.send(request)
                if request[4:8] == struct.pack("=I", wire.Opcode.INIT):
                    reply = kernel.recv(4096)
                    assert wire.OUT_HEADER.unpack_from(reply) == (len(reply), 0, 2)
                    major, minor, _, low, *_, high, _ = wire.INIT_OUT.unpack_from(reply, wire.OUT_HEADER.size)
                    replies.append((major, minor, Init(low | high << 32)))
            said, _ = host.communicate(timeout=20)
        finally:
            host.kill()
            host.wait(10)
    return said.strip(), replies


def test_passthrough_that_is_offered_and_does_not_work_is_on_demand() -> None:
    said, [(major, minor, flags)] = agree(init(7, 45, NEW))
    assert said == "on demand"
    assert (major, minor) == (7, wire.MINOR)
    assert Init.DIRECT_IO_ALLOW_MMAP in flags


@pytest.mark.parametrize("short", [False, True])
def test_before_linux_6_6_it_is_page_cache_only(short: bool) -> None:
    said, [(major, minor, flags)] = agree(init(7, 31, OLD, short))
    assert said == "page cache only"
    assert (major, minor) == (7, 31)
    assert flags == OLD


def test_flags_of_a_kernel_that_did_not_say_there_are_more_are_not_looked_at() -> None:
    said, _ = agree(init(7, 31, OLD | Init.DIRECT_IO_ALLOW_MMAP | Init.PASSTHROUGH))
    assert said == "page cache only"


def test_a_kernel_with_a_newer_protocol_is_asked_for_ours() -> None:
    said, replies = agree(init(8, 0, NEW), init(7, 45, NEW))
    assert said == "on demand"
    assert [major for major, *_ in replies] == [7, 7]


def test_a_kernel_with_an_older_protocol_is_refused() -> None:
    said, _ = agree(init(6, 0, OLD))
    assert "speaks another FUSE protocol" in said


def test_what_is_no_request_is_logged_and_passed_over() -> None:
    said, _ = agree(b"\1\2\3", init(7, 45, NEW))
    assert said.splitlines() == ["a request of 3 bytes is shorter than its header", "on demand"]
