"""What is run in a guest: a check. Each is a file in lab/checks, which defines CHECK."""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path

from lab.kernels import REPOSITORY
from mapdev.errors import UsageError

BODIES = Path(__file__).parent / "checks" / "guest"


@dataclass(frozen=True)
class Check:
    """A script and what it needs in its guest. Paths are relative to the repository.

    The script prints, to standard output, a line for each thing that it looked at: ``ok NAME``, ``fail NAME: reason``
    or ``skip NAME: reason``; other lines are kept in the log. It fails if it exits with another code than 0, prints a
    ``fail``, or nothing of this; and if the kernel complains (see report.py), whatever the script says.

    In the guest the script runs as root in /lab; see docs/lab.md for what it finds there.
    """

    body: str
    """A file in lab/checks/guest: ``.sh`` runs in busybox's shell, ``.py`` in Python."""
    modules: tuple[str, ...] = ()
    """Directories of kernel modules to build; each .ko is /lab/modules/NAME.ko. Not loaded."""
    programs: tuple[str, ...] = ()
    """C files to compile, statically, each with the headers of the kernel's suite: /lab/bin/NAME."""
    programs32: tuple[str, ...] = ()
    """The same as 32-bit programs. No C library of 32 bits is there for them: they begin at ``_start``."""
    include: tuple[str, ...] = ()
    """Directories for the compiler's -I."""
    packages: tuple[str, ...] = ()
    """Packages of the guests' suite, each with a program of its name: /usr/bin/NAME, with its libraries. Where one
    cannot be had, /lab/missing/NAME says why, and the script has to say that it skips."""
    python: bool = False
    """Python and the mapdev of this tree are in the guest. (A body in Python brings it too.)"""
    files: tuple[str, ...] = ()
    """Files and directories to copy to /lab/files, each under its own last name."""
    kernel_modules: tuple[str, ...] = ()
    """Modules of the kernel's own package to load before, such as fuse."""
    provokes: tuple[tuple[str, str], ...] = ()
    """What the kernel has to complain of, for checks of the lab itself: a symbol of its configuration, and a regular
    expression for its log if it has that. With these, complaints are not failures; their absence is."""
    append: str = ""
    """More for the kernel's command line."""
    memory: int = 0
    """MiB; 0: 256, with Python 768."""
    timeout: int = 120
    """Seconds that the script may take on a busy machine; on the kernel `sanitize` it may take five times that."""

    @property
    def has_python(self) -> bool:
        """Whether Python has to be in the guest."""
        return self.python or self.body.endswith(".py")


def names() -> list[str]:
    """The checks that there are."""
    return sorted(module.name for module in pkgutil.iter_modules([str(BODIES.parent)]))


def load(name: str) -> Check:
    """A check by its name. Raises ``UsageError``."""
    if name not in names():
        raise UsageError(f"there is no check {name}; there are {', '.join(names())}")
    check = importlib.import_module(f"lab.checks.{name}").CHECK
    assert isinstance(check, Check)
    for path in (*check.modules, *check.programs, *check.programs32, *check.include, *check.files):
        if not (REPOSITORY / path).exists():
            raise UsageError(f"lab/checks/{name}.py: there is no {path} in the repository")
    return check
