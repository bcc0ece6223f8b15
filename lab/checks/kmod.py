"""The kernel module, tested by programs in C, and used by those of busybox; then unloaded."""

from lab.check import Check

CHECK = Check(
    body="kmod.sh",
    modules=("kmod",),
    programs=(
        "kmod/tests/memory.c",
        "kmod/tests/calls.c",
        "kmod/tests/ends.c",
        "kmod/tests/limits.c",
        "kmod/tests/failing.c",
        "kmod/tests/server.c",
    ),
    include=("kmod/uapi",),
    memory=512,
    timeout=300,
)
