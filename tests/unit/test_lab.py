"""The lab's parts that need no guest: archives, apt's answers, the table of kernels, verdicts, the cache."""

import asyncio
import io
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import apt, boot, build, cache, check, guest, kernels, newc, report, sanitize
from lab.fetch import PROGRAMS, Fetched
from lab.process import CommandError, Unavailable, finish, need, run
from lab.run import Cell, below, exit_code, show, summary

from mapdev.errors import HostError, UsageError

# -- archives -------------------------------------------------------------------------------------------------


def unpack(data: bytes) -> list[newc.Entry]:
    """What is in an archive, read by the format's description."""
    stream = io.BytesIO(data)
    entries: list[newc.Entry] = []
    while True:
        header = stream.read(110)
        assert header[:6] == b"070701"
        fields = [int(header[at : at + 8], 16) for at in range(6, 110, 8)]
        name = stream.read(fields[11])
        assert name[-1:] == b"\0"
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        content = stream.read(fields[6])
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        if name == b"TRAILER!!!\0":
            assert stream.read() == b""
            return entries
        entries.append(newc.Entry(name[:-1].decode(), fields[1], content, (fields[9], fields[10])))


names = st.from_regex(r"[a-z]{1,9}(/[a-zäß]{1,9}){0,3}", fullmatch=True)
entries = st.builds(newc.Entry, names, st.sampled_from([0o100644, 0o120777]), st.binary(max_size=99))


@given(st.lists(entries, max_size=9))
def test_what_is_packed_is_unpacked(packed: list[newc.Entry]) -> None:
    assert unpack(newc.pack(packed)) == packed


def test_cpio_reads_an_archive(tmp_path: Path) -> None:
    packed = [
        newc.directory("lab"),
        newc.file("lab/one", b"first", 0o755),
        newc.link("lab/two", "one"),
        newc.file("lab/empty", b""),
    ]
    reader = next((each for each in ("cpio", "busybox") if shutil.which(each)), None)
    if reader is None:
        pytest.skip("neither cpio nor busybox is installed")
    command = [reader, *(["cpio"] if reader == "busybox" else []), "-i", "-d"]
    subprocess.run(command, input=newc.pack(packed), cwd=tmp_path, check=True, timeout=60, capture_output=True)
    assert (tmp_path / "lab/two").read_bytes() == b"first"
    assert stat.S_IMODE((tmp_path / "lab/one").stat().st_mode) == 0o755
    assert (tmp_path / "lab/empty").read_bytes() == b""


# -- apt ------------------------------------------------------------------------------------------------------

URIS = """\
'http://mirror.test/pool/l/linux-image-6.12.9+deb13-cloud-amd64_6.12.9-1_amd64.deb' \
linux-image-6.12.9+deb13-cloud-amd64_6.12.9-1_amd64.deb 123 SHA256:00ff
'http://mirror.test/pool/b/busybox-static_1%3a1.37.0-6_amd64.deb' busybox-static_1%3a1.37.0-6_amd64.deb 9 MD5Sum:1
N: a line that is no package
"""


def test_packages_are_read_from_print_uris() -> None:
    assert apt.parse_uris(URIS) == [
        apt.Package(
            "linux-image-6.12.9+deb13-cloud-amd64",
            "6.12.9-1",
            "linux-image-6.12.9+deb13-cloud-amd64_6.12.9-1_amd64.deb",
        ),
        apt.Package("busybox-static", "1:1.37.0-6", "busybox-static_1%3a1.37.0-6_amd64.deb"),
    ]


def test_mirrors_are_those_of_the_hosts_release() -> None:
    text = "sid http://other.test/\nbookworm http://a.test/debian/\nbookworm-security http://b.test/security/\n"
    assert apt.parse_mirrors(text, "bookworm") == ("http://a.test/debian/", "http://b.test/security/")
    assert apt.parse_mirrors(text, "trixie") is None


# -- the table ------------------------------------------------------------------------------------------------

TABLE = '[kernels]\n"6.1" = "bookworm"\n"7.3" = "trixie-backports"\n[userland]\nsuite = "trixie"\n'
TABLE += '[sanitize]\nsuite = "trixie"\nsource = "linux-source-6.12"\n'


def test_the_table_of_the_repository_can_be_read() -> None:
    assert kernels.table().kernels


def test_kernels_are_picked_by_name() -> None:
    table = kernels.parse(TABLE)
    assert [kernel.suite for kernel in table.pick("7.3, 6.1 7.3")] == ["trixie-backports", "bookworm"]
    assert table.pick("") == list(table.kernels)
    with pytest.raises(UsageError, match=r"no kernel 5\.4 .* 6\.1, 7\.3"):
        table.pick("5.4")


@pytest.mark.parametrize(
    ("old", "new"),
    [("[kernels]", "[kernel]"), ('"6.1"', '"new"'), ('"bookworm"', '"a b"'), ('"bookworm"', "7"), ("[", "[[[")],
)
def test_a_table_that_is_off_is_one_line(old: str, new: str) -> None:
    with pytest.raises(UsageError, match=r"^kernels\.toml"):
        kernels.parse(TABLE.replace(old, new, 1))


# -- verdicts -------------------------------------------------------------------------------------------------

END = "lab: exit 0\nlab: tainted 12288\nlab: end\n"


def judged(result: str, console: str = "", provoked: tuple[str, ...] = ()) -> report.Verdict:
    return report.judge(result, console, ended=True, limit=60, provoked=provoked)


def test_a_good_run() -> None:
    verdict = judged(f"noise\r\nok one\r\nskip two: it is not here\r\n{END}", "[    1.0] all is well\n")
    assert verdict.good
    assert (verdict.ok, verdict.skipped) == (["one"], ["two: it is not here"])


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("ok one\nfail two: why\n" + END, "two: why"),
        ("ok one\n", "the guest did not come to its end"),
        (END, "the script looked at nothing"),
        ("skip one: why\n" + END, "the script looked at nothing; all was skipped"),
        ("ok one\nlab: exit 3\nlab: tainted 0\nlab: end\n", "the script ended with exit code 3"),
        ("ok one\nlab: exit 0\nlab: tainted 512\nlab: end\n", "the kernel is tainted by a warning"),
        ("ok one\nlab: exit 0\nlab: tainted 0\nlab: leaks 2\nlab: end\n", "kmemleak found 2 objects"),
        (
            "ok one\nlab: the script did not end within 9 s\nlab: exit 137\nlab: tainted 0\nlab: end\n",
            "the script did not end within 9 s",
        ),
    ],
)
def test_a_run_that_failed_says_why(result: str, reason: str) -> None:
    (failed,) = judged(result).failed
    assert failed.startswith(reason)


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 155 at /build/one.c:84 one_init+0x43/0xff0 [one]",
        "WARNING: one.c:84 at one_init+0x3d/0xff0 [one], CPU#0: insmod/109",
        "BUG: KFENCE: use-after-free read in one_init+0x1/0x2 [one]",
        "BUG one (Tainted: G): Object corrupt",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: general protection fault, probably for non-canonical address",
        "WARNING: possible circular locking dependency detected",
        "kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "INFO: task one:77 blocked for more than 120 seconds.",
    ],
)
def test_what_the_kernel_complains_of_fails_a_run(line: str) -> None:
    verdict = judged("ok one\n" + END, f"[    1.234567] {line}\r\n")
    assert verdict.failed == [f"kernel: {line}"]


def test_what_every_kernel_says_at_its_boot_is_no_complaint() -> None:
    console = (
        "Command line: console=ttyS0 panic=-1 oops=panic slub_debug=FZPU\n"
        "kfence: initialized - using 2097152 bytes for 255 objects\n"
        "one: loading out-of-tree module taints kernel.\n"
        "debug: unmapping init memory\n"
        "kmemleak: Kernel memory leak detector initialized\n"
    )
    assert report.complaints(console) == []


def test_a_complaint_that_was_provoked_has_to_come() -> None:
    console = "BUG: KASAN: slab-use-after-free in one\n"
    assert judged("ok one\n" + END, console, ("KASAN: slab-use",)).good
    assert judged("ok one\n" + END, "", ("KASAN: slab-use",)).failed == ["the kernel did not notice: KASAN: slab-use"]


def test_what_cannot_be_had_is_no_failure_and_hides_none() -> None:
    good, bad = Cell(report.Verdict(ok=["x"])), Cell(report.Verdict(ok=["x"], failed=["broken"]))
    missing = Cell.of(Unavailable("no mirror", "what apt says"))
    assert exit_code([good, good]) == 0
    assert exit_code([good, missing]) == 3
    assert exit_code([missing, bad]) == exit_code([Cell.of(HostError("no room"))]) == 1
    assert summary(missing) == "not to be had"
    assert below({("6.12", "x"): missing}) == ["6.12 x: cannot be tried here: no mirror", "    what apt says"]


def test_each_kernel_is_one_line_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    checks = ["example", "kmod", "kmod_operations", "kmod_python", "python"]
    cells = {("6.12", name): Cell(report.Verdict(ok=["x"] * 56, skipped=["y"], seconds=1234.5)) for name in checks}
    show(cells, {"6.12": "6.12.117+deb13-cloud-amd64"}, ["6.12"], checks)
    heads, row = capsys.readouterr().out.splitlines()
    assert heads.split() == ["kernel", "release", *checks]
    assert re.split(" {2,}(?!1234)", row.strip()) == [
        "6.12", "6.12.117+deb13-cloud-amd64", *["56 ok, 1 skipped  1234.5 s"] * len(checks),
    ]  # fmt: skip


def test_a_mirror_that_does_not_answer_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shutil.which("apt-get") and any(path.exists() for path in apt._KEYRINGS)):
        pytest.skip("this needs apt-get and the keys of Debian")
    monkeypatch.setenv(apt.MIRROR, f"file:{tmp_path}/nothing")
    with pytest.raises(Unavailable, match="does not give the suite trixie"):
        asyncio.run(apt.Apt("trixie", tmp_path / "apt").update())


# -- the rest -------------------------------------------------------------------------------------------------


def test_debugging_options_are_those_that_the_kernel_has() -> None:
    line = boot.command_line("CONFIG_KFENCE=y\n# CONFIG_PAGE_POISONING is not set\n", "more=1")
    assert "kfence.sample_interval=100" in line
    assert "page_poison" not in line
    assert line.endswith(" more=1")


def test_every_check_can_be_loaded_and_has_its_script() -> None:
    assert {"example", "python", "seeded"} <= set(check.names())
    for name in check.names():
        assert (check.BODIES / check.load(name).body).is_file()
        assert set(check.load(name).packages) <= set(PROGRAMS)
    with pytest.raises(UsageError, match="no check nonesuch"):
        check.load("nonesuch")


def test_every_test_of_the_module_is_in_its_check_and_every_file_in_its_build() -> None:
    kmod = kernels.REPOSITORY / "kmod"
    programs = {*check.load("kmod").programs, *check.load("kmod").programs32}
    assert programs == {f"kmod/tests/{path.name}" for path in kmod.glob("tests/*.c")}
    objects = re.search(r"^mapdev-y := (.*)$", (kmod / "Kbuild").read_text(), re.MULTILINE)
    assert objects is not None
    assert set(objects[1].split()) == {f"{path.stem}.o" for path in kmod.glob("*.c") if ".mod." not in path.name}


def test_warnings_of_a_build() -> None:
    harmless = "warning: the compiler differs from the one used to build the kernel\n"
    said = f"one.c:3:1: warning: unused\n{harmless}  CC one.o\n"
    assert build.warnings(said) == ["one.c:3:1: warning: unused"]


def test_a_digest_is_of_the_sources_alone(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int one;")
    before = build.digest(tmp_path)
    (tmp_path / "one.o").write_text("built")
    assert build.digest(tmp_path) == before
    (tmp_path / "one.c").write_text("int two;")
    assert build.digest(tmp_path) != before


def test_a_module_is_built_for_each_kernel_though_both_roots_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compiles(what: str, root: Path, directory: Path, command: object, *, timeout: float) -> str:  # noqa: ARG001
        (directory / "one.ko").write_text(str(root))
        return ""

    monkeypatch.setattr(build, "enter", compiles)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "Kbuild").write_text("obj-m := one.o\n")
    for name in ("before", "after"):
        root = tmp_path / name / "root"
        kernel = Fetched("sanitize", "6.12-sanitize", (), tmp_path, root)
        built = asyncio.run(build.modules(kernel, tmp_path / "source"))
        assert [path.read_text() for path in built.modules] == [str(root)]


def test_a_package_that_cannot_be_had_is_told_to_the_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(*_: object) -> Path:
        return tmp_path / "nothing"

    async def refuses(name: str) -> Path:
        raise Unavailable(f"the mirror has no {name}")

    (tmp_path / "nothing").write_bytes(b"")
    for name, instead in (("userland", part), ("_base", part), ("program", refuses)):
        monkeypatch.setattr(guest, name, instead)
    wanted = check.Check(body="kmod.sh", packages=("stress-ng",))
    kernel = Fetched("6.12", "6.12.1", (), tmp_path, tmp_path)
    asyncio.run(guest.archive(kernel, wanted, b"", tmp_path / "initramfs", 60))
    told = [entry for entry in unpack((tmp_path / "initramfs").read_bytes()) if "missing/" in entry.name]
    assert [(entry.name, entry.content) for entry in told] == [
        ("lab/missing/stress-ng", b"the mirror has no stress-ng\n")
    ]


def test_lines_of_a_configuration_that_were_dropped() -> None:
    assert sanitize.missing("# why\nCONFIG_A=y\nCONFIG_B=y\n", "CONFIG_A=y\n# CONFIG_B is not set\n") == [
        "CONFIG_B=y"
    ]


def test_a_directory_of_the_cache_is_complete_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "one"

    async def half(directory: Path) -> None:
        (directory / "file").write_text("half")
        raise HostError("the mirror is gone")

    async def whole(directory: Path) -> None:
        (directory / "file").write_text("whole")

    with pytest.raises(HostError, match="the mirror is gone"):
        asyncio.run(cache.complete(path, half))
    assert not path.exists()
    assert asyncio.run(cache.complete(path, whole)) == path
    assert asyncio.run(cache.complete(path, half)) == path
    assert {each.name for each in tmp_path.iterdir()} == {"one", "one.lock"}
    assert (path / "file").read_text() == "whole"


def test_two_that_want_the_same_directory_make_it_once(tmp_path: Path) -> None:
    made = []

    async def make(directory: Path) -> None:
        made.append(directory)
        await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(*(cache.complete(tmp_path / "one", make) for _ in range(2)))

    asyncio.run(both())
    assert len(made) == 1


def test_a_program_that_fails_shows_what_it_said() -> None:
    with pytest.raises(CommandError, match=r"^trying: sh failed with exit code 3$") as caught:
        asyncio.run(run("trying", ["sh", "-c", "echo why; exit 3"], timeout=60))
    assert caught.value.detail == "why\n"


def test_a_program_that_is_not_installed_is_named_with_its_package() -> None:
    with pytest.raises(Unavailable, match=r"apt-get install a-package$"):
        need("no-such-program", "a-package")


def test_a_program_that_does_not_end_is_killed() -> None:
    assert asyncio.run(finish(["sleep", "1000"], timeout=0.1)) == (None, "")
