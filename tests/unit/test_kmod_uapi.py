"""The mirror of the module's header: against the header as a C compiler sees it, and against itself."""

import ctypes
import os
import re
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.hosts.kmod import uapi
from mapdev.hosts.kmod.uapi import Opcode

HEADER = Path(__file__).parents[2] / "kmod" / "uapi" / "mapdev.h"


def c_name(structure: type[ctypes.Structure]) -> str:
    return "mapdev_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", structure.__name__).lower()


def _enum(prefix: str, values: type[IntEnum | IntFlag]) -> dict[str, int]:
    return {f"MAPDEV_{prefix}{one.name}": int(one) for one in values}


_OURS = ("REQUEST_SIZE", "REPLY_SIZE", "MAX_ERRNO", "POLL_MASK")

CONSTANTS: dict[str, int] = {
    **_enum("", uapi.Opcode),
    **_enum("MEM_", uapi.MemoryKind),
    **_enum("VMA_", uapi.VmaFlag),
    **_enum("REPLY_", uapi.ReplyFlag),
    **_enum("", uapi.CreateFlag),
    **{f"MAPDEV_{name}": value for name, value in vars(uapi).items()
       if name.isupper() and isinstance(value, int) and name not in _OURS},
}  # fmt: skip


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes, offsets and constants as the C compiler has them."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    if not Path("/usr/include/linux/ioctl.h").exists():
        pytest.skip("linux/ioctl.h is not installed (linux-libc-dev)")
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <sys/ioctl.h>", f'#include "{HEADER}"']
    lines.append("int main(void) {")
    for structure in uapi.STRUCTS:
        name = c_name(structure)
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for field, *_ in structure._fields_:
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));')
    lines += [f'printf("{name} %llu\\n", (unsigned long long){name});' for name in CONSTANTS]
    lines.append('printf("MAPDEV_OP(13) %llu\\n", MAPDEV_OP(13));')
    place = tmp_path_factory.mktemp("header")
    source, program = place / "header.c", place / "header"
    source.write_text("\n".join([*lines, "return 0; }", ""]))
    command = ["gcc", "-std=c11", "-Wall", "-Werror", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    output = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


@pytest.mark.parametrize("structure", uapi.STRUCTS, ids=c_name)
def test_structures_are_those_of_the_header(header: dict[str, int], structure: type[ctypes.Structure]) -> None:
    name = c_name(structure)
    assert ctypes.sizeof(structure) == header[name]
    for field, *_ in structure._fields_:
        assert getattr(structure, field).offset == header[f"{name}.{field}"], field


def test_constants_are_those_of_the_header(header: dict[str, int]) -> None:
    assert {name: header[name] for name in CONSTANTS} == CONSTANTS
    assert uapi.op(Opcode.INTERRUPT) == header["MAPDEV_OP(13)"]


def test_every_structure_and_constant_of_the_header_is_in_the_mirror() -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE)) == {c_name(one) for one in uapi.STRUCTS}
    defined = set(re.findall(r"^\s*#define (MAPDEV_\w+)(?!\w|\()", text, re.MULTILINE))
    defined |= set(re.findall(r"^\t(MAPDEV_\w+)\s*=", text, re.MULTILINE))
    assert defined == set(CONSTANTS)
    fields = dict(re.findall(r"^struct (\w+) \{(.*?)^\};", text, re.MULTILINE | re.DOTALL))
    for structure in uapi.STRUCTS:
        named = re.findall(r"(\w+)(?:\[[^]]*\])?;", fields[c_name(structure)])
        assert named == [field for field, *_ in structure._fields_]


u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
requests = st.builds(
    uapi.Request, len=u32, unique=st.integers(1, 2**64 - 1), file=u64, pid=u32, uid=u32, gid=u32, flags=u32
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Any message that a module may send."""
    header = draw(requests)
    header.opcode = draw(st.sampled_from(Opcode))
    if header.opcode in uapi.NOTICES:
        header.unique = 0
    structure = uapi._BODIES[header.opcode]
    payload = b""
    body = None
    if structure is not None:
        body = structure(*(draw(st.integers(0, (1 << 8 * ctypes.sizeof(kind)) - 1))
                           for _, kind, *_ in structure._fields_))  # fmt: skip
        if header.opcode == Opcode.WRITE:
            payload = draw(st.binary(max_size=300))
            body.count = len(payload)
        if header.opcode == Opcode.IOCTL:
            payload = draw(st.binary(max_size=300))
            body.in_len = len(payload)
    return uapi.message(header, body, payload)


@given(messages())
def test_what_is_built_is_parsed(data: bytes) -> None:
    header, body, payload = uapi.parse(memoryview(data))
    assert header.len == len(data)
    assert bytes(header) + (bytes(body) if body is not None else b"") + bytes(payload) == data


@given(messages(), st.data())
def test_a_message_that_was_cut_or_lengthened_is_a_protocol_error(data: bytes, draw: st.DataObject) -> None:
    cut = data[: draw.draw(st.integers(0, len(data) - 1))]
    more = data + draw.draw(st.binary(min_size=1, max_size=50))
    for wrong in (cut, more):
        with pytest.raises(uapi.ProtocolError):
            uapi.parse(memoryview(wrong))
    for wrong in (cut, more):  # and says so in its length
        patched = len(wrong).to_bytes(4, "little") + wrong[4:]
        if len(wrong) >= 4:
            with pytest.raises(uapi.ProtocolError):
                uapi.parse(memoryview(patched))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    patched = len(data).to_bytes(4, "little") + data[4:]
    try:
        message = uapi.parse(memoryview(patched))
    except uapi.ProtocolError:
        return
    assert message.header.opcode in set(Opcode)


@given(u64, st.integers(0, 511), u64, st.integers(0, 3), st.integers(0, 1 << 20))
def test_replies_say_their_length_and_a_failure_carries_nothing(
    unique: int, error: int, value: int, flags: int, length: int
) -> None:
    if error and (value or flags or length):
        with pytest.raises(ValueError):
            uapi.reply(unique, error, value, flags, length)
        value = flags = length = 0
    answer = uapi.Reply.from_buffer_copy(uapi.reply(unique, error, value, flags, length))
    assert (answer.len, answer.error, answer.unique) == (uapi.REPLY_SIZE + length, -error, unique)
    assert (answer.value, answer.flags, answer.reserved) == (value, flags, 0)


@pytest.mark.parametrize("number", [-1, 512, 1 << 31])
def test_an_errno_that_is_none_is_not_sent(number: int) -> None:
    with pytest.raises(ValueError):
        uapi.reply(1, number)


@given(st.text(max_size=80))
def test_names_end_in_a_nul_that_is_theirs(text: str) -> None:
    try:
        encoded = uapi.name(text)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 or any(not c.isprintable() for c in text)  # noqa: PT017
        return
    assert 0 < len(encoded) <= uapi.NAME_MAX
    assert not set(encoded) & set(b"\0/!")
    create = uapi.Create(name=encoded)
    assert create.name == encoded
    assert bytes(create)[uapi.Create.name.offset + len(encoded)] == 0
