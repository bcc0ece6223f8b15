"""`mapdev module`, and what is said where the kernel module cannot be had."""

import errno
import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from mapdev import module
from mapdev.cli import main
from mapdev.errors import FuseError, ModuleError
from mapdev.hosts.kmod import control, uapi

NO_MODULES = "this kernel cannot load modules: it was built without CONFIG_MODULES"


@pytest.fixture
def no_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel without CONFIG_MODULES, whatever this one is."""
    monkeypatch.setattr(control, "CONTROL", str(tmp_path / "mapdev"))
    monkeypatch.setattr(control, "PROC_MODULES", tmp_path / "modules")
    monkeypatch.setattr(module, "PROC_MODULES", tmp_path / "modules")
    monkeypatch.setattr(module, "LIB_MODULES", tmp_path / "lib")


@pytest.fixture
def with_modules(no_modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    """One with modules, of which none is loaded: the list of the loaded ones."""
    (tmp_path / "modules").write_text("fuse 1 0 - Live 0x0\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "modules"


def said(*args: str) -> tuple[int, str]:
    """Exit code, and the last line."""
    done = CliRunner().invoke(main, args, catch_exceptions=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.splitlines()[-1]


@pytest.mark.usefixtures("no_modules")
@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("serve ram --host kernel", f"{NO_MODULES}; `mapdev serve --mount DIR` and `mapdev run` need none"),
        ("demo --host kernel", f"{NO_MODULES}; `mapdev serve --mount DIR` and `mapdev run` need none"),
        ("module list", f"{NO_MODULES}; `mapdev serve --mount DIR` and `mapdev run` need none"),
        ("module create x", f"{NO_MODULES}; `mapdev serve --mount DIR` and `mapdev run` need none"),
        ("module remove x", f"{NO_MODULES}; `mapdev serve --mount DIR` and `mapdev run` need none"),
        ("module load", NO_MODULES),
        ("module unload", NO_MODULES),
        ("module status", NO_MODULES),
        ("module build", f"{NO_MODULES}, and no module can be loaded into it"),
    ],
)
def test_a_kernel_that_cannot_load_modules_is_named_by_every_command(command: str, line: str) -> None:
    assert said(*command.split()) == (1, f"mapdev: {line}")


@pytest.mark.usefixtures("with_modules")
def test_a_module_that_is_not_loaded(with_modules: Path) -> None:
    line = "mapdev: the kernel module is not loaded: as root, `mapdev module build` and `mapdev module load`"
    assert said("serve", "ram", "--host", "kernel") == (1, line)
    assert said("module", "unload") == (1, "mapdev: the module is not loaded")
    release = os.uname().release
    assert said("module", "load") == (1, f"mapdev: no module is built for kernel {release}: `mapdev module build`")
    assert said("module", "load", "/no/such.ko") == (1, "mapdev: there is no /no/such.ko")
    with_modules.write_text("mapdev 1 0 - Live 0x0\n")
    code, text = said("module", "list")
    assert code == 1
    assert "the module is loaded, but" in text
    assert said("module", "load")[1].startswith("mapdev: the module is loaded already")


@pytest.mark.usefixtures("with_modules")
def test_missing_headers_and_compilers_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = said("module", "build", "--kernel", "6.1.0-1-amd64")
    assert code == 1
    assert "apt-get install linux-headers-6.1.0-1-amd64" in text
    build = tmp_path / "lib" / "6.1.0-1-amd64" / "build"
    build.mkdir(parents=True)
    (build / "Makefile").write_text("modules:\n\techo no such compiler >&2; exit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert said("module", "build", "--kernel", "6.1.0-1-amd64")[1].startswith("mapdev: make is not installed")
    command = ("module", "install", "--kernel", "6.1.0-1-amd64")
    assert said(*command)[1].startswith("mapdev: dkms is not installed")
    assert "apt-get install linux-headers-6.1.0-2-amd64" in said(*command[:3], "6.1.0-2-amd64")[1]


@pytest.fixture
def programs(with_modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel with headers, and a PATH in which programs come first that a test writes."""
    assert with_modules.exists()
    build = tmp_path / "lib" / module.running() / "build"
    build.mkdir(parents=True)
    (build / "Makefile").write_text("modules:\n\t@touch $(M)/mapdev.ko\n")
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "DKMS_SOURCES", tmp_path / "src")
    monkeypatch.setattr(module, "DKMS_TREE", tmp_path / "dkms")
    monkeypatch.setattr(module, "MODULES_DISABLED", tmp_path / "modules_disabled")
    monkeypatch.setattr(module, "LOCKDOWN", tmp_path / "lockdown")
    return path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_dkms_gets_the_sources_and_keeps_none_of_what_it_cannot_build(programs: Path, tmp_path: Path) -> None:
    number, release = module.version(module.sources()), module.running()
    place, log = tmp_path / "src" / f"mapdev-{number}", tmp_path / "dkms" / "mapdev" / number / "build" / "make.log"
    script(programs / "dkms", f'echo "$@" >>{tmp_path}/asked; test -f {place}/dkms.conf && echo built')
    assert said("module", "install") == (0, "installed; `mapdev module load` loads it")
    assert said("module", "install", "--kernel", release)[0] == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    install = f"install mapdev/{number} -k {release}"
    assert asked == [install, f"remove mapdev/{number} --all", install]
    log.parent.mkdir(parents=True)
    log.write_text("no such compiler\n")
    script(programs / "dkms", "echo see the log; exit 10")
    with pytest.raises(ModuleError, match=f"^dkms cannot install the module for {release}") as caught:
        module.install(release)
    assert caught.value.detail == "see the log\n\nno such compiler\n"
    assert not place.exists()


def test_the_newest_of_built_and_installed_is_loaded(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []
    monkeypatch.setattr("mapdev.libc.finit_module", loaded.append)
    script(programs / "modprobe", f'echo "$@" >>{tmp_path}/probed')
    built = module.build(module.running())
    installed = tmp_path / "lib" / module.running() / "updates" / "dkms" / "mapdev.ko.xz"
    installed.parent.mkdir(parents=True)
    installed.touch()
    for newest, other in ((built, installed), (installed, built)):
        os.utime(newest, (2000, 2000))
        os.utime(other, (1000, 1000))
        assert said("module", "load") == (0, f"loaded {newest}")
    assert len(loaded) == 1
    assert (tmp_path / "probed").read_text() == "mapdev\n"
    script(programs / "modprobe", "echo 'modprobe: ERROR: could not insert: Key was rejected by service'; exit 1")
    code, line = said("module", "load")
    assert (code, line.partition(": it takes only")[0]) == (1, f"mapdev: the kernel refuses {installed}")
    script(programs / "modprobe", "echo 'modprobe: FATAL: no map'; exit 1")
    with pytest.raises(ModuleError, match=f"^modprobe cannot load {installed}") as caught:
        module.load()
    assert "no map" in caught.value.detail


@pytest.mark.parametrize(
    ("disabled", "lockdown", "says"),
    [
        ("1", None, "kernel.modules_disabled is set"),
        ("0", "none [integrity] confidentiality", "it is locked down (Secure Boot) and takes only signed modules"),
        ("0", "none integrity [confidentiality]", "it is locked down (Secure Boot) and takes only signed modules"),
        ("0", "[none] integrity confidentiality", "this is a container"),
        (None, None, "this is a container"),
    ],
)
@pytest.mark.usefixtures("programs")
def test_of_the_reasons_for_eperm_that_one_is_named_which_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: str | None, lockdown: str | None, says: str
) -> None:
    def refuse(fd: int, parameters: str = "") -> NoReturn:  # noqa: ARG001
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    for name, content in (("modules_disabled", disabled), ("lockdown", lockdown), ("mapdev.ko", "")):
        if content is not None:
            (tmp_path / name).write_text(content)
    monkeypatch.setattr("mapdev.libc.finit_module", refuse)
    code, line = said("module", "load", str(tmp_path / "mapdev.ko"))
    assert code == 1
    assert says in line


@pytest.mark.usefixtures("with_modules")
def test_a_module_is_built_in_the_cache_and_what_make_says_is_shown(tmp_path: Path) -> None:
    build = tmp_path / "lib" / "6.1.0-1-amd64" / "build"
    build.mkdir(parents=True)
    (build / "Makefile").write_text("modules:\n\t@echo no such compiler; exit 1\n")
    with pytest.raises(ModuleError, match=r"the module cannot be built for 6\.1\.0-1-amd64") as caught:
        module.build("6.1.0-1-amd64")
    assert "no such compiler" in caught.value.detail
    (build / "Makefile").write_text("modules:\n\t@test -f $(M)/uapi/mapdev.h && touch $(M)/mapdev.ko\n")
    built = module.build("6.1.0-1-amd64")
    assert built.is_relative_to(tmp_path / "cache" / "mapdev" / "module")
    assert built == module.built("6.1.0-1-amd64")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EKEYREJECTED, "signed with a key that it knows (Secure Boot): `mapdev module install` signs it"),
        (errno.ENOKEY, "signed with a key that it knows (Secure Boot): `mapdev module install` signs it"),
        (errno.EPERM, "the kernel is locked down (Secure Boot"),
        (errno.ENOEXEC, "built for another kernel"),
        (errno.EEXIST, "loaded already"),
        (errno.ENOSYS, "cannot load modules"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_why_the_kernel_refused_the_module_is_one_line(
    with_modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def refuse(fd: int, parameters: str = "") -> NoReturn:  # noqa: ARG001
        raise OSError(number, os.strerror(number))

    assert with_modules.exists()
    (tmp_path / "mapdev.ko").write_bytes(b"")
    monkeypatch.setattr("mapdev.libc.finit_module", refuse)
    code, line = said("module", "load", str(tmp_path / "mapdev.ko"))
    assert code == 1
    assert says in line


def test_an_ordinary_user_cannot_load(with_modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_modules.exists()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("load", "install"):
        line = f"mapdev: only root can {command} a kernel module: sudo mapdev module {command}"
        assert said("module", command) == (1, line)


def test_another_major_version_of_the_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(fd: int, number: int, argument: uapi.Version) -> None:  # noqa: ARG001
        argument.major, argument.minor = 2, 3

    monkeypatch.setattr("fcntl.ioctl", answer)
    with pytest.raises(ModuleError, match=r"speaks version 2\.3 and this mapdev 1\.0: `mapdev module unload`"):
        control.version(0)


def test_what_is_no_control_is_refused() -> None:
    with open("/dev/null", "rb") as null, pytest.raises(ModuleError, match="does not belong to the module of mapdev"):
        control.version(null.fileno())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--size", "5"], "not a multiple of the page size"),
        (["x", "--size", "much"], "is not a size"),
        (["x", "--text", "a", "--init", "b"], "give one"),
        (["x", "--init", "/no/such"], "/no/such cannot be read"),
        (["x", "--text", "long" * 2000], "8000 bytes to begin with are more than 4096"),
        (["a/b"], "cannot be the name of a device"),
        (["n" * 64], "is longer than the 63 bytes"),
        (["x", "--owner", "nobody-of-this-name"], "there is no user"),
    ],
)
def test_requests_that_cannot_be_are_usage_errors(arguments: list[str], says: str) -> None:
    code, line = said("module", "create", *arguments)
    assert code == 2
    assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "kernel", "--mount", "x"], "say how FUSE serves"),
        (["--host", "kernel", "--memory", "on-demand"], "say how FUSE serves"),
        ([], "--mount DIR"),
        (["--mount", "x", "--proc"], "--proc needs --host kernel"),
    ],
)
def test_options_of_serve_that_do_not_go_together(arguments: list[str], says: str) -> None:
    code, line = said("serve", "ram", *arguments)
    assert code == 2
    assert says in line


def test_the_sources_are_found_and_dkms_reads_their_version() -> None:
    sources = module.sources()
    assert {"Kbuild", "uapi"} <= {path.name for path in sources.iterdir()}
    script = '. "$1" && echo "$PACKAGE_NAME $PACKAGE_VERSION"'
    read = subprocess.run(["bash", "-ec", script, "bash", sources / "dkms.conf"], text=True, capture_output=True,
                          timeout=20, check=False)  # fmt: skip
    assert (read.returncode, read.stdout) == (0, f"mapdev {module.version(sources)}\n")


def test_a_demo_without_fuse_names_the_one_in_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise FuseError("there is no /dev/fuse")

    monkeypatch.setattr("mapdev.hosts.fuse.host.FuseHost", refuse)
    line = "mapdev: there is no /dev/fuse; or `make demo-kernel`, in a virtual machine"
    assert said("demo") == (1, line)
