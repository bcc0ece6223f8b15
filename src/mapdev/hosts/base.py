"""What a host promises: it takes requests from somewhere, calls devices through ``Dispatch``, and ends cleanly."""

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
