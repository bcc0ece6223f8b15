"""In a guest: pytest over the tests of served devices, with the kernel module as their host."""

import os
import re
import subprocess
import sys

FILES = [
    "tests/hosts/test_operations.py",
    "tests/hosts/test_faults_answers.py",
    "tests/hosts/test_faults_blocking.py",
]
# What an `async def` answers goes the same way as what a def answers; emulated, to try it again takes minutes
SELECTED = "not (test_faults_answers and Async)"

subprocess.run(["insmod", "/lab/modules/mapdev.ko"], check=True)
command = [
    sys.executable, "-m", "pytest", "-v", "-rfEs", "--no-header", "--durations=15",
    "-p", "pytest_timeout", "-p", "no:cacheprovider", "--timeout=900", "--host=kernel", "-k", SELECTED, *FILES,
]  # fmt: skip
with subprocess.Popen(command, cwd="/lab/files", env={**os.environ, "PYTHONPATH": "/lab/files"},
                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pytest:  # fmt: skip
    assert pytest.stdout is not None
    said = ""
    for line in pytest.stdout:
        print(f"#   {line}", end="", flush=True)
        said += line
for name in re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE):
    print(f"fail {name.rpartition('::')[2]}: see the log")
passed = re.search(r"(\d+) passed", said)
if passed is not None and pytest.returncode == 0:
    print(f"ok {passed[1]} tests of operations and faults")
else:
    print(f"fail pytest: exit code {pytest.returncode}")
subprocess.run(["rmmod", "mapdev"], check=True)
print("ok rmmod")
