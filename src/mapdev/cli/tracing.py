"""The options --trace and --trace-file, which several commands have."""

from collections.abc import Sequence
from pathlib import Path

from mapdev.errors import UsageError
from mapdev.trace import Event, JsonLines, Lines, Trace, only


def make_trace(lines: bool, file: Path | None, patterns: Sequence[str] = ()) -> Trace | None:
    """Where events go, all or those of `patterns`. Raises ``UsageError`` if `file` cannot be written."""
    made = _make(lines, file)
    return only(made, patterns) if made is not None and patterns else made


def _make(lines: bool, file: Path | None) -> Trace | None:
    """Bound methods: they are called faster than objects."""
    shown = Lines().__call__ if lines else None
    if file is None:
        return shown
    try:
        kept = JsonLines(file).__call__
    except OSError as error:
        raise UsageError(f"the trace cannot be written to {file}: {error.strerror}") from error
    if shown is None:
        return kept

    def both(event: Event) -> None:
        shown(event)
        kept(event)

    return both
