"""The metadata region of a VHDX file: the metadata table and its items ([MS-VHDX] 2.6).

Refused: required items that we do not know, parent locators of another type.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vhdx import layout
from guestctl.disk.formats.vhdx.header import Region

_KNOWN = {
    layout.FILE_PARAMETERS: "file parameters",
    layout.VIRTUAL_DISK_SIZE: "virtual disk size",
    layout.VIRTUAL_DISK_ID: "virtual disk id",
    layout.LOGICAL_SECTOR_SIZE: "logical sector size",
    layout.PHYSICAL_SECTOR_SIZE: "physical sector size",
    layout.PARENT_LOCATOR: "parent locator",
}
_U32, _U64, _FILE_PARAMETERS = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<II")
_MAX_ITEM_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the known items say; sizes in bytes. ``parent_locator`` is None without a parent."""

    block_size: int
    leave_blocks_allocated: bool
    virtual_disk_size: int
    virtual_disk_id: UUID
    logical_sector_size: int
    physical_sector_size: int
    parent_locator: Mapping[str, str] | None = None

    @property
    def chunk_ratio(self) -> int:
        return layout.chunk_ratio(self.logical_sector_size, self.block_size)

    @property
    def block_count(self) -> int:
        return -(-self.virtual_disk_size // self.block_size)

    @property
    def bat_entries(self) -> int:
        """Entries of the BAT, in which a sector bitmap block's follows those of each whole chunk."""
        ratio = self.chunk_ratio
        if self.parent_locator is not None:
            return -(-self.block_count // ratio) * (ratio + 1)
        return self.block_count + (self.block_count - 1) // ratio if self.block_count else 0


def read_metadata(device: BlockDevice, region: Region) -> Metadata:
    """The metadata in `region` of the file."""
    if region.length < layout.METADATA_TABLE_BYTES:
        raise _invalid(f"a region of {region.length} bytes", region.offset)
    table = device.read(region.offset, layout.METADATA_TABLE_BYTES)
    items = _Items(device, region, _parse_table(table, region))
    block_size, flags = items.number(layout.FILE_PARAMETERS, _FILE_PARAMETERS)
    (size,) = items.number(layout.VIRTUAL_DISK_SIZE, _U64)
    (logical,) = items.number(layout.LOGICAL_SECTOR_SIZE, _U32)
    (physical,) = items.number(layout.PHYSICAL_SECTOR_SIZE, _U32)
    if block_size & (block_size - 1) or not layout.MIN_BLOCK_BYTES <= block_size <= layout.MAX_BLOCK_BYTES:
        raise items.invalid(layout.FILE_PARAMETERS, f"block size is {block_size}")
    if logical not in (512, 4096):
        raise items.invalid(layout.LOGICAL_SECTOR_SIZE, f"{logical} bytes")
    if physical not in (512, 4096):
        raise items.invalid(layout.PHYSICAL_SECTOR_SIZE, f"{physical} bytes")
    if size % logical or size > layout.MAX_DISK_BYTES:
        raise items.invalid(layout.VIRTUAL_DISK_SIZE, f"{size} bytes")
    locator = None
    if flags & layout.HAS_PARENT:
        content, offset = items.content(layout.PARENT_LOCATOR)
        locator = parse_locator(content, offset)
    return Metadata(
        block_size,
        bool(flags & layout.LEAVE_BLOCKS_ALLOCATED),
        size,
        items.guid(layout.VIRTUAL_DISK_ID),
        logical,
        physical,
        locator,
    )


def _parse_table(table: Buffer, region: Region) -> dict[UUID, tuple[int, int]]:
    """Offset (in the region) and length of each known item."""
    signature, _, entry_count = layout.METADATA_TABLE.unpack_from(table)
    if signature != layout.METADATA_SIGNATURE:
        raise _invalid(f"signature is {signature!r}", region.offset)
    if entry_count > layout.MAX_TABLE_ENTRIES:
        raise _invalid(f"{entry_count} entries", region.offset + 10)
    found: dict[UUID, tuple[int, int]] = {}
    for number in range(entry_count):
        at = layout.METADATA_TABLE.size + number * layout.METADATA_ENTRY.size
        raw_id, offset, length, flags = layout.METADATA_ENTRY.unpack_from(table, at)
        item = UUID(bytes_le=raw_id)
        if flags & layout.METADATA_IS_USER or item not in _KNOWN:
            if flags & layout.METADATA_IS_REQUIRED:
                raise UnsupportedFeature(f"a required metadata item {item}", feature=f"metadata item {item}")
            continue
        if item in found:
            raise _invalid(f"item {_KNOWN[item]} twice", region.offset + at)
        if length > _MAX_ITEM_BYTES or offset < layout.METADATA_TABLE_BYTES or offset + length > region.length:
            message = f"{_KNOWN[item]} of {length} bytes at {offset:#x} is not in a region of {region.length} bytes"
            raise _invalid(message, region.offset + at)
        found[item] = (offset, length)
    return found


class _Items:
    def __init__(self, device: BlockDevice, region: Region, items: Mapping[UUID, tuple[int, int]]) -> None:
        self._device = device
        self._region = region
        self._items = items

    def content(self, item: UUID) -> tuple[bytes, int]:
        """The bytes of an item, and where they lie in the file."""
        if item not in self._items:
            raise _invalid(f"no {_KNOWN[item]}", self._region.offset)
        offset, length = self._items[item]
        return bytes(self._device.read(self._region.offset + offset, length)), self._region.offset + offset

    def number(self, item: UUID, kind: struct.Struct) -> tuple[int, ...]:
        content, _ = self.content(item)
        if len(content) < kind.size:
            raise self.invalid(item, f"{len(content)} bytes")
        return kind.unpack_from(content)

    def guid(self, item: UUID) -> UUID:
        content, _ = self.content(item)
        if len(content) < 16:
            raise self.invalid(item, f"{len(content)} bytes")
        return UUID(bytes_le=content[:16])

    def invalid(self, item: UUID, message: str) -> InvalidFormat:
        offset = self._region.offset + self._items[item][0]
        return InvalidFormat(message, structure=_KNOWN[item], offset=offset)


def parse_locator(content: bytes, offset: int) -> dict[str, str]:
    """The keys and values of a parent locator, which lies at `offset`."""
    if len(content) < layout.LOCATOR.size:
        raise InvalidFormat(f"{len(content)} bytes", structure="parent locator", offset=offset)
    raw_type, _, entry_count = layout.LOCATOR.unpack_from(content)
    locator_type = UUID(bytes_le=raw_type)
    if locator_type != layout.VHDX_LOCATOR:
        raise UnsupportedFeature(f"a parent locator of type {locator_type}", feature=f"parent locator {locator_type}")
    if layout.LOCATOR.size + entry_count * layout.LOCATOR_ENTRY.size > len(content):
        raise InvalidFormat(f"{entry_count} entries", structure="parent locator", offset=offset + 18)
    pairs: dict[str, str] = {}
    for number in range(entry_count):
        at = layout.LOCATOR.size + number * layout.LOCATOR_ENTRY.size
        key_offset, value_offset, key_length, value_length = layout.LOCATOR_ENTRY.unpack_from(content, at)
        if max(key_offset + key_length, value_offset + value_length) > len(content):
            raise InvalidFormat("a key or value is not in it", structure="parent locator", offset=offset + at)
        key = content[key_offset : key_offset + key_length].decode("utf-16-le", "replace")
        pairs[key] = content[value_offset : value_offset + value_length].decode("utf-16-le", "replace")
    return pairs


def build_metadata(metadata: Metadata) -> bytes:
    """The metadata region, up to the end of its last item."""
    parameters = layout.LEAVE_BLOCKS_ALLOCATED if metadata.leave_blocks_allocated else 0
    if metadata.parent_locator is not None:
        parameters |= layout.HAS_PARENT
    required, disk = layout.METADATA_IS_REQUIRED, layout.METADATA_IS_REQUIRED | layout.METADATA_IS_VIRTUAL_DISK
    items = [
        (layout.FILE_PARAMETERS, required, _FILE_PARAMETERS.pack(metadata.block_size, parameters)),
        (layout.VIRTUAL_DISK_SIZE, disk, _U64.pack(metadata.virtual_disk_size)),
        (layout.VIRTUAL_DISK_ID, disk, metadata.virtual_disk_id.bytes_le),
        (layout.LOGICAL_SECTOR_SIZE, disk, _U32.pack(metadata.logical_sector_size)),
        (layout.PHYSICAL_SECTOR_SIZE, disk, _U32.pack(metadata.physical_sector_size)),
    ]
    if metadata.parent_locator is not None:
        items.append((layout.PARENT_LOCATOR, required, build_locator(metadata.parent_locator)))
    table = layout.METADATA_TABLE.pack(layout.METADATA_SIGNATURE, 0, len(items))
    body = b""
    for item, flags, content in items:
        offset = layout.METADATA_TABLE_BYTES + len(body)
        table += layout.METADATA_ENTRY.pack(item.bytes_le, offset, len(content), flags)
        body += content
    return table.ljust(layout.METADATA_TABLE_BYTES, b"\0") + body


def build_locator(pairs: Mapping[str, str]) -> bytes:
    table = layout.LOCATOR.pack(layout.VHDX_LOCATOR.bytes_le, 0, len(pairs))
    start = layout.LOCATOR.size + len(pairs) * layout.LOCATOR_ENTRY.size
    texts = b""
    for key, value in pairs.items():
        raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
        at = start + len(texts)
        table += layout.LOCATOR_ENTRY.pack(at, at + len(raw_key), len(raw_key), len(raw_value))
        texts += raw_key + raw_value
    return table + texts


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="metadata table", offset=offset)
