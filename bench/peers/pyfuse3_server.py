"""pyfuse3_server.py MOUNTPOINT BYTES: the device of the bench as a user of pyfuse3 writes it (see lowlevel.c)."""

import mmap
import os
import select
import signal
import stat
import sys

import pyfuse3
import trio

MEMORY, DEVICE = 2, 3
FOREVER = 1e6
NAMES = {b"memory": MEMORY, b"device": DEVICE}


class Operations(pyfuse3.Operations):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.memory = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
        self.ready = False
        self.polling: pyfuse3.PollHandle | None = None

    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        if inode not in (pyfuse3.ROOT_INODE, MEMORY, DEVICE):
            raise pyfuse3.FUSEError(2)
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o700 if is_root else stat.S_IFREG | 0o600
        entry.st_size = 0 if is_root else len(self.memory)
        entry.st_ino, entry.st_uid, entry.st_gid = inode, os.getuid(), os.getgid()
        entry.attr_timeout = entry.entry_timeout = FOREVER
        return entry

    async def lookup(self, parent_inode, name, ctx=None):
        if name not in NAMES:
            raise pyfuse3.FUSEError(2)
        return await self.getattr(NAMES[name])

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, direct_io=inode == DEVICE, keep_cache=False)

    async def read(self, fh, off, size):
        if fh == DEVICE:
            self.ready = False
        return self.memory[off : off + size]

    async def write(self, fh, off, buf):
        self.memory[off : off + len(buf)] = buf
        self.ready = True
        if self.polling is not None:
            self.polling.notify()
            self.polling = None
        return len(buf)

    async def poll(self, inode, fh, poll_handle, ctx):
        if poll_handle is not None:
            self.polling = poll_handle
        return select.POLLOUT | (select.POLLIN if self.ready else 0)


async def serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal)
        print("ready", flush=True)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def end_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            pyfuse3.terminate()


pyfuse3.init(Operations(int(sys.argv[2])), sys.argv[1], {"fsname=bench"})
try:
    trio.run(serve)
finally:
    pyfuse3.close()
