"""What programs look up beside a device: files under /sys and /proc, as a device declares them.

``Device.surroundings(path)`` maps absolute paths to what is there:

* ``str`` or ``bytes``: a file that can be read, with this content;
* a function without arguments that makes such content at each open;
* ``Attribute``: a file that can be written too, as sysfs attributes have ``show`` and ``store``;
* ``Symlink``.

Directories on the way come by themselves.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

Content: TypeAlias = str | bytes | Callable[[], str | bytes]


class Attribute(NamedTuple):
    """A file as of sysfs (Documentation/filesystems/sysfs.rst).

    ``show`` gives the whole content; ``store`` takes what one write(2) brings, and raises ``OSError`` to refuse it.
    Without ``show`` it cannot be read (EIO), without ``store`` not be written (EACCES).
    """

    show: Content | None = None
    store: Callable[[bytes], None] | None = None


class Symlink(NamedTuple):
    """A symbolic link; `target` may be relative to the directory that the link is in."""

    target: str


Surrounding: TypeAlias = Content | Attribute | Symlink
Surroundings: TypeAlias = Mapping[str, Surrounding]
