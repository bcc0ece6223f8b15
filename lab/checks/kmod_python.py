"""The kernel module with devices written in Python behind it: /proc/lkmc_mmap, /dev/ram and the others, C programs."""

from lab.check import Check

CHECK = Check(
    body="kmod_python.py",
    modules=("kmod",),
    programs=("examples/lkmc_mmap/test.c", "tests/clients/two_mappings.c"),
    python=True,
    timeout=1800,
)
