"""A how-to of docs/, followed literally."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.people import Person

DOCS = Path(__file__).parent.parent.parent / "docs"


def follow(name: str, person: Person, directory: Path) -> Iterator[str]:
    """Do what the document says, in an empty directory of the person's. Yields each block of commands when it is done.

    Python blocks are files, those without a language are commands, which must succeed, and a text block after commands
    is exactly what they print. Further programs can be in the directory `bin`, which is first in the PATH.
    """
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    mapdev = programs / "mapdev"
    mapdev.write_text(f'#!/bin/sh\nexec {" ".join(person.python)} -m mapdev "$@"\n')
    mapdev.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    said = ""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            file = re.match(r"# (\w+\.py)\n", block)
            assert file is not None
            (directory / file[1]).write_text(block)
        elif language == "text":
            assert said == block
        else:
            assert language == ""
            done = person.run("sh", "-ec", f"exec 2>&1\n{block}", cwd=directory, env=environment, timeout=60)
            said = done.stdout
            assert done.returncode == 0, said
            yield block
