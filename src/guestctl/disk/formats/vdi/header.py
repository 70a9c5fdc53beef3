"""The pre-header and the header."""

from __future__ import annotations

from dataclasses import dataclass

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vdi import layout
from guestctl.disk.formats.vdi.layout import ImageType

_OFFSETS = {"cbHeader": 72, "offBlocks": 0x154, "cbDisk": 0x170, "cbBlock": 0x178, "cbBlockExtra": 0x17C}
_OFFSETS |= {"cBlocks": 0x180, "cBlocksAllocated": 0x184}


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields; sizes and offsets are in bytes, UUIDs as they are stored."""

    image_type: ImageType
    blocks_offset: int  # of the block map
    data_offset: int
    disk_size: int
    block_size: int
    block_extra: int
    block_count: int
    allocated_count: int
    uuid_create: bytes
    uuid_modify: bytes
    uuid_linkage: bytes = layout.NIL_UUID  # uuid_create of the parent
    uuid_parent_modify: bytes = layout.NIL_UUID


def read_header(device: BlockDevice) -> Header:
    """The header of the image in `device`, whose block map lies in it."""
    length = layout.PRE_HEADER.size + layout.HEADER.size
    if device.size < length:
        raise InvalidFormat(f"the file has only {device.size} bytes", structure="header", offset=0)
    header = parse_header(bytes(device.read(0, length)))
    if header.blocks_offset + header.block_count * 4 > device.size:
        raise _invalid(f"a block map of {header.block_count} entries is not in the file", "offBlocks")
    return header


def parse_header(content: bytes) -> Header:
    _, signature, version = layout.PRE_HEADER.unpack_from(content)
    if signature != layout.SIGNATURE:
        raise InvalidFormat(
            f"signature is {signature:#x}",
            structure="pre-header",
            offset=64,
            expected=layout.SIGNATURE,
            actual=signature,
        )
    if version != layout.VERSION:
        name = f"VDI version {version >> 16}.{version & 0xFFFF}"
        raise UnsupportedFeature(f"{name} (1.1 is read)", feature=name)
    fields = layout.HEADER.unpack_from(content, layout.PRE_HEADER.size)
    header_bytes, image_type, _, _, blocks_offset, data_offset = fields[:6]
    disk_size, block_size, block_extra, block_count, allocated_count = fields[11:16]
    if header_bytes < layout.HEADER.size:
        raise _invalid(f"a header of {header_bytes} bytes", "cbHeader")
    if image_type not in (ImageType.NORMAL, ImageType.FIXED, ImageType.DIFF):
        name = "undo image" if image_type == ImageType.UNDO else f"image type {image_type}"
        raise UnsupportedFeature(f"a VDI of type {image_type} ({name})", feature=name)
    if not block_size or block_size % layout.SECTOR_BYTES or block_size > layout.MAX_BLOCK_BYTES:
        raise _invalid(f"block size is {block_size}", "cbBlock")
    if block_extra > layout.MAX_BLOCK_BYTES:
        raise _invalid(f"{block_extra} bytes of extra data for each block", "cbBlockExtra")
    disk_size = -(-disk_size // layout.SECTOR_BYTES) * layout.SECTOR_BYTES
    if disk_size > block_count * block_size:
        raise _invalid(f"{block_count} blocks of {block_size} bytes are no disk of {disk_size}", "cbDisk")
    return Header(
        ImageType(image_type),
        blocks_offset,
        data_offset,
        disk_size,
        block_size,
        block_extra,
        block_count,
        allocated_count,
        *fields[16:20],
    )


def build_header(header: Header) -> bytes:
    """Pre-header and header, as long as VirtualBox writes them."""
    sector_only = (0, 0, 0, layout.SECTOR_BYTES)  # VirtualBox finds a geometry itself
    packed = layout.HEADER.pack(
        layout.HEADER.size + layout.LCHS_GEOMETRY.size,
        header.image_type,
        0,
        b"",
        header.blocks_offset,
        header.data_offset,
        *sector_only,
        0,
        header.disk_size,
        header.block_size,
        header.block_extra,
        header.block_count,
        header.allocated_count,
        header.uuid_create,
        header.uuid_modify,
        header.uuid_linkage,
        header.uuid_parent_modify,
    )
    file_info = b"<<< guestctl VM Virtual Disk Image >>>\n"
    pre_header = layout.PRE_HEADER.pack(file_info, layout.SIGNATURE, layout.VERSION)
    return pre_header + packed + layout.LCHS_GEOMETRY.pack(*sector_only)


def _invalid(message: str, field: str) -> InvalidFormat:
    return InvalidFormat(message, structure=f"header ({field})", offset=_OFFSETS[field])
