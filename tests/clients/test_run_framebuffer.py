"""Programs that draw on /dev/fb0, as they are, under `mapdev run`; docs/howto-framebuffer.md, followed literally."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.clients.howto import follow
from tests.clients.programs import need
from tests.clients.pypi import fetch
from tests.people import Person

pytestmark = pytest.mark.usefixtures("dev_fuse")

FRAMEBUFFER = ("--device", "/dev/fb0=framebuffer:640x480", "--")

SCREEN = """
import os
from mapdev.devices import Framebuffer

class Screen(Framebuffer):
    def __init__(self):
        super().__init__(640, 480, int(os.environ["BITS"]))

    def release(self, file):
        self.snapshot("screen.png")
"""

DRAW = ["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=640x480", "-frames:v", "1"]


@pytest.fixture(scope="module")
def ffmpeg() -> Iterator[Path]:
    """The program: Debian's, or the static one of a wheel."""
    installed = shutil.which("ffmpeg")
    if installed is not None:
        yield Path(installed)
        return
    wheel = fetch("imageio-ffmpeg==0.6.0", "imageio_ffmpeg-0.6.0-py3-none-manylinux2014_x86_64.whl")
    directory = Path(tempfile.mkdtemp(prefix="mapdev-ffmpeg-"))
    directory.chmod(0o755)
    program = directory / "ffmpeg"
    with zipfile.ZipFile(wheel) as archive, program.open("wb") as file:
        (name,) = (name for name in archive.namelist() if "/binaries/ffmpeg-" in name)
        with archive.open(name) as source:
            shutil.copyfileobj(source, file)
    program.chmod(0o755)
    yield program
    shutil.rmtree(directory)


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of any channel of any pixel."""
    assert one.size == other.size
    extrema = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return max(int(high) for _, high in extrema)  # type: ignore[misc]


def same(one: Path, other: Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        return difference(first, second) == 0


def drawn_to_files(
    ffmpeg: Path, person: Person, directory: Path, frames: int = 1, pixels: str = "bgra"
) -> list[Path]:
    """The test pictures, by ffmpeg alone, one for each second. `pixels`: what they were on the way."""
    source = ["-f", "lavfi", "-i", "testsrc=size=640x480:rate=1", "-frames:v", str(frames)]
    source += ["-vf", f"format={pixels},format=rgb24"]
    done = person.run(ffmpeg, "-nostdin", "-loglevel", "error", *source, directory / "expected-%d.png")
    assert (done.returncode, done.stderr) == (0, "")
    return [directory / f"expected-{number}.png" for number in range(1, frames + 1)]


def test_fbset_shows_the_screen(person: Person) -> None:
    need("fbset", "fbset")
    done = person.mapdev("run", *FRAMEBUFFER, "fbset", "-i")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    for line in (
        "geometry 640 480 640 960 32",
        "rgba 8/16,8/8,8/0,0/0",
        "Name        : mapdev",
        "LineLength  : 2560",
    ):
        assert line in lines


def test_fbset_changes_the_mode_for_all_programs(person: Person) -> None:
    need("fbset", "fbset")
    script = """
        fbset -g 320 200 320 400 16; fbset | grep -E 'mode|geometry|rgba'; cat /sys/class/graphics/fb0/virtual_size
        fbset -xres 10000 -yres 10000; fbset | grep geometry
    """
    done = person.mapdev("run", *FRAMEBUFFER, "sh", "-c", script)
    assert [line.strip() for line in done.stdout.splitlines()] == [
        'mode "320x200-60"', "geometry 320 200 320 400 16", "rgba 5/11,6/5,5/0,0/0", "endmode", "320,400",
        "geometry 320 200 320 400 16",
    ]  # fmt: skip
    assert done.stderr == "ioctl FBIOPUT_VSCREENINFO: Cannot allocate memory\n"


@pytest.mark.parametrize(("bits", "pixels", "loss"), [("32", "bgra", 0), ("16", "rgb565le", 7)])
def test_what_ffmpeg_draws_is_in_the_snapshot_and_in_what_fbcat_reads(
    person: Person, place: Callable[[Person], Path], ffmpeg: Path, bits: str, pixels: str, loss: int
) -> None:
    fbcat = need("fbcat", "fbcat")
    directory = place(person)
    (directory / "screen.py").write_text(SCREEN)
    (expected,) = drawn_to_files(ffmpeg, person, directory, pixels=pixels)
    draw = f'"$@" && {fbcat} > drawn.ppm'
    done = person.mapdev(
        "run", "--device", "/dev/fb0=screen.py", "--",
        "sh", "-c", draw, "sh", ffmpeg, *DRAW, "-pix_fmt", pixels, "-f", "fbdev", "/dev/fb0",
        cwd=directory, env={"BITS": bits},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(directory / "screen.png") as shown, Image.open(expected) as image:
        assert difference(shown, image) <= loss
    with Image.open(directory / "drawn.ppm") as read, Image.open(expected) as image:
        assert difference(read, image) <= loss


def test_the_howto(person: Person, place: Callable[[Person], Path], ffmpeg: Path) -> None:
    for program in ("fbset", "fbcat", "fbi"):
        need(program, program)
    directory = place(person)
    (directory / "bin").mkdir()
    (directory / "bin" / "ffmpeg").symlink_to(ffmpeg)
    first, second, _ = drawn_to_files(ffmpeg, person, directory, 3)
    os.chown(directory / "bin", person.uid, -1)

    def in_film(picture: Path) -> bool:
        return any(same(picture, shown) for shown in directory.glob("film-*.png"))

    for commands in follow("howto-framebuffer.md", person, directory):
        if "drawn.ppm" in commands:
            assert same(directory / "drawn.ppm", first)
        elif "screen.py" in commands:
            assert same(directory / "screen.png", first)
        elif "-re" in commands:
            assert in_film(first)
            assert in_film(second)
        elif "fbi" in commands:
            assert in_film(directory / "screen.png")
    assert "fbi" in commands
