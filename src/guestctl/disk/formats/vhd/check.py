"""What can be checked of a VHD file: its checksums, and that no two of its structures overlap.

qemu-img checks nothing here; the keys are those it has for other formats.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from guestctl.disk.formats.vhd import layout

if TYPE_CHECKING:
    from guestctl.disk.formats.vhd.reader import DynamicReader, VhdReader


def check_image(reader: VhdReader) -> dict[str, Any]:
    """The counts under qemu-img's keys, without those that are 0."""
    from guestctl.disk.formats.vhd.reader import DynamicReader

    corruptions = reader.damaged_structures
    result: dict[str, Any] = {"filename": reader.path, "format": reader.format.value, "check-errors": 0}
    optional: dict[str, int] = {}
    if isinstance(reader, DynamicReader):
        optional, overlaps = _check_blocks(reader)
        corruptions += overlaps
    optional["corruptions"] = corruptions
    return result | {key: value for key, value in optional.items() if value}


def _check_blocks(reader: DynamicReader) -> tuple[dict[str, int], int]:
    table, header = reader.table, reader.header
    block_sectors = (table.bitmap_bytes + header.block_size) // layout.SECTOR_BYTES
    block_count = -(-reader.size // header.block_size)
    used: list[int] = []
    fragmented = 0
    for number in range(table.slice_count):
        part = table.load(number)
        entries = [part.entries[index] for index in part.used]
        fragmented += sum(1 for before, after in pairwise(entries) if after < before)
        used += entries
    used.sort()
    first = -(-(header.table_offset + header.max_table_entries * 4) // layout.SECTOR_BYTES)
    end = reader.end_offset // layout.SECTOR_BYTES
    corruptions = sum(1 for before, after in pairwise(used) if after - before < block_sectors)
    corruptions += sum(1 for entry in used if entry < first or entry + block_sectors > end)
    counts = {
        "image-end-offset": reader.end_offset,
        "total-clusters": block_count,
        "allocated-clusters": len(used),
        "fragmented-clusters": fragmented,
    }
    return counts, corruptions
