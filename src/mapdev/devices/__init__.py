"""Ready devices, each short enough to be an example. ``BUILTIN`` is what the command line knows by name.

A file is imported when one of its devices is asked for (start-up time is felt).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from mapdev.device import Device

if TYPE_CHECKING:
    from mapdev.devices.devmem import DevMem
    from mapdev.devices.framebuffer import Framebuffer
    from mapdev.devices.lkmc_mmap import LkmcMmap
    from mapdev.devices.pages import Array, Contiguous, Vmalloc
    from mapdev.devices.ram import Ram
    from mapdev.devices.uio import Uio

__all__ = ["BUILTIN", "Array", "Contiguous", "DevMem", "Framebuffer", "LkmcMmap", "Ram", "Uio", "Vmalloc", "builtin"]

_FILES: Final = {
    "Array": "pages",
    "Contiguous": "pages",
    "DevMem": "devmem",
    "Framebuffer": "framebuffer",
    "LkmcMmap": "lkmc_mmap",
    "Ram": "ram",
    "Uio": "uio",
    "Vmalloc": "pages",
}

BUILTIN: Final = {
    "array": "Array",
    "contiguous": "Contiguous",
    "framebuffer": "Framebuffer",
    "lkmc_mmap": "LkmcMmap",
    "mem": "DevMem",
    "ram": "Ram",
    "vmalloc": "Vmalloc",
}
"""Name on the command line -> class."""


def _class(name: str) -> Any:
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


if not TYPE_CHECKING:  # a checker is to know the names above, and no others

    def __getattr__(name: str) -> object:
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _class(name)


def builtin(name: str) -> type[Device]:
    """The class of a name of ``BUILTIN``."""
    cls: type[Device] = _class(BUILTIN[name])
    return cls
