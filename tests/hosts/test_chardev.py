"""The look of a character device, as programs see it: an ordinary file stands for the device."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.people import Person

MAJOR, MINOR = 240, 0x12345
DEVT = os.makedev(MAJOR, MINOR)

# Runs a program under a supervisor, as `mapdev run` does but without namespaces and devices; tells how it went.
LAUNCHER = """
import ctypes, errno, json, logging, os, signal, socket, sys, threading, time
from mapdev import libc
from mapdev.hosts.fuse.mount import enter_user_namespace
from mapdev.run.chardev import Supervisor
from mapdev.run.seccomp import install_filter

asked = json.loads(sys.argv[1])
logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
identity = lambda found: (found.st_dev, found.st_ino)
numbers = {identity(os.stat(path)): tuple(asked["device"]) for path in asked["devices"]}
special = {identity(os.stat(path)): name for path, name in asked["special"].items()}
called = {name: threading.Event() for name in special.values()}

def devices(found):
    name = special.get(identity(found))
    if name:
        called[name].set()
    if name == "slow":
        time.sleep(1)
    if name == "waiting" and not called["awaited"].wait(20):
        return None
    while name == "held" and not os.path.exists("release"):
        time.sleep(0.01)
    if name == "broken":
        raise ValueError("the predicate is broken")
    return numbers.get(identity(found))

def program(sock):
    if asked["root"]:
        if os.geteuid():
            enter_user_namespace()
        else:
            libc.unshare(libc.CLONE_NEWNS)
        libc.mount(None, "/", flags=libc.MS_REC | libc.MS_PRIVATE)
        os.chroot(asked["root"])
        os.chdir("/")
    listener = install_filter()
    socket.send_fds(sock, [b"!"], [listener])
    os.close(listener)
    sock.recv(1)
    os.execvp(asked["program"][0], asked["program"])

fds = sorted(os.listdir("/proc/self/fd"))
ours, its = socket.socketpair()
pid = os.fork()
if not pid:
    try:
        ours.close()
        program(its)
    finally:
        os._exit(99)
its.close()
with ours:
    _, received, *_ = socket.recv_fds(ours, 1, 1)
    supervisor = Supervisor(received[0], devices if special else numbers)
    supervisor.start()
    ours.send(b"!")
if asked["close_at"]:
    while not os.path.exists(asked["close_at"]):
        time.sleep(0.01)
    supervisor.close()
    open(asked["close_at"] + ".done", "w").close()
_, status = os.waitpid(pid, 0)
alone = supervisor.wait(0)
gone = supervisor.wait(20)
supervisor.close()
supervisor.close()
until = time.monotonic() + 10
while threading.active_count() > 1 and time.monotonic() < until:
    time.sleep(0.01)
report = {
    "outlived": not alone, "gone": gone, "threads": threading.active_count(),
    "fds": len(os.listdir("/proc/self/fd")) - len(fds),
}
with open(asked["report"], "w") as file:
    json.dump(report, file)
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class Ran:
    """How a program ended, what it wrote; ``report``: what the launcher tells."""

    code: int
    stdout: str
    stderr: str
    report: dict[str, Any]


class Look:
    """A directory of a person's with the file ``x`` that looks like a device, and ``y`` that does not."""

    def __init__(self, person: Person, directory: Path) -> None:
        self.person = person
        self.directory = directory
        self.x = self.file("x", "asdf")
        self.y = self.file("y", "zxcv")

    def file(self, name: str, content: str = "qwer") -> Path:
        """A new file, and the directories on the way, of this person's."""
        path = self.directory / name
        made = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        for each in (path, *made):
            os.chown(each, self.person.uid, -1)
        return path

    def run(
        self, *program: str | Path, devices: list[Path] | None = None, special: dict[Path, str] | None = None,
        root: Path | None = None, close_at: Path | None = None, prefix: tuple[str, ...] = (), **options: Any,
    ) -> Ran:  # fmt: skip
        """Run it under a supervisor, and see that this has ended by itself and left nothing."""
        report = self.directory / "report"
        asked = {
            "program": [*prefix, *map(str, program)],
            "device": [MAJOR, MINOR],
            "devices": [str(path) for path in devices or [self.x]],
            "special": {str(path): name for path, name in (special or {}).items()},
            "root": str(root) if root else "",
            "close_at": str(close_at) if close_at else "",
            "report": str(report),
        }
        options = {"cwd": self.directory, "timeout": 60, **options}
        done = self.person.run(*self.person.python, "-c", LAUNCHER, json.dumps(asked), **options)
        assert report.exists(), done.stderr
        told = json.loads(report.read_text())
        assert told["gone"], f"the supervisor has not ended: {done.stderr}"
        assert (told["threads"], told["fds"]) == (1, 0), f"left behind: {told}"
        return Ran(done.returncode, done.stdout, done.stderr, told)

    def sh(self, script: str, **options: Any) -> str:
        """What a shell script writes; it must not complain."""
        ran = self.run("sh", "-c", script, **options)
        assert ran.stderr == ""
        return ran.stdout

    def python(self, script: str, *args: str | Path, **options: Any) -> Any:
        """What a Python program leaves in `result`; it must not complain."""
        program = f"import json, sys\n{script}\nprint(json.dumps(result))"
        ran = self.run(*self.person.python, "-S", "-E", "-c", program, *args, **options)
        assert ran.stderr == ""
        return json.loads(ran.stdout)


@pytest.fixture
def look(person: Person, place: Callable[[Person], Path]) -> Look:
    return Look(person, place(person))


@pytest.fixture
def root_look(root: Person, place: Callable[[Person], Path]) -> Look:
    return Look(root, place(root))


def need(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (apt-get install {package})")
    return path


def need_static_busybox() -> str:
    path = need("busybox", "busybox-static")
    libraries = subprocess.run(["ldd", path], capture_output=True, timeout=20, check=False)
    if b"=>" in libraries.stdout:
        pytest.skip("busybox is not static (apt-get install busybox-static)")
    return path


def compile_c(place: Path, text: str, *options: str) -> Path:
    need("gcc", "gcc")
    source, program = place / "program.c", place / "program"
    source.write_text(text)
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", *options, "-o", program, source], check=True, timeout=60)
    program.chmod(0o755)
    return program


CHAR = f"character special file {MAJOR:x}:{MINOR:x} 0 0\n"
STAT = "stat -c '%F %t:%T %s %b'"


# -- programs of others ---------------------------------------------------------------------------------------


def test_stat_ls_and_test_agree_that_it_is_a_character_device(look: Look) -> None:
    assert look.sh(f"{STAT} x; {STAT} -L x; {STAT} {look.x}; {STAT} - < x") == CHAR * 4
    listed = look.sh("ls -l x; ls -ln").splitlines()
    assert listed[0].startswith("crw-r--r--")
    assert f"{MAJOR}, {MINOR}" in listed[0]
    assert [line.split()[-1] for line in listed[1:] if line.startswith("c")] == ["x"]
    script = "for kind in b c d e f p s L S; do test -$kind x && echo $kind; done"
    assert look.sh(script).split() == ["c", "e"]


def test_other_files_look_as_they_are(look: Look) -> None:
    paths = "y . .. /dev/null /dev /etc/passwd /proc/self /proc/self/exe /proc/1"
    script = f"{STAT} {paths} 2>&1; stat -L -c %F {paths} missing y/x 2>&1"
    assert look.sh(script) == look.person.run("sh", "-c", script, cwd=look.directory).stdout
    assert look.sh("test -f y && test ! -c y && cat y x") == "zxcvasdf"


def test_a_static_program_sees_it_too(look: Look) -> None:
    busybox = need_static_busybox()
    assert look.sh(f"{busybox} {STAT} x; {busybox} {STAT} {look.x}") == CHAR * 2
    assert look.sh(f"{busybox} ls -l x").startswith("crw-r--r--")
    assert look.sh(f"{busybox} sh -c 'test -c x && ! test -b x && ! test -f x && echo yes'") == "yes\n"


def test_find_finds_it_by_its_type(look: Look) -> None:
    find = need("find", "findutils")
    assert look.sh(f"{find} x y -type c; {find} x y -type f") == "x\ny\n"


def test_python_sees_it_by_path_and_by_descriptor(look: Look) -> None:
    script = """
import os, stat
here = os.open(".", os.O_RDONLY)
fd = os.open("x", os.O_RDONLY)
pinned = os.open("x", os.O_PATH)
ways = {
    "stat": lambda: os.stat("x"),
    "lstat": lambda: os.lstat("x"),
    "fstat": lambda: os.fstat(fd),
    "absolute": lambda: os.stat(os.path.abspath("x")),
    "dir_fd": lambda: os.stat("x", dir_fd=here),
    "O_PATH": lambda: os.fstat(pinned),
    "proc": lambda: os.stat(f"/proc/self/fd/{fd}"),
    "thread": lambda: os.stat(f"/proc/thread-self/fd/{fd}"),
    "pid": lambda: os.stat(f"/proc/{os.getpid()}/fd/{fd}"),
    "task": lambda: os.stat(f"/proc/self/task/{os.getpid()}/fd/{fd}"),
    "cwd": lambda: os.stat("/proc/self/cwd/x"),
    "root": lambda: os.stat("/proc/self/root" + os.path.abspath("x")),
    "dev": lambda: os.stat(f"/dev/fd/{fd}"),
    "scandir": lambda: next(e.stat(follow_symlinks=False) for e in os.scandir(".") if e.name == "x"),
}
result = {name: [stat.filemode(s.st_mode), s.st_rdev, s.st_size] for name, s in ((n, w()) for n, w in ways.items())}
"""
    seen = look.python(script)
    assert len(seen) == 14
    assert {name: value for name, value in seen.items() if value != ["crw-r--r--", DEVT, 0]} == {}


def test_what_standard_input_is_can_be_seen_by_its_name(look: Look) -> None:
    script = (
        f"{STAT} -L /dev/stdin /proc/self/fd/0 /dev/fd/0 < x; stat -c %F /proc/self/fd/0 < x; stat -L -c %F - < y"
    )
    assert look.sh(script) == CHAR * 3 + "symbolic link\nregular file\n"


# -- every call, all its fields -------------------------------------------------------------------------------

# each call by its number, as a static program does it: its errno, or the bytes that it has stored
CALLS = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {
    "x86_64": dict(stat=4, fstat=5, lstat=6, newfstatat=262, statx=332),
    "aarch64": dict(newfstatat=79, fstat=80, statx=291),
}[platform.machine()]

def call(name, *args, size=256):
    buffer = ctypes.create_string_buffer(b"\\xaa" * size, size)
    place = {"statx": 4, "newfstatat": 2}.get(name, 1)
    args = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    args[place:place] = [buffer]
    if libc.syscall(ctypes.c_long(NUMBERS[name]), *args):
        return os.strerror(ctypes.get_errno())
    return buffer.raw.hex()
"""


def test_each_call_shows_all_else_as_it_is(look: Look) -> None:
    script = (
        CALLS
        + """
path, fd, here = os.fsencode(sys.argv[1]), os.open(sys.argv[1], os.O_RDONLY), os.open(".", os.O_RDONLY)
os.close(os.open(sys.argv[1], os.O_RDONLY))
result = {}
for name in NUMBERS:
    if name == "fstat":
        result["fstat"] = call(name, fd)
    elif name == "newfstatat":
        result["at"] = call(name, here, path, 0)
        result["empty"] = call(name, fd, b"", 0x1000)
    elif name == "statx":
        for mask in (0, 1, 2, 0x7ff, 0xfff, 0x1fff, 0x3fff, 0x2800, 0x5fff, 0x7fffffff):
            result[f"statx {mask:#x}"] = call(name, -100, path, 0, mask)
        for flags in (0x100, 0x800, 0x2000, 0x4000, 0x1000, 0x1900):
            result[f"statx flags {flags:#x}"] = call(name, -100, path, flags, 0xfff)
    else:
        result[name] = call(name, path)
"""
    )
    plain = look.person.run(
        *look.person.python, "-S", "-E", "-c", f"import json, sys\n{script}\nprint(json.dumps(result))", "x",
        cwd=look.directory,
    )  # fmt: skip
    before, after = json.loads(plain.stdout), look.python(script, "x")
    assert before.keys() == after.keys()
    for name, data in before.items():
        expected = as_device(bytes.fromhex(data), is_statx=name.startswith("statx"))
        assert after[name] == expected.hex(), name
    # and a file that is not ours is the same to the byte
    plain = look.person.run(
        *look.person.python, "-S", "-E", "-c", f"import json, sys\n{script}\nprint(json.dumps(result))", "y",
        cwd=look.directory,
    )  # fmt: skip
    assert look.python(script, "y") == json.loads(plain.stdout)


def as_device(data: bytes, is_statx: bool) -> bytes:
    """What the kernel has stored about the file, with what is to differ: by offsets, on this architecture."""
    changed = bytearray(data)

    def put(at: int, size: int, value: int) -> None:
        changed[at : at + size] = value.to_bytes(size, "little")

    if is_statx:
        put(28, 2, 0o020644)
        put(40, 8, 0)
        put(48, 8, 0)
        put(128, 4, MAJOR)
        put(132, 4, MINOR)
        # alignments of direct I/O and atomic writes are told of regular files and block devices only
        put(0, 4, int.from_bytes(data[:4], "little") & ~0x32000)
        put(56, 8, int.from_bytes(data[56:64], "little") & ~0x400000)
        put(152, 8, 0)
        put(176, 16, 0)
    elif platform.machine() == "x86_64":
        put(24, 4, 0o020644)
        put(40, 8, DEVT)
        put(48, 8, 0)
        put(64, 8, 0)
    else:
        put(16, 4, 0o020644)
        put(32, 8, DEVT)
        put(48, 8, 0)
        put(64, 8, 0)
    return bytes(changed)


def test_errors_are_the_kernels(look: Look) -> None:
    script = (
        CALLS
        + """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
sealed = libc.mmap(None, 4096, 1, 0x22, -1, 0)
here, fd, n = os.open(".", os.O_RDONLY), os.open("x", os.O_RDONLY), NUMBERS
def at(*args):
    done = libc.syscall(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    return os.strerror(ctypes.get_errno()) if done else "done"
result = {
    "slash": call("newfstatat", here, b"x/", 0),
    "dot": call("newfstatat", here, b"x/.", 0),
    "below": call("newfstatat", here, b"x/y", 0),
    "missing": call("newfstatat", here, b"missing", 0),
    "no path": call("newfstatat", fd, b"", 0),
    "not a directory": call("newfstatat", fd, b"x", 0),
    "bad descriptor": call("newfstatat", 999, b"x", 0),
    "bad empty": call("newfstatat", 999, b"", 0x1000),
    "fstat": call("fstat", 999),
    "fstat -1": call("fstat", -1),
    "fstat -100": call("fstat", -100),
    "flags": call("newfstatat", here, b"x", 0x40),
    "statx flags": call("statx", here, b"x", 0x40, 0x7ff),
    "statx sync": call("statx", here, b"x", 0x6000, 0x7ff),
    "statx mask": call("statx", here, b"x", 0, 0x80000000),
    "long name": call("newfstatat", here, b"n" * 300, 0),
    "long path": call("newfstatat", here, b"./" * 3000 + b"x", 0),
    "loop": call("newfstatat", here, b"loop", 0),
    "path": at(n["newfstatat"], here, 8, ctypes.create_string_buffer(256), 0),
    "buffer": at(n["newfstatat"], here, b"x", 8, 0),
    "read only": at(n["newfstatat"], here, b"x", sealed, 0),
    "statx read only": at(n["statx"], here, b"x", 0, 0x7ff, sealed),
    "fstat buffer": at(n["fstat"], fd, 8),
}
"""
    )
    os.symlink("loop", look.directory / "loop")
    assert look.python(script) == {
        "slash": "Not a directory",
        "dot": "Not a directory",
        "below": "Not a directory",
        "missing": "No such file or directory",
        "no path": "No such file or directory",
        "not a directory": "Not a directory",
        "bad descriptor": "Bad file descriptor",
        "bad empty": "Bad file descriptor",
        "fstat": "Bad file descriptor",
        "fstat -1": "Bad file descriptor",
        "fstat -100": "Bad file descriptor",
        "flags": "Invalid argument",
        "statx flags": "Invalid argument",
        "statx sync": "Invalid argument",
        "statx mask": "Invalid argument",
        "long name": "File name too long",
        "long path": "File name too long",
        "loop": "Too many levels of symbolic links",
        "path": "Bad address",
        "buffer": "Bad address",
        "read only": "Bad address",
        "statx read only": "Bad address",
        "fstat buffer": "Bad address",
    }


def test_a_path_may_end_where_the_memory_ends(look: Look) -> None:
    script = (
        CALLS
        + """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t
pages = libc.mmap(None, 3 * 4096, 3, 0x22, -1, 0)
libc.munmap(pages + 2 * 4096, 4096)
end = pages + 2 * 4096
path = b"./" * 20 + b"x\\0"
ctypes.memmove(end - len(path), path, len(path))
across = pages + 4096 - 10
result = [call("newfstatat", -100, end - len(path), 0)[:6] != "No suc"]
ctypes.memmove(end - 2, b"xx", 2)
result.append(call("newfstatat", -100, end - 2, 0))
ctypes.memmove(across, path, len(path))
result.append(call("newfstatat", -100, across, 0) == call("newfstatat", -100, b"x", 0))
"""
    )
    assert look.python(script) == [True, "Bad address", True]


def test_no_path_at_all_means_the_descriptor_where_the_kernel_says_so(look: Look) -> None:
    script = (
        CALLS
        + """
fd = os.open("x", os.O_RDONLY)
result = [call("newfstatat", fd, 0, 0x1000), call("statx", fd, 0, 0x1000, 0x7ff), call("newfstatat", fd, b"", 0x1000)]
"""
    )
    null, statx, empty = look.python(script)
    if null == "Bad address":
        pytest.skip("this kernel takes no NULL for a path (Linux 6.11 does)")
    assert null == empty
    assert bytes.fromhex(statx)[28:30] == (0o020644).to_bytes(2, "little")


# -- names ----------------------------------------------------------------------------------------------------


def test_symbolic_links_lead_to_it_and_are_links_themselves(look: Look) -> None:
    look.file("sub/deeper/z")
    for name, target in {
        "relative": "x",
        "absolute": str(look.x),
        "chain": "relative",
        "sub/up": "../x",
        "sub/deeper/chain": "../up",
        "directory": "sub/deeper",
        "around": "directory/../../x",
        "sub/slashes": "..//./x",
        "slash": "x/",
        "dangling": "missing",
        "other": "y",
        "sub/here": "..",
    }.items():
        os.symlink(target, look.directory / name)
    leading = [
        "relative",
        "absolute",
        "chain",
        "sub/up",
        "directory/chain",
        "around",
        "sub/slashes",
        "./sub/../chain",
    ]
    assert look.sh(f"{STAT} -L {' '.join(leading)}") == CHAR * len(leading)
    assert look.sh(f"stat -c %F {' '.join(leading)}") == "symbolic link\n" * len(leading)
    assert look.sh(f"{STAT} sub/here/x directory/../here/x") == CHAR * 2
    assert look.sh("cd sub/deeper; stat -L -c %F chain ../../x ../up/../x 2>&1; cd -P ../../directory; ls -l ../up"
                   " | cut -c1").splitlines()[:2] == ["character special file"] * 2  # fmt: skip
    answers = look.sh("LC_ALL=C stat -L -c %F slash dangling relative/ other 2>&1")
    assert [line.rpartition(": ")[2] for line in answers.splitlines()] == [
        "Not a directory",
        "No such file or directory",
        "Not a directory",
        "regular file",
    ]


def test_where_the_program_goes_its_paths_go_with_it(look: Look) -> None:
    look.file("sub/x")
    assert look.sh("cd sub; stat -c %F x ../x; cd ..; mv sub moved; cd moved; stat -c %F x ../x") == (
        "regular file\ncharacter special file\n" * 2
    )


def test_a_file_that_was_removed_is_seen_by_its_descriptor(look: Look) -> None:
    assert look.sh(f"exec 3< x; rm x; echo new > x; {STAT} -L /proc/self/fd/3; {STAT} - <&3; stat -c %F x") == (
        CHAR * 2 + "regular file\n"
    )


def new_root(look: Look) -> Path:
    """A directory that can be a root: with busybox, and /dev/x."""
    busybox = need_static_busybox()
    root = look.directory / "root"
    look.file("root/dev/x")
    (root / "proc").mkdir()
    shutil.copy(busybox, root / "busybox")
    return root


def test_in_another_root_paths_and_links_are_that_roots(look: Look) -> None:
    root = new_root(look)
    # names that exist outside as well, and are something else there
    inside = look.file(f"root{look.directory}/decoy")
    look.file("decoy")
    look.file(f"root{look.x}")
    for name, target in {
        "absolute": "/dev/x",
        "beyond": "../../../../../dev/x",
        "twice": "/absolute",
        "decoy": str(look.directory / "decoy"),
        "outside": str(look.x),
    }.items():
        os.symlink(target, root / name)
    names = "x ../dev/x ../../../dev/x /../dev/x /absolute /beyond /twice /decoy /outside"
    ran = look.run(
        "/busybox", "sh", "-c", f"cd /dev; /busybox stat -L -c '%n %F' {names}",
        root=root, devices=[root / "dev/x", inside, look.x],
    )  # fmt: skip
    assert ran.stderr == ""
    kinds = dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    assert kinds.pop("/outside") == "regular file"
    assert len(kinds) == 8
    assert set(kinds.values()) == {"character special file"}


def test_in_another_root_with_its_own_proc_self_is_the_program(root_look: Look) -> None:
    root = new_root(root_look)
    os.symlink("/proc/self/fd/0", root / "dev" / "stdin")
    ran = root_look.run(
        "/busybox", "sh", "-c",
        "/busybox mount -t proc proc /proc && /busybox stat -L -c %F /dev/stdin /proc/self/fd/0 < /dev/x",
        root=root, devices=[root / "dev/x"],
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("character special file\n" * 2, "")


def test_in_a_pid_namespace_self_is_the_program(root_look: Look) -> None:
    unshare = need("unshare", "util-linux")
    script = f"{STAT} x; {STAT} -L /proc/self/fd/0 /proc/1/fd/0 /dev/stdin < x; readlink /proc/self"
    ran = root_look.run(unshare, "--pid", "--fork", "--mount-proc", "sh", "-c", f"exec < x; {script}")
    assert ran.stderr == ""
    assert ran.stdout.startswith(CHAR * 4)


# -- whose it is ----------------------------------------------------------------------------------------------


def test_in_a_user_namespace_the_owner_is_as_the_kernel_shows_it(
    user: Person, place: Callable[[Person], Path]
) -> None:
    look = Look(user, place(user))
    unshare = need("unshare", "util-linux")
    command = [unshare, "--user", "--map-root-user", "stat", "-c", "%u %g", "x", "/etc/passwd"]
    plain = user.run(*command, cwd=look.directory)
    if plain.returncode:
        pytest.skip(f"user namespaces are forbidden here: {plain.stderr}")
    assert plain.stdout.startswith("0 ")
    assert look.run(*command).stdout == plain.stdout


def test_who_may_not_search_the_directory_is_refused_under_root_too(root_look: Look, user: Person) -> None:
    closed = root_look.file("closed/x")
    closed.parent.chmod(0o700)
    opened = root_look.file("opened/x")
    script = "LC_ALL=C stat -c %F closed/x opened/x 2>&1"
    ran = root_look.run(*user.prefix, "sh", "-c", script, devices=[closed, opened])
    assert ran.stdout.splitlines() == [
        "stat: cannot statx 'closed/x': Permission denied",
        "character special file",
    ]
    assert root_look.sh(script, devices=[closed, opened]) == "character special file\n" * 2


@pytest.mark.parametrize(
    ("gid", "groups", "answer"),
    [
        (4321, "--clear-groups", "character special file\n"),
        (65534, "--groups=7,4321", "character special file\n"),
        (65534, "--groups=7", ""),
    ],
)
def test_a_directory_open_to_a_group_is_searched_by_its_members(
    root_look: Look, gid: int, groups: str, answer: str
) -> None:
    closed = root_look.file("closed/x")
    os.chown(closed.parent, 0, 4321)
    closed.parent.chmod(0o710)
    as_member = (need("setpriv", "util-linux"), "--reuid=65534", f"--regid={gid}", groups)
    assert root_look.run(*as_member, "stat", "-c", "%F", "closed/x", devices=[closed]).stdout == answer


# -- many, killed, interrupted, late --------------------------------------------------------------------------


def test_eight_processes_at_once_all_see_it(look: Look) -> None:
    one = "i=0; while [ $i -lt 20 ]; do stat -c %F x y; i=$((i+1)); done"
    answers = look.sh(f"for n in 1 2 3 4 5 6 7 8; do ({one}) & done; wait").splitlines()
    assert sorted(answers) == ["character special file"] * 160 + ["regular file"] * 160


def test_eight_threads_at_once_all_see_it(look: Look) -> None:
    script = """
import os, stat, threading
counts, fd = {}, os.open("x", os.O_RDONLY)
def many(number):
    kinds = [(stat.S_ISCHR(os.stat("x").st_mode), stat.S_ISCHR(os.fstat(fd).st_mode),
              stat.S_ISREG(os.stat("y").st_mode)) for _ in range(200)]
    counts[number] = kinds.count((True, True, True))
threads = [threading.Thread(target=many, args=[n]) for n in range(8)]
for each in threads: each.start()
for each in threads: each.join()
result = list(counts.values())
"""
    assert look.python(script) == [200] * 8


def test_killed_in_the_middle_it_is_gone_and_others_are_answered(look: Look) -> None:
    slow = look.file("slow")
    script = f"""
stat slow > /dev/null & late=$!
sleep 0.3
kill -9 $late; wait $late; echo $?
{STAT} x
"""
    ran = look.run("sh", "-c", script, special={slow: "slow"}, devices=[look.x, slow])
    assert ran.stdout == "137\n" + CHAR
    assert "Traceback" not in ran.stderr


def test_an_answer_that_waits_for_another_call_gets_it(look: Look) -> None:
    waiting, awaited = look.file("waiting"), look.file("awaited")
    special = {waiting: "waiting", awaited: "awaited"}
    script = "stat -c '%n %F' waiting & sleep 0.2; stat -c '%n %F' awaited; wait"
    lines = look.sh(script, special=special, devices=[waiting, awaited]).splitlines()
    assert sorted(lines) == ["awaited character special file", "waiting character special file"]


def test_more_late_answers_than_there_are_threads_do_not_stop_the_rest(look: Look) -> None:
    held = look.file("held")
    script = """
import os, stat, threading, time
kinds = []
threads = [threading.Thread(target=lambda: kinds.append(os.stat("held").st_mode)) for _ in range(80)]
for each in threads: each.start()
time.sleep(2)
early = len(kinds)
os.stat("y")
open("release", "w").close()
for each in threads: each.join()
late = [stat.S_ISCHR(mode) for mode in kinds[early:]]
result = [0 < early < 80, all(late), len(kinds)]
"""
    assert look.python(script, special={held: "held"}, devices=[held]) == [True, True, 80]


def test_a_supervisor_that_fails_says_so_once_and_the_kernel_answers(look: Look) -> None:
    broken = look.file("broken", "12345")
    ran = look.run("stat", "-c", "%F %s", broken, broken, "x", special={broken: "broken"}, devices=[broken, look.x])
    assert ran.stdout == "regular file 5\n" * 2 + "character special file 0\n"
    assert ran.stderr.count("ValueError: the predicate is broken") == 1


def test_a_timer_that_fires_all_the_time_does_not_stop_it(look: Look) -> None:
    program = compile_c(look.directory, """
        #define _GNU_SOURCE
        #include <signal.h>
        #include <stdio.h>
        #include <sys/stat.h>
        #include <sys/time.h>
        #include <unistd.h>
        static volatile sig_atomic_t fired;
        static void handler(int number) { fired += number == SIGALRM; }
        int main(void) {
            struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
            sigaction(SIGALRM, &action, NULL);
            struct itimerval often = {{0, 300}, {0, 300}};
            setitimer(ITIMER_REAL, &often, NULL);
            int wrong = 0, done = 0;
            while (done < 3000 || fired < 20) {
                struct stat x, y;
                wrong += stat("x", &x) || !S_ISCHR(x.st_mode) || stat("y", &y) || !S_ISREG(y.st_mode);
                done++;
            }
            setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
            printf("%d wrong\\n", wrong);
            return 0;
        }
    """)  # fmt: skip
    assert look.run(program).stdout == "0 wrong\n"


def test_a_signal_does_not_end_a_call_that_is_being_answered(look: Look) -> None:
    if tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (5, 19):
        pytest.skip("Linux 5.19 is the first that can wait so (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)")
    slow = look.file("slow")
    script = """
import os, signal, stat
fired = []
signal.signal(signal.SIGALRM, lambda *_: fired.append(True))  # without SA_RESTART
signal.setitimer(signal.ITIMER_REAL, 0.3)
result = [stat.S_ISCHR(os.stat("slow").st_mode), fired]
"""
    assert look.python(script, special={slow: "slow"}, devices=[slow]) == [True, [True]]


def test_a_daemon_that_outlives_the_program_sees_it(look: Look) -> None:
    script = f"(setsid sh -c 'sleep 1; {STAT} x > later; sleep 0.3' > /dev/null 2>&1 &) ; echo started"
    ran = look.run("sh", "-c", script.replace("'%F", '"%F').replace("%b'", '%b"', 1))
    assert ran.stdout == "started\n"
    assert ran.report["outlived"]
    assert (look.directory / "later").read_text() == CHAR


def test_after_close_the_calls_fail_and_nothing_hangs(look: Look) -> None:
    at = look.directory / "close"
    script = f"""
import os, time
result = [oct(os.stat("x").st_mode)]
open({str(at)!r}, "w").close()
while not os.access({str(at) + ".done"!r}, os.F_OK):
    time.sleep(0.01)
try:
    os.stat("x")
except OSError as error:
    result.append(error.strerror)
"""
    assert look.python(script, close_at=at) == ["0o20644", "Function not implemented"]


def test_close_does_not_wait_for_a_late_answer(look: Look) -> None:
    at, held = look.directory / "close", look.file("held")
    script = f"""
import errno, os, threading, time
result = []
def note(path):
    try:
        result.append(os.stat(path).st_mode)
    except OSError as error:
        result.append(errno.errorcode[error.errno])
late = threading.Thread(target=note, args=["held"])
late.start()
time.sleep(0.5)
open({str(at)!r}, "w").close()
while not os.access({str(at) + ".done"!r}, os.F_OK):
    time.sleep(0.01)
note("x")
late.join()
open("release", "w").close()
"""
    assert look.python(script, close_at=at, special={held: "held"}) == ["ENOSYS", "ENOSYS"]


def test_a_second_filter_is_refused_in_one_line(look: Look) -> None:
    script = """
from mapdev.run.seccomp import install_filter, unavailable
try:
    install_filter()
except OSError as error:
    print(unavailable(error))
"""
    ran = look.run(*look.person.python, "-c", script)
    assert ran.stderr == ""
    assert ran.stdout == (
        "this kernel or container forbids seccomp user notification: Device or resource busy "
        "(another supervisor is there already, an outer one of ours or that of a container or of WSL)\n"
    )


def test_calls_of_32_bit_programs_are_the_kernels(look: Look) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("int 0x80 is of x86")
    program = compile_c(look.directory, """
        #include <stdio.h>
        #include <sys/stat.h>
        static char path[] = "x";
        static unsigned char buffer[128];
        int main(void) {
            struct stat here;
            long result;
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(195), "b"(path), "c"(buffer) : "memory");
            if (result == -38) return 77;
            printf("%ld %o %d\\n", result, *(unsigned *)(buffer + 16), !stat("x", &here) && S_ISCHR(here.st_mode));
            return 0;
        }
    """, "-static", "-no-pie")  # fmt: skip
    ran = look.run(program)
    if ran.code in (77, 128 + 11):
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    assert ran.stdout == "0 100644 1\n"
