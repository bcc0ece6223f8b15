"""What mapdev raises to the people who call it.

    MapdevError               one line that says what is wrong and what to do
    |-- UsageError            the request itself is off (exit code 2)
    |   |-- TargetError       no device can be made of a TARGET
    |   `-- MountPointError   this directory cannot be mounted on
    `-- HostError             this machine cannot serve (exit code 1)
        |-- FuseError         no usable /dev/fuse, or nothing that may mount it
        |-- ModuleError       no usable kernel module
        `-- ProcessError      a process or an address that cannot be looked at

A device's own failures are not here: an operation answers with ``OSError(errno.X)``, the kernel's way.
"""


class MapdevError(Exception):
    """Base of all: ``str(error)`` is one line for a person; ``exit_code`` is what a command ends with."""

    exit_code = 1

    def __init__(self, message: str, detail: str = "") -> None:
        """`detail`: what is shown before the line, such as a traceback of the author's own code."""
        super().__init__(message)
        self.detail = detail


class UsageError(MapdevError):
    """The request itself is off: calling again unchanged cannot help."""

    exit_code = 2


class TargetError(UsageError):
    """No device can be made of a TARGET."""


class MountPointError(UsageError):
    """This directory cannot be mounted on."""


class HostError(MapdevError):
    """This machine, or this user on it, cannot do what was asked."""


class FuseError(HostError):
    """There is no /dev/fuse that can be opened, or nothing that may mount it."""


class ModuleError(HostError):
    """The kernel module is not there, cannot be built or loaded, or does not do what was asked."""


class ProcessError(HostError):
    """A process, or an address in it, that cannot be looked at."""
