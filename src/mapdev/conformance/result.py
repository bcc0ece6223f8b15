"""What is told about a path: facts, and a result for each check. Plain values, which JSON can hold."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a check."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Result:
    """One check: its name, the verdict, and in words what was seen or why it does not apply."""

    name: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a path names, found without a load or a store.

    `size` is ``st_size`` in bytes (of a block device its capacity), `page` the bytes that one mapping unit
    has: a page, on hugetlbfs a huge page. `type` is in words ("regular file", "character device"), `mode`
    the permission bits, `device` and `inode` are ``st_dev`` and ``st_ino``. `unmappable` and `unwritable` say
    why there is no shared mapping, or none that may be stored to; they are empty where there is one.
    """

    path: str
    type: str
    mode: int
    size: int
    filesystem: str
    device: int
    inode: int
    page: int
    unmappable: str
    unwritable: str
    memory_per_mapping: bool
    """Each mapping has memory of its own: /dev/zero, by zero(4) and mmap(2) of it, and nothing else."""
