"""What was measured, as tables: plain rows, which a terminal and docs/bench.md show each in their way."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench import contenders as who
from bench import jobs, memory, run
from bench.result import Result
from bench.statistic import estimate, ratio
from bench.verdicts import Verdict, judge_all


@dataclass(frozen=True, slots=True)
class Table:
    """``columns``: the first names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """With the title above it."""
        lines = [f"**{self.title}**", "", _row(self.columns), _row(["---"] * len(self.columns))]
        return "\n".join([*lines, *map(_row, self.rows)]) + "\n"


def tables(result: Result) -> list[Table]:
    """All that this run has something for."""
    found = [
        job_table(
            "First touch of a page (ns; how sure; times tmpfs)", result, [jobs.SEQUENTIAL, jobs.RANDOM], 1, True
        ),
        job_table("Calls, server and client on one CPU (us)", result, _CALLS, 1e3),
        job_table(
            "The same with the client on another CPU (us)", result, [c + jobs.TWO_CPUS for c in _TWO_CPUS], 1e3
        ),
        job_table("Two clients, one on each CPU (us per read, both together)", result, [jobs.TWO_CLIENTS], 1e3),
        job_table("Trace (us)", result, [jobs.TRACE_READ, jobs.TRACE_IOCTL], 1e3),
        job_table("Starting a program (ms)", result, [run.START], 1e6),
        job_table("Set-up of a run alone (ms)", result, [run.SET_UP], 1e6),
        _run_calls(result),
        _memory(result),
        job_table("Growth of the host (bytes for each open ever made)", result, [memory.OPENS_MADE], 1),
        _verdicts(result),
    ]
    return [table for table in found if table.rows]


_CALLS = [jobs.READ_4K, jobs.READ_1M, jobs.WRITE_4K, jobs.WRITE_1M, jobs.OPEN, jobs.IOCTL, jobs.POLL]
_TWO_CPUS = [jobs.RANDOM, jobs.READ_4K, jobs.OPEN, jobs.IOCTL]


def job_table(title: str, result: Result, names: list[str], unit: float, to_tmpfs: bool = False) -> Table:
    """Jobs are columns, contenders rows; where all of a row is absent for one reason, it says so once."""
    names = [name for name in names if name in result.series or name in result.absent]
    rows = []
    for contender in _ordered(
        {c for name in names for c in (*result.series.get(name, {}), *result.absent.get(name, {}))}
    ):
        cells = [_cell(result, name, contender, unit, to_tmpfs) for name in names]
        rows.append([contender, *(cells if len(set(cells)) > 1 else [cells[0], *([""] * (len(cells) - 1))])])
    return Table(title, ["", *names], rows)


def _cell(result: Result, job: str, contender: str, unit: float, to_tmpfs: bool) -> str:
    series = result.series.get(job, {})
    if contender not in series:
        return result.absent.get(job, {}).get(contender, "")
    found = estimate(series[contender])
    text = f"{_number(found.median / unit)} ±{found.spread:.0%}"
    if to_tmpfs and who.TMPFS in series:
        text += f" ({ratio(series[contender], series[who.TMPFS]).median:.3g}x)"
    return text


def _run_calls(result: Result) -> Table:
    """Each call of calls.c, beside calling directly."""
    rows = []
    variants: list[str] = []
    for job, series in result.series.items():
        if job.startswith("run: ") and run.DIRECT in series:
            variants = [v for v in series if v != run.DIRECT]
            direct = estimate(series[run.DIRECT])
            ratios = [f"{estimate(series[v]).median:.0f} ({ratio(series[v], series[run.DIRECT]).median:.1f}x)"
                      for v in variants]  # fmt: skip
            rows.append([job.removeprefix("run: "), f"{direct.median:.0f}", *ratios])
    return Table("Single calls in a run (ns; times direct)", ["", run.DIRECT, *variants], rows)


def _memory(result: Result) -> Table:
    states = sorted({state for states in result.memory.values() for state in states}, key=_files)
    rows = [[contender, *(_number(found[state] / 2**20) if state in found else "" for state in states)]
            for contender, found in result.memory.items()]  # fmt: skip
    return Table("Memory of the host (resident, MiB)", ["", *states], rows)


def _verdicts(result: Result) -> Table:
    rows = []
    for judged in judge_all(result):
        target, measured = judged.target, judged.measured
        wanted = f"{'>=' if target.at_least else '<='} {target.limit:g}"
        shown = judged.why if measured is None else (
            f"{_number(measured.median)} ({_number(measured.low)} to {_number(measured.high)})")  # fmt: skip
        rows.append([target.what, wanted, shown, judged.verdict.value])
    return Table(
        "What the project wants to reach (ratio; 90 % interval)", ["", "wanted", "measured", "verdict"], rows
    )


STYLES = {Verdict.REACHED.value: "green", Verdict.MISSED.value: "red", Verdict.UNDECIDED.value: "yellow"}


def _files(state: str) -> float:
    """How many are open in this state; "all closed" comes last."""
    return float(state.split()[0].replace(",", "")) if state.endswith("open") else math.inf


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ordered(names: Iterable[str]) -> list[str]:
    order = {name: number for number, name in enumerate(who.CONTENDERS)}
    return sorted(names, key=lambda name: order.get(name, len(order)))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
