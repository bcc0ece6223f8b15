"""What the processes of a run say to each other, through a socket pair between processes that are all ours."""

import pickle
import socket
import struct
from typing import Final

_LENGTH: Final = struct.Struct("=Q")
TRACE_ME: Final = struct.Struct("=QQ")
"""The pid of what becomes the program, and the device number (st_dev) of the FUSE mount."""
ST_DEV: Final = struct.Struct("=Q")
"""That number alone; it comes with the descriptor of a seccomp listener."""


def send(to: socket.socket, thing: object) -> None:
    """For ``receive``, in a process that is ours."""
    data = pickle.dumps(thing)
    to.sendall(_LENGTH.pack(len(data)) + data)


def receive(source: socket.socket) -> object:
    """What was sent; None at the end of the stream."""
    with source.dup() as duplicate, duplicate.makefile("rb", buffering=0) as stream:
        head = stream.read(_LENGTH.size)
        if not head or len(head) < _LENGTH.size:
            return None
        (left,) = _LENGTH.unpack(head)
        data = bytearray()
        while len(data) < left:
            piece = stream.read(left - len(data))
            if not piece:
                return None
            data += piece
    thing: object = pickle.loads(bytes(data))
    return thing
