"""The plain module of examples/lkmc_mmap: load it, test it as root and as an ordinary user, remove it."""

from lab.check import Check

CHECK = Check(
    body="example.sh",
    modules=("examples/lkmc_mmap",),
    programs=("examples/lkmc_mmap/test.c", "tests/clients/two_mappings.c", "lab/checks/guest/fail_nth.c"),
)
