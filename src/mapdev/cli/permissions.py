"""--mode, --owner and --group, as several commands take them."""

import grp
import os
import pwd
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mapdev.errors import UsageError
from mapdev.hosts.base import Permissions

_F = TypeVar("_F", bound=Callable[..., Any])


if TYPE_CHECKING:
    _IntParam = click.ParamType[int]
else:
    _IntParam = click.ParamType  # before click 8.4 it takes no parameter


class _Mode(_IntParam):
    """Permission bits in octal, as chmod takes them."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is not a mode such as 0660 or 666", param, ctx)
        return mode


def permission_options(command: _F) -> _F:
    """Add the three options."""
    for option in (
        click.option("--group", metavar="GROUP", help="Their group (name or number)."),
        click.option("--owner", metavar="USER", help="The owner of the device files (name or number)."),
        click.option("--mode", type=_Mode(), help="Permissions, such as 0660. Without it (and the next two) only "
                     "the user who serves may open the devices."),
    ):  # fmt: skip
        command = option(command)
    return command


def permissions(mode: int | None, owner: str | None, group: str | None) -> Permissions | None:
    """What the options say; None: none of them was given. Raises ``UsageError`` for a name that nobody has."""
    if mode is None and owner is None and group is None:
        return None
    uid = os.geteuid() if owner is None else _id(owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
    gid = os.getegid() if group is None else _id(group, "group", lambda name: grp.getgrnam(name).gr_gid)
    return Permissions(0o600 if mode is None else mode, uid, gid)


def _id(name: str, what: str, look_up: Callable[[str], int]) -> int:
    try:
        return int(name) if name.isdecimal() else look_up(name)
    except KeyError:
        raise UsageError(f"there is no {what} {name!r}: name one that exists, or its number") from None
