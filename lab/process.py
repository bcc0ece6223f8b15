"""Programs that the lab starts: each has a time-out, and none outlives the lab.

Everything runs in one thread with one event loop: the kernel sends the death signal of a child when the *thread* that
started it ends, and so two guests at once need no threads.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mapdev.errors import HostError

T = TypeVar("T")


class CommandError(HostError):
    """A program that failed or did not end in time; ``detail`` is what it has printed."""


class Unavailable(HostError):  # noqa: N818 - what it says of the machine
    """What the lab works with cannot be had on this machine: a program, a kernel's packages, a namespace."""

    exit_code = 3


def need(program: str, package: str) -> str:
    """The path of a program. Raises ``Unavailable`` that names its Debian package."""
    # an ordinary user's PATH often lacks the system's programs
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise Unavailable(f"the lab needs the program {program}: apt-get install {package}")
    return path


async def finish(
    command: Sequence[str | Path], *, timeout: float, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int | None, str]:
    """Run a program to its end: exit code (None: it did not end within `timeout` seconds) and all that it printed.

    However this ends, by a cancellation too, the program and its process group are gone. If the lab is killed,
    the kernel kills the program.
    """
    process = await asyncio.create_subprocess_exec(
        need("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *map(str, command),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=env, cwd=cwd, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
        return process.returncode, output.decode(errors="replace")
    except TimeoutError:
        return None, ""
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def run(
    what: str, command: Sequence[str | Path], *, timeout: float, env: Mapping[str, str] | None = None
) -> str:
    """What a program has printed. Raises ``CommandError``, whose line begins with `what`, if it fails."""
    code, output = await finish(command, timeout=timeout, env=env)
    if code is None:
        raise CommandError(f"{what}: {Path(command[0]).name} did not end within {timeout:.0f} s")
    if code != 0:
        raise CommandError(f"{what}: {Path(command[0]).name} failed with exit code {code}", output)
    return output


def main(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end. Ctrl-C and SIGTERM cancel it and what it has started; the exit code is 130 or 143 then."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
