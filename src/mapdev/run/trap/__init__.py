"""Every load and store of a program reaches Python: mappings that are closed, and a tracer that carries accesses out.

    filter.py     which calls of mmap(2) are stopped, by seccomp
    closing.py    what becomes of one
    tracer.py     the thread that traces: stops of all threads of the program, answered
    access.py     one stopped access, carried out
    areas.py      what is mapped at an address of another process
    blocks.py     the open files whose mappings are closed, and their loads and stores
    report.py     accesses as events and as a table
    source.py     where in the program's source an access is
    ptrace.py     ptrace(2) and waitpid(2), nothing on top of them
    stops.py      the calls of one access in a row; without it access.py makes them one by one
    x86_64.py     instructions of one architecture: what they access, and the execution of one on a copy of its operand
    string.py     those of them that access several places: strings, the stack

How a mapping is closed: the program's mmap(2) stops, and the offset it asks for is changed to one far beyond the end of
the file (``blocks.CLOSED``). The kernel maps that, and answers each touch with SIGBUS, for there is no page. It keeps
the offset through munmap, mremap, mprotect, fork and splits, so nobody else has to.

How an access is carried out: the thread stops with that SIGBUS. The instruction is read and decoded; what it loads is
asked of the device; then this process's own CPU executes the instruction, with the registers of the thread, on a copy
of the operand; what it stored is given to the device; the thread gets the registers, and goes on behind the
instruction. The program never has the memory, so no other thread of it can slip through.

Another architecture needs its own of these: ``decode`` and ``Executor`` (x86_64.py; string.py if it has such
instructions), the registers of a call (closing.py) and the numbers of the calls (filter.py), the vector registers
(ptrace.py). ``check_available`` is where it is let in. The rest knows none.
"""

import os
from importlib.util import find_spec

from mapdev.errors import HostError


def check_available() -> None:
    """Raises ``HostError``, in one line, where accesses cannot be trapped. (What the kernel forbids shows later.)"""
    machine = os.uname().machine
    if machine != "x86_64":
        raise HostError(f"accesses can be trapped on x86-64 only, not on {machine}")
    if find_spec("iced_x86") is None:
        raise HostError("accesses cannot be trapped without the package iced-x86: pip install iced-x86")
