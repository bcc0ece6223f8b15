"""Blocks of registers from CMSIS-SVD (System View Description, https://open-cmsis-pack.github.io/svd-spec/).

Read here, with the XML parser of the standard library: of the packages that read it, those that follow ``derivedFrom``
as far as the specification goes do not run on Python 3.11.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from mapdev.errors import UsageError
from mapdev.registers.access import Access, OnRead, OnWrite
from mapdev.registers.block import RegisterBlock
from mapdev.registers.declared import ByteOrder, Field
from mapdev.registers.described import Described, Description, Part, access_of, field_name, make_block

_INHERITED: Final = ("size", "access", "resetValue")
_ON_WRITE: Final[dict[str, OnWrite]] = {
    "oneToClear": "1c", "oneToSet": "1s", "oneToToggle": "1t", "zeroToClear": "0c", "zeroToSet": "0s",
    "zeroToToggle": "0t", "clear": "c", "set": "s", "modify": "store",
}  # fmt: skip
_ON_READ: Final[dict[str, OnRead]] = {"clear": "rc", "set": "rs"}


def from_svd(file: str | Path, peripheral: str | None = None) -> type[RegisterBlock]:
    """The block of registers of a peripheral (may be left out if the file has but one), to be used or subclassed.

    Raises ``UsageError``. ``access``, ``modifiedWriteValues`` and ``readAction`` are there, of registers and of fields;
    of registers that are alternatives at one address the first, and one to load beside one to store.
    """
    described = peripherals(file)
    if peripheral is None and len(described) == 1:
        peripheral = next(iter(described))
    if peripheral not in described:
        what = "name a peripheral" if peripheral is None else f"there is no peripheral {peripheral!r}"
        raise UsageError(f"{file}: {what}; it has {', '.join(described)}")
    return make_block(described[peripheral], Path(file))


def peripherals(file: str | Path) -> dict[str, Description]:
    """All that the file describes, by name. Raises ``UsageError``."""
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "device" or root.find("peripherals") is None:
            raise _Wrong("it is no CMSIS-SVD file: it has no <device> with <peripherals>")
        found = {each.name: each for each in _Device(root).peripherals()}
    except ElementTree.ParseError as error:
        raise UsageError(f"{path}: {error}") from error
    except _Wrong as error:
        raise UsageError(f"{path}: {error}") from error
    if not found:
        raise UsageError(f"{path}: it has no peripherals")
    return found


class _Wrong(Exception):  # noqa: N818 - never leaves this file
    """What the file says cannot be."""


class _Device:
    def __init__(self, root: Element) -> None:
        self._root = root
        self._parents = {child: parent for parent in root.iter() for child in parent}
        self._resolved: dict[Element, Element] = {}
        self._resolving: set[Element] = set()
        self._byteorder: ByteOrder = "big" if root.findtext("cpu/endian", "").strip() == "big" else "little"

    def peripherals(self) -> Iterator[Description]:
        defaults = _properties(self._root, {})
        for element in self._root.findall("peripherals/peripheral"):
            peripheral = self._derived(element)
            properties = _properties(peripheral, defaults)
            registers = list(self._registers(peripheral.find("registers"), (), 0, properties))
            blocks = [
                _integer(block, "offset") + _integer(block, "size") for block in peripheral.findall("addressBlock")
            ]
            ends = [_end(register) for register in registers]
            size = max([*blocks, *ends], default=0)
            base = _integer(peripheral, "baseAddress")
            for name, shift in _instances(peripheral):
                yield Description(name, size, registers, {}, base + shift)

    def _registers(
        self, parent: Element | None, path: tuple[Part, ...], offset: int, inherited: dict[str, str]
    ) -> Iterator[Described]:
        for child in () if parent is None else parent:
            if child.tag not in ("register", "cluster"):
                continue
            element = self._derived(child)
            properties = _properties(element, inherited)
            at = offset + _integer(element, "addressOffset")
            for part, shift in _parts(element):
                if child.tag == "cluster":
                    yield from self._registers(element, (*path, part), at + shift, properties)
                else:
                    yield self._register(element, (*path, part), at + shift, properties)

    def _register(
        self, element: Element, path: tuple[Part, ...], offset: int, properties: dict[str, str]
    ) -> Described:
        size = _number(properties.get("size", "32"))
        width = 8
        while width < size:
            width *= 2
        reset = _number(properties.get("resetValue", "0")) & (1 << size) - 1
        word = properties.get("access", "read-write")
        whole = _access(element, element, word)
        fields: dict[str, Field] = {}
        for child in element.findall("fields/field"):
            each = self._derived(child)
            first, last = _bits(each)
            own = _access(each, element, (each.findtext("access") or word).strip())
            for name, shift in _instances(each):
                if last + shift < width:
                    description = " ".join(each.findtext("description", "").split())
                    fields[field_name(name)] = Field(first + shift, last + shift, own, None, description)
        description = " ".join(element.findtext("description", "").split())
        return Described(path, offset, width, reset, whole, _apart(fields), self._byteorder, description)

    def _derived(self, element: Element) -> Element:
        """With what it has of the element that it is derived from."""
        if element in self._resolved:
            return self._resolved[element]
        wanted = element.get("derivedFrom")
        if wanted is None:
            return element
        if element in self._resolving:
            raise _Wrong(f"{element.findtext('name')} is derived from itself")
        self._resolving.add(element)
        source = self._source(element, wanted)
        if source is None:
            raise _Wrong(f"{element.findtext('name')} is derived from {wanted}, which is not there")
        base = self._derived(source)
        result = Element(element.tag)
        own = {child.tag for child in element}
        inherited = _inherited(self._ancestors(source)) if element.tag in ("register", "cluster") else {}
        for child in base:
            if child.tag in ("register", "cluster"):
                names = {each.findtext("name") for each in element if each.tag in ("register", "cluster")}
                if child.findtext("name") not in names:
                    result.append(child)
            elif child.tag in ("registers", "fields") and child.tag in own:
                result.append(_merged(child, element.findall(child.tag)[0]))
            elif child.tag not in own and not (
                child.tag.startswith("dim") and "%s" not in element.findtext("name", "%s")
            ):
                result.append(child)
        present = own | {child.tag for child in base}
        for tag, text in inherited.items():
            if tag not in present:
                ElementTree.SubElement(result, tag).text = text
        merged = {child.tag for child in result} & {"registers", "fields"}
        result.extend(child for child in element if child.tag not in merged)
        for child in result:
            self._parents.setdefault(child, result)
        self._resolving.discard(element)
        self._resolved[element] = result
        return result

    def _ancestors(self, element: Element) -> list[Element]:
        """The outermost first."""
        found: list[Element] = []
        while element in self._parents:
            element = self._parents[element]
            found.insert(0, element)
        return found

    def _source(self, element: Element, wanted: str) -> Element | None:
        """The element of the same kind called `wanted`: beside it, or by the path from its peripheral."""
        path = wanted.strip().split(".")
        if len(path) == 1:
            for scope in reversed(self._ancestors(element)):
                for child in scope:
                    if child is not element and child.tag == element.tag and child.findtext("name") == path[0]:
                        return child
        for scope in reversed(self._ancestors(element)):
            found = _at_path(scope, path, element.tag)
            if found is not None and found is not element:
                return found
        return None


def _at_path(scope: Element, path: list[str], tag: str) -> Element | None:
    for child in scope:
        if child.tag in ("peripherals", "registers", "fields"):
            found = _at_path(child, path, tag)
            if found is not None:
                return found
        elif child.tag in ("peripheral", "cluster", "register", "field") and child.findtext("name") == path[0]:
            if len(path) == 1:
                if child.tag == tag:
                    return child
                continue
            found = _at_path(child, path[1:], tag)
            if found is not None:
                return found
    return None


def _merged(base: Element, own: Element) -> Element:
    """The children of both; those of `own` stand for such of `base` that have their name."""
    result = Element(base.tag)
    names = {child.findtext("name") for child in own}
    result.extend(child for child in base if child.findtext("name") not in names)
    result.extend(own)
    return result


def _properties(element: Element, inherited: dict[str, str]) -> dict[str, str]:
    own = {tag: (element.findtext(tag) or "").strip() for tag in _INHERITED}
    return {**inherited, **{tag: text for tag, text in own.items() if text}}


def _inherited(ancestors: list[Element]) -> dict[str, str]:
    found: dict[str, str] = {}
    for element in ancestors:
        found = _properties(element, found)
    return found


def _access(element: Element, register: Element, word: str) -> Access:
    """Of a register, or of a field, for which what its register says counts where it says nothing itself."""
    word = word.lower()
    readable = word in ("read-only", "read-write", "read-writeonce", "read")
    writable = word not in ("read-only", "read")
    modified = (
        element.findtext("modifiedWriteValues") or register.findtext("modifiedWriteValues") or "modify"
    ).strip()
    action = (element.findtext("readAction") or register.findtext("readAction") or "").strip()
    on_write: OnWrite = ""
    if writable:
        on_write = "once" if word.endswith("once") else _ON_WRITE.get(modified, "store")
    return access_of(readable, on_write, _ON_READ.get(action, ""))


def _apart(fields: dict[str, Field]) -> dict[str, Field]:
    """Fields that have all of their bits to themselves: of alternatives the first."""
    kept: dict[str, Field] = {}
    taken = 0
    for name, each in fields.items():
        if not each.mask & taken:
            kept[name] = each
            taken |= each.mask
    return kept


def _bits(element: Element) -> tuple[int, int]:
    pattern = re.fullmatch(r"\[(\w+):(\w+)\]", (element.findtext("bitRange") or "").strip())
    if pattern is not None:
        last, first = _number(pattern[1]), _number(pattern[2])
    elif element.find("lsb") is not None:
        first, last = _integer(element, "lsb"), _integer(element, "msb")
    else:
        first = _integer(element, "bitOffset")
        last = first + _number((element.findtext("bitWidth") or "1").strip()) - 1
    if not 0 <= first <= last:
        raise _Wrong(f"field {element.findtext('name')}: bits {first} to {last}")
    return first, last


def _parts(element: Element) -> list[tuple[Part, int]]:
    """The steps of the path that it is, and how far they are from its address: NAME[%s] is one, an array."""
    name = _name(element)
    if "[%s]" in name and element.find("dim") is not None:
        dimension = _integer(element, "dim"), _integer(element, "dimIncrement")
        return [(Part(name.replace("[%s]", ""), (dimension,)), 0)]
    return [(Part(each), shift) for each, shift in _instances(element)]


def _instances(element: Element) -> list[tuple[str, int]]:
    """Its names, and how far they are from its address or first bit."""
    name = _name(element)
    if element.find("dim") is None:
        return [(name, 0)]
    count, step = _integer(element, "dim"), _integer(element, "dimIncrement")
    indexes = _indexes((element.findtext("dimIndex") or "").strip(), count)
    return [(name.replace("[%s]", "%s").replace("%s", index), number * step) for number, index in enumerate(indexes)]


def _indexes(text: str, count: int) -> list[str]:
    words = [word.strip() for word in text.split(",")] if text else [str(number) for number in range(count)]
    between = re.fullmatch(r"(\d+)-(\d+)|([A-Za-z])-([A-Za-z])", text)
    if between is not None and between[1]:
        words = [str(number) for number in range(int(between[1]), int(between[2]) + 1)]
    elif between is not None:
        words = [chr(code) for code in range(ord(between[3]), ord(between[4]) + 1)]
    if len(words) != count:
        raise _Wrong(f"dimIndex {text!r} does not name {count} elements")
    return words


def _name(element: Element) -> str:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _Wrong(f"a {element.tag} has no name")
    return name


def _integer(element: Element, tag: str) -> int:
    text = element.findtext(tag)
    if text is None:
        raise _Wrong(f"{element.tag} {element.findtext('name', '')} has no {tag}")
    return _number(text.strip())


def _number(text: str) -> int:
    """scaledNonNegativeInteger: 0x10, 16, #10000, 0b10000, with "x" for a bit that does not matter, and k, M, G."""
    word = text.lower().replace("_", "")
    try:
        if word[:1] == "#" or word[:2] == "0b":
            return int(word.lstrip("#").removeprefix("0b").replace("x", "0"), 2)
        scale = {"k": 10, "m": 20, "g": 30, "t": 40}.get(word[-1:], 0) if word[:2] != "0x" else 0
        word = word[:-1] if scale else word
        return (int(word, 16) if word[:2] == "0x" else int(word, 10)) << scale
    except ValueError:
        raise _Wrong(f"{text!r} is no number") from None


def _end(register: Described) -> int:
    last = sum((count - 1) * stride for part in register.path for count, stride in part.dimensions)
    return register.offset + last + register.width // 8
