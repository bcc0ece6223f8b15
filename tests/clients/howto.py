"""A how-to of docs/, followed literally."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.people import Person

DOCS = Path(__file__).parent.parent.parent / "docs"


def follow(name: str, person: Person, directory: Path) -> Iterator[str]:
    """Do what the document says, in an empty directory of the person's. Yields each block of commands when it is done.

    Blocks of Python, C and SystemRDL are files, named by their first line; those without a language are commands, which
    must succeed, and a text block after commands is exactly what they print, but for times and pids. Those of sh and
    yaml are for other machines. Further programs can be in the directory `bin`, which is first in the PATH.
    """
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    mapdev = programs / "mapdev"
    mapdev.write_text(f'#!/bin/sh\nexec {" ".join(person.python)} -m mapdev "$@"\n')
    mapdev.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    said = ""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL):
        if language in ("python", "c", "systemrdl"):
            file = re.match(r"(?:#|//) (\w+\.\w+)\n", block)
            assert file is not None
            (directory / file[1]).write_text(block)
        elif language == "text":
            assert _lasting(said) == _lasting(block)
        elif language not in ("sh", "yaml"):
            assert language == ""
            done = person.run("sh", "-ec", f"exec 2>&1\n{block}", cwd=directory, env=environment, timeout=60)
            said = done.stdout
            assert done.returncode == 0, said
            yield block


def _lasting(text: str) -> str:
    """Without the times and pids of a trace."""
    return re.sub(r"^[\d:]{8}\.\d{6} |  \[\d+ us, pid \d+\]$", "", text, flags=re.MULTILINE)
