"""The blocks of a file: twelve direct ones, then one, two and three levels of tables.

Addresses count fragments; a block is a few of them, and the last block of a file without tables may
be shorter. Address 0 is a hole. A table is parsed as a whole when a read comes its way.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence

from guestctl.block import BlockDevice
from guestctl.block.device import Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ufs import layout as L
from guestctl.disk.filesystems.ufs.superblock import Superblock

_STRUCTURE = "indirect block"
_MAX_TABLES = 16


class Tables:
    """What the files of a filesystem share: where addresses lead, and how a table of them is decoded."""

    def __init__(self, device: BlockDevice, superblock: Superblock) -> None:
        self.device = device
        self.superblock = superblock
        self.count = superblock.block_size // (4 if superblock.version == 1 else 8)
        self._struct = struct.Struct(f"{superblock.order}{self.count}{'I' if superblock.version == 1 else 'Q'}")

    def read(self, address: int) -> tuple[int, ...]:
        """The addresses in the block at `address`."""
        superblock = self.superblock
        offset = address * superblock.fragment_size
        if address + superblock.block_size // superblock.fragment_size > superblock.fragments:
            raise InvalidFormat(f"address {address} is outside the filesystem", structure=_STRUCTURE, offset=offset)
        return self._struct.unpack(self.device.read(offset, superblock.block_size))

    def extents(self, addresses: Sequence[int], start: int, end: int) -> tuple[list[int], list[Extent]]:
        """The extents of neighbouring blocks, the first of which begins at byte `start`; the last ends at `end`."""
        superblock, device = self.superblock, self.device
        block, fragment = superblock.block_size, superblock.fragment_size
        extents: list[Extent] = []
        position = first = start
        source_offset = expected = -1
        for address in addresses:
            if position >= end:
                break
            offset = address * fragment
            if position == start or (offset != expected if address else expected):
                if position > first:
                    extents.append(_extent(first, position, device, source_offset))
                first, source_offset = position, offset
            length = min(block, -(-(end - position) // fragment) * fragment)
            if address * fragment + length > superblock.fragments * fragment:
                message = f"address {address} is outside the filesystem"
                raise InvalidFormat(message, structure=_STRUCTURE, offset=superblock.offset)
            expected = offset + block if address else 0
            position += block
        if position > first:
            extents.append(_extent(first, min(position, end), device, source_offset))
        return [extent.start for extent in extents], extents


def _extent(start: int, end: int, device: BlockDevice, offset: int) -> Extent:
    return Extent(start, end - start, device if offset else None, offset)


class FileData(MappedDevice):
    """The `size` bytes of a file with these fifteen addresses."""

    def __init__(self, tables: Tables, addresses: tuple[int, ...], size: int) -> None:
        self.size = size
        self._tables = tables
        self._addresses = addresses
        self._known: dict[int, tuple[list[int], list[Extent]]] = {}

    def extent(self, offset: int) -> Extent:
        first, level, index = self._place(offset // self._tables.superblock.block_size)
        found = self._known.get(first)
        if found is None:
            if len(self._known) >= _MAX_TABLES:
                self._known = {}
            found = self._known[first] = self._load(first, level, index)
        starts, extents = found
        return extents[bisect_right(starts, offset) - 1]

    def _place(self, block: int) -> tuple[int, int, int]:
        """(first block of the table that has `block`, its level, the table's index in that level)."""
        if block < L.DIRECT_BLOCKS:
            return 0, 0, 0
        count, first = self._tables.count, L.DIRECT_BLOCKS
        for level in range(1, L.INDIRECT_LEVELS + 1):
            if block < first + count**level:
                index = (block - first) // count
                return first + index * count, level, index
            first += count**level
        raise InvalidFormat(f"block {block} is beyond the largest file", structure="inode", offset=0)

    def _load(self, first: int, level: int, index: int) -> tuple[list[int], list[Extent]]:
        tables = self._tables
        block = tables.superblock.block_size
        start = first * block
        if not level:
            addresses: Sequence[int] = self._addresses[: L.DIRECT_BLOCKS]
            return tables.extents(addresses, 0, min(self.size, L.DIRECT_BLOCKS * block))
        address = self._addresses[L.DIRECT_BLOCKS + level - 1]
        for above in range(level - 2, -1, -1):
            if address:
                address = tables.read(address)[index // tables.count**above % tables.count]
        end = min(self.size, (first + tables.count) * block)
        if not address:
            return [start], [Extent(start, end - start, None)]
        return tables.extents(tables.read(address), start, end)
