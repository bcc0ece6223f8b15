"""Mount points that do not fit, are swapped or taken away; machines that have no FUSE, or forbid it."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mapdev.errors import MountPointError
from mapdev.hosts.fuse import mount as mounting
from tests.conftest import NewClient, Serve
from tests.people import Person
from tests.served import is_ours, mounts

Place = Callable[[Person], Path]


def refused(person: Person, *args: str | Path, code: int = 2) -> str:
    """The one line that `mapdev serve` ends with; it has left nothing mounted."""
    before = [line for line in mounts() if is_ours(line)]
    done = person.mapdev("serve", *args)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("mapdev: "), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [line for line in mounts() if is_ours(line)] == before
    return done.stderr.removeprefix("mapdev: ").strip()


# -- the mount point -------------------------------------------------------------------------------------------------


def test_a_mount_point_that_does_not_exist_is_to_be_created(person: Person, place: Place) -> None:
    path = place(person) / "dev"
    assert refused(person, "ram", "--mount", path) == f"{path} does not exist: create it (mkdir -p {path})"


def test_a_file_is_no_mount_point(person: Person, place: Place) -> None:
    path = place(person) / "dev"
    path.touch()
    assert "is not a directory" in refused(person, "ram", "--mount", path)
    assert "is not a directory" in refused(person, "ram", "--mount", path / "below")


def test_a_symbolic_link_is_no_mount_point(person: Person, place: Place) -> None:
    directory = place(person)
    (directory / "link").symlink_to(place(person))
    (directory / "dangling").symlink_to("nowhere")
    assert "is a symbolic link" in refused(person, "ram", "--mount", directory / "link")
    refused(person, "ram", "--mount", directory / "dangling")


def test_a_directory_with_something_in_it_is_no_mount_point(person: Person, place: Place) -> None:
    path = place(person)
    (path / "something").touch()
    assert "is not empty" in refused(person, "ram", "--mount", path)


def test_a_directory_that_is_served_is_not_served_twice(person: Person, serve: Serve) -> None:
    served = serve(person, "ram")
    assert "is already served" in refused(person, "lkmc_mmap", "--mount", served.directory)
    assert person.run("head", "-c", "4", served.path("ram")).stdout == "\0\0\0\0"


def test_a_directory_of_another_user_is_refused(root: Person, user: Person, place: Place) -> None:
    assert "belongs to another user" in refused(user, "ram", "--mount", place(root))


def test_a_directory_that_another_user_serves_is_refused(root: Person, user: Person, serve: Serve) -> None:
    served = serve(user, "ram")
    assert "cannot be mounted on" in refused(root, "ram", "--mount", served.directory)


# -- the mount point is swapped --------------------------------------------------------------------------------------

SWAP = """
import os, sys
from pathlib import Path
from mapdev.errors import MountPointError
from mapdev.hosts.fuse import mount

path, moved, victim = map(Path, sys.argv[1:4])
best_way = mount.best_way

def swap_and_choose():
    "Runs after the mount point was looked at, and before it is mounted on."
    path.rename(moved)
    if sys.argv[4] == "symlink":
        path.symlink_to(victim)
    elif sys.argv[4] == "directory":
        path.mkdir()
    return best_way()

mount.best_way = swap_and_choose
try:
    mount.mount(path).unmount()
    print("mounted")
except MountPointError as error:
    print(error)
"""


@pytest.mark.usefixtures("dev_fuse")
@pytest.mark.parametrize("by", ["symlink", "directory", "nothing"])
def test_a_mount_point_that_is_swapped_before_it_is_mounted_on_is_refused(
    person: Person, place: Place, by: str
) -> None:
    directory = place(person)
    victim = directory / "victim"
    for path in (directory / "dev", victim):
        path.mkdir()
        os.chown(path, person.uid, -1)
    done = person.run(*person.python, "-c", SWAP, directory / "dev", directory / "moved", victim, by)
    assert (done.stdout, done.stderr) == (
        f"{directory / 'dev'} was replaced while it was mounted on: try again\n",
        "",
    )
    assert not [line for line in mounts() if str(directory) in line]


@pytest.mark.usefixtures("dev_fuse")
def test_a_race_of_swaps_never_mounts_on_what_a_link_points_to(root: Person, place: Place) -> None:
    directory = place(root)
    path, moved, victim = (directory / name for name in ("dev", "moved", "victim"))
    victim.mkdir()
    path.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                path.rename(moved)
                path.symlink_to(victim)
                path.unlink()
                moved.rename(path)
            except OSError:  # EBUSY: it is mounted on just now
                time.sleep(0.0005)

    swapper = threading.Thread(target=swap)
    swapper.start()
    refusals = 0
    try:
        for _ in range(40):
            try:
                mounted = mounting.mount(path)
            except MountPointError:
                refusals += 1
            else:
                mounted.unmount()
                os.close(mounted.fd)
            assert not [line for line in mounts() if str(directory) in line]
    finally:
        stop.set()
        swapper.join(10)
        for line in mounts():  # whatever went wrong: it is not served, so whoever looks at it would wait for ever
            if str(directory) in line:
                subprocess.run(["umount", "-l", line.split()[1]], timeout=10, check=True)
    assert refusals


# -- somebody else unmounts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["itself", "root"])
def test_unmounted_by_somebody_else_the_server_says_so_and_ends(
    person: Person, root: Person, serve: Serve, by: str
) -> None:
    served = serve(person, "ram")
    command = ["umount"] if person.is_root or by == "root" else ["fusermount3", "-u"]
    done = (root if by == "root" else person).run(*command, served.directory)
    assert done.stderr == ""
    assert served.process.wait(10) == 1
    assert served.log() == f"mapdev: {served.directory} was unmounted by somebody else; nothing is served any more\n"


def test_while_a_file_is_open_umount_finds_it_busy_and_it_is_served_on(
    person: Person, root: Person, serve: Serve, client: NewClient
) -> None:
    served = serve(person, "ram")
    program = client(person, served.path("ram"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    assert "busy" in root.run("umount", served.directory).stderr
    assert program.ask("os.pread(fd, 2, 0)") == repr(bytes(2))
    program.close()
    time.sleep(0.1)
    assert root.run("umount", served.directory).stderr == ""
    assert served.process.wait(10) == 1


def test_unmounted_lazily_it_is_served_to_whom_has_it_open_until_that_closes(
    person: Person, root: Person, serve: Serve, client: NewClient
) -> None:
    served = serve(person, "ram")
    program = client(person, served.path("ram"))
    program.ask("fd = os.open(path, os.O_RDWR)")
    assert root.run("umount", "-l", served.directory).stderr == ""
    assert program.ask("os.open(path, os.O_RDWR)") == "ENOENT"
    assert program.ask("os.pread(fd, 2, 0)") == repr(bytes(2))
    assert program.ask("load(mapped(fd), 2)") == repr(bytes(2))
    assert served.process.poll() is None
    program.close()
    assert served.process.wait(10) == 1


# -- no FUSE ---------------------------------------------------------------------------------------------------------


def with_dev(person: Person, commands: str) -> Person:
    """Whose programs have a /dev of their own, which is empty but for what `commands` put there."""
    script = f'mount -t tmpfs none /dev && cd /dev && {commands} && cd / && exec "$@"'
    return replace(person, prefix=("unshare", "--mount", "sh", "-c", script, "sh", *person.prefix))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("via", [[], ["--via", "namespace"]], ids=["best", "namespace"])
def test_without_dev_fuse_it_says_how_to_get_it(person: Person, place: Place, via: list[str]) -> None:
    without = with_dev(person, "mknod -m 0666 null c 1 3")
    said = refused(without, "ram", "--mount", place(person), *via, code=1)
    assert "modprobe fuse" in said


@pytest.mark.usefixtures("root")
def test_a_dev_fuse_that_is_not_for_this_user_is_named(user: Person, place: Place) -> None:
    forbidden = with_dev(user, "mknod -m 0666 null c 1 3 && mknod -m 0600 fuse c 10 229")
    said = refused(forbidden, "ram", "--mount", place(user), "--via", "namespace", code=1)
    assert said.startswith("/dev/fuse may not be opened by this user")


@pytest.mark.usefixtures("root")
def test_a_dev_fuse_that_is_something_else_mounts_nothing(person: Person, place: Place) -> None:
    wrong = with_dev(person, "mknod -m 0666 null c 1 3 && mknod -m 0666 fuse c 1 3")
    assert refused(wrong, "ram", "--mount", place(person), code=1).startswith("cannot mount on ")


def without_fusermount(person: Person) -> Person:
    return replace(person, python=("/usr/bin/env", "PATH=/nonexistent", *person.python))


def test_without_fusermount_a_user_is_served_in_a_namespace(user: Person, serve: Serve) -> None:
    served = serve(without_fusermount(user), "lkmc_mmap")
    inside = served.ready.split()[1]
    assert inside == f"/proc/{served.process.pid}/root{served.directory}"
    assert "install fuse3" in served.ready
    assert user.run("cat", f"{inside}/lkmc_mmap").stdout == "asdf"


def test_fusermount_that_is_asked_for_and_missing_is_named(user: Person, place: Place) -> None:
    said = refused(without_fusermount(user), "ram", "--mount", place(user), "--via", "fusermount", code=1)
    assert "install the package fuse3" in said


@pytest.fixture
def no_namespaces(user: Person) -> Person:
    """A user in a user namespace that allows no further ones."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    inside = replace(user, prefix=(*user.prefix, "unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"))
    if inside.run("true").returncode:
        pytest.skip("this machine allows no user namespace to begin with")
    return inside


def test_where_user_namespaces_are_forbidden_it_says_so(user: Person, no_namespaces: Person, place: Place) -> None:
    said = refused(no_namespaces, "ram", "--mount", place(user), "--via", "namespace", code=1)
    assert said.startswith("user namespaces are forbidden here")


def test_where_mounting_is_forbidden_it_says_so(user: Person, no_namespaces: Person, place: Place) -> None:
    said = refused(no_namespaces, "ram", "--mount", place(user), "--via", "mount", code=1)
    assert "mounting is forbidden here" in said


def test_page_cache_only_is_stated(person: Person, serve: Serve) -> None:
    served = serve(person, "ram", "--memory", "page-cache")
    assert served.ready == f"ready: {served.directory}: ram (page cache only)\n"
    assert served.wait_log("\n").startswith("mapdev: page cache only: ")
