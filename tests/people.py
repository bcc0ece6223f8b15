"""Who runs a command in a test: root, or an ordinary user (uid 65534, by setpriv, if the tests run as root)."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

UID = 65534
"""The user `nobody`, whom every Debian has: fusermount3 wants one with a name."""

directories: list[Path] = []
"""All that were made by `Person.directory`."""

_started: list["subprocess.Popen[str]"] = []
"""All that `Person.popen` has started in this test."""


_AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--")


@dataclass(frozen=True)
class Person:
    """Runs commands with time-outs. ``python``: an interpreter that this person may execute and that has mapdev."""

    name: str
    uid: int
    prefix: tuple[str, ...] = ()
    python: tuple[str, ...] = (sys.executable,)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def popen(self, *args: str | Path, **options: Any) -> "subprocess.Popen[str]":
        env = {**os.environ, "HOME": "/tmp", **self.env, **options.pop("env", {})}
        _started.append(subprocess.Popen([*self.prefix, *map(str, args)], text=True, env=env, **options))
        return _started[-1]

    def run(self, *args: str | Path, timeout: float = 30, **options: Any) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "HOME": "/tmp", **self.env, **options.pop("env", {})}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [*self.prefix, *map(str, args)]
        return subprocess.run(command, text=True, env=env, timeout=timeout, check=False, **options)

    def mapdev(self, *args: str | Path, timeout: float = 30, **options: Any) -> "subprocess.CompletedProcess[str]":
        return self.run(*self.python, "-m", "mapdev", *args, timeout=timeout, **options)

    def directory(self) -> Path:
        """A new directory of this person's; the test removes it (see the fixture ``place``)."""
        path = Path(tempfile.mkdtemp(prefix="mapdev-test-"))
        directories.append(path)
        os.chown(path, self.uid, -1)
        path.chmod(0o755)
        return path


def root() -> Person:
    """Skips unless the tests run as root."""
    if os.geteuid():
        pytest.skip("needs root")
    return Person("root", 0)


_ordinary: list[Person] = []


def user() -> Person:
    """An ordinary user. Skips if none can run Python with mapdev here."""
    if os.geteuid():
        return Person("user", os.geteuid())
    if not _ordinary:
        _ordinary.append(_find_user())
    return _ordinary[0]


def _find_user() -> Person:
    person = Person("user", UID, _AS_USER)
    if _can_run(person):
        return person
    # the clone, or the interpreter, lies below a directory that is root's alone: let the user have a copy
    copy = Path(tempfile.mkdtemp(prefix="mapdev-copy-"))
    copy.chmod(0o755)
    source = Path(__file__).parent.parent / "src" / "mapdev"
    shutil.copytree(source, copy / "mapdev", ignore=shutil.ignore_patterns("__pycache__"))
    import click

    packages = Path(click.__file__).parent.parent
    for name in (
        "click", "elftools", "iced_x86", "rich", "numpy", "numpy.libs", "markdown_it", "mdurl", "pygments",
        "PIL", "pillow.libs",
    ):  # fmt: skip
        if (packages / name).is_dir():
            shutil.copytree(packages / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    for info in packages.glob("mapdev-*.dist-info"):
        shutil.copytree(info, copy / info.name)
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        person = Person("user", UID, _AS_USER, (python,), {"PYTHONPATH": str(copy)})
        if _can_run(person):
            return person
    shutil.rmtree(copy)
    pytest.skip(
        f"uid {UID} can run neither {sys.executable} nor /usr/bin/python3 with the packages of this environment"
    )


def end_processes() -> None:
    """At the end of a test: what it has started and, because it failed, not ended."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # what was still to be written to its standard input
                    stream.close()


def remove_copy() -> None:
    """At the end of the tests."""
    for person in _ordinary:
        if "PYTHONPATH" in person.env:
            shutil.rmtree(person.env["PYTHONPATH"])


def _can_run(person: Person) -> bool:
    program = "import click, numpy, rich, mapdev.cli"
    try:
        return person.run(*person.python, "-c", program, cwd="/").returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
