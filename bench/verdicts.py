"""The ratios that the project wants to reach, in one list, and whether a run of the bench shows that they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bench import contenders as who
from bench import jobs, memory, run
from bench.result import Result
from bench.statistic import Estimate, estimate, ratio

Of = tuple[str, str]
"""(job, contender)"""


class Verdict(Enum):
    """The interval of the estimate lies on the good side of the limit, on the bad one, or on both."""

    REACHED = "reached"
    MISSED = "not reached"
    UNDECIDED = "too close to tell"
    ABSENT = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """``over`` divided by ``under`` is wanted to be at most, or at least, ``limit``.

    Series are times, so a speed that is to be 10 times that of tmpfs is tmpfs's time over ours, at least 10. Without
    ``under``, it is the value itself, in ``unit``.
    """

    what: str
    over: Of
    under: Of | None
    at_least: bool
    limit: float
    unit: float = 1.0
    minus: Of | None = None
    """Taken off ``over`` first, round by round."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A target with what was measured; ``why`` if nothing could be."""

    target: Target
    verdict: Verdict
    measured: Estimate | None
    why: str = ""


def _at_most(what: str, over: Of, under: Of, limit: float) -> Target:
    return Target(what, over, under, False, limit)


def _at_least(what: str, over: Of, under: Of, limit: float) -> Target:
    return Target(what, over, under, True, limit)


TARGETS: tuple[Target, ...] = (
    _at_least("sequential touch of resident memory, speed of tmpfs",
              (jobs.SEQUENTIAL, who.TMPFS), (jobs.SEQUENTIAL, who.SHARED), 0.97),
    _at_least("the same in huge pages, speed of tmpfs with 4 KiB pages",
              (jobs.SEQUENTIAL, who.TMPFS), (jobs.SEQUENTIAL, who.SHARED_HUGE), 10),
    _at_most("random fault handed over by the device, time of libfuse C",
             (jobs.RANDOM, who.FAULT), (jobs.RANDOM, who.C), 1.1),
    _at_most("random fault of resident memory on demand, time of libfuse C",
             (jobs.RANDOM, who.ON_DEMAND), (jobs.RANDOM, who.C), 1.1),
    _at_least("sequential touch on demand with read-ahead, speed of libfuse C as it comes",
              (jobs.SEQUENTIAL, who.C), (jobs.SEQUENTIAL, who.READ_AHEAD), 1.5),
    _at_most("pread of 4 KiB, time of libfuse C", (jobs.READ_4K, who.SHARED), (jobs.READ_4K, who.C), 1.15),
    _at_most("pread of 4 KiB, time of pyfuse3", (jobs.READ_4K, who.SHARED), (jobs.READ_4K, who.PYFUSE3), 0.33),
    _at_most("open and close, time of libfuse C", (jobs.OPEN, who.SHARED), (jobs.OPEN, who.C), 1.0),
    _at_most("trace off, time of a build without any: pread of 4 KiB",
             (jobs.TRACE_READ, who.UNTRACED), (jobs.TRACE_READ, who.NO_TRACE), 1.01),
    _at_most("trace off, time of a build without any: ioctl",
             (jobs.TRACE_IOCTL, who.UNTRACED), (jobs.TRACE_IOCTL, who.NO_TRACE), 1.01),
    _at_most("trace to a file, time without: pread of 4 KiB",
             (jobs.TRACE_READ, who.TRACED), (jobs.TRACE_READ, who.UNTRACED), 1.05),
    _at_least("two forked bare loops (not mapdev) with two clients, speed of libfuse C with one thread",
              (jobs.TWO_CLIENTS, who.C), (jobs.TWO_CLIENTS, who.WORKERS), 3),
    Target("set-up of a run, ms more than without", (run.SET_UP, "run"), None, False, 50, 1e6, (run.SET_UP, "direct")),
    Target("host's memory, bytes for each open made (shared memory)", (memory.OPENS_MADE, who.SHARED), None, False, 1),
    Target("host's memory, bytes for each open made (a page for each)", (memory.OPENS_MADE, memory.PRIVATE), None,
           False, 1),
)  # fmt: skip


def judge(target: Target, result: Result) -> Judged:
    """Whether `result` shows that the target is reached."""
    named = [of for of in (target.over, target.under, target.minus) if of is not None]
    for job, contender in named:
        if contender not in result.series.get(job, {}):
            why = result.absent.get(job, {}).get(contender, "left out of this run")
            return Judged(target, Verdict.ABSENT, None, f"{contender}: {why}")
    over = _series(result, target.over)
    if target.minus is not None:
        over = [a - b for a, b in zip(over, _series(result, target.minus), strict=True)]
    if target.under is None:
        measured = estimate([value / target.unit for value in over])
    else:
        measured = ratio(over, _series(result, target.under))
    return Judged(target, verdict(measured, target.at_least, target.limit), measured)


def verdict(measured: Estimate, at_least: bool, limit: float) -> Verdict:
    """Where the interval lies."""
    good = (measured.low >= limit, measured.high >= limit) if at_least else (
        measured.high <= limit, measured.low <= limit)  # fmt: skip
    return Verdict.REACHED if all(good) else Verdict.UNDECIDED if any(good) else Verdict.MISSED


def judge_all(result: Result) -> list[Judged]:
    return [judge(target, result) for target in TARGETS]


def _series(result: Result, of: Of) -> Sequence[float]:
    job, contender = of
    return result.series[job][contender]
