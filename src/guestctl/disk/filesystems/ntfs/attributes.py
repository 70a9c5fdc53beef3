"""Attributes of a file record, resident and not, and attribute lists."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs import layout as L

_head = L.ATTRIBUTE.unpack_from


class Attribute(NamedTuple):
    """One attribute as a record holds it; in the parts of a split one, only the first has sizes."""

    type: int
    name: str
    flags: int
    id: int
    offset: int  # where the device has it
    value: bytes | None  # resident
    first_vcn: int = 0
    end_vcn: int = 0
    pairs: bytes = b""
    unit_shift: int = 0
    allocated: int = 0  # bytes of clusters that are there
    size: int = 0
    initialized: int = 0

    @property
    def compressed(self) -> bool:
        return bool(self.flags & L.COMPRESSION_MASK)

    @property
    def encrypted(self) -> bool:
        return bool(self.flags & L.ATTRIBUTE_ENCRYPTED)


class ListEntry(NamedTuple):
    """Where an attribute, or a part of one, is."""

    type: int
    name: str
    first_vcn: int
    reference: int
    id: int


def iter_attributes(record: bytes, offset: int) -> Iterator[Attribute]:
    """The attributes of one file record that lies at `offset`. Raises `InvalidFormat`."""
    at, end = L.RECORD.unpack_from(record)[5], L.RECORD.unpack_from(record)[7]
    end = min(end, len(record))
    while at + 4 <= end:
        if record[at : at + 4] == b"\xff\xff\xff\xff":
            return
        if at + L.RESIDENT_BYTES > end:
            break
        kind, length, _, _, _, _, _ = _head(record, at)
        if length < L.RESIDENT_BYTES or at + length > end or at & 3:
            raise _bad(f"attribute {kind:#x} has {length} bytes", offset + at)
        yield _parse(record[at : at + length], offset + at)
        at += length
    raise _bad("the attributes have no end", offset + at)


def _parse(data: bytes, offset: int) -> Attribute:
    kind, length, non_resident, name_length, name_offset, flags, number = _head(data)
    if name_offset + 2 * name_length > length:
        raise _bad(f"a name of {name_length} characters at {name_offset}", offset)
    name = decode_name(data[name_offset : name_offset + 2 * name_length]) if name_length else ""
    if not non_resident:
        value_length, value_offset = L.RESIDENT.unpack_from(data)
        if value_offset + value_length > length:
            raise _bad(f"attribute {kind:#x} has a value of {value_length} bytes at {value_offset}", offset)
        value = data[value_offset : value_offset + value_length]
        return Attribute(kind, name, flags, number, offset, value, allocated=value_length + 7 & ~7, size=value_length)
    if length < L.NON_RESIDENT_BYTES:
        raise _bad(f"a non-resident attribute of {length} bytes", offset)
    first, last, pairs_offset, unit_shift, allocated, size, initialized = L.NON_RESIDENT.unpack_from(data)
    end_vcn = (last + 1) & 0xFFFFFFFFFFFFFFFF
    if not L.NON_RESIDENT_BYTES <= pairs_offset <= length or first > end_vcn or end_vcn >> 62:
        raise _bad(f"attribute {kind:#x} maps the clusters {first} to {last}", offset)
    if not first and (size > allocated or allocated >> 62):
        raise _bad(f"attribute {kind:#x} has {size} bytes in {allocated}", offset)
    if unit_shift > 16:
        raise _bad(f"a compression unit of 2^{unit_shift} clusters", offset)
    if flags & (L.COMPRESSION_MASK | L.ATTRIBUTE_SPARSE) and not first and pairs_offset >= L.TOTAL_ALLOCATED.size:
        (allocated,) = L.TOTAL_ALLOCATED.unpack_from(data)
    pairs = data[pairs_offset:]
    return Attribute(
        kind, name, flags, number, offset, None, first, end_vcn, pairs, unit_shift, allocated, size, initialized
    )


def parse_list(data: bytes, offset: int) -> list[ListEntry]:
    """The value of an $ATTRIBUTE_LIST. Raises `InvalidFormat`."""
    entries = []
    at = 0
    while at + L.LIST_ENTRY_BYTES <= len(data):
        kind, length, name_length, name_offset, first_vcn, reference, number = L.LIST_ENTRY.unpack_from(data, at)
        if length < L.LIST_ENTRY_BYTES or at + length > len(data) or name_offset + 2 * name_length > length:
            raise InvalidFormat(f"an entry of {length} bytes at {at}", structure="$ATTRIBUTE_LIST", offset=offset)
        start = at + name_offset
        name = decode_name(data[start : start + 2 * name_length]) if name_length else ""
        entries.append(ListEntry(kind, name, first_vcn, reference, number))
        at += length
    return entries


def decode_name(data: bytes) -> str:
    """UTF-16 as ``os.fsdecode`` would give it: the three bytes of an unpaired surrogate are no UTF-8."""
    try:
        return data.decode("utf-16-le")
    except UnicodeDecodeError:
        return _decode_surrogates(data)


def _decode_surrogates(data: bytes) -> str:
    return data.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes | None:
    """The UTF-16 of a name, or None where it can be no name here."""
    try:
        return name.encode("utf-16-le")
    except UnicodeEncodeError:
        pass
    try:
        return (
            name.encode("utf-8", "surrogateescape")
            .decode("utf-8", "surrogatepass")
            .encode("utf-16-le", "surrogatepass")
        )
    except UnicodeError:
        return None


def units(data: bytes) -> tuple[int, ...]:
    """The 16-bit units of UTF-16."""
    return unpack(f"<{len(data) // 2}H", data)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="attribute", offset=offset)
