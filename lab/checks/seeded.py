"""Bugs on purpose: what each kernel can notice it has to notice, or that it is silent elsewhere means nothing."""

from lab.check import Check

CHECK = Check(
    body="seeded.sh",
    modules=("lab/seeded",),
    provokes=(
        ("BUG", r"WARNING: .*seeded"),
        (
            "SLUB_DEBUG",
            r"BUG seeded .*(Poison overwritten|Object corrupt)|BUG: KASAN: slab-use-after-free in write_after_free",
        ),
        ("KFENCE", r"BUG: KFENCE: use-after-free read in use_after_free"),
        ("KASAN", r"BUG: KASAN: slab-use-after-free in use_after_free"),
        ("PROVE_LOCKING", r"WARNING: possible circular locking dependency"),
        ("DEBUG_KMEMLEAK", r"kmemleak: \d+ new suspected memory leaks"),
    ),
)
