"""Devices of registers that a file describes: SystemRDL (.rdl) and CMSIS-SVD (.svd), with no line of Python.

chip.rdl  chip.rdl:TOP       the last addrmap of the file, or one by name, or what is in it (soc.timer0)
chip.svd:TIMER0              a peripheral
chip.svd                     the only peripheral; in /dev/mem all of them
...@0x40000000               at another address than the file says

The device is a ``DevMem`` where its path ends in /mem, and a ``Uio`` everywhere else.
"""

import posixpath
import re
import types
from pathlib import Path

from mapdev.device import Device
from mapdev.devices.devmem import ADDRESSES, DevMem
from mapdev.devices.uio import Uio
from mapdev.errors import UsageError
from mapdev.registers import Place, RegisterBlock, from_rdl, from_svd, place
from mapdev.registers.described import make_block
from mapdev.registers.svd import peripherals


def described_device(target: str, path: str = "") -> type[Device]:
    """The device that programs find at `path`. Raises ``UsageError``."""
    word, at, text = target.partition("@")
    file, _, part = word.partition(":")
    if at and not re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", text):
        raise UsageError(f"{target}: {text!r} is not an address, such as 0x40000000")
    in_memory = posixpath.basename(path) == "mem"
    if in_memory and file.endswith(".svd") and not part and not at:
        blocks = [make_block(each, Path(file)) for each in peripherals(file).values() if each.registers]
    else:
        blocks = [load_block(word)]
    body: dict[str, object] = {"__doc__": f"What {word} describes."}
    taken: list[range] = []
    for block in blocks:
        address = int(text, 0) if at else block.address
        if address + block.nbytes > ADDRESSES:
            raise UsageError(f"{target}: there is no address {address:#x}; put it at another one ({word}@ADDRESS)")
        where = range(address, address + block.nbytes)
        if any(where.start < other.stop and other.start < where.stop for other in taken):
            continue  # an alternative, as what lies there in another mode of the chip
        taken.append(where)
        body[_attribute(block)] = _placed(address, block)
    name = Path(file).stem if len(blocks) > 1 else blocks[0].__name__
    body["name"] = "mem" if in_memory else name
    device = types.new_class(name, (DevMem if in_memory else Uio,), {}, lambda namespace: namespace.update(body))
    assert issubclass(device, Device)
    return device


def load_block(word: str) -> type[RegisterBlock]:
    """FILE.rdl[:TOP] or FILE.svd[:PERIPHERAL]. Raises ``UsageError``."""
    file, _, part = word.partition(":")
    return (from_svd if file.endswith(".svd") else from_rdl)(file, part or None)


def _attribute(block: type[RegisterBlock]) -> str:
    name = block.__name__
    return f"{name}_" if hasattr(DevMem, name) or hasattr(Uio, name) or name in ("lock", "pages") else name


def _placed(address: int, block: type[RegisterBlock]) -> Place[RegisterBlock]:
    return place(address, block)
