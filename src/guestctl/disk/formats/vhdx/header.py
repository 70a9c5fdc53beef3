"""The header section of a VHDX file: its two headers and its two region tables ([MS-VHDX] 2.2).

Refused: other versions, required regions that we do not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from guestctl.block.device import BlockDevice
from guestctl.core.errors import ChecksumMismatch, EndOfDevice, InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vhdx import layout

_NIL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Header:
    """A header's fields under the specification's names."""

    sequence_number: int
    file_write_guid: UUID
    data_write_guid: UUID
    log_guid: UUID
    log_version: int
    version: int
    log_length: int
    log_offset: int

    @property
    def has_log(self) -> bool:
        return self.log_guid != _NIL


class Region(NamedTuple):
    """Where a region lies in the file, in bytes."""

    offset: int
    length: int


class Regions(NamedTuple):
    """The regions that every file has."""

    bat: Region
    metadata: Region


def read_header(device: BlockDevice) -> tuple[Header, list[str]]:
    """The current header, and what is wrong with the other one."""
    headers: list[Header] = []
    failures: list[InvalidFormat] = []
    for offset in layout.HEADER_OFFSETS:
        try:
            headers.append(parse_header(_read(device, offset, layout.HEADER_BYTES, "header"), offset))
        except InvalidFormat as error:
            failures.append(error)
    if not headers:
        raise failures[0]
    return max(headers, key=lambda header: header.sequence_number), [str(failure) for failure in failures]


def parse_header(content: bytes, offset: int) -> Header:
    """The header in `content`, which lies at `offset`."""
    _check(content, layout.HEADER_SIGNATURE, "header", offset)
    _, _, sequence_number, *fields = layout.HEADER.unpack_from(content)
    fields[:3] = (UUID(bytes_le=guid) for guid in fields[:3])
    header = Header(sequence_number, *fields)
    if header.version != layout.VERSION:
        name = f"VHDX version {header.version}"
        raise UnsupportedFeature(f"{name} (1 is read)", feature=name)
    if header.has_log and header.log_version != layout.LOG_VERSION:
        name = f"log version {header.log_version}"
        raise UnsupportedFeature(f"{name} (0 is read)", feature=name)
    return header


def build_header(header: Header) -> bytes:
    """The 4 KiB of a header, with their checksum."""
    fields = layout.HEADER.pack(
        layout.HEADER_SIGNATURE,
        0,
        header.sequence_number,
        header.file_write_guid.bytes_le,
        header.data_write_guid.bytes_le,
        header.log_guid.bytes_le,
        header.log_version,
        header.version,
        header.log_length,
        header.log_offset,
    )
    return with_checksum(fields.ljust(layout.HEADER_BYTES, b"\0"))


def read_regions(device: BlockDevice) -> tuple[Regions, list[str]]:
    """The regions from the first table that is whole, and what is wrong with the one before."""
    problems: list[str] = []
    first: InvalidFormat | None = None
    for offset in layout.REGION_TABLE_OFFSETS:
        try:
            content = _read(device, offset, layout.REGION_TABLE_BYTES, "region table")
            _check(content, layout.REGION_TABLE_SIGNATURE, "region table", offset)
        except InvalidFormat as error:
            first = first or error
            problems.append(str(error))
            continue
        return parse_regions(content, offset, device.size), problems
    assert first is not None
    raise first


def parse_regions(content: bytes, offset: int, file_size: int) -> Regions:
    """The regions in a table, which lies at `offset` of a file of `file_size` bytes."""
    _, _, entry_count, _ = layout.REGION_TABLE.unpack_from(content)
    if entry_count > layout.MAX_TABLE_ENTRIES:
        raise InvalidFormat(f"{entry_count} entries", structure="region table", offset=offset + 8)
    found: dict[UUID, Region] = {}
    for number in range(entry_count):
        at = layout.REGION_TABLE.size + number * layout.REGION_ENTRY.size
        raw_guid, start, length, flags = layout.REGION_ENTRY.unpack_from(content, at)
        guid = UUID(bytes_le=raw_guid)
        if guid not in (layout.BAT_REGION, layout.METADATA_REGION):
            if flags & 1:
                raise UnsupportedFeature(f"a required region {guid}", feature=f"region {guid}")
            continue
        if guid in found:
            raise InvalidFormat(f"region {guid} twice", structure="region table", offset=offset + at)
        if start % layout.MIB or start < layout.MIB or start + length > file_size:
            message = f"region {guid} of {length} bytes at {start:#x} is not in the file of {file_size} bytes"
            raise InvalidFormat(message, structure="region table", offset=offset + at)
        found[guid] = Region(start, length)
    for name, guid in (("BAT", layout.BAT_REGION), ("metadata", layout.METADATA_REGION)):
        if guid not in found:
            raise InvalidFormat(f"no {name} region", structure="region table", offset=offset)
    return Regions(found[layout.BAT_REGION], found[layout.METADATA_REGION])


def build_regions(regions: Regions) -> bytes:
    """The 64 KiB of a region table, with their checksum."""
    table = layout.REGION_TABLE.pack(layout.REGION_TABLE_SIGNATURE, 0, 2, 0)
    for guid, region in ((layout.BAT_REGION, regions.bat), (layout.METADATA_REGION, regions.metadata)):
        table += layout.REGION_ENTRY.pack(guid.bytes_le, region.offset, region.length, 1)
    return with_checksum(table.ljust(layout.REGION_TABLE_BYTES, b"\0"))


def with_checksum(structure: bytes) -> bytes:
    return structure[:4] + layout.checksum(structure).to_bytes(4, "little") + structure[8:]


def _read(device: BlockDevice, offset: int, length: int, structure: str) -> bytes:
    try:
        return bytes(device.read(offset, length))
    except EndOfDevice:
        message = f"outside the file of {device.size} bytes"
        raise InvalidFormat(message, structure=structure, offset=offset) from None


def _check(content: bytes, signature: bytes, structure: str, offset: int) -> None:
    if content[:4] != signature:
        message = f"signature is {content[:4]!r}"
        raise InvalidFormat(message, structure=structure, offset=offset, expected=signature, actual=content[:4])
    stored, expected = int.from_bytes(content[4:8], "little"), layout.checksum(content)
    if stored != expected:
        raise ChecksumMismatch(structure=structure, offset=offset, expected=expected, actual=stored)
