"""`mapdev serve` from start to end."""

import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.people import Person


def test_a_device_is_served_until_sigterm_then_unmounted(person: Person, serve: Serve) -> None:
    served = serve(person, "lkmc_mmap")
    mode = "shared memory" if person.is_root else "on demand"
    assert served.ready == f"ready: {served.directory}: lkmc_mmap ({mode})\n"
    assert person.run("cat", served.path("lkmc_mmap")).stdout == "asdf"
    assert served.stop(signal.SIGTERM) == 0
    assert not served.is_mounted()


def test_sigint_ends_it_too(user: Person, serve: Serve) -> None:
    served = serve(user, "lkmc_mmap")
    assert served.stop(signal.SIGINT) == 0
    assert not served.is_mounted()


def test_killed_with_9_it_is_unmounted_all_the_same(person: Person, serve: Serve) -> None:
    served = serve(person, "lkmc_mmap")
    served.kill()
    served.wait_unmounted()


def test_several_targets_and_other_names(user: Person, serve: Serve) -> None:
    served = serve(user, "lkmc_mmap", "big=ram:64M", "array")
    listing = user.run("ls", served.directory).stdout.split()
    assert sorted(listing) == ["array", "big", "lkmc_mmap"]
    assert user.run("stat", "-c", "%s %F", served.path("big")).stdout == f"{64 << 20} regular file\n"


def test_only_who_serves_may_open(root: Person, user: Person, serve: Serve) -> None:
    served = serve(root, "lkmc_mmap")
    assert "Permission denied" in user.run("cat", served.path("lkmc_mmap")).stderr
    own = serve(user, "lkmc_mmap")
    assert "Permission denied" in root.run("cat", own.path("lkmc_mmap")).stderr


@pytest.mark.parametrize(
    ("options", "reads", "writes"),
    [
        (["--mode", "0666"], True, True),
        (["--mode", "0644"], True, False),
        (["--mode", "0640"], False, False),
        (["--mode", "0640", "--group", "65534"], True, False),
        (["--owner", "nobody"], True, True),
    ],
)
def test_mode_owner_and_group_admit_others_as_the_kernel_checks_them(
    root: Person, user: Person, serve: Serve, options: list[str], reads: bool, writes: bool
) -> None:
    path = serve(root, "lkmc_mmap", *options).path("lkmc_mmap")
    assert (user.run("cat", path).returncode == 0) is reads
    assert (user.run("sh", "-c", f"printf qwer > {path}").returncode == 0) is writes


def test_mode_and_owner_are_what_stat_shows(root: Person, serve: Serve) -> None:
    found = serve(root, "lkmc_mmap", "--mode", "0640", "--owner", "1234").path("lkmc_mmap").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 0)


def test_trace_shows_each_callback(person: Person, serve: Serve) -> None:
    served = serve(person, "lkmc_mmap", "--trace")
    person.run("cat", served.path("lkmc_mmap"))
    log = served.wait_log("release")
    shown = [line.split()[2].partition("(")[0] for line in log.splitlines() if "#" in line]
    assert shown == ["open", "mmap", "read", "read", "release"]


def test_in_a_namespace_it_says_where_to_find_it(user: Person, serve: Serve) -> None:
    served = serve(user, "lkmc_mmap", "--via", "namespace")
    path = served.ready.split()[1]
    assert path == f"/proc/{served.process.pid}/root{served.directory}"
    assert user.run("cat", f"{path}/lkmc_mmap").stdout == "asdf"


BAD: list[tuple[list[str], int, str]] = [
    (["nonesuch"], 2, "there is no device 'nonesuch'"),
    (["./nonesuch.py"], 2, "there is no file"),
    (["nonesuch.module:Class"], 2, "there is no module"),
    (["lkmc_mmap:3"], 2, "takes no parameter"),
    (["ram:some"], 2, "is not a size"),
    (["ram:5000"], 2, "multiple of 4096"),
    (["lkmc_mmap", "lkmc_mmap"], 2, "two devices are called lkmc_mmap"),
    (["a/b=lkmc_mmap"], 2, "cannot be the name of a file"),
    (["=lkmc_mmap"], 2, "no name before its '='"),
    (["lkmc_mmap", "--mode", "999"], 2, "is not a mode"),
    (["lkmc_mmap", "--owner", "nonesuch"], 2, "there is no user 'nonesuch'"),
    (["lkmc_mmap", "--trace-file", "/nonesuch/trace"], 2, "cannot be written"),
]


@pytest.mark.parametrize(("args", "code", "says"), BAD, ids=[" ".join(args) for args, _, _ in BAD])
def test_bad_input_is_one_line(
    user: Person, place: Callable[[Person], Path], args: list[str], code: int, says: str
) -> None:
    directory = place(user)
    done = user.mapdev("serve", *args, "--mount", directory)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(("mapdev: ", "Error: "))
