"""Direct and indirect blocks, which map the files of ext2 and ext3.

Section "Direct/Indirect Block Addressing" of the kernel's ext4 documentation. Twelve blocks are in
the inode; block 12 points to a block of pointers, 13 to a block of those, 14 to a block of those
again. A pointer of 0, at any level, is a hole. Blocks of pointers carry no checksum.
"""

from __future__ import annotations

import struct

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.extents import FileData, Window, make_window
from guestctl.disk.filesystems.ext4.inode import InodeStat
from guestctl.disk.filesystems.ext4.superblock import Volume

_STRUCTURE = "block map"


def open_block_map(volume: Volume, inode: InodeStat, size: int) -> FileData:
    """The first `size` bytes of a file that has a block map. Raises `InvalidFormat`."""
    block_map = _BlockMap(volume, inode, size)
    direct = block_map.direct()
    return FileData(size, direct, block_map.load if size > direct.end else None)


class _BlockMap:
    def __init__(self, volume: Volume, inode: InodeStat, size: int) -> None:
        self._volume = volume
        self._size = size
        self._offset = inode.offset + L.I_BLOCK_OFFSET
        self._pointers: tuple[int, ...] = L.BLOCK_MAP.unpack(inode.i_block)
        self._per_block = volume.block_size // 4

    def direct(self) -> Window:
        return self._window(self._pointers[: L.DIRECT_BLOCKS], 0, self._offset)

    def load(self, offset: int) -> Window:
        """The last level's block of pointers that covers `offset`, or the hole where there is none."""
        shift = self._volume.block_shift
        block = offset >> shift
        if block < L.DIRECT_BLOCKS:
            return self.direct()
        base = L.DIRECT_BLOCKS
        for pointer, levels in zip(self._pointers[L.DIRECT_BLOCKS :], (1, 2, 3), strict=True):
            span = self._per_block**levels
            if block < base + span:
                return self._descend(pointer, base, span, block)
            base += span
        return make_window(self._volume, (), base << shift, self._size)

    def _descend(self, pointer: int, base: int, span: int, block: int) -> Window:
        """The window around `block` below `pointer`, whose `span` blocks begin at `base`."""
        shift = self._volume.block_shift
        while pointer:
            pointers = self._read(pointer)
            span //= self._per_block
            if span == 1:
                return self._window(pointers, base, pointer << shift)
            index = (block - base) // span
            base += index * span
            pointer = pointers[index]
        return make_window(self._volume, (), base << shift, (base + span) << shift)

    def _read(self, block: int) -> tuple[int, ...]:
        return struct.unpack(f"<{self._per_block}I", self._volume.read_block(block, _STRUCTURE))

    def _window(self, pointers: tuple[int, ...], first: int, offset: int) -> Window:
        if max(pointers) >= self._volume.blocks_count:
            raise InvalidFormat(
                f"points to block {max(pointers)} of {self._volume.blocks_count}",
                structure=_STRUCTURE,
                offset=offset,
                actual=max(pointers),
            )
        runs = []
        start, count = 0, len(pointers)
        while start < count:
            physical = pointers[start]
            end = start + 1
            if physical:
                while end < count and pointers[end] == physical + end - start:
                    end += 1
                runs.append((first + start, end - start, physical))
            start = end
        shift = self._volume.block_shift
        return make_window(self._volume, runs, first << shift, (first + count) << shift)
