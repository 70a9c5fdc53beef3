"""Cylinder groups (``struct cg``): their bitmaps of free fragments."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ufs.superblock import Superblock

_MAGIC = 0x090255
_BYTES = 100
# cg_magic at 4, cg_ndblk at 20, cg_freeoff at 96
_GROUP = "4xI12xI72xI"
_ONES = re.compile("1+")
_STRUCTURE = "cylinder group"


def free_ranges(device: BlockDevice, superblock: Superblock) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of the free fragments, whose bits are set. Raises `InvalidFormat`."""
    group_struct = struct.Struct(superblock.order + _GROUP)
    size = superblock.fragment_size
    for group in range(superblock.groups):
        first = group * superblock.fragments_per_group
        offset = (superblock.group_start(group) + superblock.group_block) * size
        block = bytes(device.read(offset, superblock.block_size))
        magic, count, free_offset = group_struct.unpack_from(block)
        if magic != _MAGIC:
            raise InvalidFormat(f"cg_magic is {magic:#x}", structure=_STRUCTURE, offset=offset)
        if count > superblock.fragments_per_group or not _BYTES <= free_offset <= len(block) - -(-count // 8):
            message = f"cg_ndblk is {count}, cg_freeoff {free_offset}"
            raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
        bitmap = block[free_offset : free_offset + -(-count // 8)]
        digits = f"{int.from_bytes(bitmap, 'little'):0{len(bitmap) * 8}b}"[::-1]
        for free in _ONES.finditer(digits, 0, min(count, superblock.fragments - first)):
            yield (first + free.start()) * size, len(free[0]) * size
