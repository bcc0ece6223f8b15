"""Linux devices written in Python, which any program can open, read, write, ioctl, poll and mmap.

PYTEST_DONT_REWRITE: there is a plugin in here, but there are no tests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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

_FILES: Final = {
    "DEFAULT_POLLMASK": "device",
    "Device": "device",
    "File": "file",
    "IO": "ioctl",
    "IOR": "ioctl",
    "IOW": "ioctl",
    "IOWR": "ioctl",
    "IoctlArg": "ioctl",
    "OnDemandPages": "pages",
    "PAGE_SHIFT": "libc",
    "PAGE_SIZE": "libc",
    "Pages": "pages",
    "VmFault": "file",
    "Vma": "file",
    "contiguous_pages": "pages",
    "on_demand_pages": "pages",
    "page_array": "pages",
    "signal_pending": "file",
    "zeroed_pages": "pages",
}

if not TYPE_CHECKING:  # a checker is to know the names above, and no others

    def __getattr__(name: str) -> object:
        """Imported when it is asked for: the launcher of a run, and most commands, need none of it."""
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
        return value
