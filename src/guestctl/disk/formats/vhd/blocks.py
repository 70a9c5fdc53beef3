"""The block allocation table of a dynamic or differencing disk ("Block Allocation Table and Data Blocks").

The table is read in slices, when they are needed: that of a disk of 2 TiB has 4 MiB.
"""

from __future__ import annotations

import sys
import threading
from array import array
from bisect import bisect_left
from itertools import compress, count, repeat
from operator import ne
from typing import NamedTuple

from guestctl.block.bitmap import BitRuns
from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.vhd import layout
from guestctl.disk.formats.vhd.header import DynamicHeader

_SLICE_BITS = 14  # log2 of the entries
_MAX_SLICES = 256
_MAX_BITMAPS = 256


class Unallocated(NamedTuple):
    """Blocks from the asked one on that are not in the file."""

    block_count: int


class TableSlice(NamedTuple):
    """Consecutive entries, and the indexes of those that are in use."""

    entries: array[int]
    used: array[int]


class BlockTable:
    """Where the blocks of a disk lie in its file."""

    def __init__(self, device: BlockDevice, header: DynamicHeader, size: int) -> None:
        self._device = device
        self._offset = header.table_offset
        self._entry_count = header.max_table_entries
        self._size = size
        self._block_bytes = header.block_size
        self.bitmap_bytes = layout.bitmap_bytes(header.block_size)
        self._slices: dict[int, TableSlice] = {}
        self._bitmaps: dict[int, BitRuns] = {}
        self._lock = threading.Lock()

    def locate(self, block: int) -> int | Unallocated:
        """The byte offset of the sector bitmap of `block`, which its data follows; or how many blocks are missing."""
        number = block >> _SLICE_BITS
        entries, used = self._slices.get(number) or self.load(number)
        index = block & (1 << _SLICE_BITS) - 1
        entry = entries[index]
        if entry == layout.UNUSED:
            following = bisect_left(used, index)
            return Unallocated((used[following] if following < len(used) else len(entries)) - index)
        offset = entry * layout.SECTOR_BYTES
        # Of the last block only what is in the disk must be there.
        data_bytes = min(self._block_bytes, self._size - block * self._block_bytes)
        if not entry or offset + self.bitmap_bytes + data_bytes > self._device.size:
            message = f"block {block} at {offset:#x} is not in the file of {self._device.size} bytes"
            raise InvalidFormat(message, structure="block allocation table", offset=self._offset + block * 4)
        return offset

    def sectors(self, offset: int) -> BitRuns:
        """The sector bitmap at `offset`."""
        found = self._bitmaps.get(offset)
        if found is None:
            bitmap = self._device.read(offset, self.bitmap_bytes)
            found = BitRuns(bitmap, self._block_bytes // layout.SECTOR_BYTES, "big")
            with self._lock:
                while len(self._bitmaps) >= _MAX_BITMAPS:
                    del self._bitmaps[next(iter(self._bitmaps))]
                self._bitmaps[offset] = found
        return found

    def load(self, number: int) -> TableSlice:
        """Slice `number` of the table."""
        first = number << _SLICE_BITS
        entry_count = min(1 << _SLICE_BITS, self._entry_count - first)
        entries = array("I")
        entries.frombytes(self._device.read(self._offset + first * 4, entry_count * 4))
        if sys.byteorder == "little":
            entries.byteswap()
        part = TableSlice(entries, array("I", compress(count(), map(ne, entries, repeat(layout.UNUSED)))))
        with self._lock:
            while len(self._slices) >= _MAX_SLICES:
                del self._slices[next(iter(self._slices))]
            self._slices[number] = part
        return part

    @property
    def slice_count(self) -> int:
        return -(-self._entry_count >> _SLICE_BITS)
