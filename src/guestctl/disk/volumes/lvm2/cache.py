"""Writeback caches: blocks of a slow volume that are newer on a fast one (drivers/md/dm-cache-metadata.c).

What is valid in a cache is never older than the origin, so all of it is read from there.
"""

from __future__ import annotations

import struct

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.lvm2.metadata import read_array, read_block
from guestctl.disk.volumes.lvm2.snapshot import ChunkOverlay

# magic, version; mapping_root; data_block_size, metadata_block_size, cache_blocks; incompat_flags
_SUPERBLOCK = struct.Struct("<32xQI20x128xQ32xIII8xI")
_SUPERBLOCK_XOR = 9031977
_MAGIC = 0o6142003
_MAX_VERSION = 2
_SECTOR_BYTES = 512
_METADATA_BLOCK_SECTORS = 8
_FLAG_BITS = 16
_VALID = 1


class CacheDevice(ChunkOverlay):
    """`origin`, with the blocks that the cache has."""

    def __init__(self, origin: BlockDevice, metadata: BlockDevice, data: BlockDevice) -> None:
        superblock = read_block(metadata, 0, _SUPERBLOCK_XOR, "cache superblock")
        magic, version, root, block_sectors, metadata_sectors, count, incompatible = _SUPERBLOCK.unpack_from(superblock)
        if magic != _MAGIC:
            raise InvalidFormat(f"the magic is {magic}", structure="cache superblock", offset=32, actual=magic)
        if not 0 < version <= _MAX_VERSION or incompatible:
            message = f"caches of version {version} with features {incompatible:#x}"
            raise UnsupportedFeature(message, feature="cache version")
        chunk = block_sectors * _SECTOR_BYTES
        if metadata_sectors != _METADATA_BLOCK_SECTORS or not chunk or count * chunk > data.size:
            message = f"{count} blocks of {chunk} bytes in {data.size}"
            raise InvalidFormat(message, structure="cache superblock", offset=232)
        mapping = enumerate(read_array(metadata, root, count))
        cached = {entry >> _FLAG_BITS: number for number, entry in mapping if entry & _VALID}
        super().__init__(origin, data, chunk, cached)
