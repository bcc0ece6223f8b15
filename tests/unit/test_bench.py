"""The parts of the bench that measure nothing: statistics, verdicts, what the client prints, tables, the page."""

from pathlib import Path

import pytest
from bench import contenders as who
from bench import jobs, memory, page, statistic, tables, untraced, verdicts
from bench.result import Result
from bench.statistic import Estimate
from bench.verdicts import Verdict
from hypothesis import given
from hypothesis import strategies as st

import mapdev.dispatch

TIMES = st.lists(st.floats(1, 1e9), min_size=1, max_size=30)


def test_median_and_interval() -> None:
    assert statistic.estimate([3.0, 1.0, 2.0]) == Estimate(2.0, 1.0, 3.0)
    # P(all on one side of the median) for 8: 2 * (1 + 8) / 256 = 0.07, so the extremes may go; for 7: 0.125
    assert statistic.estimate([1.0, 2, 3, 4, 5, 6, 7, 100]) == Estimate(4.5, 2.0, 7.0)
    assert statistic.estimate([1.0, 2, 3, 4, 5, 6, 100]) == Estimate(4.0, 1.0, 100.0)


@given(TIMES)
def test_the_interval_holds_the_median(values: list[float]) -> None:
    found = statistic.estimate(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_ratios_are_taken_round_by_round() -> None:
    # the second round was ten times slower for both: that says nothing of the one against the other
    found = statistic.ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.2)


def test_no_rounds() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        statistic.estimate([])
    with pytest.raises(ValueError):
        statistic.ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("low", "high", "at_least", "verdict"),
    [
        (0.9, 1.0, False, Verdict.REACHED),
        (0.9, 1.1, False, Verdict.UNDECIDED),
        (1.1, 1.2, False, Verdict.MISSED),
        (1.0, 1.2, True, Verdict.REACHED),
        (0.9, 1.2, True, Verdict.UNDECIDED),
        (0.8, 0.9, True, Verdict.MISSED),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, at_least: bool, verdict: Verdict) -> None:
    assert verdicts.verdict(Estimate((low + high) / 2, low, high), at_least, 1.0) is verdict


def test_what_was_not_measured_is_no_verdict() -> None:
    result = Result()
    result.lacks(jobs.SEQUENTIAL, who.SHARED, "memory is shared only as root")
    result.add(jobs.SEQUENTIAL, who.TMPFS, 300.0)
    judged = verdicts.judge(verdicts.TARGETS[0], result)
    assert (judged.verdict, judged.why) == (Verdict.ABSENT, f"{who.SHARED}: memory is shared only as root")


def test_every_target_is_of_something_that_is_measured() -> None:
    measured = {(job.name, name) for part in jobs.jobs(jobs.Sizes()).values() for job in part for name in job.on}
    for target in verdicts.TARGETS:
        for job, contender in (of for of in (target.over, target.under, target.minus) if of is not None):
            if not job.startswith("run: ") and job != memory.OPENS_MADE:
                assert (job, contender) in measured, target.what


def test_targets_without_a_peer_are_in_their_unit() -> None:
    result = Result()
    for run, direct in ((60e6, 20e6), (75e6, 25e6), (70e6, 30e6)):
        result.add("run: set-up alone", "run", run)
        result.add("run: set-up alone", "direct", direct)
    target = next(t for t in verdicts.TARGETS if t.minus is not None)
    judged = verdicts.judge(target, result)
    assert judged.measured == Estimate(40.0, 40.0, 50.0)
    assert judged.verdict is Verdict.REACHED


def test_what_the_client_prints() -> None:
    assert jobs.batches("1.5\n2\n") == [1.5, 2.0]
    for wrong in ("", "-1\n", "nan\n", "inf\n", "12 ns\n"):
        with pytest.raises(ValueError):
            jobs.batches(wrong)


def test_a_result_is_the_same_after_json() -> None:
    result = Result({"kernel": "Linux"}, {"rounds": 2})
    result.add("read", "tmpfs", 1.5)
    result.lacks("read", "CUSE", "no /dev/cuse")
    assert Result.from_json(result.to_json()) == result
    with pytest.raises(ValueError, match="no result"):
        Result.from_json('{"something": 1}')


def test_who_fails_in_one_round_has_no_series() -> None:
    result = Result()
    result.add("read", "tmpfs", 1.0)
    result.lacks("read", "tmpfs", "pread: Input/output error")
    assert result.series["read"] == {}


def test_a_row_of_a_table() -> None:
    result = Result()
    for value in (10_000.0, 12_000.0, 11_000.0):
        result.add(jobs.READ_4K, who.C, value)
    result.lacks(jobs.READ_4K, who.CUSE, "no /dev/cuse")
    calls = tables.tables(result)[0]
    assert calls.columns == ["", jobs.READ_4K]
    assert calls.rows == [[who.C, "11 ±9%"], [who.CUSE, "no /dev/cuse"]]
    assert f"| {who.C} | 11 ±9% |" in calls.markdown()


def test_sections_of_the_page_are_replaced() -> None:
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\nb\n"
    once = page.replaced(text, "t", r"new \1")
    assert once == "a\n<!-- t -->\nnew \\1\n<!-- end of t -->\nb\n"
    assert page.replaced(once, "t", "old") == text
    with pytest.raises(ValueError, match="0 sections"):
        page.replaced(text, "other", "")


def test_the_documentation_has_a_place_for_all() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    for name in ("machine", "verdicts", "tables", "uring", "workers"):
        assert "MARK" in page.replaced(text, name, "MARK")


def test_mapdev_without_its_trace_still_has_everything_else() -> None:
    source = Path(mapdev.dispatch.__file__).read_text(encoding="utf-8")
    without = untraced.source_without_trace(source)
    assert "def read(" in without
    assert "_traced" not in without
    with pytest.raises(ValueError, match="does not fit"):
        untraced.source_without_trace("class Dispatch:\n    pass\n")


def test_a_median_of_zero_has_no_spread() -> None:
    assert statistic.estimate([0.0, 0.0, 1.0]).spread == 0


def test_states_of_memory_are_in_the_order_of_open_files() -> None:
    result = Result()
    result.memory["mapdev"] = {"0 open": 1.0, "1,000 open": 2.0, "all closed": 1.0}
    result.memory["other"] = {"0 open": 1.0, "9,750 open": 2.0, "all closed": 1.0}
    memories = next(t for t in tables.tables(result) if t.title.startswith("Memory"))
    assert memories.columns == ["", "0 open", "1,000 open", "9,750 open", "all closed"]
