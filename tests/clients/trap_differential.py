# ruff: noqa: T201 - what it prints is its answer
"""A client of trapped devices: executes instructions on plain memory and on a mapped device, and compares all that
they leave: general registers, flags, x87, SSE and AVX registers, memory.

    trap_differential.py CASES DEVICE

CASES: lines of JSON with the bytes of the code (``code``), 15 registers, those that hold addresses (``bases``), the
flags, the vector registers and the memory to begin with, and the accesses that the device is to see. What differs is
written to standard output, one line for each. 32-bit addresses are within reach: all is mapped below 4 GiB.
"""

import ctypes
import json
import mmap
import os
import struct
import sys

NAMES = ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
NUMBERS = (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
MAP_32BIT = 0x40
REGISTERS, FLAGS, STACK, XSTATE, OWN, CODE = 0, 0x100, 0x108, 0x1000, 0x4000, 0x7000
SEEN = 1 << 20
"""Where the device tells, to pread(2), what it has seen; and forgets it."""
SHOWN_FLAGS = 0x8D5
# where the manual leaves flags undefined, a CPU may set them from what is not architectural
MIDDLE = 0x800


def address_of(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


class Stage:
    """Memory with code that loads all registers, executes, and stores them."""

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
        prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.area = mmap.mmap(-1, 0x8000, flags, prot)
        self.base = address_of(self.area)

    def run(self, code: bytes, registers: list[int], flags: int, xstate: bytes) -> tuple[list[int], int, bytes]:
        struct.pack_into("<15Q", self.area, REGISTERS, *registers)
        struct.pack_into("<Q", self.area, FLAGS, flags)
        self.area[XSTATE : XSTATE + len(xstate)] = xstate
        made = self.around(code)
        self.area[CODE : CODE + len(made)] = made
        ctypes.CFUNCTYPE(None)(self.base + CODE)()
        left = list(struct.unpack_from("<15Q", self.area, REGISTERS))
        return left, struct.unpack_from("<Q", self.area, FLAGS)[0], self.area[XSTATE : XSTATE + len(xstate)]

    def around(self, code: bytes) -> bytes:
        out = bytearray(bytes.fromhex("53 55 41 54 41 55 41 56 41 57"))

        def beside(opcode: bytes, field: int, place: int) -> None:
            out.extend(bytes([0x48 | field >> 3 << 2]) + opcode + bytes([(field & 7) << 3 | 4, 0x25]))
            out.extend((self.base + place).to_bytes(4, "little"))

        all_components = b"\xb8\x07\x00\x00\x00\x31\xd2"
        beside(b"\x89", 4, STACK)
        out += all_components
        beside(b"\x0f\xae", 4, OWN)
        beside(b"\x0f\xae", 5, XSTATE)
        beside(b"\x8b", 0, FLAGS)
        out += b"\x50\x9d"
        for place, number in enumerate(NUMBERS):
            beside(b"\x8b", number, REGISTERS + 8 * place)
        out += code
        for place, number in enumerate(NUMBERS):
            beside(b"\x89", number, REGISTERS + 8 * place)
        beside(b"\x8b", 4, STACK)
        out += b"\x9c\x58\xfc"
        beside(b"\x89", 0, FLAGS)
        out += all_components
        beside(b"\x0f\xae", 4, XSTATE)
        beside(b"\x0f\xae", 5, OWN)
        out += bytes.fromhex("41 5f 41 5e 41 5d 41 5c 5d 5b c3")
        return bytes(out)


def main() -> None:
    cases, device = sys.argv[1:]
    fd = os.open(device, os.O_RDWR)
    plain = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT)
    trapped = mmap.mmap(fd, 4096, mmap.MAP_SHARED | MAP_32BIT)
    stage = Stage()
    with open(cases, encoding="ascii") as lines:
        for line in lines:
            case = json.loads(line)
            memory = bytes.fromhex(case["memory"])
            code = bytes.fromhex(case["code"])
            left = []
            for base in (address_of(plain), address_of(trapped)):
                if base == address_of(plain):
                    plain[:] = memory
                else:
                    os.pwrite(fd, memory, 0)
                    os.pread(fd, 4096, SEEN)
                registers = [
                    value + base if name in case["bases"] else value
                    for name, value in zip(NAMES, case["registers"], strict=True)
                ]
                after, flags, xstate = stage.run(code, registers, case["flags"], bytes.fromhex(case["xstate"]))
                after = [value - base if name in case["bases"] else value
                         for name, value in zip(NAMES, after, strict=True)]  # fmt: skip
                state = {name: hex(value & (1 << 64) - 1) for name, value in zip(NAMES, after, strict=True)}
                state["flags"] = hex(flags & SHOWN_FLAGS & ~case["undefined"])
                # without the addresses that x87 keeps of its last instruction
                state["x87, sse"] = xstate[:6].hex() + xstate[24:416].hex()
                state["avx"] = xstate[576:832].hex() if xstate[512] & 4 else "0"
                state["memory"] = (plain[:] if base == address_of(plain) else os.pread(fd, 4096, 0)).hex()
                left.append(state)
            for name, expected in left[0].items():
                if left[1][name] != expected:
                    print(f"{case['text']}: {name} is {left[1][name]}, on plain memory {expected}")
            seen = json.loads(os.pread(fd, 65536, SEEN).rstrip(b"\0") or b"[]")
            if seen != case["seen"]:
                print(f"{case['text']}: the device saw {seen}, not {case['seen']}")
    print("done")


main()
