"""Allocation groups: what is in use, and what is free (chapter "Allocation Groups").

The counters of the superblock are up to date after a clean unmount only, unless the filesystem
was made without lazy counters; otherwise those of the groups are summed up.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import Usage
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.superblock import Volume

_AGF_SECTOR, _AGI_SECTOR = 1, 2
# What the kernel keeps in each group for itself, so that freeing always has room to work with.
_SET_ASIDE_BLOCKS = 8
_CHUNK_INODES = 64
_STRUCTURE = "free space B+tree block"


def read_usage(volume: Volume, *, clean: bool) -> Usage:
    """As ``statvfs`` has it for a read-only mount."""
    superblock = volume.superblock
    inodes, free_inodes, free = superblock.inodes_count, superblock.free_inodes_count, superblock.free_blocks_count
    if not clean and superblock.lazy_counters:
        inodes, free_inodes, free = _counted(volume)
    size = max(0, superblock.blocks_count - superblock.log_blocks)
    free = max(0, free - superblock.ag_count * _SET_ASIDE_BLOCKS)
    per_block_log = superblock.inodes_per_block_log
    # Inodes are made as they are needed, of up to a share of all blocks, in whole chunks.
    possible = inodes + (free << per_block_log)
    if superblock.inode_percent:
        chunk_blocks = max(1, _CHUNK_INODES >> per_block_log)
        blocks = superblock.blocks_count * superblock.inode_percent // 100
        possible = min(possible, blocks // chunk_blocks * chunk_blocks << per_block_log)
    possible = max(possible, inodes)
    return Usage(
        size=size << volume.block_log,
        used=max(0, size - free) << volume.block_log,
        available=free << volume.block_log,
        inodes=possible,
        inodes_used=max(0, inodes - free_inodes),
    )


def _counted(volume: Volume) -> tuple[int, int, int]:
    """(inodes, free inodes, free blocks) of all groups."""
    inodes = free_inodes = free = 0
    for number in range(volume.superblock.ag_count):
        sector, offset = _header(volume, number, _AGF_SECTOR, L.AGF_MAGIC, L.AGF_CRC)
        _, _, _, _, _, list_blocks, free_blocks, tree_blocks = L.AGF.unpack_from(sector)
        free += list_blocks + free_blocks + tree_blocks
        sector, offset = _header(volume, number, _AGI_SECTOR, L.AGI_MAGIC, L.AGI_CRC)
        _, _, _, count, free_count = L.AGI.unpack_from(sector)
        if free_count > count:
            raise InvalidFormat(f"{free_count} of {count} inodes free", structure="AGI", offset=offset)
        inodes += count
        free_inodes += free_count
    if free > volume.superblock.blocks_count:
        raise InvalidFormat(f"{free} blocks free", structure="AGF", offset=offset, actual=free)
    return inodes, free_inodes, free


def _header(volume: Volume, number: int, sector: int, magic: bytes, crc: int) -> tuple[bytes, int]:
    """A sector at the start of a group, and where it lies; it has the number and the length of its group."""
    superblock = volume.superblock
    offset = (number * superblock.ag_blocks << volume.block_log) + sector * superblock.sector_size
    data = bytes(volume.device.read(offset, superblock.sector_size))
    structure = magic[1:].decode()
    if data[:4] != magic:
        raise InvalidFormat(f"magic is {data[:4]!r}", structure=structure, offset=offset, actual=data[:4])
    if volume.verify:
        volume.check_crc(data, crc, structure, offset)
    _, sequence, length = L.AGF.unpack_from(data)[:3]
    if sequence != number or length != volume.ag_blocks(number):
        message = f"is that of group {sequence} with {length} blocks"
        raise InvalidFormat(message, structure=structure, offset=offset, actual=sequence)
    return data, offset


def free_ranges(volume: Volume) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of free extents, ascending."""
    if volume.superblock.needs_repair:
        raise UnsupportedFeature("the free blocks of a filesystem that needs xfs_repair", feature="free blocks")
    for number in range(volume.superblock.ag_count):
        start = number * volume.superblock.ag_blocks
        for block, count in _free_extents(volume, number):
            yield (start + block) << volume.block_log, count << volume.block_log


def _free_extents(volume: Volume, number: int) -> Iterator[tuple[int, int]]:
    sector, offset = _header(volume, number, _AGF_SECTOR, L.AGF_MAGIC, L.AGF_CRC)
    _, _, _, root, levels, *_ = L.AGF.unpack_from(sector)
    if not 0 < levels <= L.MAX_FREE_SPACE_LEVELS:
        raise InvalidFormat(f"agf_levels is {levels}", structure="AGF", offset=offset, actual=levels)
    v5 = volume.superblock.v5
    header = L.SHORT_HEADER_V5 if v5 else L.SHORT_HEADER_V4
    maximum = (volume.block_size - header) // (L.FREE_SPACE.size + L.SHORT_POINTER.size)
    expected, limit = 1, volume.ag_blocks(number)
    pending = [(root, levels - 1)]
    while pending:
        block, level = pending.pop()
        node, offset, count = _read_node(volume, number, block, level)
        records = node[header : header + count * L.FREE_SPACE.size]
        if level:
            at = header + maximum * L.FREE_SPACE.size
            pointers = node[at : at + count * L.SHORT_POINTER.size]
            if len(pointers) != count * L.SHORT_POINTER.size or not count:
                raise InvalidFormat(f"bb_numrecs is {count}", structure=_STRUCTURE, offset=offset, actual=count)
            pending.extend((pointer, level - 1) for (pointer,) in reversed(list(L.SHORT_POINTER.iter_unpack(pointers))))
            continue
        if len(records) != count * L.FREE_SPACE.size or (not count and levels > 1):
            raise InvalidFormat(f"bb_numrecs is {count}", structure=_STRUCTURE, offset=offset, actual=count)
        # Since records ascend from leaf to leaf, no block can be met twice.
        for start, length in L.FREE_SPACE.iter_unpack(records):
            if start < expected or not length or start + length > limit:
                message = f"{length} free blocks from {start}, expected some from {expected} on"
                raise InvalidFormat(message, structure=_STRUCTURE, offset=offset, actual=start)
            expected = start + length
            yield start, length


def _read_node(volume: Volume, number: int, block: int, level: int) -> tuple[bytes, int, int]:
    v5 = volume.superblock.v5
    if not 0 < block < volume.ag_blocks(number):
        raise InvalidFormat(f"block {block} is outside the group", structure=_STRUCTURE, offset=0, actual=block)
    offset = (number * volume.superblock.ag_blocks + block) << volume.block_log
    node = bytes(volume.device.read(offset, volume.block_size))
    magic, actual, count = L.BLOCK_HEADER.unpack_from(node)
    if magic != (L.FREE_SPACE_MAGIC_V5 if v5 else L.FREE_SPACE_MAGIC_V4) or actual != level:
        message = f"bb_magic is {magic!r}, bb_level {actual}"
        raise InvalidFormat(message, structure=_STRUCTURE, offset=offset, expected=level, actual=actual)
    if volume.verify:
        volume.check_crc(node, L.SHORT_CRC, _STRUCTURE, offset)
    return node, offset, count
