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
        "kmod/tests/foreign.c",
        "kmod/tests/server.c",
    ),
    programs32=("kmod/tests/program32.c",),
    packages=("stress-ng",),
    include=("kmod/uapi",),
    memory=640,
    timeout=300,
)
