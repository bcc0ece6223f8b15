"""Sizes as people write them: ``64M``, ``4096``, ``0x1000``, ``1.5G`` is not one."""

import re

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes. Decimal or 0x-hexadecimal, with K, M, G or T for powers of 1024. Raises ``ValueError`` with one line."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|[0-9]+)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a size: write bytes, or a number with K, M, G or T, such as 64M")
    return int(match[1], 0 if match[1][:2] in ("0x", "0X") else 10) * _UNITS[match[2].upper()]
