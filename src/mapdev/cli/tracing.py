"""The options --trace and --trace-file, which several commands have."""

from pathlib import Path

from mapdev.errors import UsageError
from mapdev.trace import Event, JsonLines, Lines, Trace


def make_trace(lines: bool, file: Path | None) -> Trace | None:
    """Where events go. Raises ``UsageError`` if `file` cannot be written."""
    shown = Lines() if lines else None
    if file is None:
        return shown
    try:
        kept = JsonLines(file)
    except OSError as error:
        raise UsageError(f"the trace cannot be written to {file}: {error.strerror}") from error
    if shown is None:
        return kept

    def both(event: Event) -> None:
        shown(event)
        kept(event)

    return both
