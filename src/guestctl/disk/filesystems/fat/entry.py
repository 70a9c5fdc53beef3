"""The directory entry: 32 bytes with a short name, attributes, times, first cluster and size.

"Directory Structure" of fatgen103. Times are local, and no field says where; they are read as UTC, as
Linux does in a machine without a time zone.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any

from guestctl.disk.filesystems.fat.layout import (
    ATTR_DIRECTORY,
    ATTR_READ_ONLY,
    ENTRY_BYTES,
    ENTRY_TIMES,
    KANJI_E5,
    LOWER_BASE,
    LOWER_EXT,
)
from guestctl.disk.stat import FileStat

_UNIX_EPOCH_DAY = date(1970, 1, 1).toordinal()
_NS = 1_000_000_000


def _field(decode: Callable[[EntryStat], int | None]) -> Any:
    """A field that is decoded when it is asked for; untyped, since `FileStat` declares its type."""
    return property(decode)


class EntryStat(FileStat):
    """The attributes in a directory entry, whose bytes are ``raw``.

    Modes are those of a Linux mount with umask 022, where a read-only directory is like any other.
    """

    __slots__ = ("raw", "st_blocks", "st_ino", "st_mode", "st_nlink", "st_size")

    st_uid: int = 0
    st_gid: int = 0
    st_rdev: int = 0

    def __init__(self, raw: bytes, offset: int, attributes: int, links: int, size: int, blocks: int) -> None:
        self.raw = raw
        self.st_ino = offset // ENTRY_BYTES
        self.st_nlink = links
        self.st_size = size
        self.st_blocks = blocks
        if attributes & ATTR_DIRECTORY:
            self.st_mode = stat.S_IFDIR | 0o755
        else:
            self.st_mode = stat.S_IFREG | (0o555 if attributes & ATTR_READ_ONLY else 0o755)

    @_field
    def st_mtime_ns(self) -> int:
        _, _, _, _, time, day = ENTRY_TIMES.unpack(self.raw)
        return _day_ns(day) + _time_ns(time)

    st_ctime_ns: int = st_mtime_ns  # there is none; Linux gives this

    @_field
    def st_atime_ns(self) -> int:
        _, _, _, day, _, _ = ENTRY_TIMES.unpack(self.raw)
        return _day_ns(day)

    @_field
    def st_birthtime_ns(self) -> int | None:
        tenth, time, day, _, _, _ = ENTRY_TIMES.unpack(self.raw)
        return _day_ns(day) + _time_ns(time) + tenth * 10_000_000 if day else None


def short_name(raw: bytes, case: int, codepage: str) -> str:
    """DIR_Name as text: ``README.TXT`` for b"README  TXT". What the code page lacks is surrogate escapes."""
    base, extension = raw[:8], raw[8:]
    if base[0] == KANJI_E5:
        base = b"\xe5" + base[1:]
    name = base.partition(b"\0")[0].rstrip(b" ").decode(codepage, "surrogateescape")
    if case & LOWER_BASE:
        name = name.lower()
    suffix = extension.partition(b"\0")[0].rstrip(b" ")
    if not suffix:
        return name
    text = suffix.decode(codepage, "surrogateescape")
    return f"{name}.{text.lower() if case & LOWER_EXT else text}"


def checksum(raw: bytes) -> int:
    """LDIR_Chksum of the short name `raw`."""
    total = 0
    for byte in raw:
        total = ((total >> 1) + (total << 7) + byte) & 0xFF
    return total


@lru_cache(maxsize=4096)
def _day_ns(value: int) -> int:
    """ "Date and Time Formats": years from 1980, month, day. Values that are none count on, as on Linux."""
    month = min(max(value >> 5 & 0x0F, 1), 12)
    day = date(1980 + (value >> 9), month, 1).toordinal() + max(value & 0x1F, 1) - 1
    return (day - _UNIX_EPOCH_DAY) * 86400 * _NS


def _time_ns(value: int) -> int:
    return ((value >> 11) * 3600 + (value >> 5 & 0x3F) * 60 + (value & 0x1F) * 2) * _NS
