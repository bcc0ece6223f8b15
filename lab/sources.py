"""A kernel by its name, wherever it comes from: fetched, or built for the sanitizers."""

from lab import sanitize
from lab.fetch import Fetched, fetch
from lab.kernels import table


def names(wanted: str) -> list[str]:
    """The names of kernels in a text; all of kernels.toml if it is empty or ``all``. Raises ``UsageError``."""
    if wanted == sanitize.NAME:
        return [sanitize.NAME]
    return [kernel.name for kernel in table().pick("" if wanted == "all" else wanted)]


async def kernel_named(name: str) -> Fetched:
    """The kernel with a name; fetched or built first if need be, which may take minutes. Raises ``MapdevError``."""
    if name == sanitize.NAME:
        return await sanitize.kernel()
    return await fetch(table().pick(name)[0])
