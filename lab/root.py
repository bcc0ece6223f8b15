"""Root directories unpacked from packages: what their scripts would have made, and how a command runs in one."""

import os
from collections.abc import Sequence
from pathlib import Path

from lab.kernels import REPOSITORY
from lab.process import CommandError, Unavailable, need, run

_NODES = ("null", "zero", "urandom")
_PLACES = ("proc", "dev", "tmp", "source", "build")
_ALTERNATIVES = {"usr/bin/awk": "mawk"} | {
    f"usr/lib/x86_64-linux-gnu/lib{name}.so.3": f"{name}/lib{name}.so.3" for name in ("blas", "lapack")
}

# In the new mount and process namespace, with the root as $1; device nodes are bound, so that no root is needed
_ENTER = """
set -e
root=$1 source=$2 build=$3
shift 3
mount -t proc proc "$root/proc"
for node in null zero urandom; do mount --bind "/dev/$node" "$root/dev/$node"; done
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount --bind "$source" "$root/source"
mount --bind "$build" "$root/build"
mount -o remount,bind,ro "$root/source" 2>/dev/null || :
exec env -i PATH=/usr/bin:/usr/sbin LC_ALL=C HOME=/tmp chroot "$root" "$@"
"""


def furnish(root: Path) -> None:
    """Make what the packages' own scripts would have made, and the places that `enter` mounts on."""
    for name, target in _ALTERNATIVES.items():
        link = root / name
        if (link.parent / target).exists() and not link.is_symlink():
            link.symlink_to(target)
    for name in _PLACES:
        (root / name).mkdir(exist_ok=True)
    for name in _NODES:
        (root / "dev" / name).touch()


async def enter(
    what: str, root: Path, build: Path, command: Sequence[str], *, timeout: float, source: Path = REPOSITORY
) -> str:
    """Run a command in a root: the repository is at /source, `build` at /build.

    Its mounts and processes are in namespaces of their own, which end with it. Raises ``CommandError``, or
    ``Unavailable`` where this user may not make namespaces.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces = [need("unshare", "util-linux"), *user, "--mount", "--pid", "--fork", "--kill-child"]
    try:
        return await run(
            what, [*namespaces, "sh", "-c", _ENTER, "sh", root, source, build, *command], timeout=timeout
        )
    except CommandError as error:
        if error.detail.startswith("unshare: "):
            raise Unavailable(f"the lab needs namespaces of its own: {error.detail.splitlines()[0]}") from None
        raise
