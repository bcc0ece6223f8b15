"""The seccomp filter that stops the calls which map a file, for the tracer (see ``closing``).

mmap(2) of a file, and remap_file_pages(2), which changes an offset; malloc's calls of mmap(2) and all others run as
ever. It is a file of its own since the process that becomes the program needs nothing else of this package.

Sources: seccomp(2); ``<linux/seccomp.h>``, ``<linux/filter.h>``, ``<asm/unistd.h>``.
"""

from typing import Final

from mapdev.libc import MAP_ANONYMOUS
from mapdev.run import seccomp

_RET_TRACE: Final = 0x7FF00000
_LOAD, _RETURN = 0x20, 0x06
_JUMP_IF_EQUAL, _JUMP_IF_SET = 0x15, 0x45
_NR_AT, _ARCH_AT, _FLAGS_AT, _FD_AT = 0, 4, 16 + 3 * 8, 16 + 4 * 8
_X86_64, _I386 = 0xC000003E, 0x40000003
X32: Final = 0x40000000
MMAP, REMAP_FILE_PAGES = 9, 216
I386_OLD_MMAP, I386_MMAP2, _I386_REMAP_FILE_PAGES = 90, 192, 257


def filter_program() -> bytes:
    """The filter: TRACE for the calls that map a file, ALLOW for all else."""
    trace, allow = (_RETURN, 0, 0, _RET_TRACE), (_RETURN, 0, 0, seccomp.RET_ALLOW)
    of_file = [
        (_LOAD, 0, 0, _FLAGS_AT),
        (_JUMP_IF_SET, 3, 0, MAP_ANONYMOUS),
        (_LOAD, 0, 0, _FD_AT),
        (_JUMP_IF_EQUAL, 1, 0, 0xFFFFFFFF),
        trace,
        allow,
    ]
    code = [(_LOAD, 0, 0, _ARCH_AT)]
    for arch, asked, always in (
        (_X86_64, MMAP, (REMAP_FILE_PAGES, X32 | MMAP)),
        (_I386, I386_MMAP2, (I386_OLD_MMAP, _I386_REMAP_FILE_PAGES)),
    ):
        calls = [
            (_LOAD, 0, 0, _NR_AT),
            (_JUMP_IF_EQUAL, 4, 0, asked),
            (_JUMP_IF_EQUAL, 2, 0, always[0]),
            (_JUMP_IF_EQUAL, 1, 0, always[1]),
            allow,
            trace,
            *of_file,
        ]
        code += [(_JUMP_IF_EQUAL, 0, len(calls), arch), *calls]
    code.append(allow)
    return b"".join(seccomp.INSTRUCTION.pack(*instruction) for instruction in code)


def install() -> None:
    """For the calling process, and all it will start. It must be traced already: else these calls fail with ENOSYS."""
    seccomp.install_tracing_filter(filter_program())
