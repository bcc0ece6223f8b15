"""Blocks of registers from SystemRDL 2.0, read by the package systemrdl-compiler (the extra ``mapdev[rdl]``)."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mapdev.errors import UsageError
from mapdev.registers.access import Access, OnRead, OnWrite
from mapdev.registers.block import RegisterBlock
from mapdev.registers.declared import ByteOrder, Field
from mapdev.registers.described import Described, Description, Part, access_of, field_name, make_block

if TYPE_CHECKING:
    from systemrdl.node import AddressableNode, AddrmapNode, FieldNode, RegNode

_ON_WRITE: Final[dict[str, OnWrite]] = {
    "woset": "1s", "woclr": "1c", "wot": "1t", "wzs": "0s", "wzc": "0c", "wzt": "0t", "wclr": "c", "wset": "s",
    "wuser": "store",
}  # fmt: skip
_ON_READ: Final[dict[str, OnRead]] = {"rclr": "rc", "rset": "rs", "ruser": ""}


def from_rdl(file: str | Path, top: str | None = None) -> type[RegisterBlock]:
    """The block that a SystemRDL file describes, to be used or subclassed.

    `top`: the addrmap (default: the last one of the file), or what is within it: "soc", "soc.timer0", "timer0". Raises
    ``UsageError``, with what the compiler says of the first error. A field's ``sw``, ``onread``, ``onwrite``,
    ``singlepulse`` (it holds 0 after the store) and ``reset`` are there; bits without a field are 0 and stay so.
    """
    path = Path(file)
    node = _node(path, top)
    description = Description(node.inst_name, node.size, address=node.raw_absolute_address)
    _walk(node, (), 0, description)
    return make_block(description, path)


def _node(path: Path, top: str | None) -> "AddressableNode":
    try:
        from systemrdl.compiler import RDLCompiler
        from systemrdl.messages import MessagePrinter, RDLCompileError, Severity
        from systemrdl.node import AddressableNode
        from systemrdl.source_ref import FileSourceRef
    except ImportError as error:
        raise UsageError(f"{path}: to read SystemRDL, pip install 'mapdev[rdl]' ({error})") from error

    errors: list[str] = []

    class Printer(MessagePrinter):
        def print_message(self, severity: Any, text: str, src_ref: Any) -> None:
            if severity >= Severity.ERROR:
                where = f"{src_ref.path}:" if isinstance(src_ref, FileSourceRef) else f"{path}:"
                line = getattr(src_ref, "line", None)
                errors.append(f"{where}{line}: {text}" if line else f"{where} {text}")

    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    compiler = RDLCompiler(message_printer=Printer())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiler.compile_file(str(path), incl_search_paths=[str(path.parent)])
            name, _, rest = (top or "").partition(".")
            known = name in compiler.root.comp_defs
            root = compiler.elaborate(top_def_name=name if known else None)
        wanted = (rest if known else top) or ""
        node: Any = root.top
        if wanted:
            try:
                node = root.top.find_by_path(wanted)
            except ValueError:
                node = None
        if not isinstance(node, AddressableNode) or node.component_type_name == "reg":
            raise UsageError(f"{path}: there is no addrmap or regfile {top!r}; there is {_tops(compiler, root.top)}")
    except RDLCompileError as error:
        raise UsageError(errors[0] if errors else f"{path}: {error}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: {error}") from error
    return node


def _tops(compiler: Any, top: "AddrmapNode") -> str:
    from systemrdl.component import Addrmap

    names = [name for name, what in compiler.root.comp_defs.items() if isinstance(what, Addrmap)]
    names += [child.inst_name for child in top.children() if child.component_type_name in ("addrmap", "regfile")]
    return ", ".join(dict.fromkeys(names))


def _walk(node: "AddressableNode", path: tuple[Part, ...], offset: int, description: Description) -> None:
    from systemrdl.node import AddressableNode, MemNode, RegNode

    for child in node.children():
        if not isinstance(child, AddressableNode):
            continue
        at = offset + child.raw_address_offset
        here = (*path, Part(child.inst_name, _dimensions(child)))
        if isinstance(child, RegNode):
            description.registers.append(_register(child, here, at))
        elif isinstance(child, MemNode):
            name = "_".join(part.name for part in here)
            description.memories[name] = range(at, at + child.total_size)
        else:
            _walk(child, here, at, description)


def _dimensions(node: "AddressableNode") -> tuple[tuple[int, int], ...]:
    if not node.is_array:
        return ()
    counts = node.array_dimensions or [1]
    stride = node.array_stride or node.size
    dimensions: list[tuple[int, int]] = []
    for count in reversed(counts):
        dimensions.insert(0, (count, stride))
        stride *= count
    return tuple(dimensions)


def _register(node: "RegNode", path: tuple[Part, ...], offset: int) -> Described:
    fields: dict[str, Field] = {}
    for each in node.fields():
        fields[field_name(each.inst_name)] = Field(
            each.low, each.high, _access(each), _reset(each), str(each.get_property("desc") or "")
        )
    owner = node.owning_addrmap
    byteorder: ByteOrder = "big" if owner is not None and owner.get_property("bigendian") else "little"
    description = str(node.get_property("desc") or node.get_property("name", default="") or "")
    rest: Access = "ro" if any(each.is_sw_readable for each in node.fields()) else "na"
    return Described(path, offset, node.get_property("regwidth"), 0, rest, fields, byteorder, description)


def _access(field: "FieldNode") -> Access:
    sw = field.get_property("sw").name
    readable, writable, once = sw in ("rw", "r", "rw1"), sw in ("rw", "w", "rw1", "w1"), sw in ("rw1", "w1")
    modified, read = field.get_property("onwrite"), field.get_property("onread")
    on_write: OnWrite = ""
    if writable:
        on_write = "once" if once else _ON_WRITE[modified.name] if modified is not None else "store"
        if field.get_property("singlepulse"):
            on_write = "c"
    return access_of(readable, on_write, _ON_READ[read.name] if read is not None else "")


def _reset(field: "FieldNode") -> int:
    """0 where it is not said, or known only to the hardware."""
    seen: Any = field.get_property("reset")
    while seen is not None and not isinstance(seen, int):  # as that of another field
        seen = seen.get_property("reset") if hasattr(seen, "low") and hasattr(seen, "get_property") else None
    return int(seen or 0) & (1 << field.width) - 1
