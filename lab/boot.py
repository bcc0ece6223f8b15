"""Boot a guest in QEMU and hear what it says. ``python -m lab.boot KERNEL [options] -- COMMAND``."""

import os
import re
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from lab import cache, console, guest
from lab.check import BODIES, Check
from lab.fetch import Fetched
from lab.kernels import REPOSITORY
from lab.process import finish, main, need
from lab.report import Verdict, judge
from lab.sources import kernel_named, names
from mapdev.errors import HostError, UsageError

_MEMORY, _MEMORY_WITH_PYTHON = 256, 768
_GRACE = 60  # seconds for the boot and the end, which are not the script's
_SLOWEST = 6  # what a guest takes on a crowded machine, beside one that is idle
_CPU = 4  # seconds of processor for each second of a guest's, at most
# An emulated guest's clock goes by the instructions that it has executed, and jumps when it is idle: on a crowded
# machine no time-out in the guest expires too early, and sleeping costs nothing
_BY_INSTRUCTIONS = ("-icount", "shift=2,sleep=off")

# What finds bad memory accesses, and the option of the kernel's configuration that it takes
_DEBUG = {
    "KFENCE": "kfence.sample_interval=100", "SLUB_DEBUG": "slub_debug=FZPU", "PAGE_POISONING": "page_poison=1",
    "KASAN": "kasan_multi_shot",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One boot."""

    verdict: Verdict
    logs: Path
    """A directory with `console` (the kernel) and `result` (the script)."""

    @property
    def result(self) -> str:
        """All that the script printed."""
        return _text(self.logs / "result")

    @property
    def console(self) -> str:
        """All that the kernel logged."""
        return _text(self.logs / "console")


def _text(path: Path) -> str:
    return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""


def command_line(config: str, append: str) -> str:
    """The kernel's command line: `config` is its configuration, `append` what a check adds."""
    debug = [option for symbol, option in _DEBUG.items() if f"CONFIG_{symbol}=y" in config]
    common = ["console=ttyS0", "loglevel=7", "panic=-1", "oops=panic", "kmemleak=on"]
    return " ".join([*common, *debug, append]).strip()


def best_accelerator() -> str:
    """KVM if this processor can; a /dev/kvm alone proves nothing. Several threads of TCG have crashed 7.3."""
    try:
        flags = set(re.findall(r"\b(?:vmx|svm)\b", Path("/proc/cpuinfo").read_text()))
    except OSError:
        flags = set()
    return "kvm" if flags and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg,thread=single"


async def boot(kernel: Fetched, check: Check, name: str, body: bytes | None = None) -> Run:
    """Boot a kernel and run a check in it; `body` replaces the check's own file. Raises ``MapdevError``.

    What fails in the guest is in the verdict. The logs stay in the cache until the next boot of the same name.
    """
    qemu = need("qemu-system-x86_64", "qemu-system-x86")
    script = (BODIES / check.body).read_bytes() if body is None else body
    limit = check.timeout * kernel.slowness
    memory = check.memory or (_MEMORY_WITH_PYTHON if check.has_python else _MEMORY)
    if kernel.slowness > 1:
        memory *= 2  # KASAN takes an eighth, and keeps what is freed for a while
    accelerator = best_accelerator()
    logs = cache.place() / "logs" / f"{kernel.name}-{name}"
    async with cache.locked(logs):
        cache.remove(logs)
        logs.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=cache.place(), prefix="boot-") as directory:
            initramfs = Path(directory) / "initramfs"
            await guest.archive(kernel, check, script, initramfs, limit)
            started = time.monotonic()
            code, said = await finish(
                [
                    need("prlimit", "util-linux"), f"--cpu={(limit + _GRACE) * _CPU:.0f}", "--",
                    qemu, "-machine", "pc", "-accel", accelerator, "-cpu", "max" if accelerator == "kvm" else "qemu64",
                    *(_BY_INSTRUCTIONS if accelerator != "kvm" else ()),
                    "-smp", "1", "-m", str(memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                    "-kernel", kernel.image / "vmlinuz", "-initrd", initramfs,
                    "-append", command_line(kernel.config(), check.append),
                    "-serial", f"file:{logs / 'console'}", "-serial", f"file:{logs / 'result'}",
                ],
                timeout=(limit + _GRACE) * _SLOWEST,
            )  # fmt: skip
            seconds = time.monotonic() - started
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            code = None
        if code:
            raise HostError(f"QEMU failed with exit code {code}: {said.strip()}")
        verdict = judge(
            _text(logs / "result"), _text(logs / "console"),
            ended=code is not None, limit=limit + _GRACE, seconds=seconds,
            provoked=[text for symbol, text in check.provokes if f"CONFIG_{symbol}=y" in kernel.config()],
        )  # fmt: skip
    return Run(verdict, logs)


@click.command()
@click.argument("kernel")
@click.argument("words", nargs=-1, metavar="-- COMMAND...")
@click.option("--script", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A .sh or .py to run.")
@click.option(
    "--module", "modules", multiple=True, metavar="DIR", help="Build it; /lab/modules/NAME.ko in the guest."
)
@click.option(
    "--program", "programs", multiple=True, metavar="FILE.c", help="Compile it; /lab/bin/NAME in the guest."
)
@click.option("--include", "include", multiple=True, metavar="DIR", help="A directory of headers for --program.")
@click.option("--file", "files", multiple=True, metavar="PATH", help="Copy it to /lab/files.")
@click.option("--load", "load", multiple=True, metavar="NAME", help="Load a module of the kernel's package: fuse.")
@click.option("--python", is_flag=True, help="Python and mapdev in the guest; a script .py brings them by itself.")
@click.option("--append", default="", help="More for the kernel's command line.")
@click.option("--memory", default=0, help="MiB.")
@click.option("--timeout", default=120, show_default=True, help="Seconds for the script.")
@click.option("--console", "show_console", is_flag=True, help="Show the kernel's log, too.")
def command(
    kernel: str, words: tuple[str, ...], script: Path | None, modules: tuple[str, ...], programs: tuple[str, ...],
    include: tuple[str, ...], files: tuple[str, ...], load: tuple[str, ...], python: bool, append: str, memory: int,
    timeout: int, show_console: bool,
) -> None:  # fmt: skip
    """Boot KERNEL, run a script or a command in it, and show what it printed. Paths are inside the repository.

    Exit code 1 if it printed a line "fail ...", ended with another code than 0, or the kernel complained.

    \b
    Example:  python -m lab.boot 6.12 -- uname -a
              python -m lab.boot 7.3 --module examples/lkmc_mmap -- 'insmod modules/lkmc_mmap.ko && dmesg | tail -3'
    """
    if (script is None) == (not words):
        raise UsageError("name a --script or a command after --, and not both")
    body = script.read_bytes() if script else (" ".join(words) + "\necho ok command ended\n").encode()
    if not script:
        body = b"set -e\n" + body
    paths = [tuple(str(_inside(path)) for path in group) for group in (modules, programs, include, files)]
    check = Check(
        body=script.name if script else "command.sh", modules=paths[0], programs=paths[1], include=paths[2],
        files=paths[3], python=python, kernel_modules=load, append=append, memory=memory, timeout=timeout,
    )  # fmt: skip

    async def work() -> bool:
        good = True
        for name in names(kernel):
            fetched = await kernel_named(name)
            with console.doing(f"{fetched.name}: {fetched.release}"):
                run = await boot(fetched, check, f"boot-{os.getpid()}", body)
            if show_console:
                console.say(run.console.rstrip())
            console.say(run.result.rstrip())
            for failure in run.verdict.failed:
                console.say(f"{fetched.name}: {failure}")
            if not run.verdict.good:
                console.say(f"{fetched.name}: the kernel's log is {run.logs / 'console'}")
                good = False
        return good

    if not main(work()):
        raise SystemExit(1)


def _inside(path: str) -> Path:
    try:
        return Path(path).resolve().relative_to(REPOSITORY)
    except ValueError:
        return Path(path).resolve()


if __name__ == "__main__":
    console.entry(command)
