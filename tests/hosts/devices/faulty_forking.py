"""A device that leaves a child process behind, as one that uses ``multiprocessing`` may."""

import os
import signal
import sys

from mapdev import Device, File


class Forking(Device):
    """Each open forks; the child sleeps for a minute and knows nothing of the host."""

    def open(self, file: File) -> None:  # noqa: ARG002
        child = os.fork()
        if not child:
            os.close(1)  # whoever reads what the host says waits for its end
            signal.alarm(60)
            signal.pause()
        sys.stderr.write(f"child {child}\n")

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return b""
