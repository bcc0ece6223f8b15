"""docs/bench.md: what stands between two markers of a name is replaced by the tables of a run."""

import re
from collections.abc import Sequence

from bench.result import Result, machine_line
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
