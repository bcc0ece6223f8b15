"""What an author sees whose file is no device: one line, and before it the traceback of what raised in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.people import Person

Place = Callable[[Person], Path]

HEAD = "import mapdev\n"
ONE = HEAD + "class One(mapdev.Device):\n    pass\n"
TWO = ONE + "class Two(mapdev.Device):\n    pass\n"

NO_DEVICE: list[tuple[str, str, str, str]] = [
    ("empty.py", "", "", "empty.py has no Device: define a subclass of mapdev.Device"),
    ("imported.py", "from mapdev.devices import Ram\n", "", "imported.py has no Device"),
    ("two.py", TWO, "", "two.py has One, Two, several: name one"),
    ("one.py", ONE, ":Three", "one.py has no Device called 'Three'; it has One"),
    ("one.py", ONE, ":mapdev", "one.py has no Device called 'mapdev'; it has One"),
    ("one.py", ONE, ":", "one.py has no Device called ''; it has One"),
    ("one.txt", ONE, "", "is not a Python file: its name must end in .py"),
]

RAISES: list[tuple[str, str, str, str]] = [
    ("syntax.py", "def (:\n", "SyntaxError: ", "def (:"),
    ("null.py", "x = '\0'\n", "cannot be loaded", ""),
    ("raising.py", "1 / 0\n", "ZeroDivisionError: division by zero", "line 1"),
    ("exiting.py", "import sys\nsys.exit(3)\n", "SystemExit: 3", "line 2"),
    ("absent_device.py", "import absent\n", "ModuleNotFoundError: No module named 'absent'", "line 1"),
    ("lines.py", "raise ValueError('first\\nsecond')\n", "ValueError: first", "line 1"),
    ("noted.py", "e = ValueError('first')\ne.add_note('second')\nraise e\n", "ValueError: first", "line 3"),
    ("init.py", ONE + "    def __init__(self):\n        raise KeyError('key')\n", "KeyError: 'key'", "in __init__"),
    ("args.py", ONE + "    def __init__(self, pages):\n        pass\n", "TypeError: ", "pages"),
    (
        "speechless.py",
        "class Speechless(Exception):\n    def __str__(self):\n        1 / 0\nraise Speechless\n",
        "<exception str() failed>",
        "line 4",
    ),
]

WRONG: list[tuple[str, str, str]] = [
    ("named.py", ONE + "    name = 3\n", "name"),
    ("sized.py", ONE + "    size = '64K'\n", "size"),
    ("negative.py", ONE + "    size = -1\n", "size"),
    ("ahead.py", ONE + "    readahead = None\n    size = 4096\n    def fault(self, file, vmf): pass\n", "readahead"),
]


def refused(user: Person, place: Place, target: str | Path, cwd: Path) -> tuple[str, str]:
    """What comes before the last line, and that line."""
    done = user.mapdev("serve", target, "--mount", place(user), cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    before, _, line = done.stderr.rstrip("\n").rpartition("\n")
    assert line.startswith("mapdev: "), done.stderr
    return before, line.removeprefix("mapdev: ")


@pytest.mark.parametrize(("name", "text", "cls", "says"), NO_DEVICE, ids=[f"{n}{c}" for n, _, c, _ in NO_DEVICE])
def test_a_file_without_the_device_is_one_line(
    user: Person, place: Place, name: str, text: str, cls: str, says: str
) -> None:
    directory = place(user)
    (directory / name).write_text(text)
    before, line = refused(user, place, f"./{name}{cls}", directory)
    assert (before, says in line) == ("", True), line


@pytest.mark.parametrize(("name", "text", "says", "shows"), RAISES, ids=[name for name, *_ in RAISES])
def test_code_that_raises_is_its_own_traceback_and_one_line(
    user: Person, place: Place, name: str, text: str, says: str, shows: str
) -> None:
    directory = place(user)
    (directory / name).write_text(text)
    before, line = refused(user, place, name, directory)
    assert line.startswith(f"{name}")
    assert says in line
    assert shows in before
    assert "mapdev/" not in before
    assert "importlib" not in before
    assert before.count("Traceback") <= 1


@pytest.mark.parametrize(("name", "text", "says"), WRONG, ids=[name for name, *_ in WRONG])
def test_an_attribute_that_cannot_be_is_one_line(user: Person, place: Place, name: str, text: str, says: str) -> None:
    directory = place(user)
    (directory / name).write_text(text)
    before, line = refused(user, place, name, directory)
    assert before == ""
    assert says in line


def test_a_file_called_like_a_module_of_python_stands_in_for_none(user: Person, serve: Serve, place: Place) -> None:
    directory = place(user)
    names = ["queue", "asyncio", "threading", "contextvars"]
    for name in names:
        text = ONE + "    async def read(self, file, count, pos):\n        return b'read'[pos:]\n"
        (directory / f"{name}.py").write_text(text)
    served = serve(user, *[f"{name}={directory / name}.py" for name in names])
    for name in names:
        assert user.run("cat", served.path(name)).stdout == "read"
    assert served.log() == ""


def test_two_classes_of_one_file_are_of_one_module(user: Person, serve: Serve, place: Place) -> None:
    """The file is run once: what its module knows, both devices know."""
    file = place(user) / "pair.py"
    file.write_text(
        HEAD
        + "written = []\n"
        + "class In(mapdev.Device):\n"
        + "    def write(self, file, buf, pos):\n        written.append(buf)\n        return len(buf)\n"
        + "class Out(mapdev.Device):\n"
        + "    def read(self, file, count, pos):\n        return b''.join(written)[pos:]\n"
    )
    served = serve(user, f"{file}:In", f"{file}:Out")
    user.run("sh", "-c", f"printf told > {served.path('in')}")
    assert user.run("cat", served.path("out")).stdout == "told"
