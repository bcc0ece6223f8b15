"""Where the lab keeps what it has fetched and built: outside the tree, safe for runs at the same time.

A directory of the cache is complete or not there: it is made under another name and renamed at the end.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from lab import console
from mapdev.errors import HostError

VARIABLE = "MAPDEV_LAB_CACHE"
_LOCK_TIMEOUT = 3600
_PATIENCE = 5  # seconds until somebody who waits is told why
_LOCK_POLL = 0.2


def place() -> Path:
    """``$MAPDEV_LAB_CACHE``, or mapdev/lab in the user's cache directory. It exists."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get(VARIABLE) or base / "mapdev" / "lab").absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"the cache {path} cannot be made: {error.strerror}; {VARIABLE} names another one") from None
    return path


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock of a path of the cache against other runs, and other tasks of this one. Raises ``HostError``."""
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    # polled: a task that slept in flock would stop the task of the same thread that holds it
    started, told = time.monotonic(), False
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - started
                if waited > _LOCK_TIMEOUT:
                    raise HostError(f"another run of the lab has held {lock} for an hour") from None
                if waited > _PATIENCE and not told:
                    console.note(f"waiting for another run of the lab, which has {path.name} ...")
                    told = True
                await asyncio.sleep(_LOCK_POLL)
        yield


async def complete(path: Path, make: Callable[[Path], Awaitable[None]]) -> Path:
    """`path`, a directory of the cache; if it is not there `make` fills an empty one that then becomes it."""
    if _used(path):
        return path
    async with locked(path):
        if _used(path):
            return path
        for left in path.parent.glob(path.name + ".partial-*"):  # of a run that was killed; we have the lock
            remove(left)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=path.name + ".partial-"))
        partial.chmod(0o755)
        try:
            await make(partial)
            partial.rename(path)
        finally:
            remove(partial)
    return path


def _used(path: Path) -> bool:
    """Whether it is there. Its time is that of its last use, which `prune` looks at."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Delete a directory, if it is there."""
    if path.exists():
        shutil.rmtree(path)


def write(path: Path, content: bytes) -> None:
    """Write a file so that it is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name + ".partial-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.rename(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


_KEPT_DAYS = 14
_PRUNED = ("modules", "guests", "logs")


def prune() -> None:
    """Delete what is made anew in seconds and has not been used for two weeks, and what killed runs have left."""
    old = time.time() - _KEPT_DAYS * 86400
    for path in (*place().glob("boot-*"), *(path for name in _PRUNED for path in place().glob(f"{name}/*"))):
        try:
            if path.stat().st_mtime > old:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:  # another run prunes too
            continue
