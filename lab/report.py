"""What a guest has said, judged. No I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# The kernel's complaints. Its own words: a WARNING, an oops, a sanitizer's report, memory found overwritten or left.
_COMPLAINTS = re.compile(
    r"WARNING: |\b(BUG|KASAN|KCSAN|UBSAN|KFENCE): |^BUG |kernel BUG at |\bOops: |general protection fault|Kernel panic"
    r"|[Uu]nable to handle|refcount_t: |INFO: (task|rcu|suspicious|trying to|lockdep)|[Oo]bjects remaining"
    r"|Poison overwritten|Redzone overwritten|Right Redzone|Bad page|list_(add|del) corruption"
    r"|kmemleak: \d+ new suspected"
)
# Bits of /proc/sys/kernel/tainted that a run must not set. Source: Linux, Documentation/admin-guide/tainted-kernels.rst
_TAINTS = {5: "a bad page", 7: "an oops", 9: "a warning", 14: "a soft lockup"}


@dataclass(frozen=True)
class Verdict:
    """What is known of one run. It is good if nothing failed and something was ok."""

    ok: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def good(self) -> bool:
        """Whether it passed."""
        return bool(self.ok) and not self.failed


def complaints(console: str) -> list[str]:
    """The lines of the kernel's log in which it complains, without the time stamps."""
    lines = (re.sub(r"^\[[^\]]*\] ?", "", line.rstrip("\r")) for line in console.splitlines())
    return [line for line in lines if _COMPLAINTS.search(line)]


def judge(
    result: str, console: str, *, ended: bool, limit: float, seconds: float = 0, provoked: Sequence[str] = ()
) -> Verdict:
    """The verdict on what came on the result line and on the console; `ended`: QEMU ended before `limit` seconds.

    `provoked`: regular expressions for complaints that the kernel must have. Then it may have others, too.
    """
    ok, skipped, failed = [], [], []
    last: dict[str, str] = {}
    for line in result.splitlines():
        word, _, rest = line.rstrip("\r").partition(" ")
        if word == "ok" and rest:
            ok.append(rest)
        elif word == "skip" and rest:
            skipped.append(rest)
        elif word == "fail" and rest:
            failed.append(rest)
        elif word == "lab:":
            key, _, value = rest.partition(" ")
            last[key] = value
    code = last.get("exit")
    if "end" not in last:
        failed.append("the guest did not come to its end" + ("" if ended else f" within {limit:.0f} s"))
    elif code == "137" and "the" in last:
        failed.append("the " + last["the"])
    elif code != "0" and not failed:
        failed.append(f"the script ended with exit code {code}")
    elif not ok and not failed:
        failed.append("the script looked at nothing" + ("; all was skipped" if skipped else ""))
    if provoked:
        missed = [expected for expected in provoked if not re.search(expected, console)]
        failed += [f"the kernel did not notice: {expected}" for expected in missed]
        ok += [f"the kernel noticed: {expected}" for expected in provoked if expected not in missed]
        return Verdict(ok, skipped, failed, seconds)
    tainted = int(last.get("tainted", "0") or 0)
    failed += [f"the kernel is tainted by {what}" for bit, what in _TAINTS.items() if tainted >> bit & 1]
    if leaks := int(last.get("leaks", "0")):
        failed.append(f"kmemleak found {leaks} objects that nothing refers to")
    found = complaints(console)
    failed += [f"kernel: {line}" for line in found[:3]]
    if len(found) > 3:
        failed.append(f"kernel: {len(found) - 3} more lines such as these")
    return Verdict(ok, skipped, failed, seconds)
