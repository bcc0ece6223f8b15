"""What tests share: who runs commands, servers that are ended, and nothing left behind."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import people
from tests.hosts.client import Client
from tests.people import Person
from tests.served import MARK, Served, is_ours, mounts, watchers

for _name in (
    "CI", "CONTINUOUS_INTEGRATION", "GITHUB_ACTIONS", "BUILD_NUMBER", "RUN_ID",
    "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE",
    "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONWARNINGS", "PYTHONUNBUFFERED",
):  # fmt: skip
    # of whoever runs the tests; their programs listen: python-periphery's suite leaves out its half if CI is true
    os.environ.pop(_name, None)

Serve = Callable[..., Served]
NewClient = Callable[[Person, Path], Client]
DeviceFile = Callable[[Person, str], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--host", choices=["fuse", "kernel"], default="fuse",
                     help="who serves the devices: FUSE, or the kernel module, which has to be loaded")  # fmt: skip


@pytest.fixture
def host(request: pytest.FixtureRequest) -> str:
    """ "fuse" or "kernel"."""
    return str(request.config.getoption("host"))


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest, host: str) -> Person:
    """Both, where the difference matters: as root memory is shared, for an ordinary user it is on demand."""
    if request.param == "user" and host == "kernel":
        pytest.skip("/dev/mapdev is root's alone, and memory is the same for everybody")
    return people.root() if request.param == "root" else people.user()


@pytest.fixture
def user(host: str) -> Person:
    if host == "kernel":
        pytest.skip("/dev/mapdev is root's alone, and memory is the same for everybody")
    return people.user()


@pytest.fixture
def root() -> Person:
    return people.root()


@pytest.fixture
def place() -> Iterator[Callable[[Person], Path]]:
    """A function that makes a directory which belongs to a person; they are removed afterwards."""
    made: list[Path] = []

    def make(person: Person) -> Path:
        made.append(person.directory())
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path)


@pytest.fixture
def serve(place: Callable[[Person], Path], tmp_path: Path, host: str) -> Iterator[Serve]:
    """A function that starts `mapdev serve TARGET...` as a person, and waits until it is ready.

    Afterwards each server that still runs must end with 0 on SIGTERM, and nothing may be mounted, or be in /dev.
    """
    if host == "kernel":
        _need_module()
    else:
        _need_dev_fuse()
    started: list[Served] = []

    def start(person: Person, *args: str | Path, directory: Path | None = None) -> Served:
        mount_point = None if host == "kernel" else directory or place(person)
        served = Served(person, mount_point, *args, log=tmp_path / f"server-{len(started)}.log")
        started.append(served)
        return served

    yield start
    for served in started:
        running = served.process.poll() is None
        code = served.stop()
        served.wait_unmounted()
        assert not running or code == 0, f"the server ended with {code}: {served.log()}"


@pytest.fixture
def client() -> Iterator[NewClient]:
    """A function that starts a program of a person's which uses a device as the test says (see ``Client``)."""
    started: list[Client] = []

    def start(person: Person, path: Path) -> Client:
        started.append(Client(person, path))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def device_file(place: Callable[[Person], Path]) -> DeviceFile:
    """A function that makes a file of tests/hosts/devices readable for a person: the path of the copy."""

    def copy(person: Person, name: str) -> Path:
        return Path(shutil.copy(Path(__file__).parent / "hosts" / "devices" / name, place(person)))

    return copy


@pytest.fixture
def dev_fuse() -> None:
    """Skips where the kernel has no FUSE for this user."""
    _need_dev_fuse()


def _need_dev_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not there, or not open to this user (install fuse3)")


def _need_module() -> None:
    from mapdev.errors import ModuleError
    from mapdev.hosts.kmod.control import control

    try:
        with control():
            pass
    except ModuleError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _no_process_is_left_behind() -> Iterator[None]:
    yield
    people.end_processes()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    os.environ[MARK] = str(os.getpid())  # other tests may run on this machine: only what is ours counts
    yield
    people.remove_copy()
    until = time.monotonic() + 5
    while (left := ([line for line in mounts() if is_ours(line)], watchers())) != ([], []):
        assert time.monotonic() < until, f"left behind: mounts {left[0]}, watchers {left[1]}"
        time.sleep(0.05)
