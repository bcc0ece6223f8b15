"""What the namespace of a run looks like: the mounts that the process which becomes the program has to make.

The host makes it (see ``plan``) and sends it there; so nothing is here that only a host needs.
"""

from typing import Final, NamedTuple

REAL: Final = ".mapdev-real"
"""The name, in a union, under which the real directory can be reached; it is not listed."""


class Union(NamedTuple):
    """A real directory that is replaced. ``name``: of its FUSE directory below the root of the mount.

    ``binds``: the real entries to be bound onto their placeholders. ``keep``: REAL stays reachable.
    """

    path: str
    name: str
    binds: list[str]
    keep: bool = False


class Over(NamedTuple):
    """A file that is mounted over: with `source`, a path below the root of the FUSE mount, or of this machine."""

    path: str
    source: str
    is_fuse: bool


class Mounts(NamedTuple):
    """All of it: ``unions`` from the outermost to the innermost.

    ``look``: stat(2) has to show character devices. ``trap``: the program is traced, for its loads and stores.
    """

    unions: list[Union]
    overs: list[Over]
    look: bool = False
    trap: bool = False
