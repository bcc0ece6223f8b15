"""A child that calls one function, and ends."""

import os
import sys
from collections.abc import Callable


def fork(child: Callable[[], object]) -> int:
    """The pid of a process that calls `child`, and ends with 0, or with 1 and a traceback. One thread only."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: its descriptor was closed when we were started
            stream.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        child()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # ours: whatever users can do wrong has been reported
        os._exit(1)
    os._exit(0)
