"""The directory entry: 32 bytes with a short name, attributes, times, first cluster and size.

"Directory Structure" of fatgen103. Times are local, and no field says where; they are read as UTC, as
Linux does in a machine without a time zone.
"""

from __future__ import annotations

import stat
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from guestctl.block.device import Buffer
from guestctl.disk.filesystems.fat.layout import (
    ATTR_DIRECTORY,
    ATTR_READ_ONLY,
    ENTRY,
    KANJI_E5,
    LOWER_BASE,
    LOWER_EXT,
)

_UNIX_EPOCH_DAY = date(1970, 1, 1).toordinal()
_NS = 1_000_000_000


class DirectoryEntry(NamedTuple):
    """The attributes of a file. Times are nanoseconds since 1970."""

    attributes: int
    first_cluster: int
    size: int  # bytes; 0 for directories
    modified_ns: int
    accessed_ns: int
    created_ns: int | None

    @property
    def mode(self) -> int:
        """st_mode of a Linux mount with umask 022; the read-only bit of directories means nothing."""
        if self.attributes & ATTR_DIRECTORY:
            return stat.S_IFDIR | 0o755
        return stat.S_IFREG | (0o555 if self.attributes & ATTR_READ_ONLY else 0o755)


def parse_entry(raw: Buffer, bits: int) -> DirectoryEntry:
    """The entry in 32 bytes of a volume whose table has entries of `bits`."""
    fields = ENTRY.unpack(raw)
    _, attributes, _, tenth, created_time, created_date, accessed, cluster_high, time, day, cluster_low, size = fields
    # FAT12 and FAT16 keep other things in the high half
    cluster = cluster_high << 16 | cluster_low if bits == 32 else cluster_low
    created = _day_ns(created_date) + _time_ns(created_time) + tenth * 10_000_000 if created_date else None
    return DirectoryEntry(attributes, cluster, size, _day_ns(day) + _time_ns(time), _day_ns(accessed), created)


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
