"""Registers from SystemRDL and CMSIS-SVD files: what becomes of each thing they say; what is said of bad ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mapdev import targets
from mapdev.cli import main
from mapdev.devices import DevMem, Uio
from mapdev.errors import UsageError
from mapdev.pages import zeroed_pages
from mapdev.registers import Register, RegisterBlock, Value, from_rdl, from_svd
from mapdev.testing import MemoryHost
from tests.clients.pypi import fetch

RDL = """
addrmap child { reg { field {} x[8] = 3; } it @ 0x8; };

addrmap soc {
  bigendian;
  reg { desc = "starts it"; field { desc = "go"; } start; field { singlepulse; } pulse = 0;
        field {} mode[7:4] = 2; } ctrl @ 0x0;
  reg { field { onwrite=woclr; onread=rclr; } done = 1; field { sw=r; } busy = 1; field { sw=w; } cmd;
        field { sw=rw1; } lk; field { onwrite=wot; } toggle; field { onread=rset; sw=r; } seen; } status @ 0x4;
  reg { field {} value[32] = 0xdeadbeef; } load[2][3] @ 0x10;
  regfile { reg { field {} v[16]; } val; reg { field {} data[8]; } lock[4] += 8; } ch[2] @ 0x100 += 0x80;
  external mem { mementries = 16; memwidth = 32; } buffer @ 0x400;
  reg { regwidth = 64; field { sw=r; } imag[64]; } big @ 0x300;
  reg { field { sw=r; } d[8] = 7; } rbr @ 0x320;
  reg { field { sw=w; } d[8]; } thr @ 0x320;
  child inner @ 0x500;
};
"""

SVD = """<?xml version="1.0" encoding="utf-8"?>
<device schemaVersion="1.3">
  <name>CHIP</name><version>1</version><description>d</description><addressUnitBits>8</addressUnitBits>
  <width>32</width><size>32</size><access>read-write</access><resetValue>0x5</resetValue>
  <peripherals>
    <peripheral derivedFrom="TIMER"><name>TIMER1</name><baseAddress>0x40002000</baseAddress></peripheral>
    <peripheral>
      <name>TIMER</name><baseAddress>0x40001000</baseAddress><resetValue>0</resetValue>
      <addressBlock><offset>0</offset><size>0x400</size><usage>registers</usage></addressBlock>
      <registers>
        <register><name>CR</name><description>control
            register</description><addressOffset>0</addressOffset><resetValue>0x20</resetValue>
          <fields>
            <field><name>EN</name><bitOffset>0</bitOffset></field>
            <field><name>MODE</name><bitRange>[7:4]</bitRange></field>
            <field><name>OVF</name><lsb>8</lsb><msb>8</msb><modifiedWriteValues>oneToClear</modifiedWriteValues></field>
            <field><name>RDY</name><bitOffset>9</bitOffset><bitWidth>1</bitWidth><access>read-only</access>
              <readAction>clear</readAction></field>
            <field><dim>2</dim><dimIncrement>2</dimIncrement><dimIndex>A,B</dimIndex><name>CH%s</name>
              <bitOffset>16</bitOffset><bitWidth>2</bitWidth></field>
          </fields>
        </register>
        <register derivedFrom="CR"><name>CR2</name><addressOffset>4</addressOffset>
          <access>write-only</access></register>
        <register><name>RX</name><addressOffset>8</addressOffset><access>read-only</access></register>
        <register><name>TX</name><alternateRegister>RX</alternateRegister><addressOffset>8</addressOffset>
          <access>write-only</access></register>
        <register><name>DIV</name><alternateRegister>RX</alternateRegister><addressOffset>8</addressOffset></register>
        <register><dim>3</dim><dimIncrement>4</dimIncrement><name>MATCH[%s]</name><addressOffset>0x10</addressOffset>
          </register>
        <register><dim>2</dim><dimIncrement>4</dimIncrement><name>CAP%s</name><addressOffset>0x20</addressOffset>
          <size>16</size></register>
        <register><name>KEY</name><addressOffset>0x28</addressOffset><access>read-writeOnce</access></register>
        <cluster><dim>2</dim><dimIncrement>0x20</dimIncrement><name>CC[%s]</name><addressOffset>0x100</addressOffset>
          <register><name>R</name><addressOffset>4</addressOffset></register>
          <register><dim>2</dim><dimIncrement>4</dimIncrement><name>Q[%s]</name><addressOffset>8</addressOffset>
            </register>
        </cluster>
      </registers>
    </peripheral>
  </peripherals>
</device>
"""


@pytest.fixture
def rdl(tmp_path: Path) -> Path:
    pytest.importorskip("systemrdl", reason="systemrdl-compiler is not installed: pip install 'mapdev[rdl]'")
    file = tmp_path / "chip.rdl"
    file.write_text(RDL)
    return file


@pytest.fixture
def svd(tmp_path: Path) -> Path:
    file = tmp_path / "chip.svd"
    file.write_text(SVD)
    return file


def layout(block: type[RegisterBlock]) -> dict[str, tuple[int, int, int, int]]:
    """Name -> offset, number, bytes apart, width."""
    return {name: (r.offset, r.count, r.stride, r.width) for name, r in block.registers.items()}


def accesses(register: Any) -> dict[str, str]:
    return {name: register.access_of(name) for name in register.fields}


# -- SystemRDL ------------------------------------------------------------------------------------------------------


def test_rdl_names_places_and_arrays(rdl: Path) -> None:
    block = from_rdl(rdl)
    assert (block.__name__, block.nbytes, block.trapped, block.left_out) == ("soc", 0x50C, True, {})
    assert layout(block) == {
        "ctrl": (0, 1, 4, 32),
        "status": (4, 1, 4, 32),
        "load": (0x10, 6, 4, 32),
        "ch_val": (0x100, 2, 0x80, 32),
        "ch0_lock": (0x104, 4, 8, 32),
        "ch1_lock": (0x184, 4, 8, 32),
        "big": (0x300, 1, 8, 64),
        "rbr": (0x320, 1, 4, 32),
        "thr": (0x320, 1, 4, 32),
        "inner_it": (0x508, 1, 4, 32),
    }
    assert block.memories == {"buffer": range(0x400, 0x440)}
    assert block.registers["ctrl"].byteorder == "big"
    assert block.registers["ctrl"].description == "starts it"
    assert block.registers["ctrl"].fields["start"].description == "go"
    assert list(block.registers["big"].fields) == ["imag_"]


def test_rdl_accesses_and_resets(rdl: Path) -> None:
    block = from_rdl(rdl)
    assert accesses(block.registers["ctrl"]) == {"start": "rw", "pulse": "wc", "mode": "rw"}
    assert accesses(block.registers["status"]) == {
        "done": "w1crc", "busy": "ro", "cmd": "wo", "lk": "w1", "toggle": "w1t", "seen": "rs"
    }  # fmt: skip
    assert [block.registers[name].reset for name in ("ctrl", "status", "load", "rbr")] == [0x20, 3, 0xDEADBEEF, 7]
    chip: Any = block(zeroed_pages(1))
    chip.bus_store(0, (0xFFFF_FFFF).to_bytes(4, "big"))
    assert chip.ctrl == 0xF1  # what is no field stays
    assert chip.bus_load(0, 4) == (0xF1).to_bytes(4, "big")
    assert chip.bus_load(4, 4) == (3).to_bytes(4, "big")
    assert (chip.status.done, chip.status.seen) == (0, 1)
    chip.bus_store(0x320, (0x55).to_bytes(4, "big"))
    assert (chip.bus_load(0x320, 4), chip.thr, chip.rbr) == (b"\0\0\0\x07", 0x55, 7)


def test_rdl_behaviour_is_a_subclass(rdl: Path) -> None:
    base: Any = from_rdl(rdl, top="soc")

    class Chip(base):  # type: ignore[misc]
        def write_ctrl_start(self, value: int, before: int) -> None:
            self.status.cmd = value | before

        def read_rbr(self) -> int:
            return 0x41

        def write_thr(self, value: Value, before: Value) -> None:  # noqa: ARG002
            self.said = int(value)

    chip = Chip(zeroed_pages(1))
    chip.bus_store(3, b"\x01")
    chip.bus_store(0x320, b"\0\0\0\x42")
    assert (chip.status.cmd, chip.said, chip.bus_load(0x320, 4)) == (1, 0x42, b"\0\0\0\x41")
    with pytest.raises(ValueError, match="there is no such register"):
        type("Wrong", (base,), {"write_CTRL": lambda self, value, before: None})  # noqa: ARG005


@pytest.mark.parametrize(
    ("top", "names"), [("child", ["it"]), ("soc.inner", ["it"]), ("inner", ["it"]), ("ch", ["val", "lock_"])]
)
def test_rdl_a_part_of_it(rdl: Path, top: str, names: list[str]) -> None:
    assert list(from_rdl(rdl, top).registers) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("addrmap a { reg { field {} x[8] } it; };", r"chip\.rdl:1: .*"),
        ("addrmap a {\n  reg { field {} x[40]; } it;\n};", r"chip\.rdl:2: .*"),
        ("reg it { field {} x; };", r"chip\.rdl.*"),
        ("addrmap a { mem { mementries=4; } m; reg { field {} x; } it @ 0x4; };", r"chip\.rdl:1: .*"),
        ("", r"chip\.rdl.*"),
    ],
)
def test_rdl_that_is_wrong_is_one_line_with_its_number(tmp_path: Path, text: str | None, message: str) -> None:
    pytest.importorskip("systemrdl", reason="systemrdl-compiler is not installed: pip install 'mapdev[rdl]'")
    file = tmp_path / "chip.rdl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        from_rdl(file)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_rdl_without_its_package_names_the_extra(rdl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemrdl.compiler", None)
    with pytest.raises(UsageError, match=r"to read SystemRDL, pip install 'mapdev\[rdl\]'"):
        from_rdl(rdl)


def test_rdl_example_of_peakrdl(tmp_path: Path) -> None:
    pytest.importorskip("systemrdl", reason="systemrdl-compiler is not installed: pip install 'mapdev[rdl]'")
    sdist = fetch("peakrdl-html==2.12.2", "peakrdl_html-2.12.2.tar.gz", "--no-binary", "peakrdl-html")
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path], timeout=60, check=True)
    block = from_rdl(tmp_path / "peakrdl_html-2.12.2" / "example" / "turboencabulator.rdl")
    assert block.nbytes == 0x2800
    assert layout(block) == {
        "ctrl": (0, 1, 4, 32),
        "status": (4, 1, 4, 32),
        "grammeter_control": (0x1000, 12, 0x200, 32),
        "grammeter_status": (0x1004, 12, 0x200, 32),
        "grammeter_meter": (0x1008, 12, 0x200, 32),
    }
    chip: Any = block(zeroed_pages(3))
    assert (chip.ctrl.reluctance, chip.ctrl.diractance) == (0x42, 0x42)  # the second resets to what the first is
    chip.grammeter_status[3].sync_failed = 1
    assert chip.bus_load(0x1604, 4) == bytes([8, 0, 0, 0])
    assert chip.grammeter_status[3] == 0


# -- CMSIS-SVD ------------------------------------------------------------------------------------------------------


def test_svd_names_places_and_arrays(svd: Path) -> None:
    block = from_svd(svd, "TIMER")
    assert (block.nbytes, block.address, block.trapped) == (0x400, 0x4000_1000, True)
    assert layout(block) == {
        "CR": (0, 1, 4, 32),
        "CR2": (4, 1, 4, 32),
        "RX": (8, 1, 4, 32),
        "TX": (8, 1, 4, 32),
        "MATCH": (0x10, 3, 4, 32),
        "CAP0": (0x20, 1, 2, 16),
        "CAP1": (0x24, 1, 2, 16),
        "KEY": (0x28, 1, 4, 32),
        "CC_R": (0x104, 2, 0x20, 32),
        "CC0_Q": (0x108, 2, 4, 32),
        "CC1_Q": (0x128, 2, 4, 32),
    }
    assert block.left_out == {"DIV": "RX is at 0x8, too"}
    assert layout(from_svd(svd, "TIMER1")) == layout(block)
    assert from_svd(svd, "TIMER1").address == 0x4000_2000


def test_svd_accesses_and_fields(svd: Path) -> None:
    block = from_svd(svd, "TIMER")
    control = block.registers["CR"]
    assert {name: (f.low, f.nbits) for name, f in control.fields.items()} == {
        "EN": (0, 1), "MODE": (4, 4), "OVF": (8, 1), "RDY": (9, 1), "CHA": (16, 2), "CHB": (18, 2)
    }  # fmt: skip
    assert accesses(control) == {"EN": "rw", "MODE": "rw", "OVF": "w1c", "RDY": "rc", "CHA": "rw", "CHB": "rw"}
    assert (control.reset, control.description, block.registers["MATCH"].reset) == (0x20, "control register", 0)
    assert [block.registers[name].access for name in ("RX", "TX", "KEY", "CR2")] == ["ro", "wo", "w1", "wo"]


def test_svd_one_peripheral_is_named(svd: Path) -> None:
    with pytest.raises(UsageError, match="name a peripheral; it has TIMER1, TIMER"):
        from_svd(svd)
    with pytest.raises(UsageError, match="there is no peripheral 'UART'; it has TIMER1, TIMER"):
        from_svd(svd, "UART")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("</device>", "", "no element found: line"),
        ("<addressOffset>0</addressOffset>", "", "register CR has no addressOffset"),
        ("<addressOffset>0</addressOffset>", "<addressOffset>zero</addressOffset>", "'zero' is no number"),
        ('derivedFrom="TIMER"', 'derivedFrom="TIMER9"', "TIMER1 is derived from TIMER9, which is not there"),
        ('derivedFrom="CR"', 'derivedFrom="CR2"', "CR2 is derived from CR2, which is not there"),
        ("<dimIndex>A,B</dimIndex>", "<dimIndex>A,B,C</dimIndex>", "does not name 2 elements"),
        ("<device ", "<devices ", "mismatched tag|no CMSIS-SVD file"),
        ("[7:4]", "[4:7]", "field MODE: bits 7 to 4"),
    ],
)
def test_svd_that_is_wrong_is_one_line(svd: Path, before: str, after: str, message: str) -> None:
    svd.write_text(SVD.replace(before, after, 1))
    with pytest.raises(UsageError, match=message) as caught:
        from_svd(svd, "TIMER")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def svdsuite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test files of svdsuite, which were compared with Arm's SVDConv."""
    sdist = fetch("svdsuite==0.2.2", "svdsuite-0.2.2.tar.gz", "--no-binary", "svdsuite")
    directory = tmp_path_factory.mktemp("svdsuite")
    subprocess.run(["tar", "-xf", sdist, "-C", directory], timeout=60, check=True)
    return directory / "svdsuite-0.2.2" / "tests" / "svd"


@pytest.mark.parametrize(
    ("file", "peripheral", "registers"),
    [
        ("register_inheritance_via_derivedfrom/simple_inheritance_forward_reference_different_scope.svd", "PeripheralA",
         {"RegisterA": (0, 1, 4, 32)}),
        ("peripheral_inheritance_via_derivedfrom/multiple_inheritance_forward_reference.svd", "PeripheralA", None),
        ("cluster_inheritance_via_derivedfrom/multiple_inheritance_forward_reference.svd", "PeripheralA", None),
        ("dim_handling/simple_array_register_level.svd", "PeripheralA", {"Register": (0, 2, 4, 32)}),
        ("dim_handling/simple_list_cluster_level.svd", "PeripheralA", None),
    ],
)  # fmt: skip
def test_svd_files_that_others_test_with(
    svdsuite: Path, file: str, peripheral: str, registers: dict[str, tuple[int, int, int, int]] | None
) -> None:
    block = from_svd(svdsuite / file, peripheral)
    assert block.left_out == {}
    assert layout(block)
    if registers is not None:
        assert layout(block) == registers


def test_svd_files_that_are_circular_are_refused(svdsuite: Path) -> None:
    found = sorted(svdsuite.glob("*/circular_inheritance.svd")) + sorted(svdsuite.glob("*/derive_from_self.svd"))
    assert len(found) >= 4
    for file in found:
        with pytest.raises(UsageError, match="is derived from"):
            from_svd(file)


# -- TARGETs and the command ------------------------------------------------------------------------------------------


def test_a_described_device_is_a_uio_or_in_dev_mem(rdl: Path, svd: Path) -> None:
    name, device = targets.load(str(rdl), "/dev/uio0")
    assert isinstance(device, Uio)
    assert name == "soc"
    with MemoryHost(device) as host, host.open() as file:
        assert file.mmap(4096)[0:4] == bytes.fromhex("00000020")
    _, memory = targets.load(f"{svd}", "/dev/mem")
    assert isinstance(memory, DevMem)
    assert memory.surroundings("")["/proc/iomem"] == "40001000-400013ff : TIMER\n40002000-400023ff : TIMER1\n"
    with MemoryHost(memory) as host, host.open() as file:
        assert file.mmap(4096, offset=0x4000_2000)[0:4] == bytes.fromhex("20000000")
    _, moved = targets.load(f"{svd}:TIMER@0x9000", "/dev/mem")
    assert moved.surroundings("")["/proc/iomem"] == "00009000-000093ff : TIMER\n"


@pytest.mark.parametrize("word", ["{}:nope", "{}@here", "{}@0xffffffffffffff"])
def test_a_target_that_is_wrong(rdl: Path, word: str) -> None:
    with pytest.raises(UsageError):
        targets.load(word.format(rdl), "/dev/mem")


def test_an_authors_file_that_loads_a_bad_description_says_only_that(tmp_path: Path) -> None:
    file = tmp_path / "board.py"
    file.write_text("from mapdev.registers import from_svd\nChip = from_svd('/nonesuch.svd')\n")
    with pytest.raises(UsageError, match=r"there is no file /nonesuch\.svd") as caught:
        targets.load(str(file))
    assert caught.value.detail == ""


def test_the_command_shows_registers_and_fields(rdl: Path, svd: Path) -> None:
    shown = CliRunner().invoke(main, ["registers", "show", str(rdl)])
    assert shown.exit_code == 0
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert lines[0] == ["0x0000", "ctrl", "32", "0x20", "mixed"]
    assert lines[3] == ["", "", "", "0x2", "rw", "mode", "7:4"]
    assert ["0x0100", "ch_val[2] +0x80", "32", "0x0", "rw"] in lines
    assert ["0x0400", "buffer (0x40 bytes of memory)"] in lines
    told = json.loads(CliRunner().invoke(main, ["registers", "show", f"{svd}:TIMER", "--json"]).stdout)
    assert (told["name"], told["address"], told["left_out"]) == ("TIMER", 0x40001000, {"DIV": "RX is at 0x8, too"})
    assert told["registers"][0]["fields"][2] == {
        "name": "OVF", "first": 8, "last": 8, "access": "w1c", "reset": 0, "description": ""
    }  # fmt: skip
    listed = CliRunner().invoke(main, ["registers", "show", str(svd)])
    assert listed.stdout == "TIMER1\t0x40002000\t0x400\t11\nTIMER\t0x40001000\t0x400\t11\n"


def test_the_command_is_one_line_and_2_for_what_it_cannot_read(tmp_path: Path) -> None:
    bad = tmp_path / "chip.svd"
    bad.write_text("<device>")
    for target in (bad, tmp_path / "nonesuch.rdl", "chip.txt"):
        done = subprocess.run([sys.executable, "-m", "mapdev", "registers", "show", str(target)], timeout=60,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("mapdev: ")


def test_two_registers_at_one_address_are_one_to_load_and_one_to_store() -> None:
    class Uart(RegisterBlock, trap=True):
        RBR = Register(0, access="ro", width=8, reset=3)
        THR = Register(0, access="wo", width=8)

    uart = Uart(zeroed_pages(1))
    uart.bus_store(0, b"x")
    assert (uart.RBR, uart.THR, uart.bus_load(0, 1)) == (3, ord("x"), b"\x03")
    uart.pages[0:1] = b"y"  # a program, on plain pages
    assert [(store.name, store.value) for store in uart.settle()] == [("THR", ord("x")), ("THR", ord("y"))]
    assert uart.RBR == 3
    assert uart.THR == 0x79
    with pytest.raises(ValueError, match="overlaps"):
        type("Three", (Uart,), {"DLL": Register(0, access="ro", width=8)})
