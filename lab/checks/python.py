"""The user-space host on this kernel: Python, the package, and devices served over FUSE to C programs."""

from lab.check import Check

CHECK = Check(
    body="python.py",
    programs=("examples/lkmc_mmap/test.c", "tests/clients/two_mappings.c"),
    kernel_modules=("fuse",),
    timeout=300,
)
