"""python-periphery's own tests, on a device of ours as /dev/mem."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.clients.pypi import fetch
from tests.conftest import DeviceFile
from tests.people import Person


def suite_of_python_periphery_passes(
    board: str, name: str, device_file: DeviceFile, people: Sequence[Person], options: Sequence[str] = ()
) -> list[Path]:
    """Run them as all of `people` at the same time: for the most part, they wait. The device is the class `name` of
    the file `board`. The directories that `mapdev run`, with more `options`, was called in."""
    sdist = fetch("python-periphery==2.4.2", "python_periphery-2.4.2.tar.gz", "--no-binary", ":all:")
    directories, processes = [], []
    for person in people:
        directory = device_file(person, "beaglebone.py").parent
        directories.append(directory)
        (directory / "board.py").write_text(board)
        subprocess.run(["tar", "-xf", sdist, "-C", directory, "--strip-components=1"], timeout=20, check=True)
        subprocess.run(["chmod", "-R", "a+rX", directory], timeout=20, check=True)
        directory.chmod(0o777)
        suite = [*person.python, "-B", "-m", "tests.test_mmio"]
        processes.append(person.popen(
            *person.python, "-m", "mapdev", "run", "--device", f"/dev/mem=board.py:{name}", *options, "--", *suite,
            cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ))  # fmt: skip
        stdin = processes[-1].stdin
        assert stdin is not None
        stdin.write("\ny\n")
        stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert (process.returncode, err) == (0, ""), out
        assert out.splitlines()[-1].endswith("All tests passed!")
        assert "FAIL" not in out
    return directories
