"""Directories: short entries, each behind the entries of its long name, if it has one.

"Long Directory Entries" of fatgen103. A long name counts where its entries descend to 1 without a
gap and carry the checksum of the short name that follows; any other is an orphan, and the short
name counts. Names are UTF-16; halves of surrogate pairs become escapes of their bytes in WTF-8.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from guestctl.block.device import Buffer
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.fat.entry import checksum, short_name
from guestctl.disk.filesystems.fat.layout import (
    ATTR_DIRECTORY,
    ATTR_LONG_NAME,
    ATTR_LONG_NAME_MASK,
    ATTR_VOLUME_ID,
    END,
    ENTRY,
    ENTRY_BYTES,
    ENTRY_NAME,
    FREE,
    KANJI_E5,
    LAST_LONG_ENTRY,
    LONG_ENTRY,
    MAX_LONG_ENTRIES,
)

_DOTS = (b".          ", b"..         ")


def iter_entries(
    pieces: Iterable[tuple[int, Buffer]], codepage: str, *, long_names: bool = True
) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the short entry, file type bits) for each file in a directory.

    `pieces` are the directory's bytes in order, each with its offset on the device.
    """
    parts: list[bytes] = []  # of a long name, the last first
    missing = 0  # entries of it that have not come yet
    long_checksum = -1
    for start, data in pieces:
        for index, (raw, attributes, case) in enumerate(ENTRY_NAME.iter_unpack(data)):
            first = raw[0]
            if first == FREE:
                parts = []
            elif first == END:
                return
            elif attributes & ATTR_LONG_NAME_MASK == ATTR_LONG_NAME:
                if not long_names:
                    continue
                order, name1, total, name2, name3 = LONG_ENTRY.unpack_from(data, index * ENTRY_BYTES)
                if order & LAST_LONG_ENTRY and 0 < order & ~LAST_LONG_ENTRY <= MAX_LONG_ENTRIES:
                    parts, missing, long_checksum = [name1 + name2 + name3], (order & ~LAST_LONG_ENTRY) - 1, total
                elif parts and order == missing and total == long_checksum:
                    parts.append(name1 + name2 + name3)
                    missing -= 1
                else:
                    parts = []
            elif attributes & ATTR_VOLUME_ID:
                parts = []
            else:
                name = ""
                if parts and not missing and checksum(raw) == long_checksum:
                    name = _long_name(parts)
                parts = []
                offset = start + index * ENTRY_BYTES
                if not name:
                    if raw in _DOTS:
                        continue
                    name = _checked(short_name(raw, case, codepage), offset)
                yield name, offset, stat.S_IFDIR if attributes & ATTR_DIRECTORY else stat.S_IFREG


def find_label(data: Buffer) -> bytes | None:
    """The name of the volume label among the entries in `data`, as blkid looks for it."""
    for name, attributes, *_, cluster_high, _, _, cluster_low, _ in ENTRY.iter_unpack(data):
        if name[0] == END:
            break
        if name[0] == FREE or cluster_high or cluster_low or attributes & ATTR_LONG_NAME_MASK == ATTR_LONG_NAME:
            continue
        if attributes & (ATTR_VOLUME_ID | ATTR_DIRECTORY) == ATTR_VOLUME_ID:
            return b"\xe5" + name[1:] if name[0] == KANJI_E5 else bytes(name)
    return None


def fold(name: str) -> str:
    """`name` with each character in upper case, where that is one character."""
    upper = name.upper()
    if len(upper) == len(name):
        return upper
    return "".join(character.upper() if len(character.upper()) == 1 else character for character in name)


def _long_name(parts: list[bytes]) -> str:
    """The name in `parts`, or nothing where no path could hold it."""
    name = b"".join(reversed(parts)).decode("utf-16-le", "surrogatepass").partition("\0")[0]
    if not name.isascii():
        name = name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    return "" if "/" in name or name in (".", "..") else name


def _checked(name: str, offset: int) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise InvalidFormat(f"{name!r} cannot be a name", structure="directory entry", offset=offset, actual=name)
    return name
