"""`mapdev run` in containers, of crun and bwrap; docs/howto-container.md quotes what it says there."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import need
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

HOWTO = (Path(__file__).parent.parent.parent / "docs" / "howto-container.md").read_text()
QUOTED = re.findall(r"^```text\n(.*?)^```$", HOWTO, re.MULTILINE | re.DOTALL)

# what containers get: moby's and containers/common's defaults
CAPS = {
    "docker": "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
    "SYS_CHROOT KILL AUDIT_WRITE",
    "podman": "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT",
}
MASKED = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
]
READONLY = ["bus", "fs", "irq", "sys", "sysrq-trigger"]
NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
FUSE = {"fuse": (10, 229)}

# which of the calls that mapdev makes are refused, and the capability with which they are not
REFUSED = {
    "docker": (
        "SYS_ADMIN",
        "mount umount2 unshare setns fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr",
    ),
    "podman": ("SYS_PTRACE", "process_vm_readv process_vm_writev ptrace kcmp"),
}

START = """
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount --rbind / rootfs
exec crun --root state --cgroup-manager=disabled run mapdev-test-$$
"""

SHOW = "fbset | grep geometry; stat -c '%F %t:%T' /dev/fb0; cat /proc/fb"
SHOWN = "    geometry 800 600 800 1200 32\ncharacter special file 1d:0\n0 mapdev\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def bundle(
    directory: Path, kind: str, add: str, uid: int, *, seccomp: bool, fuse: bool, env: dict[str, str], args: list[str]
) -> None:
    """A container (OCI runtime specification) whose root directory is that of this machine."""
    capabilities = ["CAP_" + name for name in f"{CAPS[kind]} {add}".split()]
    effective = [] if uid else capabilities
    nodes = {**NODES, **(FUSE if fuse else {})}
    spec: dict[str, Any] = {
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": uid, "gid": uid},
            "args": args,
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": effective, "permitted": effective},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
            "devices": [
                {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666}
                for name, (major, minor) in nodes.items()
            ],
            "maskedPaths": [f"/proc/{name}" for name in MASKED],
            "readonlyPaths": [f"/proc/{name}" for name in READONLY],
        },
    }  # fmt: skip
    capability, calls = REFUSED[kind]
    if seccomp and capability not in add.split():
        refused = {"names": calls.split(), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
    (directory / "config.json").write_text(json.dumps(spec))
    (directory / "rootfs").mkdir()


@pytest.fixture
def container(root: Person, user: Person, place: Callable[[Person], Path]) -> Run:
    """A function that runs a command in a container. Skips where crun cannot make one."""
    need("crun", "crun")
    need("fbset", "fbset")

    def run(
        args: list[str], kind: str, add: str = "", uid: int = 0, seccomp: bool = True, fuse: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        directory = place(root)
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", **user.env}
        bundle(directory, kind, add, uid, seccomp=seccomp, fuse=fuse, env=env, args=args)
        return root.run("unshare", "-m", "sh", "-c", START, cwd=directory, stdin=subprocess.DEVNULL)

    tried = run(["true"], "docker")
    if tried.returncode:
        pytest.skip(f"crun cannot make a container here: {tried.stderr.strip()}")
    return run


@pytest.fixture
def screen(user: Person) -> list[str]:
    return [*user.python, "-m", "mapdev", "run", "--device", "/dev/fb0=framebuffer", "--", "sh", "-c", SHOW]


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("docker", {"seccomp": False}), ("docker", {"add": "SYS_ADMIN"}), ("podman", {"add": "SYS_PTRACE"})],
    ids=["docker seccomp=unconfined", "docker SYS_ADMIN", "podman SYS_PTRACE"],
)
def test_a_program_sees_its_devices_with(
    container: Run, screen: list[str], kind: str, options: dict[str, Any], uid: int
) -> None:
    done = container(screen, kind, uid=uid, **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, SHOWN, "")


def test_root_with_sys_admin_has_shared_memory(container: Run, user: Person) -> None:
    done = container([*user.python, "-m", "mapdev", "demo"], "docker", add="SYS_ADMIN")
    assert done.returncode == 0, done.stderr
    assert "(shared memory" in done.stdout


@pytest.mark.parametrize("uid", [0, 1000])
def test_without_dev_fuse_it_says_what_the_howto_quotes(container: Run, screen: list[str], uid: int) -> None:
    for kind, seccomp in (("docker", False), ("podman", True)):
        done = container(screen, kind, uid=uid, seccomp=seccomp, fuse=False)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", QUOTED[0])


@pytest.mark.parametrize("uid", [0, 1000])
def test_under_docker_s_profile_it_says_what_the_howto_quotes(container: Run, screen: list[str], uid: int) -> None:
    for fuse in (True, False):
        done = container(screen, "docker", uid=uid, fuse=fuse)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", QUOTED[1])


@pytest.mark.parametrize("uid", [0, 1000])
def test_under_podman_s_profile_ioctls_without_a_size_fail_and_files_look_regular(
    container: Run, screen: list[str], uid: int
) -> None:
    done = container(screen, "podman", uid=uid)
    assert (done.returncode, done.stdout, done.stderr) == (0, "regular file 0:0\n0 mapdev\n", QUOTED[3])
    registers = [*screen[: screen.index("--device")], "--device", "/dev/mem=mem", "--", "sh", "-c"]
    busybox = need("busybox", "busybox-static")
    done = container([*registers, f"{busybox} devmem 0x1000 32 0x1234; {busybox} devmem 0x1000"], "podman", uid=uid)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0x00001234\n", "")


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_dev_proc_and_sys_of_a_container_keep_working(container: Run, user: Person, kind: str) -> None:
    devices = [word for path in ("/dev/x", "/proc/x", "/sys/class/x/x") for word in ("--device", f"{path}=lkmc_mmap")]
    script = """
        cat /dev/x /proc/x /sys/class/x/x; echo; script -qec 'echo in a pty' /dev/null
        echo kept > /dev/shm/x; cat /dev/shm/x; cat /proc/self/comm; test -d /sys/class/net && echo sys
        echo x 2> /dev/null > /proc/sys/kernel/hostname || echo read-only
    """
    add = "SYS_ADMIN" if kind == "docker" else ""
    done = container([*user.python, "-m", "mapdev", "run", *devices, "--", "sh", "-c", script], kind, add=add)
    assert done.stdout.replace("\r", "").splitlines() == ["asdf" * 3, "in a pty", "kept", "cat", "sys", "read-only"]


@pytest.mark.parametrize(
    ("capabilities", "code", "out"), [(["CAP_SETFCAP"], 0, SHOWN), ([], 1, "")], ids=["SETFCAP", "none"]
)
def test_as_root_in_the_user_namespace_of_an_ordinary_user(
    user: Person, screen: list[str], capabilities: list[str], code: int, out: str
) -> None:
    bwrap = need("bwrap", "bubblewrap")
    need("fbset", "fbset")
    command = [bwrap, "--unshare-user", "--uid", "0", "--gid", "0", "--bind", "/", "/", "--dev", "/dev"]
    command += ["--dev-bind", "/dev/fuse", "/dev/fuse", "--proc", "/proc"]
    tried = user.run(*command, "true")
    if tried.returncode:
        pytest.skip(f"bwrap cannot make a container here: {tried.stderr.strip()}")
    done = user.run(*command, *(word for name in capabilities for word in ("--cap-add", name)), *screen)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, QUOTED[2] if code else "")
