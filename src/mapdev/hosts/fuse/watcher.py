"""A process of its own that unmounts when its host is gone, however it went (kill -9 too).

``python -I -S watcher.py MOUNT_ID NAME [COMMAND...]``: runs in the directory that holds the mount point, waits
for the end
of standard input (the host holds the other end), and if the mount MOUNT_ID is still there takes NAME off: with
COMMAND,
or by umount2(2). It imports nothing of the package, so that it stays small and keeps no descriptor of it.
"""

import ctypes
import os
import sys

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_ESCAPED = {ord(character): f"\\{ord(character):03o}" for character in " \t\n\\"}
"""How proc_pid_mountinfo(5) shows the characters that separate its fields."""


def main() -> None:
    mount_id, name, *command = sys.argv[1:]
    while os.read(0, 1):
        pass
    shown = "/" + name.translate(_ESCAPED)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        fields = [line.split(" ") for line in mounts]
    # the number alone is not enough: the kernel soon gives it to another mount
    if not any(each[0] == mount_id and each[4].endswith(shown) for each in fields):
        return
    if command:
        os.execvp(command[0], [*command, name])
    ctypes.CDLL(None).umount2(os.fsencode(name), _MNT_DETACH | _UMOUNT_NOFOLLOW)


if __name__ == "__main__":
    main()
