"""The kernel module, played in this process: the other end of a socket that keeps messages apart, and the ioctls."""

import ctypes
import errno
import itertools
import os
import select
import socket
import threading

from mapdev import Device, libc
from mapdev.dispatch import Dispatch
from mapdev.hosts.kmod import uapi
from mapdev.hosts.kmod.channel import Channel
from mapdev.hosts.kmod.session import Session
from mapdev.hosts.kmod.uapi import Opcode
from mapdev.hosts.workers import Loop
from mapdev.libc import PAGE_SIZE

TIMEOUT = 20


class FakeChannel(Channel):
    """A channel whose descriptor is a socket: what it cannot do there is done by `module`."""

    def __init__(self, fd: int, loop: Loop, module: "FakeModule") -> None:
        super().__init__(fd, loop)
        self._module = module

    def _ioctl(self, number: int, argument: ctypes.Structure | ctypes.c_uint64) -> None:
        self._module.ioctl(number, argument)

    def reply(self, unique: int, *args: object, **more: object) -> bool:
        if unique in self._module.gone:  # its program was killed
            return False
        return super().reply(unique, *args, **more)  # type: ignore[arg-type]

    def map(self, map_offset: int, length: int) -> int:
        fd = self._module.backing[map_offset]
        return libc.mmap(None, length, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED, fd, 0)


class FakeModule:
    """One device as the module has it. ``ask`` is a program's call; the ioctls of the host are in ``called``."""

    def __init__(self, device: Device) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        self.called: list[tuple[int, tuple[int, ...]]] = []
        self.backing: dict[int, int] = {}
        """By map_offset, which here is the id: a memfd with the pages of the kernel."""
        self.memfds: dict[int, int] = {}
        self.gone: set[int] = set()
        self.user = bytearray(8192)
        """The memory of every program, from address 4096 on."""
        self._ids, self._uniques = itertools.count(1), itertools.count(1)
        self._socket = ours
        self._answers: dict[int, tuple[uapi.Reply, bytes]] = {}
        self._lock = threading.Lock()
        self.loop = Loop()
        self.channel = FakeChannel(theirs.detach(), self.loop, self)
        self.session = Session(Dispatch(device, "x"), self.channel)
        self.channel.serve(self.session)

    def close(self) -> None:
        """End the host's side as ``KmodHost.close`` does."""
        self.channel.stop()
        ended = self.loop.made is None or self.loop.made.cancel_all()
        self.channel.release()
        if self.loop.made is not None and ended:
            self.loop.made.close()
        self._socket.close()
        for fd in (*self.backing.values(), *self.memfds.values()):
            os.close(fd)

    # -- what the module says

    def send(
        self,
        opcode: int,
        file: int,
        body: ctypes.Structure | None = None,
        payload: bytes = b"",
        flags: int = os.O_RDWR,
    ) -> int:
        """A request, or a notice, on its way: its number."""
        unique = 0 if opcode in uapi.NOTICES else next(self._uniques)
        header = uapi.Request(opcode=opcode, unique=unique, file=file, pid=77, uid=1000, gid=1001, flags=flags)
        self._socket.send(uapi.message(header, body, payload))
        return unique

    def raw(self, data: bytes) -> None:
        """Any bytes."""
        self._socket.send(data)

    def answer(self, unique: int) -> tuple[uapi.Reply, bytes]:
        """The reply to a request, and its payload."""
        while unique not in self._answers:
            assert select.select([self._socket], [], [], TIMEOUT)[0], f"request {unique} is not answered"
            data = self._socket.recv(uapi.MIN_BUFFER)
            reply = uapi.Reply.from_buffer_copy(data)
            assert reply.len == len(data)
            assert reply.unique not in self._answers, f"request {reply.unique} was answered twice"
            self._answers[reply.unique] = reply, data[uapi.REPLY_SIZE :]
        return self._answers[unique]

    def has_answered(self, unique: int) -> bool:
        return unique in self._answers or bool(select.select([self._socket], [], [], 0)[0])

    def ask(
        self,
        opcode: int,
        file: int,
        body: ctypes.Structure | None = None,
        payload: bytes = b"",
        flags: int = os.O_RDWR,
    ) -> tuple[uapi.Reply, bytes]:
        """A call of a program that comes back: raises the ``OSError`` that the program gets."""
        reply, data = self.answer(self.send(opcode, file, body, payload, flags))
        if reply.error:
            raise OSError(-reply.error, os.strerror(-reply.error))
        return reply, data

    # -- calls of programs

    def open(self, file: int, flags: int = os.O_RDWR) -> int:
        return int(self.ask(Opcode.OPEN, file, flags=flags)[0].flags)

    def read(self, file: int, pos: int, count: int) -> bytes:
        return self.ask(Opcode.READ, file, uapi.ReadIn(pos, count))[1]

    def write(self, file: int, pos: int, data: bytes) -> int:
        return int(self.ask(Opcode.WRITE, file, uapi.ReadIn(pos, len(data)), data)[0].value)

    def ioctl_(self, file: int, cmd: int, arg: int = 4096, flags: int = 0) -> tuple[int, bytes]:
        size = cmd >> 16 & 0x3FFF
        data = bytes(self.user[arg - 4096 : arg - 4096 + size]) if cmd >> 30 & 1 else b""
        body = uapi.IoctlIn(cmd, flags, arg, len(data), size if cmd >> 30 & 2 else 0)
        reply, out = self.ask(Opcode.IOCTL, file, body, data)
        return int(reply.value), out

    def mmap(self, file: int, pgoff: int = 0, length: int = PAGE_SIZE) -> int:
        return int(self.ask(Opcode.MMAP, file, uapi.VmaIn(0, 0, length, pgoff, 11))[0].value)

    def fault(self, file: int, memory: int, pgoff: int) -> bytes:
        """The page is put into the kernel's own."""
        _, data = self.ask(Opcode.FAULT, file, uapi.FaultIn(memory, pgoff, 1 << 20, 0))
        out, page = uapi.FaultOut.from_buffer_copy(data), data[ctypes.sizeof(uapi.FaultOut) :]
        assert (out.pgoff, out.npages, len(page)) == (pgoff, 1, PAGE_SIZE)
        os.pwrite(self.backing[memory], page, pgoff * PAGE_SIZE)
        return page

    # -- ioctls of the host

    def ioctl(self, number: int, argument: ctypes.Structure | ctypes.c_uint64) -> None:
        with self._lock:
            if isinstance(argument, uapi.Memory):
                argument.id = argument.map_offset = next(self._ids)
                if argument.kind == uapi.MemoryKind.MEMFD:
                    self.memfds[argument.id] = os.dup(argument.memfd)
                else:
                    self.backing[argument.id] = os.memfd_create("kernel")
                    os.ftruncate(self.backing[argument.id], argument.length)
            values = (argument.value,) if isinstance(argument, ctypes.c_uint64) else tuple(
                getattr(argument, field) for field, *_ in argument._fields_)  # fmt: skip
            self.called.append((number, values))
            if isinstance(argument, uapi.UserCopy):
                at = argument.address - 4096
                if not 0 <= at <= len(self.user) - argument.length:
                    raise OSError(errno.EFAULT, "Bad address")
                here = (ctypes.c_char * argument.length).from_buffer(self.user, at)
                to, source = argument.buffer, ctypes.addressof(here)
                if number == uapi.IOC_STORE:
                    to, source = source, to
                ctypes.memmove(to, source, argument.length)

    def count(self, number: int) -> int:
        return sum(called == number for called, _ in self.called)
