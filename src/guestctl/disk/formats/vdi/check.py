"""``qemu-img check`` of a VDI image: entries of the block map that are too large or the same, and the count of them.

A block that is not in the file counts as well, which qemu-img does not see.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from guestctl.disk.formats.vdi import layout

if TYPE_CHECKING:
    from guestctl.disk.formats.vdi.reader import VdiReader


def check_image(reader: VdiReader) -> dict[str, Any]:
    header = reader.header
    used: list[int] = []
    corruptions = 0
    for entries in reader.blocks.slices():
        allocated = [entry for entry in entries if entry < layout.ZERO]
        inside = [entry for entry in allocated if entry < header.block_count]
        corruptions += len(allocated) - len(inside)
        used += inside
    used.sort()
    corruptions += sum(1 for before, after in pairwise(used) if before == after)
    corruptions += len(used) != header.allocated_count
    stride = header.block_extra + header.block_size
    # The last block of the disk may lie anywhere and be shorter than the others.
    last_bytes = header.disk_size - max(0, -(-header.disk_size // header.block_size) - 1) * header.block_size
    available = reader.file.size - header.data_offset - header.block_extra
    corruptions += sum(1 for entry in used if entry * stride + last_bytes > available)
    result: dict[str, Any] = {"filename": reader.path, "format": reader.format.value, "check-errors": 0}
    if corruptions:
        result["corruptions"] = corruptions
    return result
