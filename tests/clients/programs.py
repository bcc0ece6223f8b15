"""The programs of others that these tests run."""

import shutil

import pytest


def need(program: str, package: str) -> str:
    """The path of `program`. Skips where it is not installed; `package` is Debian's that has it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (apt-get install {package})")
    return path
