"""Directory entries (sections 6 and 7): a file is a set of them, with one checksum over all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.exfat import layout as L

_NS = 1_000_000_000
_UNIX_EPOCH_DAY = date(1970, 1, 1).toordinal()
_KNOWN = {L.BITMAP, L.UPCASE, L.LABEL, L.FILE}


class Node(NamedTuple):
    """A file: where its first entry is on the device, its file and stream entries, and the checksum of its set."""

    offset: int
    entries: bytes
    stored: int
    computed: int


class EntrySet(NamedTuple):
    """A file in a directory. ``place`` is that of its first entry in the directory's bytes."""

    place: int
    name: str
    entries: bytes
    stored: int
    computed: int


def iter_sets(data: bytes, *, verify: bool) -> Iterator[EntrySet | Exception]:
    """All files of a directory; where a set is damaged, an error that says so, and the next ones."""
    at = 0
    while at < len(data):
        kind = data[at]
        if not kind:
            return
        if kind == L.FILE:
            try:
                found, at = _parse_set(data, at, verify)
                yield found
                continue
            except (InvalidFormat, UnsupportedFeature) as error:
                yield error
                # What follows belongs to the set that cannot be read.
                at += L.ENTRY_BYTES
                while at < len(data) and data[at] & (L.IN_USE | L.SECONDARY) == L.IN_USE | L.SECONDARY:
                    at += L.ENTRY_BYTES
                continue
        if kind & (L.IN_USE | L.SECONDARY) == L.IN_USE | L.SECONDARY:
            yield _bad(f"an entry of type {kind:#x} that belongs to no file", at)
        elif kind & L.IN_USE and not kind & L.BENIGN and kind not in _KNOWN:
            yield UnsupportedFeature(f"a directory entry of type {kind:#x}", feature=f"entry type {kind:#x}")
        at += L.ENTRY_BYTES


def _parse_set(data: bytes, at: int, verify: bool) -> tuple[EntrySet, int]:
    count = data[at + 1]
    end = at + (1 + count) * L.ENTRY_BYTES
    if not 2 <= count <= L.MAX_SECONDARIES or end > len(data) or data[at + L.ENTRY_BYTES] != L.STREAM:
        raise _bad(f"a set with {count} secondary entries", at)
    length = data[at + L.ENTRY_BYTES + 3]
    name_end = at + (2 + -(-length // L.NAME_UNITS)) * L.ENTRY_BYTES
    if not length or name_end > end:
        raise _bad(f"a name of {length} characters in {count} secondary entries", at)
    units = bytearray()
    for place in range(at + 2 * L.ENTRY_BYTES, name_end, L.ENTRY_BYTES):
        if data[place] != L.NAME:
            raise _bad(f"type {data[place]:#x} in place of a name", place)
        units += data[place + L.NAME_OFFSET : place + L.ENTRY_BYTES]
    for place in range(name_end, end, L.ENTRY_BYTES):
        kind = data[place]
        if kind & (L.IN_USE | L.SECONDARY | L.BENIGN) != L.IN_USE | L.SECONDARY | L.BENIGN:
            raise UnsupportedFeature(f"a secondary entry of type {kind:#x}", feature=f"entry type {kind:#x}")
    stored = int.from_bytes(data[at + 2 : at + 4], "little")
    computed = set_checksum(data[at:end]) if verify else stored
    name = decode_name(bytes(units[: 2 * length]))
    return EntrySet(at, name, data[at : at + 2 * L.ENTRY_BYTES], stored, computed), end


def set_checksum(entries: bytes) -> int:
    """Section 6.3.3: all bytes but those of the checksum itself."""
    total = 0
    for byte in entries[:2] + entries[4:]:
        total = (total >> 1 | (total & 1) << 15) + byte & 0xFFFF
    return total


def decode_name(units: bytes) -> str:
    """UTF-16 as ``os.fsdecode`` would give it: the three bytes of an unpaired surrogate are no UTF-8."""
    try:
        return units.decode("utf-16-le")
    except UnicodeDecodeError:
        text = units.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")
        return text.decode("utf-8", "surrogateescape")


def time_ns(timestamp: int, increment: int, utc_offset: int) -> int:
    """Sections 7.4.8 to 7.4.10; without a valid offset the time is taken for UTC."""
    zone = utc_offset & 0x7F
    quarters = (zone - 128 if zone & 0x40 else zone) if utc_offset & L.UTC_OFFSET_VALID else 0
    clock = (timestamp >> 11 & 0x1F) * 3600 + (timestamp >> 5 & 0x3F) * 60 + (timestamp & 0x1F) * 2
    return (_day(timestamp >> 16) * 86400 + clock - quarters * 900) * _NS + increment * 10_000_000


@lru_cache(maxsize=4096)
def _day(value: int) -> int:
    """Years from 1980, month, day. Values that are none count on, as on Linux."""
    month = min(max(value >> 5 & 0x0F, 1), 12)
    return date(1980 + (value >> 9), month, 1).toordinal() + max(value & 0x1F, 1) - 1 - _UNIX_EPOCH_DAY


def _bad(message: str, place: int) -> InvalidFormat:
    return InvalidFormat(message, structure="directory entry set", offset=place)
