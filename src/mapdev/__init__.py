"""Linux devices written in Python, which any program can open, read, write, ioctl, poll and mmap.

PYTEST_DONT_REWRITE: there is a plugin in here, but there are no tests.
"""

from mapdev.device import DEFAULT_POLLMASK, Device
from mapdev.file import File, Vma, VmFault, signal_pending
from mapdev.ioctl import IO, IOR, IOW, IOWR, IoctlArg
from mapdev.libc import PAGE_SHIFT, PAGE_SIZE
from mapdev.pages import OnDemandPages, Pages, contiguous_pages, on_demand_pages, page_array, zeroed_pages

__all__ = [
    "DEFAULT_POLLMASK",
    "IO",
    "IOR",
    "IOW",
    "IOWR",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "Device",
    "File",
    "IoctlArg",
    "OnDemandPages",
    "Pages",
    "VmFault",
    "Vma",
    "contiguous_pages",
    "on_demand_pages",
    "page_array",
    "signal_pending",
    "zeroed_pages",
]
