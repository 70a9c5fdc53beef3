"""What can be checked of a VHDX file: that no two of its structures overlap and all lie in the file, and checksums.

qemu-img checks the like, and stops at the first error instead of counting.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from guestctl.disk.formats.vhdx import layout
from guestctl.disk.formats.vhdx.layout import State

if TYPE_CHECKING:
    from guestctl.disk.formats.vhdx.reader import VhdxReader


def check_image(reader: VhdxReader) -> dict[str, Any]:
    """The counts under qemu-img's keys, without those that are 0."""
    corruptions = reader.damaged_structures + _count_corruptions(reader)
    result = {"filename": reader.path, "format": reader.format.value, "check-errors": 0}
    return result | ({"corruptions": corruptions} if corruptions else {})


def _count_corruptions(reader: VhdxReader) -> int:
    header, regions, block_size = reader.header, reader.regions, reader.metadata.block_size
    differencing = reader.metadata.parent_locator is not None
    used = [(0, layout.MIB), regions.bat, regions.metadata]
    if header.log_length:
        used.append((header.log_offset, header.log_length))
    corruptions = 0
    for number in range(reader.table.slice_count):
        payload, bitmaps = reader.table.split(number)
        corruptions += sum(1 for entry in payload if entry & 7 == 4 or (entry & 7 == 7 and not differencing))
        offsets = [entry & layout.BAT_OFFSET_MASK for entry in payload if entry & 7 >= State.FULLY_PRESENT]
        used += [(offset, block_size) for offset in offsets]
        offsets = [entry & layout.BAT_OFFSET_MASK for entry in bitmaps if entry & 7 == layout.BITMAP_PRESENT]
        used += [(offset, layout.BITMAP_BLOCK_BYTES) for offset in offsets]
    used.sort()
    corruptions += sum(1 for before, after in pairwise(used) if sum(before) > after[0])
    return corruptions + sum(1 for offset, length in used if offset + length > reader.file.size)
