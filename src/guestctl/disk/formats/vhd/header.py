"""The header of dynamic and differencing disks ("Dynamic Disk Header Format"), and the parent locators in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vhd import layout

_MIN_BLOCK_BYTES = 4096  # bounds the table; 512 KiB and 2 MiB are in use
_MAX_BLOCK_BYTES = 1 << 30


class Locator(NamedTuple):
    """A parent locator entry: where the parent's name for one platform lies in the file."""

    platform_code: bytes
    platform_data_space: int
    platform_data_length: int
    platform_data_offset: int


@dataclass(frozen=True, slots=True)
class DynamicHeader:
    """The header's fields under the specification's names."""

    table_offset: int
    max_table_entries: int
    block_size: int
    parent_unique_id: bytes = bytes(16)
    parent_time_stamp: int = 0
    parent_unicode_name: str = ""
    locators: tuple[Locator, ...] = ()


def read_header(device: BlockDevice, offset: int) -> tuple[DynamicHeader, str | None]:
    """The header at `offset`, and what is wrong with its checksum.

    A wrong checksum alone is no reason to refuse: qemu does not look at it, and some tools that edit headers do not
    correct it.
    """
    if offset + layout.HEADER_BYTES > device.size:
        raise _invalid(f"outside the file of {device.size} bytes", offset, 0)
    content = bytes(device.read(offset, layout.HEADER_BYTES))
    header = parse_header(content, offset, device.size)
    at = layout.HEADER_CHECKSUM_OFFSET
    stored, expected = int.from_bytes(content[at : at + 4], "big"), layout.checksum(content, at)
    if stored == expected:
        return header, None
    return header, f"the checksum of the dynamic disk header is {stored:#x}, expected {expected:#x}"


def parse_header(content: bytes, offset: int, file_size: int) -> DynamicHeader:
    """The header in `content`, which lies at `offset` of a file of `file_size` bytes."""
    fields = layout.HEADER.unpack_from(content)
    cookie, _, table_offset, version, max_table_entries, block_size = fields[:6]
    if cookie != layout.HEADER_COOKIE:
        raise _invalid(f"cookie is {cookie!r}", offset, 0, expected=layout.HEADER_COOKIE, actual=cookie)
    if version >> 16 != layout.HEADER_VERSION >> 16:
        name = f"dynamic disk header version {version >> 16}.{version & 0xFFFF}"
        raise UnsupportedFeature(f"{name} (1.0 is read)", feature=name)
    if block_size & (block_size - 1) or not _MIN_BLOCK_BYTES <= block_size <= _MAX_BLOCK_BYTES:
        raise _invalid(f"block size is {block_size}", offset, 32)
    if table_offset + max_table_entries * 4 > file_size:
        message = f"a block allocation table of {max_table_entries} entries at {table_offset:#x} is not in the file"
        raise _invalid(message, offset, 16)
    locators = layout.LOCATOR.iter_unpack(content[layout.HEADER.size :][: layout.LOCATOR.size * layout.LOCATORS])
    return DynamicHeader(
        table_offset,
        max_table_entries,
        block_size,
        parent_unique_id=fields[7],
        parent_time_stamp=fields[8],
        parent_unicode_name=fields[9].decode("utf-16-be", "replace").partition("\0")[0],
        locators=tuple(Locator(*locator) for locator in locators if locator[0] != bytes(4)),
    )


def build_header(header: DynamicHeader) -> bytes:
    """The 1024 bytes of the header, with their checksum."""
    packed = bytearray(layout.HEADER_BYTES)
    layout.HEADER.pack_into(
        packed,
        0,
        layout.HEADER_COOKIE,
        layout.NO_OFFSET,
        header.table_offset,
        layout.HEADER_VERSION,
        header.max_table_entries,
        header.block_size,
        0,
        header.parent_unique_id,
        header.parent_time_stamp,
        header.parent_unicode_name.encode("utf-16-be"),
    )
    for number, locator in enumerate(header.locators):
        layout.LOCATOR.pack_into(packed, layout.HEADER.size + number * layout.LOCATOR.size, *locator)
    at = layout.HEADER_CHECKSUM_OFFSET
    packed[at : at + 4] = layout.checksum(bytes(packed), at).to_bytes(4, "big")
    return bytes(packed)


def _invalid(message: str, offset: int, field: int, *, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(
        message, structure="dynamic disk header", offset=offset + field, expected=expected, actual=actual
    )
