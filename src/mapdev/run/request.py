"""What is to be run, as the command line or a test says it. Nothing of a host is imported for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mapdev.device import Device
    from mapdev.faults import Fault
    from mapdev.trace import Trace


class Request(NamedTuple):
    """What is to be run.

    ``devices``: absolute path -> TARGET, or a device; ``files``: absolute path -> a real file or directory to be shown
    there; ``trace``: makes the trace, in the host; ``look``: stat(2) shows character devices (implied by a device with
    ``devt``). ``shared``: programs get the devices' own memory, where that works. ``trap``: every access to mapped
    memory is trapped, not only where a device asks for it; ``counted``: accesses are, and a table of them is
    printed at the end. ``faults``: what goes wrong on purpose.
    """

    devices: "Mapping[str, str | Device]"
    files: dict[str, str]
    program: list[str]
    trace: "Callable[[], Trace | None]"
    look: bool = False
    shared: bool = True
    trap: bool = False
    counted: bool = False
    faults: "Sequence[Fault]" = ()
    seed: int = 0
