"""The up-case table (section 7.2), by which names are alike."""

from __future__ import annotations

import sys
from array import array

from guestctl.disk.filesystems.exfat import layout as L


def table_checksum(data: bytes) -> int:
    """Section 7.2.2."""
    total = 0
    for byte in data:
        total = (total >> 1 | (total & 1) << 31) + byte & 0xFFFFFFFF
    return total


def parse_upcase(data: bytes) -> dict[int, int]:
    """Code points that do not stand for themselves, for ``str.translate``. What the table leaves out does."""
    units = array("H", data[: len(data) // 2 * 2])
    if sys.byteorder == "big":
        units.byteswap()
    table: dict[int, int] = {}
    code, at = 0, 0
    while at < len(units) and code <= 0xFFFF:
        if units[at] == L.IDENTITY_RUN and at + 1 < len(units):
            code += units[at + 1]
            at += 2
            continue
        if units[at] != code:
            table[code] = units[at]
        code += 1
        at += 1
    return table


def simple_upcase() -> dict[int, int]:
    """A table for a volume whose own is damaged."""
    return {code: ord(upper) for code in range(0x10000) if len(upper := chr(code).upper()) == 1 and ord(upper) != code}


def name_hash(upcased: str) -> int:
    """Section 7.6.4, of a name in upper case."""
    total = 0
    for byte in upcased.encode("utf-16-le", "surrogatepass"):
        total = (total >> 1 | (total & 1) << 15) + byte & 0xFFFF
    return total
