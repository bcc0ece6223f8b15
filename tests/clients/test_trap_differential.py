# ruff: noqa: E501 - tables
"""Instructions on a trapped device leave what they leave on memory: the CPU, on plain pages, is the judge.

GNU as assembles them, so nothing of what decodes them in mapdev is believed here.
"""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.people import Person

HERE = Path(__file__).parent
NAMES = ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
SLOT = 32
CF, PF, AF, ZF, SF, DF, OF = 0x1, 0x4, 0x10, 0x40, 0x80, 0x400, 0x800

L, S, LS = ("load",), ("store",), ("load", "store")


def templates() -> "list[tuple[str, int, tuple[str, ...], int]]":
    """(assembly with M for the memory operand, width in bytes, accesses, flags that are undefined afterwards)."""
    found: list[tuple[str, int, tuple[str, ...], int]] = []

    def add(text: str, width: int, accesses: "tuple[str, ...]", undefined: int = 0) -> None:
        found.append((text, width, accesses, undefined))

    sizes = {"b": ("%al", "%r9b", 1), "w": ("%ax", "%r9w", 2), "l": ("%eax", "%r9d", 4), "q": ("%rax", "%r9", 8)}
    for suffix, (a, r9, width) in sizes.items():
        for register in (a, r9):
            add(f"mov{suffix} M, {register}", width, L)
            add(f"mov{suffix} {register}, M", width, S)
        add(f"mov{suffix} $0x5a, M", width, S)
        for op in ("add", "or", "adc", "sbb", "and", "sub", "xor"):
            gone = AF if op in ("or", "and", "xor") else 0
            add(f"{op}{suffix} M, {a}", width, L, gone)
            add(f"{op}{suffix} {r9}, M", width, LS, gone)
            add(f"{op}{suffix} $0x71, M", width, LS, gone)
            add(f"lock {op}{suffix} {r9}, M", width, LS, gone)
        for op in ("cmp", "test"):
            gone = AF if op == "test" else 0
            add(f"{op}{suffix} {r9}, M", width, L, gone)
            add(f"{op}{suffix} $0x31, M", width, L, gone)
        add(f"cmp{suffix} M, {r9}", width, L)
        for op in ("inc", "dec", "neg", "not"):
            add(f"{op}{suffix} M", width, LS)
            add(f"lock {op}{suffix} M", width, LS)
        for op in ("rol", "ror", "rcl", "rcr", "shl", "shr", "sar"):
            add(f"{op}{suffix} $1, M", width, LS, AF)
            add(f"{op}{suffix} $3, M", width, LS, AF | OF)
            add(f"{op}{suffix} %cl, M", width, LS, AF | OF | CF)
        add(f"xchg{suffix} {r9}, M", width, LS)
        add(f"xadd{suffix} {r9}, M", width, LS)
        add(f"lock xadd{suffix} {a}, M", width, LS)
        add(f"mul{suffix} M", width, L, SF | ZF | AF | PF)
        add(f"imul{suffix} M", width, L, SF | ZF | AF | PF)
    for suffix, (a, r9, width) in list(sizes.items())[1:]:
        add(f"imul{suffix} M, {r9}", width, L, SF | ZF | AF | PF)
        add(f"imul{suffix} $77, M, {a}", width, L, SF | ZF | AF | PF)
        add(f"movbe{suffix} M, {r9}", width, L)
        add(f"movbe{suffix} {a}, M", width, S)
        add(f"bt{suffix} $5, M", width, L, OF | SF | AF | PF)
        for op in ("bts", "btr", "btc"):
            add(f"{op}{suffix} $9, M", width, LS, OF | SF | AF | PF)
            add(f"lock {op}{suffix} $3, M", width, LS, OF | SF | AF | PF)
        add(f"popcnt{suffix} M, {a}", width, L)
        add(f"lzcnt{suffix} M, {r9}", width, L, OF | SF | AF | PF)
        add(f"tzcnt{suffix} M, {r9}", width, L, OF | SF | AF | PF)
        add(f"bsf{suffix} M, {a}", width, L, OF | SF | AF | PF | CF)
        for condition in ("e", "b", "s", "le"):
            add(f"cmov{condition}{suffix} M, {r9}", width, L)
        add(f"crc32{suffix} M, %eax" if width < 8 else "crc32q M, %rax", width, L)
        add(f"shld{suffix} $3, {r9}, M", width, LS, AF | OF)
        add(f"shrd{suffix} %cl, {a}, M", width, LS, AF | OF | CF | SF | ZF | PF if width == 2 else AF | OF | CF)
    for condition in ("e", "ne", "b", "a", "s", "p", "o", "g"):
        add(f"set{condition} M", 1, S)
    for text, width in (
        ("movzbw M, %ax", 1), ("movzbl M, %eax", 1), ("movzbq M, %r9", 1), ("movzwl M, %r9d", 2), ("movzwq M, %rax", 2),
        ("movsbw M, %r9w", 1), ("movsbl M, %eax", 1), ("movsbq M, %rax", 1), ("movswl M, %eax", 2), ("movswq M, %r9", 2),
        ("movslq M, %rax", 4), ("movb M, %ah", 1), ("movb M, %sil", 1), ("addb M, %bh", 1),
    ):  # fmt: skip
        add(text, width, L)
    add("movb %ch, M", 1, S)
    add("movnti %rax, M", 8, S)
    add("movnti %eax, M", 4, S)
    for text, width, accesses in (
        ("andnq M, %rax, %r9", 8, L), ("bextrl %eax, M, %r9d", 4, L), ("blsrq M, %rax", 8, L), ("pdepq M, %rax, %r9", 8, L),
        ("pextl M, %eax, %r9d", 4, L), ("mulxq M, %rax, %r9", 8, L), ("rorxl $7, M, %eax", 4, L), ("shlxq %rax, M, %r9", 8, L),
        ("adcxq M, %rax", 8, L), ("adoxl M, %eax", 4, L),
    ):  # fmt: skip
        add(text, width, accesses, AF | PF | OF | SF if "bextr" in text or "blsr" in text or "andn" in text else 0)
    for width, names in {
        4: "movss addss mulss cvtss2sd ucomiss comiss sqrtss divss maxss insertps:$0x10 pinsrd:$2:r cvtps2pi:m rcpss "
        "unpcklps:16 movd",
        8: "movsd addsd subsd divsd cvtsd2ss ucomisd movlps movhps movlpd movhpd movq pmovzxbw pmovsxwd cvtps2pd cvtdq2pd "
        "movddup",
        16: "movups movupd movdqu lddqu movaps movdqa paddb paddd psubq pshufb pand pxor pcmpeqb pmaddwd pmulld addps mulpd "
        "punpcklbw pshufd:$0x1b shufps:$0x4e cmpps:$2 aesenc pclmulqdq:$1 blendvps:x haddps sqrtpd cvtdq2ps roundps:$1 "
        "movntdqa psadbw pcmpistri:$12 dpps:$0xff",
    }.items():
        for name in names.split():
            op, *rest = name.split(":")
            real = 16 if "16" in rest else width
            immediate = next((each + ", " for each in rest if each.startswith("$")), "")
            target = "%mm3" if "m" in rest else "%xmm3"
            if op == "cvtps2pi":
                real = 8
            if op.startswith("pcmpistri"):
                add(f"{op} {immediate}M, {target}", real, L)
                continue
            source = "%xmm0, M" if "x" in rest else "M"
            add(f"{op} {immediate}{source}, {target}", real, L)
    for text, width in (
        ("movss %xmm2, M", 4), ("movsd %xmm9, M", 8), ("movups %xmm2, M", 16), ("movaps %xmm12, M", 16), ("movdqu %xmm2, M", 16),
        ("movq %xmm2, M", 8), ("movd %xmm2, M", 4), ("movlps %xmm2, M", 8), ("movhps %xmm2, M", 8), ("movntdq %xmm2, M", 16),
        ("pextrb $3, %xmm2, M", 1), ("pextrw $3, %xmm2, M", 2), ("pextrd $1, %xmm2, M", 4), ("pextrq $1, %xmm2, M", 8),
        ("extractps $2, %xmm2, M", 4), ("vmovups %ymm2, M", 32), ("vmovdqa %ymm12, M", 32), ("vmovntps %ymm2, M", 32),
        ("vextractf128 $1, %ymm2, M", 16), ("vextracti128 $0, %ymm2, M", 16), ("vmovss %xmm2, M", 4), ("vpextrd $2, %xmm2, M", 4),
        ("vcvtps2ph $0, %ymm2, M", 16), ("movq %mm2, M", 8), ("movntq %mm2, M", 8), ("stmxcsr M", 4),
    ):  # fmt: skip
        add(text, width, S)
    for text, width in (
        ("vmovups M, %ymm3", 32), ("vmovdqu M, %ymm13", 32), ("vmovaps M, %ymm3", 32), ("vmovups M, %xmm3", 16), ("vmovss M, %xmm3", 4),
        ("vmovsd M, %xmm3", 8), ("vbroadcastss M, %ymm3", 4), ("vbroadcastsd M, %ymm3", 8), ("vbroadcastf128 M, %ymm3", 16),
        ("vpbroadcastb M, %ymm3", 1), ("vpbroadcastw M, %xmm3", 2), ("vpaddd M, %ymm2, %ymm3", 32), ("vaddps M, %ymm2, %ymm3", 32),
        ("vmulsd M, %xmm2, %xmm3", 8), ("vinsertf128 $1, M, %ymm2, %ymm3", 16), ("vperm2f128 $0x21, M, %ymm2, %ymm3", 32),
        ("vpshufb M, %ymm2, %ymm3", 32), ("vfmadd213ps M, %ymm2, %ymm3", 32), ("vfmadd231sd M, %xmm2, %xmm3", 8),
        ("vpmovzxbd M, %ymm3", 8), ("vcvtph2ps M, %ymm3", 16), ("vptest M, %ymm3", 32), ("vucomisd M, %xmm3", 8),
        ("vcmpps $1, M, %ymm2, %ymm3", 32), ("vpermd M, %ymm2, %ymm3", 32), ("vcvttsd2si M, %rax", 8), ("cvttss2si M, %eax", 4),
        ("cvtsi2sdq M, %xmm3", 8), ("cvtsi2ssl M, %xmm3", 4), ("vcvtsi2sdl M, %xmm2, %xmm3", 4), ("ptest M, %xmm3", 16),
        ("movq M, %mm3", 8), ("paddd M, %mm3", 8), ("movd M, %mm3", 4), ("pmovmskb %xmm3, %eax; movups M, %xmm4", 16),
        ("flds M", 4), ("fldl M", 8), ("fldt M", 10), ("filds M", 2), ("fildl M", 4), ("fildq M", 8), ("fadds M", 4),
        ("fmull M", 8), ("fsubrs M", 4), ("fiaddl M", 4), ("fcoms M", 4), ("fbld M", 10), ("fcompl M", 8),
    ):  # fmt: skip
        add(text, width, L)
    for text, width in (
        ("fld1; fldpi; fsts M", 4), ("fldpi; fstpl M", 8), ("fldpi; fld1; fstpt M", 10), ("fldpi; fistl M", 4),
        ("fldpi; fistpq M", 8), ("fldpi; fisttpl M", 4), ("fldpi; fbstp M", 10), ("fnstcw M", 2), ("fnstsw M", 2),
    ):  # fmt: skip
        add(text, width, S)
    add("cmpxchg8b M", 8, L)
    add("lock cmpxchg16b M", 16, L)
    for suffix, (_, r9, width) in sizes.items():
        add(f"cmpxchg{suffix} {r9}, M", width, L)
        # of what is there already: so it is equal
        add(f"mov{suffix} M, {sizes[suffix][0]}; lock cmpxchg{suffix} {r9}, M", width, ("load", "load", "store"))
    add("pushq M; pop %rax", 8, L)
    add("pushw M; popw %ax", 2, L)
    add("push %rax; popq M", 8, S)
    add("movabs ABSOLUTE, %eax", 4, L)
    return found


OPERANDS: tuple[tuple[str, tuple[str, ...], int, dict[str, int]], ...] = (
    ("(%rdi)", ("rdi",), 0x100, {}), ("0x20(%rdi)", ("rdi",), 0x120, {}), ("-0x40(%rbp)", ("rbp",), 0xC0, {}),
    ("0x200(%r12)", ("r12",), 0x300, {}), ("(%r13)", ("r13",), 0x100, {}), ("(%rdi,%r10,4)", ("rdi",), 0x140, {"r10": 0x10}),
    ("0x20(%rsi,%r15,8)", ("rsi",), 0x160, {"r15": 8}), ("(%r14,%r10)", ("r14",), 0xC0, {"r10": (1 << 64) - 0x40}),
    ("(%edi)", ("rdi",), 0x100, {}), ("0x10(%edi,%r10d,2)", ("rdi",), 0x140, {"r10": 0x18}), ("%gs:(%rdi)", ("rdi",), 0x100, {}),
    ("3(%rdi)", ("rdi",), 0x103, {}),
)  # fmt: skip


def string_cases() -> "list[dict[str, Any]]":
    """rsi and rdi hold addresses; the source and the target are both in the device, 0x400 and 0x800 of it."""
    found = []
    for width, suffix in ((1, "b"), (2, "w"), (4, "l"), (8, "q")):
        for down in (0, DF):
            step = -width if down else width
            for count in (0, 1, 5):
                source = [0x400 + step * number for number in range(count)]
                target = [0x800 + step * number for number in range(count)]
                both = [
                    each
                    for s, t in zip(source, target, strict=True)
                    for each in (("load", s, width), ("store", t, width))
                ]
                found += [
                    {"text": f"rep movs{suffix}", "flags": down, "rcx": count, "seen": both},
                    {
                        "text": f"rep stos{suffix}",
                        "flags": down,
                        "rcx": count,
                        "seen": [("store", t, width) for t in target],
                    },
                    {
                        "text": f"rep lods{suffix}",
                        "flags": down,
                        "rcx": count,
                        "seen": [("load", s, width) for s in source],
                    },
                ]
            found += [
                {
                    "text": f"movs{suffix}",
                    "flags": down,
                    "rcx": 3,
                    "seen": [("load", 0x400, width), ("store", 0x800, width)],
                },
                {"text": f"lods{suffix}", "flags": down, "rcx": 3, "seen": [("load", 0x400, width)]},
                {"text": f"stos{suffix}", "flags": down, "rcx": 3, "seen": [("store", 0x800, width)]},
                {"text": f"scas{suffix}", "flags": down, "rcx": 3, "seen": [("load", 0x800, width)]},
                {
                    "text": f"cmps{suffix}",
                    "flags": down,
                    "rcx": 3,
                    "seen": [("load", 0x400, width), ("load", 0x800, width)],
                },
            ]
            for repeat in ("repe", "repne"):
                found += [
                    {"text": f"{repeat} cmps{suffix}", "flags": down, "rcx": 7, "seen": None},
                    {"text": f"{repeat} scas{suffix}", "flags": down, "rcx": 7, "seen": None},
                ]
    return found


def assembled(lines: "list[str]", place: Path) -> "list[bytes]":
    source = place / "cases.s"
    source.write_text("".join(f".balign {SLOT}, 0x90\n{line}\n" for line in lines) + f".balign {SLOT}, 0x90\n")
    subprocess.run(["as", "-o", place / "cases.o", source], check=True, timeout=60)
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", place / "cases.o", place / "cases.bin"], check=True, timeout=60
    )
    code = (place / "cases.bin").read_bytes()
    return [code[at : at + SLOT] for at in range(0, SLOT * len(lines), SLOT)]


def xstate(rng: random.Random) -> bytes:
    """x87 and SSE and AVX registers, as XSAVE stores them: numbers and noise."""
    import struct

    area = bytearray(1024)
    struct.pack_into("<H", area, 0, 0x37F)
    struct.pack_into("<II", area, 24, 0x1F80, 0xFFFF)
    for number in range(16):
        values = [rng.choice((0.0, 1.5, -2.25, 3e10, rng.uniform(-1e3, 1e3))) for _ in range(4)]
        kind = rng.randrange(3)
        data = (
            rng.randbytes(32)
            if kind == 0
            else struct.pack("<4d", *values)
            if kind == 1
            else struct.pack("<8f", *values * 2)
        )
        area[160 + 16 * number : 176 + 16 * number] = data[:16]
        area[576 + 16 * number : 592 + 16 * number] = data[16:]
    for number in range(8):
        area[32 + 16 * number : 40 + 16 * number] = rng.randbytes(8)
        area[40 + 16 * number : 42 + 16 * number] = b"\xff\xff"
    area[512] = 7
    return bytes(area)


def cases(place: Path, seed: int) -> "list[dict[str, Any]]":
    rng = random.Random(seed)
    made: list[dict[str, Any]] = []

    def case(
        text: str, line: str, bases: "dict[str, int]", fixed: "dict[str, int]", seen: Any, flags: int, gone: int
    ) -> None:
        registers = {
            name: rng.choice((rng.getrandbits(64), rng.getrandbits(32), rng.getrandbits(8), 0, (1 << 64) - 1))
            for name in NAMES
        }
        registers |= fixed | bases
        made.append({
            "text": text, "line": line, "bases": sorted(bases), "registers": [registers[name] for name in NAMES],
            "flags": 2 | flags, "undefined": gone, "xstate": xstate(rng).hex(), "memory": rng.randbytes(4096).hex(), "seen": seen,
        })  # fmt: skip

    for text, width, accesses, gone in templates():
        if text.startswith("movabs"):
            continue  # its address is not known here: see test_trap
        high = re.search("%[abc]h", text)  # these cannot be named beside the newer registers
        for operand, bases, offset, fixed in rng.sample(
            [each for each in OPERANDS if not (high and "%r1" in each[0]) and (width < 16 or not each[2] % 32)], 3
        ):
            line = re.sub(r"\bM\b", operand, text)
            seen = [[access, offset, width] for access in accesses]
            flags = rng.getrandbits(12) & (CF | PF | AF | ZF | SF | OF)
            at = {bases[0]: 0x100}
            case(f"{line}", line, at, fixed, seen, flags, gone)
    for suffix, width in (("w", 2), ("l", 4), ("q", 8)):
        for op, accesses in (("bt", L), ("bts", LS), ("btr", LS), ("btc", LS)):
            for number in (3, 100, 1000, -1, -200):
                offset = 0x100 + number // (8 * width) * width
                register = {"w": "%r9w", "l": "%r9d", "q": "%r9"}[suffix]
                line = f"{op}{suffix} {register}, (%rdi)"
                noise = rng.getrandbits(64) & ~((1 << 8 * width) - 1) | number & (1 << 8 * width) - 1
                case(f"{line} with {number}", line, {"rdi": 0x100}, {"r9": noise}, [[a, offset, width] for a in accesses], 0,
                     OF | SF | AF | PF)  # fmt: skip
    for each in string_cases():
        text, seen = each["text"], each["seen"]
        case(
            text,
            text,
            {"rsi": 0x400, "rdi": 0x800},
            {"rcx": each["rcx"]},
            seen and [list(s) for s in seen],
            each["flags"],
            0,
        )
        made[-1]["seen"] = [] if seen == [] else made[-1]["seen"]
        if seen is None:  # until they differ, or not: what is compared differs at the third element
            width = {"b": 1, "w": 2, "l": 4, "q": 8}[text[-1]]
            memory = bytearray.fromhex(made[-1]["memory"])
            equal = text.startswith("repe ")
            accumulator = made[-1]["registers"][0].to_bytes(8, "little")[:width]
            seen = []
            for number in range(7):
                step = (-width if each["flags"] else width) * number
                source, target = slice(0x400 + step, 0x400 + step + width), slice(0x800 + step, 0x800 + step + width)
                other = accumulator if "scas" in text else bytes(memory[source])
                differs = bytes(byte ^ 0x55 for byte in other)
                memory[target] = other if (number < 2) == equal else differs
                seen += (
                    [["load", target.start, width]]
                    if "scas" in text
                    else [["load", source.start, width], ["load", target.start, width]]
                )
                if number == 2:
                    break
            made[-1]["memory"], made[-1]["seen"] = memory.hex(), seen
    for each, code in zip(made, assembled([each["line"] for each in made], place), strict=True):
        each["code"] = code.hex()
    return made


def test_instructions_leave_what_they_leave_on_memory(person: Person, place: Callable[[Person], Path]) -> None:
    for tool in ("as", "objcopy"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (the package binutils)")
    run_cases(person, place(person), seed=1)


def run_cases(person: Person, place: Path, seed: int) -> None:
    made = cases(place, seed)
    assert len(made) > 1000
    path = place / "cases.json"
    path.write_text("".join(json.dumps(each) + "\n" for each in made))
    for name in ("trap_differential.py", "devices_trapped.py"):
        shutil.copy(HERE / name, place / name)
    done = person.mapdev("run", "--device", f"/dev/ram0={place / 'devices_trapped.py'}:Ram", "--", person.python[0],
                         place / "trap_differential.py", path, "/dev/ram0", timeout=300)  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == "done\n"
    assert done.returncode == 0
