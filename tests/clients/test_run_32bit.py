"""A 32-bit program and a device: what its ioctls point to is as that program lays it out."""

import errno
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

DEVICE = """
import struct
from mapdev import Device

class Compat(Device):
    def ioctl(self, file, cmd, arg):
        text = struct.Struct("=II" if arg.compat else "=QQ")
        assert cmd >> 16 & 0x3FFF == text.size, hex(cmd)
        at, length = text.unpack(bytes(arg))
        arg.copy_to_user(arg.copy_from_user(length, at).upper(), at)
        arg.copy_to_user(text.pack(at, 0))
        return length
"""


def test_a_32_bit_program_hands_over_a_structure_with_a_pointer(
    person: Person, place: Callable[[Person], Path]
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the program is one for x86")
    directory = place(person)
    program, device = directory / "program32", directory / "compat.py"
    device.write_text(DEVICE)
    options = ["-m32", "-O1", "-Wall", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie"]
    options += ["-fno-stack-protector", "-fcf-protection=none"]
    source = Path(__file__).with_name("program32.c")
    subprocess.run([need("gcc", "gcc"), *options, "-o", program, source], check=True, timeout=60)
    program.chmod(0o755)
    try:
        assert subprocess.run([program], timeout=10, check=False).returncode == 1  # there is no such device yet
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
        raise
    done = person.mapdev("run", "--device", f"/dev/compat={device}", "--", program)
    assert (done.returncode, done.stderr) == (0, "")
