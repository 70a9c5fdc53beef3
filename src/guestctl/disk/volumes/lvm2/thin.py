"""Thin volumes: blocks of a pool that are given out when they are written (drivers/md/dm-thin-metadata.c).

The pool's metadata has a tree from numbers of volumes to roots of trees, which lead from blocks of a
volume to blocks of the pool. Volumes that share blocks are snapshots of each other.
"""

from __future__ import annotations

import struct

from guestctl.block import BlockDevice, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.lvm2.metadata import Tree, read_block

# magic, version; data_mapping_root; data_block_size, metadata_block_size; incompat_flags
_SUPERBLOCK = struct.Struct("<32xQI12x8x256xQ8xII16xI")
_SUPERBLOCK_XOR = 160774
_MAGIC = 27022010
_MAX_VERSION = 2
_SECTOR_BYTES = 512
_METADATA_BLOCK_SECTORS = 8
_TIME_BITS = 24


class ThinPool:
    """The blocks of a pool, and who has them."""

    def __init__(self, metadata: BlockDevice, data: BlockDevice) -> None:
        superblock = read_block(metadata, 0, _SUPERBLOCK_XOR, "thin superblock")
        magic, version, root, block_sectors, metadata_sectors, incompatible = _SUPERBLOCK.unpack_from(superblock)
        if magic != _MAGIC:
            raise InvalidFormat(f"the magic is {magic}", structure="thin superblock", offset=32, actual=magic)
        if not 0 < version <= _MAX_VERSION or incompatible:
            message = f"thin pools of version {version} with features {incompatible:#x}"
            raise UnsupportedFeature(message, feature="thin pool version")
        if metadata_sectors != _METADATA_BLOCK_SECTORS or not block_sectors:
            message = f"blocks of {block_sectors} sectors, of {metadata_sectors} for metadata"
            raise InvalidFormat(message, structure="thin superblock", offset=0)
        self.metadata = metadata
        self.data = data
        self.block_bytes = block_sectors * _SECTOR_BYTES
        self._volumes = Tree(metadata, root)

    def mapping(self, device_id: int) -> Tree:
        """The blocks of one volume."""
        root = self._volumes.get(device_id)
        if root is None:
            raise InvalidFormat(f"no volume {device_id}", structure="thin superblock", offset=0)
        return Tree(self.metadata, root)


class ThinDevice(MappedDevice):
    """A thin volume; where it has no block it is zeros, or its external `origin`."""

    def __init__(self, pool: ThinPool, device_id: int, size: int, origin: BlockDevice | None) -> None:
        self.size = size
        self.sector_size = pool.data.sector_size
        self._data = pool.data
        self._block = pool.block_bytes
        self._mapping = pool.mapping(device_id)
        self._origin = origin

    def extent(self, offset: int) -> Extent:
        block = offset // self._block
        keys, values, index, end = self._mapping.find(block)
        start = block * self._block
        if index < 0 or keys[index] != block:
            following = keys[index + 1] if index + 1 < len(keys) else end
            return self._hole(offset, following * self._block)
        first = last = values[index] >> _TIME_BITS
        while (
            index + 1 < len(keys) and keys[index + 1] == keys[index] + 1 and values[index + 1] >> _TIME_BITS == last + 1
        ):
            index += 1
            last += 1
        if (last + 1) * self._block > self._data.size:
            raise InvalidFormat(f"block {last} is outside of the pool", structure="thin mapping", offset=0, actual=last)
        return Extent(start, (last + 1 - first) * self._block, self._data, first * self._block)

    def _hole(self, offset: int, end: int) -> Extent:
        """The external origin may end anywhere in a block."""
        if self._origin is None or offset >= self._origin.size:
            return Extent(offset, end - offset, None)
        return Extent(offset, min(end, self._origin.size) - offset, self._origin, offset)
