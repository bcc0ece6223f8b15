"""docs/bench.md: what stands between two markers of a name is replaced by the tables of a run."""

import re
import signal
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from bench.contenders import ROOT, Absent
from bench.result import Result, machine_line, progress
from bench.tables import Table


def filled(page: str, result: Result, tables: Sequence[Table]) -> str:
    """`page` with the machine and the tables of `result`. Raises ``ValueError`` if it has no place for them."""
    page = replaced(page, "machine", f"Measured on {result.machine['date']}: {machine_line(result.machine)}.")
    *measured, verdicts = tables
    page = replaced(page, "verdicts", verdicts.markdown())
    return replaced(page, "tables", "\n".join(table.markdown() for table in measured))


def replaced(page: str, name: str, text: str) -> str:
    """The section `name` of `page` is `text` now."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    new, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}{text}\n{end}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} sections {name!r}, not one")
    return new


def experiment(name: str, measured: Callable[[], Table], docs: bool) -> int:
    """Measure and show one table; with `docs` it is the section `name` of the page now. The exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers end and are unmounted
    try:
        table = measured()
    except Absent as absent:
        sys.stderr.write(f"bench: {absent}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: interrupted; everything has been unmounted\n")
        return 130
    progress("")
    Console().print(table.markdown(), markup=False, highlight=False, soft_wrap=True)
    if docs:
        document = ROOT / "docs" / "bench.md"
        document.write_text(replaced(document.read_text(encoding="utf-8"), name, table.markdown()), encoding="utf-8")
    return 0
