"""What a host promises: it takes requests from somewhere, calls devices through ``Dispatch``, and ends cleanly."""

import contextlib
import resource
from dataclasses import dataclass
from typing import Protocol, Self

from mapdev.device import Device


class Host(Protocol):
    """Devices that are being served, from construction until ``close``."""

    def close(self) -> None:
        """No request is taken any more; every open file has been released. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


Devices = dict[str, Device]
"""The devices of a host by the names that programs know them under."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Of the device files of a host: permission bits, owner, group."""

    mode: int
    uid: int
    gid: int


def raise_file_limit(spare: int = 16) -> None:
    """Every open of a device with memory of its own takes two descriptors here; `spare` ones are for the end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - spare if hard > spare else hard, hard))
