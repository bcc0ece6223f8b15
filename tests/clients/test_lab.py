"""Both kernel modules of this repository: built for a Debian kernel, loaded in a guest, used by programs in C."""

import re
import subprocess
import sys

import pytest
from lab.kernels import REPOSITORY
from lab.process import Unavailable

KERNEL, CHECKS = "6.12", ["example", "kmod"]
TIMEOUT = 1200  # the first time some 400 MB are fetched


@pytest.mark.timeout(TIMEOUT + 60)
def test_the_modules_do_what_they_have_to_in_a_guest() -> None:
    command = [sys.executable, "-m", "lab.run", "--kernels", KERNEL, "--checks", " ".join(CHECKS)]
    done = subprocess.run(
        command, cwd=REPOSITORY, timeout=TIMEOUT, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode == Unavailable.exit_code:
        reasons = re.findall(r"cannot be tried here: (.*)", done.stdout)
        pytest.skip("; ".join(dict.fromkeys(reasons)))
    assert done.returncode == 0, done.stdout
    row = re.search(rf"^{re.escape(KERNEL)} +{re.escape(KERNEL)}\.\S+ +(.*)$", done.stdout, re.MULTILINE)
    assert row is not None, done.stdout
    assert len(re.findall(r"\b[1-9]\d* ok\b", row[1])) == len(CHECKS), done.stdout
