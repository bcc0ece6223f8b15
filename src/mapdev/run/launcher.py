"""`mapdev run`: a program in which devices exist. Three processes:

* the launcher, which the user has started: it waits for the program, passes on signals, and ends as the program ends;
* the program, its child, in namespaces of its own (see ``namespace``);
* the host, its other child: it serves the devices until the kernel says that the last process of the namespace is
  gone (see ``host``); so what the program leaves behind as a daemon still has its devices.

If the host dies, everything in the namespace is killed: its /dev would be dead.

Here is the fork of the host. It comes first: the host imports all that it serves devices with, and loads them, while
the launcher imports what it starts the program with (``children``). Neither needs what the other has.
"""

import fcntl
import os
import signal
import socket
from collections.abc import Iterable

from mapdev.run.fork import fork
from mapdev.run.request import Request


def run(request: Request) -> int:
    """Run it; the exit code of the program. If a signal ended the program, the same signal ends this process.

    The caller must have one thread only. Raises ``MapdevError`` if it does not come to the program, among them
    ``program.NotStarted``; blocks until the program has ended.
    """
    environment = _environment()
    ours, theirs = socket.socketpair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # a Ctrl-C is not for the host
    host = fork(lambda: _be_host(request, ours, theirs, mask))
    from mapdev.run.children import Children

    children = Children(host)
    try:
        # until there is a program, they do to us what they always do
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        with ours:
            children.start(request.program, environment, ours)
        return children.wait()
    finally:
        children.end()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _be_host(request: Request, ours: socket.socket, theirs: socket.socket, mask: Iterable[int]) -> None:
    ours.close()
    os.setsid()  # the signals of the terminal are the program's
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # if standard streams were closed when we were started, the socket is in the place of one
    child = socket.socket(fileno=fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3))
    theirs.close()
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # whoever reads the program's output is not to wait for us
    if nowhere > 1:
        os.close(nowhere)
    from mapdev.run.host import be_host

    be_host(request, child)


def _environment() -> dict[bytes, bytes]:
    """As it was given to this process: Python has added to its own (LC_CTYPE, if the locale is C)."""
    with open("/proc/self/environ", "rb") as environ:
        pairs = [entry.partition(b"=") for entry in environ.read().split(b"\0")]
    return {name: value for name, equals, value in pairs if equals}
