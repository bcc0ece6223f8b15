"""``framebuffer``: a screen in memory, as /dev/fb0 (Documentation/fb/api.rst, include/uapi/linux/fb.h)."""

import errno
import os
import re
import struct
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from mapdev.device import Device
from mapdev.errors import HostError
from mapdev.file import File, Vma
from mapdev.ioctl import IoctlArg
from mapdev.libc import PAGE_SIZE
from mapdev.pages import Pages, page_array
from mapdev.surroundings import Attribute, Surrounding, Surroundings, Symlink

if TYPE_CHECKING:
    from PIL.Image import Image

FBIOGET_VSCREENINFO: Final = 0x4600
FBIOPUT_VSCREENINFO: Final = 0x4601
FBIOGET_FSCREENINFO: Final = 0x4602
FBIOPAN_DISPLAY: Final = 0x4606
FBIOBLANK: Final = 0x4611

FB_BLANK_UNBLANK: Final = 0
FB_BLANK_POWERDOWN: Final = 4

_ID: Final = "mapdev"
_FIX: Final = struct.Struct("@16sL4I3HILIIH2H0L")  # struct fb_fix_screeninfo, of programs with our size of a long
_VAR: Final = struct.Struct("=40I")  # struct fb_var_screeninfo
_VAR_ACTIVATE: Final = 21  # which of the 40
_FB_ACTIVATE_NOW, _FB_ACTIVATE_MASK = 0, 15
_FB_VISUAL_TRUECOLOR: Final = 2
_HIGHEST: Final = 0xFFFFFFFF

# bits per pixel -> offset, length, msb_right of red, green, blue, transp; and Pillow's name for it
_BITFIELDS: Final = {
    16: (11, 5, 0, 5, 6, 0, 0, 5, 0, 0, 0, 0),
    32: (16, 8, 0, 8, 8, 0, 0, 8, 0, 0, 0, 0),
}
_RAWMODES: Final = {16: "BGR;16", 32: "BGRX"}


class Screen(NamedTuple):
    """The first members of struct fb_var_screeninfo, all that can be changed here: pixels, and bits per pixel."""

    xres: int
    yres: int
    xres_virtual: int
    yres_virtual: int
    xoffset: int
    yoffset: int
    bits_per_pixel: int

    @property
    def line_length(self) -> int:
        """Bytes from one line to the next."""
        return self.xres_virtual * self.bits_per_pixel // 8

    def pack(self) -> bytes:
        """The whole structure."""
        millimetres = (_HIGHEST, _HIGHEST)  # not known
        pixclock = min(10**12 // (self.xres * self.yres * 60), _HIGHEST)  # picoseconds, for 60 Hz without margins
        return _VAR.pack(
            *self, 0, *_BITFIELDS[self.bits_per_pixel], 0, _FB_ACTIVATE_NOW, *millimetres, 0, pixclock, *[0] * 14
        )


class Framebuffer(Device):
    """A screen of 32-bit or 16-bit pixels, as framebuffer:800x600 or framebuffer:800x600-16; see `snapshot`.

    XRGB8888 or RGB565. The memory is enough for two pictures of 32-bit pixels, so that programs can pan between them;
    they may also set any other mode that it has room for.
    """

    devt = (29, 0)

    def __init__(self, xres: int = 800, yres: int = 600, bits_per_pixel: int = 32) -> None:
        """Raises ``ValueError`` unless there are 1 to 16384 pixels each way, of 16 or 32 bits."""
        if not (1 <= xres <= 1 << 14 and 1 <= yres <= 1 << 14):
            raise ValueError(f"a screen has 1 to {1 << 14} pixels each way, not {xres}x{yres}")
        if bits_per_pixel not in _BITFIELDS:
            raise ValueError(f"a pixel has 16 or 32 bits, not {bits_per_pixel}")
        self.screen = Screen(xres, yres, xres, 2 * yres, 0, 0, bits_per_pixel)
        self.blanked = FB_BLANK_UNBLANK
        self.pages = page_array(-(-xres * 4 * 2 * yres // PAGE_SIZE))
        self.size = self.pages.nbytes
        self._lock = threading.Lock()

    @classmethod
    def with_parameter(cls, text: str) -> "Framebuffer":
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(?:-([0-9]{1,2}))?", text)
        if match is None:
            raise ValueError(f"{text!r} is not a screen: write its size in pixels, such as 800x600 or 800x600-16")
        return cls(int(match[1]), int(match[2]), int(match[3] or 32))

    def snapshot(self, path: str | os.PathLike[str] | None = None) -> "Image":
        """What the screen shows now: an RGB image of ``xres`` x ``yres``, black if blanked; saved to `path` too.

        Pulls first. Raises ``HostError`` without Pillow; ``OSError`` and ``ValueError`` as ``Image.save`` does.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise HostError("a snapshot needs Pillow: pip install pillow") from error
        screen = self.screen
        image = Image.new("RGB", (screen.xres, screen.yres))
        if self.blanked == FB_BLANK_UNBLANK:
            start, length = screen.yoffset * screen.line_length, screen.yres * screen.line_length
            self.pages.pull(start, length)
            lines, rawmode = self.pages[start : start + length], _RAWMODES[screen.bits_per_pixel]
            whole = Image.frombytes("RGB", (screen.xres_virtual, screen.yres), lines, "raw", rawmode)
            image.paste(whole, (-screen.xoffset, 0))
        if path is not None:
            image.save(path)
        return image

    def read(self, file: File, count: int, pos: int) -> bytes:  # noqa: ARG002
        return self.pages[pos : pos + count]

    def write(self, file: File, buf: bytes, pos: int) -> int:  # noqa: ARG002
        if pos > self.pages.nbytes:
            raise OSError(errno.EFBIG, "past the end")
        taken = min(len(buf), self.pages.nbytes - pos)
        if buf and not taken:
            raise OSError(errno.ENOSPC, "no pixels are left")
        self.pages[pos : pos + taken] = buf[:taken]
        return taken

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> None:  # noqa: ARG002
        # these numbers do not say how many bytes they move: the device reaches into the program's memory
        if cmd == FBIOGET_VSCREENINFO:
            arg.copy_to_user(self.screen.pack())
        elif cmd == FBIOPUT_VSCREENINFO:
            wanted = _VAR.unpack(arg.copy_from_user(_VAR.size))
            screen = self._possible(Screen(*wanted[:7]))
            if wanted[_VAR_ACTIVATE] & _FB_ACTIVATE_MASK == _FB_ACTIVATE_NOW:
                with self._lock:
                    self.screen = screen
            arg.copy_to_user(screen.pack())
        elif cmd == FBIOGET_FSCREENINFO:
            arg.copy_to_user(self._fix())
        elif cmd == FBIOPAN_DISPLAY:
            wanted = _VAR.unpack(arg.copy_from_user(_VAR.size))
            self.pan(*Screen(*wanted[:7])[4:6])
        elif cmd == FBIOBLANK:
            self.blank(int(arg))
        else:
            raise OSError(errno.ENOTTY, "no such command")

    def pan(self, xoffset: int, yoffset: int) -> None:
        """The picture begins at this pixel of the virtual screen. Raises ``OSError`` EINVAL if it would not fit."""
        with self._lock:
            screen = self.screen
            fits = 0 <= xoffset <= screen.xres_virtual - screen.xres
            if not (fits and 0 <= yoffset <= screen.yres_virtual - screen.yres):
                raise OSError(errno.EINVAL, "past the edge of the virtual screen")
            self.screen = screen._replace(xoffset=xoffset, yoffset=yoffset)

    def blank(self, how: int) -> None:
        """Show nothing (1 to 4, the FB_BLANK_* numbers; larger ones are 4), or the picture again (0)."""
        self.blanked = min(how, FB_BLANK_POWERDOWN)

    def surroundings(self, path: str) -> Surroundings:
        fb = path.rpartition("/")[2]
        major, minor = self.devt
        files: dict[str, Surrounding] = {
            "bits_per_pixel": lambda: f"{self.screen.bits_per_pixel}\n",
            "blank": Attribute("", lambda text: self.blank(*_numbers(text, 1))),
            "dev": f"{major}:{minor}\n",
            "mode": self._mode,
            "modes": self._mode,
            "name": f"{_ID}\n",
            "pan": Attribute(
                lambda: f"{self.screen.xoffset},{self.screen.yoffset}\n", lambda text: self.pan(*_numbers(text, 2))
            ),
            "stride": lambda: f"{self.screen.line_length}\n",
            "virtual_size": lambda: f"{self.screen.xres_virtual},{self.screen.yres_virtual}\n",
        }
        return {
            **{f"/sys/class/graphics/{fb}/{name}": content for name, content in files.items()},
            f"/sys/dev/char/{major}:{minor}": Symlink(f"../../class/graphics/{fb}"),
            "/proc/fb": f"{minor} {_ID}\n",
        }

    def _possible(self, wanted: Screen) -> Screen:
        """The mode nearest to what is wanted. Raises ``OSError`` EINVAL, and ENOMEM if there is no room for it."""
        xres, yres, xres_virtual, yres_virtual, xoffset, yoffset, bits_per_pixel = wanted
        if not xres or not yres or bits_per_pixel > 32:
            raise OSError(errno.EINVAL, "no such screen")
        screen = Screen(
            xres, yres, max(xres_virtual, xoffset + xres), max(yres_virtual, yoffset + yres), xoffset, yoffset,
            16 if bits_per_pixel <= 16 else 32,
        )  # fmt: skip
        if screen.line_length * screen.yres_virtual > self.pages.nbytes:
            raise OSError(errno.ENOMEM, "the memory has no room for it")
        return screen

    def _fix(self) -> bytes:
        kind, pan_steps, line_length = (0, 0, _FB_VISUAL_TRUECOLOR), (1, 1, 0), self.screen.line_length
        return _FIX.pack(_ID.encode(), 0, self.pages.nbytes, *kind, *pan_steps, line_length, *[0] * 6)

    def _mode(self) -> str:
        return f"U:{self.screen.xres}x{self.screen.yres}p-60\n"


def _numbers(text: bytes, count: int) -> list[int]:
    """What was written to a file of sysfs: `count` numbers. Raises ``OSError`` EINVAL."""
    try:
        numbers = [int(word) for word in text.split(b",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or min(numbers) < 0:
        raise OSError(errno.EINVAL, f"{count} numbers with a comma between")
    return numbers
