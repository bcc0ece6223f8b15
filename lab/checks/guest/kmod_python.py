"""In a guest: devices in Python behind the kernel module, and programs as their clients."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cases import Skip, run

from mapdev import PAGE_SIZE, Device, File, IoctlArg, OnDemandPages, Vma, VmFault, on_demand_pages
from mapdev.devices import Array, Contiguous, LkmcMmap, Ram, Vmalloc
from mapdev.hosts.base import Permissions
from mapdev.hosts.kmod.host import KmodHost
from mapdev.trace import Event, format_event

MAPDEV = [sys.executable, "-m", "mapdev"]
TEST, TWO_MAPPINGS = "/lab/bin/test", "/lab/bin/two_mappings"
EVERYBODY = Permissions(0o666, 0, 0)


def program(*command: str, user: int = 0, timeout: int = 300) -> tuple[int, str]:
    """Exit code and output; and the output to the lab's log."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
        user=user, group=user, extra_groups=[],
    )  # fmt: skip
    shown = " ".join(part for part in command if "\n" not in part)
    for line in (shown, *done.stdout.splitlines()):
        print(f"#   {line}", flush=True)
    return done.returncode, done.stdout


def client(script: str, path: str, user: int = 0) -> str:
    """What a Python program prints that has opened `path` as `fd`, with ctypes and the libc at hand."""
    head = """
import ctypes, errno, fcntl, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t
libc.msync.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
def mapped(length=4096, offset=0, flags=1):
    at = libc.mmap(None, length, 3, flags, fd, offset)
    if at == 2**64 - 1: raise OSError(ctypes.get_errno(), "mmap")
    return at
def load(at, count=4): return ctypes.string_at(at, count)
def store(at, data): ctypes.memmove(at, data, len(data))
fd = os.open(sys.argv[1], os.O_RDWR)
"""
    code, said = program(sys.executable, "-I", "-S", "-c", head + script, path, user=user)
    assert code == 0, said
    return said.strip()


@contextmanager
def served(device: Device, name: str = "x", proc: bool = False) -> Iterator[tuple[KmodHost, str, list[Event]]]:
    """A device for everybody, from this process; its path; what is called."""
    events: list[Event] = []
    with KmodHost({name: device}, proc=proc, permissions=EVERYBODY, trace=events.append) as host:
        yield host, host.served[0].path, events


def count(events: list[Event], op: str) -> int:
    return sum(event.op == op for event in events)


def eventually(what: str, condition: object) -> None:
    assert callable(condition)
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def test_load_and_status() -> None:
    code, said = program(*MAPDEV, "module", "status")
    assert code == 1, said
    assert "the kernel module is not loaded" in said, said
    code, said = program(*MAPDEV, "module", "load", "/lab/modules/mapdev.ko")
    assert code == 0, said
    code, said = program(*MAPDEV, "module", "status")
    assert code == 0, said
    assert "version  1." in said, said


def test_lkmc_mmap_in_proc_and_in_dev_by_c_and_python_as_root_and_user() -> None:
    for proc in (True, False):
        with served(LkmcMmap(), "lkmc_mmap", proc) as (_, path, events):
            kind = stat.S_IFMT(os.stat(path).st_mode)
            assert kind == (stat.S_IFREG if proc else stat.S_IFCHR), oct(kind)
            for user in (0, 1000):
                for command in (TEST, TWO_MAPPINGS):
                    code, said = program(command, path, user=user)
                    assert code == 0, said
            # a program has ended before its last notice is read
            eventually("the releases", lambda: count(events, "release") == count(events, "open"))
            events.clear()
            code, said = program(*MAPDEV[:2], "mapdev.two_mappings", "--json", path)
            assert code == 0, said
            eventually("the release", lambda: any(event.op == "release" for event in events))
        for event in events:
            print("#   " + format_event(event), flush=True)
        ops = [event.op for event in events if event.op != "log"]
        assert ops == [
            "open", "mmap", "vm_open", "mmap", "vm_open", "vm_fault", "vm_fault", "read", "write",
            "vm_close", "vm_close", "release",
        ], ops  # fmt: skip
        told = re.search(r"physical address (0x[0-9a-f]+)", events[0].args)
        assert told is not None
        physical = json.loads(said.splitlines()[-1])["physical"]
        assert physical == [int(told[1], 16)] * 2, (physical, told[1])


def test_the_module_tells_the_physical_address_that_pagemap_tells() -> None:
    device = Ram(4 * PAGE_SIZE)
    with served(device) as (host, path, _):
        script = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
at = libc.mmap(None, 4 * 4096, 3, 1, os.open({path!r}, os.O_RDWR), 0)
for page in range(4): ctypes.string_at(at + page * 4096, 1)
entry = open("/proc/self/pagemap", "rb", 0)
for page in range(4):
    entry.seek(at // 4096 * 8 + page * 8)
    print((int.from_bytes(entry.read(8), "little") & (1 << 55) - 1) * 4096, flush=True)
sys.stdin.read()
"""
        program_ = subprocess.Popen([sys.executable, "-S", "-c", script],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        try:
            assert program_.stdout is not None
            seen = [int(program_.stdout.readline()) for _ in range(4)]
            assert [host.physical_address(device.pages, page * PAGE_SIZE) for page in range(4)] == seen
            assert [device.pages.physical_address(page * PAGE_SIZE) for page in range(4)] == seen
            assert all(seen)
        finally:
            program_.communicate(timeout=60)


def test_fork_and_split_are_told_and_every_area_is_closed() -> None:
    with served(LkmcMmap()) as (_, path, events):
        client("""
at = mapped(4096)
pid = os.fork()
if not pid: os._exit(0)
os.waitpid(pid, 0)
""", path)  # fmt: skip
        eventually("the release", lambda: any(event.op == "release" for event in events))
    counts = {op: count(events, op) for op in ("mmap", "vm_open", "vm_close")}
    assert counts == {"mmap": 1, "vm_open": 2, "vm_close": 2}, counts


def test_verify() -> None:
    for device, proc in ((LkmcMmap(), True), (Ram(16 * PAGE_SIZE), False), (Array(), False)):
        with served(device, device.node_name(), proc) as (_, path, _events):
            code, said = program(*MAPDEV, "verify", "--timeout", "60", path, timeout=600)
            failed = re.findall(r"^(.+?) {2,}fail ", said, re.MULTILINE)
            assert (code, failed) == (0, []), failed


def test_memory_of_every_kind_is_mapped() -> None:
    devices: list[Device] = [Array(), Vmalloc()]
    try:
        devices.append(Contiguous())
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        print(f"#   without contiguous memory: {error}", flush=True)
    for device in devices:
        with served(device, device.node_name()) as (_, path, _events):
            said = client("at = mapped(16 * 4096); print(load(at + 5 * 4096, 6), os.pread(fd, 6, 3 * 4096))", path)
            assert said == "b'page 5' b'page 3'", said


def test_a_uio_device_wakes_a_reader_and_shows_its_registers() -> None:
    from mapdev.devices.uio import Uio
    from mapdev.registers import place

    class Board(Uio):
        regs = place(0x1000, PAGE_SIZE, "regs")

        def read(self, file: File, count: int, pos: int) -> bytes:
            threading.Timer(0.5, self.raise_interrupt).start()
            return super().read(file, count, pos)

    device = Board()
    device.pages[:4] = b"regs"
    with served(device, "uio9") as (host, path, _):
        assert host.served[0].devt is not None
        said = client("print(load(mapped()), os.read(fd, 4)[0])", path)
        assert said == "b'regs' 1", said


class Window(Device):
    """Two banks of pages, one of which is seen; counts first stores."""

    def __init__(self) -> None:
        self.window = on_demand_pages(4)
        self.bank = 0
        self.pages = [[bytearray(b"bank %d.%d" % (bank, page)).ljust(PAGE_SIZE, b"\0") for page in range(4)]
                      for bank in range(2)]  # fmt: skip
        self.faults: list[int] = []
        self.stores: list[int] = []

    def mmap(self, file: File, vma: Vma) -> OnDemandPages:  # noqa: ARG002
        return self.window

    def fault(self, file: File, vmf: VmFault) -> bytearray:  # noqa: ARG002
        self.faults.append(vmf.pgoff)
        if vmf.pgoff == 3:
            raise OSError(5, "no such page")
        return self.pages[self.bank][vmf.pgoff]

    def page_mkwrite(self, file: File, vmf: VmFault) -> None:  # noqa: ARG002
        self.stores.append(vmf.pgoff)

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:  # noqa: ARG002
        if cmd == 0x4600:
            self.bank = 1 - self.bank
            self.window.unmap_mapping_range()
        elif cmd == 0x4601:
            self.window.wp_shared_mapping_range()
        elif cmd == 0x4602:
            self.pages[self.bank][1][:4] = b"push"
            self.window.push(PAGE_SIZE, 4)
        elif cmd == 0x4603:
            arg.copy_to_user(bytes(self.pages[self.bank][0][:16]))
        elif cmd == 0x4604:
            return len(self.stores)
        return 0


def test_pages_on_demand_first_stores_push_pull_and_taking_back() -> None:
    device = Window()
    with served(device) as (_, path, _):
        said = client("""
at = mapped(4 * 4096)
print(load(at, 8), load(at + 4096, 8))
store(at, b"mine")
store(at + 8, b"more")
print(fcntl.ioctl(fd, 0x4604))
room = bytearray(2048)
fcntl.ioctl(fd, 0x4603, room)
print(bytes(room[:12]))
fcntl.ioctl(fd, 0x4602)
print(load(at + 4096, 8))
fcntl.ioctl(fd, 0x4601)
store(at, b"MINE")
print(fcntl.ioctl(fd, 0x4604))
fcntl.ioctl(fd, 0x4600)
print(load(at, 8))
fcntl.ioctl(fd, 0x4600)
print(load(at, 12))
pid = os.fork()
if not pid:
    load(at + 3 * 4096)
    os._exit(0)
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
""", path).splitlines()  # fmt: skip
    assert said[0] == "b'bank 0.0' b'bank 0.1'", said
    assert said[1] == "1", said
    assert said[2] == "b'mine 0.0more'", said
    assert said[3] == "b'push 0.1'", said
    assert said[4] == "2", said
    assert said[5:7] == ["b'bank 1.0'", "b'MINE 0.0more'"], said
    assert said[7] == str(int(signal.SIGBUS)), said
    # in Python's pages is what programs stored
    assert device.pages[0][0][:12] == b"MINE 0.0more"
    assert device.stores.count(0) == 2


def test_an_author_that_is_killed_leaves_no_device_and_programs_get_errors() -> None:
    with subprocess.Popen([*MAPDEV, "serve", "ram:64K", "--host", "kernel", "--mode", "0666"],
                          stdout=subprocess.PIPE, text=True) as server:  # fmt: skip
        assert server.stdout is not None
        ready = server.stdout.readline()
        print(f"#   {ready}", end="", flush=True)
        assert re.fullmatch(r"ready: /dev/ram \(c \d+:\d+, shared memory\)\n", ready), ready
        _, said = program(*MAPDEV, "module", "list")
        assert re.search(rf"/dev/ram +\d+:\d+ +0666 +\S+ +0 +pid {server.pid}", said), said
        fd = os.open("/dev/ram", os.O_RDWR)
        assert os.pwrite(fd, b"kept", 0) == 4
        server.kill()
    eventually("/dev/ram goes", lambda: not Path("/dev/ram").exists())
    for call in (lambda: os.pread(fd, 4, 0), lambda: os.pwrite(fd, b"x", 0)):
        try:
            call()
        except OSError as error:
            assert error.errno == 19, error  # noqa: PT017 - ENODEV
        else:
            raise AssertionError("no error")
    os.close(fd)


def test_what_is_mapped_stays_when_the_host_is_gone_and_waiters_get_enodev() -> None:
    class Waits(Ram):
        def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> int:  # noqa: ARG002
            file.wait_event(lambda: False)
            return 0

    host = KmodHost({"x": Waits(PAGE_SIZE)}, permissions=EVERYBODY)
    with subprocess.Popen([sys.executable, "-S", "-c", """
import ctypes, errno, fcntl, os
fd = os.open("/dev/x", os.O_RDWR)
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
at = libc.mmap(None, 4096, 3, 1, fd, 0)
ctypes.memmove(at, b"kept", 4)
print("waits", flush=True)
try:
    fcntl.ioctl(fd, 1)
except OSError as error:
    print(errno.errorcode[error.errno], ctypes.string_at(at, 4), flush=True)
"""], stdout=subprocess.PIPE, text=True) as waiting:  # fmt: skip
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        time.sleep(1)
        host.close()
        said = waiting.stdout.readline()
    assert said in ("ENODEV b'kept'\n", "EINTR b'kept'\n"), said


def test_persistent_devices_are_made_listed_used_and_removed() -> None:
    code, said = program(*MAPDEV, "module", "create", "scratch", "--size", "64K", "--text", "asdf", "--mode", "0666")
    assert code == 0, said
    said = client("print(load(mapped(65536)), os.pread(fd, 4, 0))", "/dev/scratch", user=1000)
    assert said == "b'asdf' b'asdf'", said
    code, said = program(*MAPDEV, "module", "create", "scratch")
    assert code == 1, said
    assert "is there already" in said, said
    code, said = program(*MAPDEV, "module", "create", "own", "--per-open", "--proc", "--kind", "contiguous")
    assert code == 0, said
    code, said = program(*MAPDEV, "module", "list")
    assert re.search(r"/dev/scratch +\d+:\d+ +0666 +65536 vmalloc +0 +nobody", said), said
    assert re.search(r"/proc/own +- +0600 +4096 contiguous for each open +0 +nobody", said), said
    code, said = program(*MAPDEV, "module", "remove", "scratch")
    assert code == 0, said
    code, said = program(*MAPDEV, "module", "remove", "--proc", "own", "no")
    assert code == 1, said
    assert "there is no /proc/no" in said, said


def test_an_ordinary_user_is_told_what_is_missing() -> None:
    code, said = program(*MAPDEV, "serve", "ram", "--host", "kernel", user=1000)
    assert code == 1, said
    assert "/dev/mapdev is not open to this user" in said, said


def test_unload() -> None:
    fd = os.open("/dev/mapdev", os.O_RDWR)
    code, said = program(*MAPDEV, "module", "unload")
    assert code == 1, said
    assert "in use" in said, said
    os.close(fd)
    code, said = program(*MAPDEV, "module", "unload")
    assert code == 0, said


def test_a_kernel_that_wants_a_signature_is_named_with_what_helps() -> None:
    """The last one: nothing of this can be undone. The module is not signed."""
    enforce = Path("/sys/module/module/parameters/sig_enforce")
    lockdown = Path("/sys/kernel/security/lockdown")
    program("mount", "-t", "securityfs", "security", "/sys/kernel/security")
    if not (enforce.exists() and lockdown.exists()):
        raise Skip("this kernel was built without signatures of modules or without lockdown")
    sign = "`mapdev module install` signs it with DKMS's key"
    for place, value, why in (
        (lockdown, "integrity", f"it is locked down (Secure Boot) and takes only signed modules: {sign}"),
        (enforce, "1", f"signed with a key that it knows (Secure Boot): {sign}"),
        (Path("/proc/sys/kernel/modules_disabled"), "1", "kernel.modules_disabled is set"),
    ):
        place.write_text(value)
        code, said = program(*MAPDEV, "module", "load", "/lab/modules/mapdev.ko")
        assert code == 1, said
        assert said.startswith("mapdev: the kernel refuses /lab/modules/mapdev.ko: "), said
        assert said.count("\n") == 1, said
        assert why in said, said


run(globals())
