"""The block allocation table of a VHDX file, and the sector bitmaps of differencing disks ([MS-VHDX] 2.4, 2.5).

The table is read in slices, when they are needed: that of a large disk has up to 512 MiB.
"""

from __future__ import annotations

import sys
import threading
from array import array
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

from guestctl.block.bitmap import BitRuns
from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.vhdx import layout
from guestctl.disk.formats.vhdx.header import Region
from guestctl.disk.formats.vhdx.layout import State
from guestctl.disk.formats.vhdx.metadata import Metadata

_SLICE_BITS = 13  # log2 of the entries
_MAX_SLICES = 256
_MAX_BITMAPS = 64


class Payload(NamedTuple):
    """Payload blocks in one state; where they are present they are neighbours in the file, from byte ``offset`` on."""

    state: int
    block_count: int
    offset: int


class TableSlice(NamedTuple):
    """Consecutive entries, and the indexes of those that do not continue the one before."""

    entries: array[int]
    breaks: array[int]


class BlockTable:
    """Where the blocks of a disk lie in its file."""

    def __init__(self, device: BlockDevice, region: Region, metadata: Metadata) -> None:
        self._device = device
        self._offset = region.offset
        self._block_size = metadata.block_size
        self._size = metadata.virtual_disk_size
        self._ratio = metadata.chunk_ratio
        self._block_sectors = metadata.block_size // metadata.logical_sector_size
        self._differencing = metadata.parent_locator is not None
        self.entry_count = metadata.bat_entries
        if self.entry_count * 8 > region.length:
            message = f"{self.entry_count} entries do not fit in a region of {region.length} bytes"
            raise InvalidFormat(message, structure="BAT", offset=region.offset)
        self._slices: dict[int, TableSlice] = {}
        self._bitmaps: dict[int, BitRuns] = {}
        self._lock = threading.Lock()

    def locate(self, block: int) -> Payload:
        """Payload blocks from `block` on, in one chunk."""
        chunk, within = divmod(block, self._ratio)
        index = chunk * (self._ratio + 1) + within
        (entries, breaks), place = self._slice(index)
        entry = entries[place]
        state = entry & layout.BAT_STATE_MASK
        following = bisect_right(breaks, place)
        stop = breaks[following] if following < len(breaks) else len(entries)
        number = min(stop - place, self._ratio - within)
        offset = entry & layout.BAT_OFFSET_MASK
        if state >= State.FULLY_PRESENT:
            return Payload(state, self._in_file(block, number, offset, index), offset)
        if state == 4:
            raise self._invalid(f"block {block} has state {state}", index)
        return Payload(state, number, 0)

    def _in_file(self, block: int, number: int, offset: int, index: int) -> int:
        """How many of `number` blocks at `offset` are in the file; of the last one only what is in the disk must be."""
        available = self._device.size - offset
        whole = available // self._block_size
        if offset >= layout.MIB and whole >= number:
            return number
        if offset < layout.MIB or (whole < 1 and available < self._size - block * self._block_size):
            raise self._invalid(f"block {block} at {offset:#x} is not in the file of {self._device.size} bytes", index)
        return max(1, whole)

    def sectors(self, block: int) -> BitRuns:
        """The bits of a partially present block: which of its sectors are in the file."""
        found = self._bitmaps.get(block)
        if found is not None:
            return found
        chunk, within = divmod(block, self._ratio)
        index = chunk * (self._ratio + 1) + self._ratio
        if not self._differencing:
            raise self._invalid(f"block {block} is partially present, and there is no parent", index)
        (entries, _), place = self._slice(index)
        entry = entries[place]
        offset = entry & layout.BAT_OFFSET_MASK
        if entry & layout.BAT_STATE_MASK != layout.BITMAP_PRESENT or offset < layout.MIB:
            raise self._invalid(f"block {block} is partially present, and has no sector bitmap", index)
        length = self._block_sectors // 8
        at = offset + within * length
        if at + length > self._device.size:
            message = f"the sector bitmap of block {block} at {at:#x} is not in the file of {self._device.size} bytes"
            raise self._invalid(message, index)
        found = BitRuns(self._device.read(at, length), self._block_sectors, "little")
        with self._lock:
            while len(self._bitmaps) >= _MAX_BITMAPS:
                del self._bitmaps[next(iter(self._bitmaps))]
            self._bitmaps[block] = found
        return found

    def _slice(self, index: int) -> tuple[TableSlice, int]:
        """The slice that holds entry `index`, and the entry's place in it."""
        number = index >> _SLICE_BITS
        return self._slices.get(number) or self.load(number), index & (1 << _SLICE_BITS) - 1

    def load(self, number: int) -> TableSlice:
        """Slice `number` of the table."""
        first = number << _SLICE_BITS
        entry_count = min(1 << _SLICE_BITS, self.entry_count - first)
        entries = array("Q")
        entries.frombytes(self._device.read(self._offset + first * 8, entry_count * 8))
        if sys.byteorder == "big":
            entries.byteswap()
        # From one entry to the next where both belong together; blocks that are partially present are alone.
        steps = [0] * 6 + [self._block_size, None]
        breaks = (number for number, (a, b) in enumerate(pairwise(entries), 1) if b - a != steps[a & 7])
        part = TableSlice(entries, array("I", breaks))
        with self._lock:
            while len(self._slices) >= _MAX_SLICES:
                del self._slices[next(iter(self._slices))]
            self._slices[number] = part
        return part

    @property
    def slice_count(self) -> int:
        return -(-self.entry_count >> _SLICE_BITS)

    def split(self, number: int) -> tuple[array[int], array[int]]:
        """The entries of slice `number`: those of payload blocks, those of sector bitmap blocks."""
        entries = self.load(number).entries[:]
        first = (self._ratio - (number << _SLICE_BITS)) % (self._ratio + 1)
        bitmaps = entries[first :: self._ratio + 1]
        del entries[first :: self._ratio + 1]
        return entries, bitmaps

    def _invalid(self, message: str, index: int) -> InvalidFormat:
        return InvalidFormat(message, structure="BAT", offset=self._offset + index * 8)
