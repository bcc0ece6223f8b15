"""The table of kernels, `kernels.toml`."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from mapdev.errors import UsageError

TABLE = Path(__file__).with_name("kernels.toml")
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Kernel:
    """A kernel to be fetched: `name` is what people type, `suite` where Debian has it."""

    name: str
    suite: str

    @property
    def number(self) -> tuple[int, ...]:
        """The version to compare with, ``(6, 12)``."""
        return tuple(int(part) for part in self.name.split("."))


@dataclass(frozen=True)
class Table:
    """What `kernels.toml` says."""

    kernels: tuple[Kernel, ...]
    userland: str
    sanitize_suite: str
    sanitize_source: str

    def pick(self, names: str) -> list[Kernel]:
        """The kernels with these names, separated by spaces or commas; all if there are none. Raises ``UsageError``."""
        wanted = [name for name in re.split(r"[\s,]+", names) if name]
        known = {kernel.name: kernel for kernel in self.kernels}
        for name in wanted:
            if name not in known:
                raise UsageError(f"there is no kernel {name} in {TABLE.name}; there are {', '.join(known)}")
        return [known[name] for name in dict.fromkeys(wanted)] or list(self.kernels)


def parse(text: str) -> Table:
    """The table in a text of TOML. Raises ``UsageError``."""
    try:
        content = tomllib.loads(text)
        kernels = tuple(Kernel(name, suite) for name, suite in content["kernels"].items())
        userland = content["userland"]["suite"]
        sanitize = (content["sanitize"]["suite"], content["sanitize"]["source"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{TABLE.name} cannot be read: {error}") from None
    for kernel in kernels:
        if not re.fullmatch(r"\d+\.\d+", kernel.name):
            raise UsageError(
                f"{TABLE.name}: the name of a kernel is its version, such as 6.12, and not {kernel.name}"
            )
    for suite in (userland, sanitize[0], *(kernel.suite for kernel in kernels)):
        if not isinstance(suite, str) or not re.fullmatch(r"[a-z]+(-backports)?", suite):
            raise UsageError(f"{TABLE.name}: {suite!r} is no suite; one is trixie, or trixie-backports")
    return Table(kernels, userland, *sanitize)


def table() -> Table:
    """The table of this repository. Raises ``UsageError``."""
    return parse(TABLE.read_text())
