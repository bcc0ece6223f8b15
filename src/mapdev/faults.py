"""Faults on purpose: what a program does when its device fails can be tested, too.

    [DEVICE:]OPERATION[@PLACE][#WHEN]=WHAT

    read=EIO                         every read(2) fails
    ioctl@0x4600=EFAULT              that command does
    read#3=EINTR                     the third one; #3- from the third on, #2-5, #10% one in ten, at random
    /dev/uio0:read=delay:20ms        it takes longer; DEVICE may be left out if it is all of them
    load@STATUS=stuck0:3             bit 3 of the register STATUS is always read as 0
    store@timer.CTRL=flip:4          a store arrives with bit 4 turned over
    load@0x10=value:0xdead           whoever loads at byte 0x10 of the device gets this
    store@0x40-0x7f=SIGBUS           stores there are refused
    fault@0x2000=SIGBUS              the page at byte 0x2000 cannot be had (memory on demand)

OPERATION is one of ``OPERATIONS``. PLACE is a byte of the device, several (FIRST-LAST), or a register by its name
(CTRL, timer.CTRL, MATCH[2]); for ``ioctl`` it is the command. WHAT is an errno; SIGBUS, for what has no errno to give;
``delay:TIME`` (ns, us, ms, s); or ``value:NUMBER``, ``stuck0:BIT``, ``stuck1:BIT``, ``flip:BIT`` on what the operation
answers (for ``write`` and ``store``: on what it is given). Bits are counted from the least significant of the
register, or of the bytes of PLACE, or, without a PLACE, of what this call moves. ``load`` and ``store`` are single
instructions: a device with such a fault is one whose accesses are trapped, and needs `mapdev run`.

The device does not know of it: what it would have answered is computed, unless the call fails before.
"""

import errno
import inspect
import logging
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mapdev.errors import UsageError
from mapdev.libc import PAGE_SIZE

OPERATIONS: Final = (
    "open",
    "read",
    "write",
    "ioctl",
    "poll",
    "mmap",
    "fsync",
    "fault",
    "vm_fault",
    "page_mkwrite",
    "load",
    "store",
)

log = logging.getLogger("mapdev.faults")

_SIGBUS: Final = ("fault", "vm_fault", "page_mkwrite", "load", "store")
_GIVEN: Final = {"write": 0, "store": 0}
"""Operations that are given data, and which argument that is: it is what a fault changes."""
_ANSWERING: Final = ("read", "ioctl", "poll", "fault", "load")

_SPEC = re.compile(
    r"(?:(?P<device>[^@#=]+):)?(?P<operation>\w+)(?:@(?P<place>[^#=]+))?(?:#(?P<when>[^=]+))?=(?P<what>.+)"
)
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}

_Altering = Literal["value", "stuck0", "stuck1", "flip"]
_ALTERING: Final[tuple[_Altering, ...]] = ("value", "stuck0", "stuck1", "flip")
Kind = Literal["errno", "delay"] | _Altering


@dataclass(frozen=True, slots=True)
class Place:
    """Some bytes of a device: its ``last`` is one of them. ``byteorder``: how its bits are counted."""

    first: int
    last: int
    byteorder: Literal["little", "big"] = "little"


_NOWHERE: Final = Place(0, -1)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. Made by ``parse``.

    ``number``: the errno, the bit or the value; ``seconds``: of a delay; ``calls``: which of the calls that match, from
    1 on, the first and the last; ``chance``: of each of them, 0 to 1.
    """

    operation: str
    kind: Kind
    number: int = 0
    seconds: float = 0.0
    place: str = ""
    calls: tuple[int, float] = (1, float("inf"))
    chance: float = 1.0
    device: str = ""
    text: str = field(default="", compare=False)


def parse(text: str) -> Fault:
    """The fault of a line as in the head of this module. Raises ``UsageError`` with what is wrong in it."""
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no fault: write OPERATION[@PLACE][#WHEN]=WHAT, such as read#3=EIO")
    operation, place = match["operation"], match["place"] or ""
    if operation not in OPERATIONS:
        raise UsageError(f"{text!r}: {operation} is no operation; there are {', '.join(OPERATIONS)}")
    if place and operation in ("open", "poll", "fsync"):
        raise UsageError(f"{text!r}: {operation} is not at a place")
    if place and operation not in ("load", "store") and _bytes(place) is None:
        raise UsageError(f"{text!r}: {place} is not a number; registers have names for load and store only")
    calls, chance = _when(match["when"], text)
    kind, number, seconds = _what(match["what"], operation, text)
    return Fault(operation, kind, number, seconds, place, calls, chance, match["device"] or "", text)


def _what(what: str, operation: str, text: str) -> tuple[Kind, int, float]:
    kind, colon, value = what.partition(":")
    if what == signal.SIGBUS.name:
        if operation not in _SIGBUS:
            raise UsageError(
                f"{text!r}: {operation} fails with an errno, such as EIO; SIGBUS is for {', '.join(_SIGBUS)}"
            )
        return "errno", errno.EIO, 0.0
    if not colon and what in errno.errorcode.values():
        return "errno", getattr(errno, what), 0.0
    if kind == "delay" and (found := re.fullmatch(r"([0-9.]+)(ns|us|ms|s)", value)):
        try:
            return "delay", 0, float(found[1]) * _UNITS[found[2]]
        except ValueError:
            pass
    for altering in _ALTERING:
        if kind == altering and (number := _number(value)) is not None:
            if operation not in _ANSWERING and operation not in _GIVEN:
                raise UsageError(f"{text!r}: {operation} moves no value that could be wrong")
            return altering, number, 0.0
    raise UsageError(
        f"{text!r}: {what!r} is not what can go wrong: write an errno (EIO), SIGBUS, delay:20ms, value:NUMBER, "
        "stuck0:BIT, stuck1:BIT or flip:BIT"
    )


def _when(when: str | None, text: str) -> tuple[tuple[int, float], float]:
    if when is None:
        return (1, float("inf")), 1.0
    if (found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", when)) and float(found[1]) <= 100:
        return (1, float("inf")), float(found[1]) / 100
    if found := re.fullmatch(r"([1-9][0-9]*)(?:(-)([1-9][0-9]*)?)?", when):
        first = int(found[1])
        last = float(found[3]) if found[3] else float("inf") if found[2] else first
        if last >= first:
            return (first, last), 1.0
    raise UsageError(f"{text!r}: #{when} is not which of the calls: write #3, #3-, #2-5 or #10%")


def _number(text: str) -> int | None:
    try:
        return int(text, 0) if text[:1].isdigit() else None
    except ValueError:
        return None


def _bytes(place: str) -> Place | None:
    first, dash, last = place.partition("-")
    low = _number(first)
    high = _number(last) if dash else low
    return None if low is None or high is None or high < low else Place(low, high)


class Faults:
    """The faults of one device, to be put into ``Device.injected`` before it is served. From any thread.

    ``struck``: fault -> how often it has struck, for a test to look at. Faults can be added while the device is served.
    """

    def __init__(self, faults: Iterable[Fault | str] = (), *, seed: int = 0) -> None:
        """`seed`: of what is random; the same seed, the same faults. Raises ``UsageError``."""
        self.struck: dict[Fault, int] = {}
        self._matched: dict[Fault, int] = {}
        self._places: dict[Fault, Place | None] = {}
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._device: object | None = None
        for fault in faults:
            self.add(fault)

    def __bool__(self) -> bool:
        return bool(self.struck)

    def add(self, fault: Fault | str) -> Fault:
        """From the next call on. Raises ``UsageError`` for one that cannot be."""
        if isinstance(fault, str):
            fault = parse(fault)
        place = self._place(fault)
        with self._lock:
            self._places = {**self._places, fault: place}
            self.struck.setdefault(fault, 0)
            self._matched.setdefault(fault, 0)
        return fault

    def clear(self) -> None:
        """All is well from now on. ``struck`` is kept."""
        with self._lock:
            self._places = {}

    def strike(self, device: object) -> None:
        """For hosts: they are the faults of this device from now on. Raises ``UsageError`` for a register that it has
        not."""
        self._device = device
        for fault in tuple(self._places):
            self._places[fault] = self._place(fault)

    def say_unstruck(self) -> None:
        """To the log: a fault that has never struck has tested nothing."""
        for fault, times in self.struck.items():
            if not times:
                log.warning("the fault %s has never struck", fault.text or fault)

    def need_traps(self, pos: int, length: int) -> bool:
        """Whether there is one that single accesses to these bytes would meet."""
        return any(
            fault.operation in ("load", "store") and _overlaps(place, pos, length)
            for fault, place in self._places.items()
        )

    def around(self, operation: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The operation of a device, with what goes wrong in it."""
        if operation not in OPERATIONS:
            return method

        def faulty(file: Any, *args: Any) -> Any:
            pos, length = _where(operation, args)
            struck = [
                fault for fault in self._places if fault.operation == operation and self._strikes(fault, pos, length)
            ]
            if not struck:
                return method(file, *args)
            if inspect.iscoroutinefunction(method):
                return self._later(struck, operation, method, file, args)
            for fault in struck:
                if fault.kind == "delay":
                    time.sleep(fault.seconds)
            return self._wrong(struck, operation, pos, method(file, *self._before(struck, operation, pos, args)))

        return faulty

    async def _later(
        self, struck: list[Fault], operation: str, method: Callable[..., Any], file: Any, args: Any
    ) -> Any:
        import asyncio  # whoever comes here has it already

        pos, _ = _where(operation, args)
        for fault in struck:
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
        return self._wrong(struck, operation, pos, await method(file, *self._before(struck, operation, pos, args)))

    def _before(self, struck: list[Fault], operation: str, pos: int, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Raises the errno, if there is one; the arguments as the device gets them."""
        for fault in struck:
            if fault.kind == "errno":
                raise OSError(fault.number, "a fault on purpose")
        if operation in _GIVEN:
            given = args[_GIVEN[operation]]
            return (bytes(self._changed(struck, pos, bytes(given))), *args[1:])
        return args

    def _wrong(self, struck: list[Fault], operation: str, pos: int, answer: Any) -> Any:
        """What the program gets instead of `answer`."""
        if operation not in _ANSWERING:
            return answer
        if answer is None or isinstance(answer, int):
            number = answer or 0
            for fault in struck:
                number = _changed(fault, number, 31)
            return number
        return self._changed(struck, pos, bytes(answer))

    def _changed(self, struck: list[Fault], pos: int, data: bytes) -> bytes:
        changed = bytearray(data)
        for fault in struck:
            if fault.kind in ("errno", "delay"):
                continue
            place = self._places.get(fault) or Place(pos, pos + len(data) - 1)
            # the register as this call sees it: what lies outside of the call is not changed
            whole = bytearray(place.last + 1 - place.first)
            low, high = max(place.first, pos), min(place.last + 1, pos + len(data))
            whole[low - place.first : high - place.first] = changed[low - pos : high - pos]
            number = _changed(fault, int.from_bytes(whole, place.byteorder), 8 * len(whole))
            new = number.to_bytes(len(whole), place.byteorder)
            changed[low - pos : high - pos] = new[low - place.first : high - place.first]
        return bytes(changed)

    def _strikes(self, fault: Fault, pos: int, length: int) -> bool:
        if not _overlaps(self._places.get(fault), pos, length):
            return False
        with self._lock:
            self._matched[fault] += 1
            first, last = fault.calls
            if not first <= self._matched[fault] <= last:
                return False
            if fault.chance < 1 and self._random.random() >= fault.chance:
                return False
            self.struck[fault] += 1
        return True

    def _place(self, fault: Fault) -> Place | None:
        if not fault.place:
            return None
        place = _bytes(fault.place)
        if place is None:
            place = _NOWHERE if self._device is None else _register(self._device, fault.place)
        return place


def _register(device: object, name: str) -> Place:
    from mapdev.registers import locate  # a device without registers need not load them

    try:
        return Place(*locate(device, name))
    except LookupError as error:
        raise UsageError(f"{name!r} is no register: {error.args[0]}") from None


def _changed(fault: Fault, number: int, bits: int) -> int:
    match fault.kind:
        case "value":
            return fault.number & (1 << bits) - 1
        case "stuck0":
            return number & ~(1 << fault.number)
        case "stuck1":
            return (number | 1 << fault.number) & (1 << bits) - 1
        case "flip":
            return (number ^ 1 << fault.number) & (1 << bits) - 1
    return number


def _overlaps(place: Place | None, pos: int, length: int) -> bool:
    return place is None or (pos <= place.last and place.first < pos + max(length, 1))


def _where(operation: str, args: tuple[Any, ...]) -> tuple[int, int]:
    """The bytes that a call is about; for an ioctl, its command."""
    match operation:
        case "read" | "load":
            count, pos = args
            return pos, count
        case "write" | "store":
            data, pos = args
            return pos, len(data)
        case "ioctl":
            return args[0], 1
        case "fault" | "vm_fault" | "page_mkwrite":
            return args[0].pgoff * PAGE_SIZE, PAGE_SIZE
        case "mmap":
            return args[0].pgoff * PAGE_SIZE, args[0].length
    return 0, 0


def inject(faults: Sequence[Fault], devices: Iterable[str], seed: int = 0) -> dict[str, Faults]:
    """Device -> its faults, of those that are meant for one or all of `devices`; a device without one is left out.

    Raises ``UsageError`` for a fault of a device that is not there.
    """
    names = list(devices)
    for fault in faults:
        if fault.device and fault.device not in names:
            raise UsageError(f"{fault.text!r}: there is no device {fault.device}; there is {', '.join(names)}")
    chosen = {name: [fault for fault in faults if fault.device in ("", name)] for name in names}
    return {name: Faults(its, seed=seed) for name, its in chosen.items() if its}
