"""fio: a real load that checks every block it wrote, by mappings and by read and write."""

import subprocess
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.conftest import Serve
from tests.people import Person

pytestmark = pytest.mark.timeout(180)

MEBIBYTES = 64


@pytest.fixture(scope="module", autouse=True)
def _fio() -> None:
    need("fio", "fio")


def run_fio(person: Person, path: Path, *jobs: str) -> "subprocess.CompletedProcess[str]":
    """Run the jobs on the whole device; each verifies what it wrote, and the first bad block ends it with an error."""
    common = [
        f"--filename={path}", "--rw=randwrite", "--bs=4k", f"--size={MEBIBYTES}m", "--verify=crc32c",
        "--verify_fatal=1", "--verify_state_save=0", "--fallocate=none", "--allow_file_create=0",
    ]  # fmt: skip
    return person.run("fio", *common, *jobs, timeout=120, cwd="/tmp")


def fio(person: Person, path: Path, *jobs: str) -> None:
    done = run_fio(person, path, *jobs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "err= 0" in done.stdout


@pytest.mark.parametrize("engine", ["mmap", "psync"])
def test_random_blocks_of_the_whole_device_verify(person: Person, serve: Serve, engine: str) -> None:
    path = serve(person, f"ram:{MEBIBYTES}M").path("ram")
    # a block of psync is two round trips to the device
    fio(person, path, "--name=one", f"--ioengine={engine}", "--bs=16k" if engine == "psync" else "--bs=4k")


@pytest.mark.parametrize(("stores", "reads"), [("mmap", "psync"), ("psync", "mmap")])
def test_what_one_fio_wrote_another_verifies_the_other_way(
    person: Person, serve: Serve, stores: str, reads: str
) -> None:
    path = serve(person, f"ram:{MEBIBYTES}M").path("ram")
    fio(person, path, "--name=one", f"--ioengine={stores}", "--bs=16k", "--do_verify=0")
    fio(person, path, "--name=one", f"--ioengine={reads}", "--bs=16k", "--verify_only=1")


def test_two_jobs_at_once_one_mapped_one_not(person: Person, serve: Serve) -> None:
    path = serve(person, f"ram:{MEBIBYTES}M").path("ram")
    half = f"--size={MEBIBYTES // 2}m"
    other = [half, f"--offset={MEBIBYTES // 2}m", "--bs=16k"]
    fio(person, path, half, "--name=mapped", "--ioengine=mmap", "--name=unmapped", "--ioengine=psync", *other)


def test_a_byte_that_somebody_else_changed_is_found(person: Person, serve: Serve) -> None:
    path = serve(person, f"ram:{MEBIBYTES}M").path("ram")
    fio(person, path, "--name=one", "--ioengine=mmap", "--bs=64k", "--do_verify=0")
    person.run(
        "dd", "if=/dev/urandom", f"of={path}", "bs=1", "count=16", "seek=5000000", "conv=notrunc", "status=none"
    )
    done = run_fio(person, path, "--name=one", "--ioengine=mmap", "--bs=64k", "--verify_only=1")
    assert done.returncode != 0
    assert "verify" in done.stderr
