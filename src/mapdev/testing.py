"""For the unit tests of a device: call its operations without a kernel, through the same dispatch.

from mapdev.testing import MemoryHost

def test_two_mappings_are_one_page():
    with MemoryHost(LkmcMmap()) as host, host.open() as file:
        one, other = file.mmap(4096), file.mmap(4096)
        one[0:4] = b"qwer"
        assert other[0:4] == b"qwer" and file.read(4) == b"qwer"
"""

from mapdev.hosts.memory import Area, BusError, MemoryHost, OpenFile, SegmentationFault

__all__ = ["Area", "BusError", "MemoryHost", "OpenFile", "SegmentationFault"]
