"""The look of a character device: the filter, the structures and the questions, against the C compiler's headers."""

import errno
import os
import platform
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.run import seccomp
from mapdev.run.seccomp import ARCHES, Call, Question, Statx, unavailable

X86_64, AARCH64 = ARCHES
I386, ARM, RISCV64 = 0x40000003, 0x40000028, 0xC00000F3
X32_BIT = 0x40000000


# -- the filter -----------------------------------------------------------------------------------------------


def verdict(code: bytes, nr: int, arch: int) -> int:
    """What the filter returns for a call: classic BPF, as far as it is used here."""
    data = {0: nr, 4: arch}
    program = list(seccomp.INSTRUCTION.iter_unpack(code))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, k = program[at]
        at += 1
        match operation:
            case 0x20:  # ld [k]
                accumulator = data[k]
            case 0x15:  # jeq #k
                at += if_true if accumulator == k else if_false
            case 0x06:  # ret #k
                return int(k)
            case _:
                raise AssertionError(f"an instruction that is not expected: {operation:#x}")


@pytest.mark.parametrize(
    ("arch", "trapped"),
    [
        (X86_64.audit, {4, 5, 6, 262, 332}),
        (AARCH64.audit, {79, 80, 291}),
        (I386, set()),
        (ARM, set()),
        (RISCV64, set()),
    ],
)
def test_of_all_calls_those_that_tell_about_files_wait_for_the_supervisor(arch: int, trapped: set[int]) -> None:
    code = seccomp.filter_program()
    numbers = [*range(1024), *range(X32_BIT, X32_BIT + 1024), 0xFFFFFFFF, X86_64.audit, AARCH64.audit]
    verdicts = {nr: verdict(code, nr, arch) for nr in numbers}
    assert {nr for nr, value in verdicts.items() if value == seccomp.RET_USER_NOTIF} == trapped
    assert {value for nr, value in verdicts.items() if nr not in trapped} == {seccomp.RET_ALLOW}


# -- against the headers --------------------------------------------------------------------------------------

SECCOMP_CONSTANTS = {
    "SECCOMP_RET_ALLOW": seccomp.RET_ALLOW,
    "SECCOMP_RET_USER_NOTIF": seccomp.RET_USER_NOTIF,
    "SECCOMP_IOCTL_NOTIF_RECV": seccomp.IOCTL_NOTIF_RECV,
    "SECCOMP_IOCTL_NOTIF_SEND": seccomp.IOCTL_NOTIF_SEND,
    "SECCOMP_IOCTL_NOTIF_ID_VALID": seccomp.IOCTL_NOTIF_ID_VALID,
    "SECCOMP_USER_NOTIF_FLAG_CONTINUE": seccomp.USER_NOTIF_FLAG_CONTINUE,
    "sizeof(struct seccomp_notif)": seccomp.NOTIF.size,
    "sizeof(struct seccomp_notif_resp)": seccomp.NOTIF_RESP.size,
    "sizeof(struct sock_filter)": seccomp.INSTRUCTION.size,
    "sizeof(struct statx)": seccomp.STATX.size,
    "AUDIT_ARCH_X86_64": X86_64.audit,
    "AUDIT_ARCH_AARCH64": AARCH64.audit,
    "AT_FDCWD": seccomp.AT_FDCWD,
    "AT_SYMLINK_NOFOLLOW": seccomp.AT_SYMLINK_NOFOLLOW,
    "AT_NO_AUTOMOUNT": seccomp.AT_NO_AUTOMOUNT,
    "AT_EMPTY_PATH": seccomp.AT_EMPTY_PATH,
    "AT_STATX_SYNC_TYPE": seccomp.AT_STATX_SYNC_TYPE,
    "STATX_BASIC_STATS": seccomp.STATX_BASIC_STATS,
    "STATX_MNT_ID": seccomp.STATX_MNT_ID,
    "RESOLVE_NO_MAGICLINKS": seccomp.RESOLVE_NO_MAGICLINKS,
    "RESOLVE_NO_SYMLINKS": seccomp.RESOLVE_NO_SYMLINKS,
    "RESOLVE_BENEATH": seccomp.RESOLVE_BENEATH,
    "PROC_SUPER_MAGIC": seccomp.PROC_SUPER_MAGIC,
}
HEADERS = [f"linux/{name}.h" for name in ["ioctl", "seccomp", "audit", "filter", "stat", "fcntl", "openat2", "magic"]]


def compiled(place: Path, headers: list[str], expressions: list[str], *defines: str) -> dict[str, int]:
    """What the C compiler makes of the expressions. Skips without a compiler, or without a header."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    lines = [*(f"#define {define}" for define in defines), "#include <stddef.h>", "#include <stdio.h>"]
    lines += [f"#include <{header}>" for header in headers]
    lines += [
        "int main(void) {",
        *(f'printf("%lld\\n", (long long)({text}));' for text in expressions),
        "return 0; }",
    ]
    source, program = place / "header.c", place / "header"
    source.write_text("\n".join([*lines, ""]))
    command = ["gcc", "-std=gnu11", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "No such file or directory" in done.stderr:
        pytest.skip(f"headers of the kernel are not installed or too old (linux-libc-dev): {done.stderr}")
    assert done.returncode == 0, done.stderr
    output = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True).stdout
    return dict(zip(expressions, map(int, output.split()), strict=True))


def test_constants_are_those_of_the_headers(tmp_path: Path) -> None:
    assert compiled(tmp_path, HEADERS, list(SECCOMP_CONSTANTS)) == SECCOMP_CONSTANTS


NAMES = {
    Call.STAT: "__NR_stat",
    Call.FSTAT: "__NR_fstat",
    Call.LSTAT: "__NR_lstat",
    Call.NEWFSTATAT: "__NR_newfstatat",
    Call.STATX: "__NR_statx",
}


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.machine)
def test_numbers_of_calls_are_those_of_the_headers(arch: seccomp.Arch, tmp_path: Path) -> None:
    header = "asm/unistd_64.h" if arch is X86_64 else "asm-generic/unistd.h"  # which is aarch64's
    numbers = {NAMES[call]: nr for nr, call in arch.calls.items()}
    numbers |= {"__NR_seccomp": arch.seccomp, "__NR_statx": arch.statx, "__NR_setgroups": arch.setgroups}
    assert compiled(tmp_path, [header], list(numbers), "__ARCH_WANT_NEW_STAT") == numbers


# every value is another one, and fits its field on every architecture
FOUND = Statx(
    mask=0x17FF, blksize=4096, attributes=0x11, nlink=3, uid=1001, gid=1002, mode=0o20640, ino=0x1122334455667788,
    size=0x99AABBCC, blocks=0x77, attributes_mask=0x203000, atime=-5, atime_nsec=111, btime=6, btime_nsec=222,
    ctime=0x700000007, ctime_nsec=333, mtime=8, mtime_nsec=444, rdev_major=0x123, rdev_minor=0x45678,
    dev_major=0x9A, dev_minor=0xBCDEF, mnt_id=0x123456789A, tail=bytes(range(104)),
)  # fmt: skip


def values(data: bytes, layout: dict[str, int], fields: list[str]) -> dict[str, int]:
    """The fields of a structure in bytes, at the offsets and in the sizes that the compiler has."""
    found = {}
    for field in fields:
        at, size = layout[f"offsetof(T, {field})"], layout[f"sizeof(((T *)0)->{field})"]
        found[field] = int.from_bytes(data[at : at + size], "little")
    return found


def layout_of(place: Path, name: str, header: str, fields: list[str]) -> dict[str, int]:
    expressions = [f"offsetof(T, {field})" for field in fields]
    expressions += [f"sizeof(((T *)0)->{field})" for field in fields]
    return compiled(place, [header], [*expressions, "sizeof(T)"], f"T struct {name}")


STAT_FIELDS = {
    "st_dev": os.makedev(0x9A, 0xBCDEF),
    "st_ino": FOUND.ino,
    "st_mode": FOUND.mode,
    "st_nlink": FOUND.nlink,
    "st_uid": FOUND.uid,
    "st_gid": FOUND.gid,
    "st_rdev": os.makedev(0x123, 0x45678),
    "st_size": FOUND.size,
    "st_blksize": FOUND.blksize,
    "st_blocks": FOUND.blocks,
    "st_atime": FOUND.atime % (1 << 64),
    "st_atime_nsec": FOUND.atime_nsec,
    "st_mtime": FOUND.mtime,
    "st_mtime_nsec": FOUND.mtime_nsec,
    "st_ctime": FOUND.ctime,
    "st_ctime_nsec": FOUND.ctime_nsec,
}


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.machine)
def test_struct_stat_is_laid_out_as_the_compiler_has_it(arch: seccomp.Arch, tmp_path: Path) -> None:
    if arch is X86_64 and platform.machine() != "x86_64":
        pytest.skip("the struct stat of x86-64 is in the headers of x86-64 only")
    header = "asm/stat.h" if arch is X86_64 else "asm-generic/stat.h"
    layout = layout_of(tmp_path, "stat", header, list(STAT_FIELDS))
    data = arch.stat(FOUND)
    assert len(data) == layout["sizeof(T)"]
    assert values(data, layout, list(STAT_FIELDS)) == STAT_FIELDS
    # what is no field is padding, and zero
    covered = {at for field in STAT_FIELDS for at in range(layout[f"offsetof(T, {field})"],
               layout[f"offsetof(T, {field})"] + layout[f"sizeof(((T *)0)->{field})"])}  # fmt: skip
    assert not any(byte for at, byte in enumerate(data) if at not in covered)


def test_struct_statx_is_laid_out_as_the_compiler_has_it(tmp_path: Path) -> None:
    times = {
        f"stx_{name}.tv_{part}": getattr(FOUND, name if part == "sec" else f"{name}_nsec") % (1 << 64)
        for name in ("atime", "btime", "ctime", "mtime")
        for part in ("sec", "nsec")
    }
    plain = {f"stx_{name}": value for name, value in FOUND._asdict().items() if "time" not in name and name != "tail"}
    fields = plain | times
    layout = layout_of(tmp_path, "statx", "linux/stat.h", list(fields))
    data = seccomp.STATX.pack(*FOUND)
    assert values(data, layout, list(fields)) == fields
    assert Statx._make(seccomp.STATX.unpack(data)) == FOUND


# -- questions and answers ------------------------------------------------------------------------------------

HIGH = 0xDEADBEEF << 32
"""What may be in the upper half of a register that holds an int."""


@pytest.mark.parametrize(
    ("call", "args", "asked"),
    [
        (Call.STAT, (0x1000, 0x2000, 9, 9, 9, 9), Question(-100, 0x1000, 0, 0x7FF, 0x2000)),
        (Call.LSTAT, (0x1000, 0x2000, 9, 9, 9, 9), Question(-100, 0x1000, 0x100, 0x7FF, 0x2000)),
        (Call.FSTAT, (HIGH | 3, 0x2000, 9, 9, 9, 9), Question(3, None, 0x1000, 0x7FF, 0x2000)),
        # -100 means the current directory to the calls with a path only
        (Call.FSTAT, (2**64 - 100, 0x2000, 9, 9, 9, 9), Question(2**32 - 100, None, 0x1000, 0x7FF, 0x2000)),
        (
            Call.NEWFSTATAT,
            (HIGH | 2**32 - 100, 0x1000, 0x2000, HIGH | 0x1100, 9, 9),
            Question(-100, 0x1000, 0x1100, 0x7FF, 0x2000),
        ),
        (
            Call.STATX,
            (HIGH | 7, 2**63, HIGH | 0x2000, HIGH | 0xFFF, 2**64 - 8, 9),
            Question(7, 2**63, 0x2000, 0xFFF, 2**64 - 8),
        ),
    ],
)
def test_registers_are_read_as_the_call_reads_them(call: Call, args: tuple[int, ...], asked: Question) -> None:
    assert seccomp.question(call, args) == asked


@given(st.binary(min_size=256, max_size=256), st.integers(0, 4095), st.integers(0, 2**20 - 1))
def test_a_character_device_differs_in_kind_number_size_and_owner_only(data: bytes, major: int, minor: int) -> None:
    before = Statx._make(seccomp.STATX.unpack(data))
    after = before.as_char_device((major, minor), (1, 2))
    assert stat.S_ISCHR(after.mode)
    assert stat.S_IMODE(after.mode) == stat.S_IMODE(before.mode)
    assert (after.rdev_major, after.rdev_minor, after.size, after.blocks) == (major, minor, 0, 0)
    assert (after.uid, after.gid) == (1, 2)
    differing = {name for name in Statx._fields if getattr(before, name) != getattr(after, name)}
    assert differing <= {"mode", "rdev_major", "rdev_minor", "size", "blocks", "uid", "gid"}
    _, _, _, _, _, _, rdev, *_ = seccomp.STAT_X86_64.unpack(seccomp.stat_x86_64(after))
    assert rdev == os.makedev(major, minor)


def test_a_notification_is_read() -> None:
    data = seccomp.NOTIF.pack(2**63 + 1, 77, 0, 262, X86_64.audit, 0x400000, 1, 2, 3, 4, 5, 2**64 - 1)
    assert seccomp.parse_notification(data) == (2**63 + 1, 77, 262, X86_64.audit, (1, 2, 3, 4, 5, 2**64 - 1))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENOMEM])
def test_where_it_is_not_available_a_person_is_told_why_in_a_line(number: int) -> None:
    told = str(unavailable(OSError(number, "seccomp")))
    assert told.startswith("this kernel or container forbids seccomp user notification: ")
    assert os.strerror(number) in told
    assert "\n" not in told
