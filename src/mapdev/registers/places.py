"""Blocks at the addresses of a device, as the body of its class declares them."""

from typing import Any, Generic, Self, TypeVar, overload

from mapdev.pages import Pages
from mapdev.registers.block import RegisterBlock

B = TypeVar("B", bound=RegisterBlock)


class Place(Generic[B]):
    """A block at an address of a device, as declared in the body of its class by ``place``."""

    attribute: str

    def __init__(self, address: int, block: type[B], name: str | None) -> None:
        self.address = address
        self.block = block
        self._name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    @property
    def name(self) -> str:
        """As shown to people, in /proc/iomem or /sys."""
        return self._name or self.attribute

    @property
    def last(self) -> int:
        """The address of its last byte."""
        return self.address + self.block.nbytes - 1

    def make(self, device: object, pages: Pages, offset: int) -> B:
        """The block of this `device`: from now on its attribute. The device's ``lock`` is that of all of its blocks."""
        block = self.block(pages, offset)
        block.device = device
        block.lock = device.__dict__.setdefault("lock", block.lock)
        device.__dict__[self.attribute] = block
        return block

    @overload
    def __get__(self, device: None, owner: type) -> Self: ...
    @overload
    def __get__(self, device: object, owner: type) -> B: ...
    def __get__(self, device: object | None, owner: type) -> Self | B:
        if device is None:
            return self
        # only reached before `make`: afterwards the instance's own attribute comes first
        raise AttributeError(f"{owner.__name__}.{self.attribute} is not there yet: call super().__init__() first")


@overload
def place(address: int, what: type[B], name: str | None = None) -> Place[B]: ...
@overload
def place(address: int, what: int, name: str | None = None) -> Place[RegisterBlock]: ...
def place(address: int, what: type[RegisterBlock] | int, name: str | None = None) -> Place[Any]:
    """In the body of a device: registers, or so many bytes of memory, at a physical address.

    The attribute is the block. `name`: as shown to people (default: the attribute's). Raises ``ValueError`` for a
    size or an address that cannot be.
    """
    if address < 0:
        raise ValueError(f"{address:#x} is not an address")
    if isinstance(what, type):
        return Place(address, what, name)

    class Memory(RegisterBlock, size=what):
        """Bytes without registers."""

    return Place(address, Memory, name)


def places(device: type) -> list[Place[Any]]:
    """What is placed in the body of this class and its bases, in the order of declaration."""
    found: dict[str, Place[Any]] = {}
    for cls in reversed(device.__mro__):
        found.update({name: value for name, value in vars(cls).items() if isinstance(value, Place)})
    return list(found.values())
