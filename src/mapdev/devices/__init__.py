"""Ready devices, each short enough to be an example. ``BUILTIN`` is what the command line knows by name."""

from mapdev.device import Device
from mapdev.devices.devmem import DevMem
from mapdev.devices.framebuffer import Framebuffer
from mapdev.devices.lkmc_mmap import LkmcMmap
from mapdev.devices.pages import Array, Contiguous, Vmalloc
from mapdev.devices.ram import Ram
from mapdev.devices.uio import Uio

BUILTIN: dict[str, type[Device]] = {
    device.node_name(): device for device in (LkmcMmap, Ram, Array, Vmalloc, Contiguous, DevMem, Framebuffer)
}

__all__ = ["BUILTIN", "Array", "Contiguous", "DevMem", "Framebuffer", "LkmcMmap", "Ram", "Uio", "Vmalloc"]
