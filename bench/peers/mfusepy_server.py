"""mfusepy_server.py MOUNTPOINT BYTES: the device of the bench as a user of mfusepy writes it (see lowlevel.c)."""

import ctypes
import errno
import mmap
import os
import stat
import sys
import threading
import time

import mfusepy

GET_COUNT = 2 << 30 | 8 << 16 | ord("b") << 8 | 1


class Operations(mfusepy.Operations):
    use_ns = True

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        self.opens = 0

    def init(self, path):
        threading.Thread(target=self.announce, daemon=True).start()

    def announce(self):
        time.sleep(0.01)
        print("ready", flush=True)

    def getattr(self, path, fh=None):
        if path not in ("/", "/memory", "/device"):
            raise mfusepy.FuseOSError(errno.ENOENT)
        is_root = path == "/"
        return {"st_mode": stat.S_IFDIR | 0o700 if is_root else stat.S_IFREG | 0o600, "st_nlink": 1,
                "st_size": 0 if is_root else len(self.memory),
                "st_uid": os.getuid(), "st_gid": os.getgid()}  # fmt: skip

    def open(self, path, fi):
        self.opens += 1
        fi.direct_io = path == "/device"
        fi.fh = self.opens
        return 0

    def read(self, path, size, offset, fi):
        return self.memory[offset : offset + size]

    def write(self, path, data, offset, fi):
        self.memory[offset : offset + len(data)] = data
        return len(data)

    def ioctl(self, path, cmd, arg, fh, flags, data):
        if cmd != GET_COUNT:
            raise mfusepy.FuseOSError(errno.ENOTTY)
        ctypes.c_uint64.from_address(data).value = self.opens
        return 0

    # all that is not needed here has to be undefined, or each open and close asks for it
    flush = release = opendir = releasedir = None


mfusepy.FUSE(Operations(int(sys.argv[2])), sys.argv[1], foreground=True, nothreads=True, raw_fi=True,
             attr_timeout=1e6, entry_timeout=1e6)  # fmt: skip
