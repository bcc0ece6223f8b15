"""TARGETs: what is loaded, and what is said of what cannot be."""

from pathlib import Path

import pytest

from mapdev import devices, targets
from mapdev.devices import BUILTIN, Ram, builtin
from mapdev.errors import TargetError
from mapdev.sizes import parse_size

ONE = "import mapdev\nclass Timer(mapdev.Device):\n    pass\n"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_built_in_device_is_a_target(name: str) -> None:
    assert targets.load(name)[0] == name
    assert isinstance(targets.load(f"other={name}")[1], builtin(name))


def test_every_name_that_the_devices_offer_leads_to_something_and_no_other_does() -> None:
    assert all(hasattr(devices, name) for name in devices.__all__)
    assert not hasattr(devices, "Rom")


def test_a_parameter_goes_to_the_device() -> None:
    name, device = targets.load("big=ram:64M")
    assert (name, device.size) == ("big", 64 << 20)
    assert isinstance(device, Ram)


def test_a_file_with_one_device_and_classes_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "timer.py", ONE)
    assert targets.load(file)[0] == "timer"
    two = write(
        tmp_path / "both.py", ONE + "class UsbThing(mapdev.Device):\n    pass\nclass _Base(mapdev.Device): ...\n"
    )
    assert targets.load(f"{two}:UsbThing")[0] == "usb_thing"
    with pytest.raises(TargetError, match=r"has Timer, UsbThing, several: name one"):
        targets.load(two)
    with pytest.raises(TargetError, match="has no Device called 'Nonesuch'; it has Timer, UsbThing"):
        targets.load(f"{two}:Nonesuch")
    with pytest.raises(TargetError, match="has no Device called 'mapdev'"):
        targets.load(f"{two}:mapdev")


def test_a_file_can_import_what_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "beside_it_lies.py", "ANSWER = 42\n")
    file = write(tmp_path / "uses.py", "from beside_it_lies import ANSWER\n" + ONE + "    answer = ANSWER\n")
    assert vars(type(targets.load(file)[1]))["answer"] == 42


def test_a_module_that_can_be_imported() -> None:
    assert targets.load("mapdev.devices.ram:Ram")[0] == "ram"
    assert targets.load("x=mapdev.devices.lkmc_mmap")[0] == "x"
    with pytest.raises(TargetError, match=r"there is no module 'nonesuch\.module'"):
        targets.load("nonesuch.module:Class")
    with pytest.raises(TargetError, match="there is no module"):
        targets.load("mapdev.nonesuch:Class")


BROKEN = {
    "syntax": "class Broken(\n",
    "import": "import nonesuch_module\n",
    "raises": ONE + "raise RuntimeError('while loading')\n",
    "exits": "raise SystemExit(3)\n",
    "init": ONE + "    def __init__(self):\n        self.x = 1 // 0\n",
    "arguments": ONE + "    def __init__(self, needed):\n        pass\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_failure_of_the_authors_code_is_one_line_and_his_traceback_alone(tmp_path: Path, what: str) -> None:
    file = write(tmp_path / "broken.py", BROKEN[what])
    with pytest.raises(TargetError) as caught:
        targets.load(file)
    assert "cannot be loaded" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "targets.py" not in caught.value.detail
    assert "importlib" not in caught.value.detail
    assert caught.value.exit_code == 2
    if what != "arguments":  # that call is ours: there is no frame of his
        assert "broken.py" in caught.value.detail


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nonesuch", r"there is no device 'nonesuch': name a file \(\./nonesuch\.py\) or a built-in one \(array, "),
        ("./nonesuch.py", "there is no file nonesuch.py"),
        ("/", "there is no file /"),
        ("=ram", "no name before its '='"),
        ("ram:", "is not a size"),
        ("ram:0", "multiple of 4096"),
        ("ram:9999999T", "ram: |is not|EFBIG|no file can be"),
        ("contiguous:4M", "at most 512 pages"),
        ("array:100", "not a multiple of the page size"),
    ],
)
def test_bad_targets(target: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        targets.load(target)


def test_two_of_one_name() -> None:
    with pytest.raises(TargetError, match=r"two devices are called ram: give one another name \(NAME=ram:2M\)"):
        targets.load_all(("ram", "ram:2M"))


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64M", 64 << 20), ("0x1000", 4096), ("1gib", 1 << 30), ("2T", 2 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1 M", "0x", "64MM", "1P"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
