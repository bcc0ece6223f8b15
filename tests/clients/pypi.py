"""Programs of others that are on PyPI: fetched once, into .cache in this tree."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent.parent / ".cache" / "pypi"
_TIMEOUT = 90


def fetch(requirement: str, name: str, *options: str) -> Path:
    """The file `name` of `requirement` ("name==version"). `options` of `pip download`. Skips where it cannot be had."""
    path = CACHE / name
    if path.exists():
        return path
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--timeout", "10", "--retries", "1"]
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as partial:
            done = subprocess.run([*command, *options, "--dest", partial, requirement], timeout=_TIMEOUT,
                                  capture_output=True, text=True, check=False)  # fmt: skip
            if not done.returncode:
                return (Path(partial) / name).rename(path)
        why = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip says nothing")
    except subprocess.TimeoutExpired:
        why = f"not within {_TIMEOUT} s"
    except OSError as error:
        why = str(error)
    pytest.skip(f"{requirement} cannot be fetched from PyPI: {why}")
