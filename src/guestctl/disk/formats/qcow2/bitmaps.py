"""The directory of persistent dirty bitmaps ("Bitmap directory"); the bitmaps themselves are not read."""

from __future__ import annotations

from dataclasses import dataclass

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.header import BitmapsExtension, decode_name


@dataclass(frozen=True, slots=True)
class Bitmap:
    """An entry of the directory; ``granularity`` in bytes, ``bitmap_table_size`` in entries."""

    name: str
    flags: int
    granularity: int
    bitmap_table_offset: int
    bitmap_table_size: int


def read_bitmaps(device: BlockDevice, extension: BitmapsExtension) -> list[Bitmap]:
    """Every bitmap that the directory lists."""
    start, size = extension.bitmap_directory_offset, extension.bitmap_directory_size
    if extension.nb_bitmaps > layout.MAX_BITMAPS:
        raise _invalid(f"{extension.nb_bitmaps} bitmaps, more than {layout.MAX_BITMAPS}", start)
    if size > extension.nb_bitmaps * _entry_bytes(layout.MAX_BITMAP_NAME_BYTES, 0) or start + size > device.size:
        raise _invalid(f"{size} bytes for {extension.nb_bitmaps} bitmaps in a file of {device.size}", start)
    directory = memoryview(device.read(start, size))
    bitmaps = []
    offset = 0
    for _ in range(extension.nb_bitmaps):
        if offset + layout.BITMAP.size > size:
            raise _invalid("an entry reaches past the end of the directory", start + offset)
        table_offset, table_size, flags, _, granularity_bits, name_size, extra_size = layout.BITMAP.unpack_from(
            directory, offset
        )
        name_start = offset + layout.BITMAP.size + extra_size
        if name_start + name_size > size:
            raise _invalid("an entry reaches past the end of the directory", start + offset)
        if granularity_bits > 63:
            raise _invalid(f"granularity_bits is {granularity_bits}", start + offset + 17)
        name = decode_name(directory[name_start : name_start + name_size])
        bitmaps.append(Bitmap(name, flags, 1 << granularity_bits, table_offset, table_size))
        offset += _entry_bytes(name_size, extra_size)
    return bitmaps


def _entry_bytes(name_size: int, extra_size: int) -> int:
    return layout.BITMAP.size + extra_size + name_size + 7 & ~7


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="bitmap directory", offset=offset)
