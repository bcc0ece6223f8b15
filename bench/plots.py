"""Curves and bars as SVG, each with the machine and the versions in it. Needs matplotlib (the extra `bench`)."""

from pathlib import Path
from typing import Any

from bench import contenders as who
from bench import growth, jobs
from bench.result import Result, machine_line
from bench.statistic import estimate

_BARS = {
    "touch.svg": ("First touch of a page, ns", [jobs.SEQUENTIAL, jobs.RANDOM], 1.0),
    "calls.svg": (
        "Calls, server and client on one CPU, us",
        [jobs.READ_4K, jobs.WRITE_4K, jobs.OPEN, jobs.IOCTL],
        1e3,
    ),
}
_CURVES = {
    "size.svg": (growth.BY_SIZE, "size of the device, bytes", "ns per operation"),
    "devices.svg": (growth.BY_DEVICES, "devices in one host", "as each line says"),
    "clients.svg": (growth.BY_CLIENTS, "clients reading 4 KiB at once", "ns per read, all together"),
}


def draw(result: Result, directory: Path) -> list[Path]:
    """Write what there is something for; the paths. Raises ``ImportError`` without matplotlib."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mapdev"  # the same numbers make the same file
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (title, names, unit) in _BARS.items():
        if any(job in result.series for job in names):
            made.append(_save(_bars(result, title, names, unit), result, directory / name))
    for name, (curve, x, y) in _CURVES.items():
        if curve in result.growth:
            made.append(_save(_curves(result.growth[curve], curve, x, y), result, directory / name))
    return made


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(True, which="major", alpha=0.3)
    return figure, axes


def _bars(result: Result, title: str, names: list[str], unit: float) -> Any:
    figure, axes = _figure(title)
    names = [name for name in names if name in result.series]
    contenders = [c for c in who.CONTENDERS if any(c in result.series[name] for name in names)]
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        series = result.series[name]
        rows = [(row, estimate(series[c])) for row, c in enumerate(contenders) if c in series]
        axes.barh(
            [row + number * height for row, _ in rows],
            [e.median / unit for _, e in rows],
            height,
            label=name,
            xerr=[[(e.median - e.low) / unit for _, e in rows], [(e.high - e.median) / unit for _, e in rows]],
        )
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(contenders))], contenders)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.legend()
    return figure


def _curves(lines: dict[str, list[list[float]]], title: str, x: str, y: str) -> Any:
    figure, axes = _figure(f"Cost {title}")
    for name, points in lines.items():
        axes.plot(
            [point[0] for point in points], [point[1] for point in points], marker="o", markersize=3, label=name
        )
    axes.set_xscale("log", base=2 if "size" in x or "clients" in x else 10)
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize="small")
    return figure


def _save(figure: Any, result: Result, path: Path) -> Path:
    figure.supxlabel(machine_line(result.machine), fontsize=6, color="0.4")
    figure.savefig(path, metadata={"Date": None})
    return path
