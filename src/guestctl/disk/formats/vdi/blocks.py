"""The block map: for each block of the disk the number of its block in the file, `layout.FREE` or `layout.ZERO`.

It is read in slices, when they are needed: that of a disk of 2 TiB has 8 MiB.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterator
from itertools import compress, count, repeat
from operator import ne
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.disk.formats.vdi import layout
from guestctl.disk.formats.vdi.header import Header

_SLICE_BITS = 14  # log2 of the entries
_MAX_SLICES = 256
_WINDOW_ENTRIES = 256  # more entries are looked at only where these go on as the first


class BlockRun(NamedTuple):
    """Blocks from the asked one on: without a place, or one after the other in the file from ``entry`` on."""

    entry: int
    block_count: int


class BlockMap:
    def __init__(self, device: BlockDevice, header: Header) -> None:
        self._device = device
        self._offset = header.blocks_offset
        self._count = header.block_count
        self._slices: dict[int, array[int]] = {}
        self._lock = threading.Lock()

    def entry(self, block: int) -> int:
        entries = self._slices.get(block >> _SLICE_BITS)
        if entries is None:
            entries = self._load(block >> _SLICE_BITS)
        return entries[block & (1 << _SLICE_BITS) - 1]

    def run(self, block: int) -> BlockRun:
        """What `block` is, and how many that follow it go on in the same way."""
        first = self.entry(block)
        entries = self._slices.get(block >> _SLICE_BITS) or self._load(block >> _SLICE_BITS)
        index = block & (1 << _SLICE_BITS) - 1
        found = _run_length(entries[index : index + _WINDOW_ENTRIES], first)
        if found == _WINDOW_ENTRIES:
            found = _run_length(entries[index:], first)
        return BlockRun(first, found)

    def slices(self) -> Iterator[array[int]]:
        """All entries."""
        for number in range(-(-self._count >> _SLICE_BITS)):
            yield self._load(number)

    def _load(self, number: int) -> array[int]:
        first = number << _SLICE_BITS
        entries = array("I")
        entries.frombytes(self._device.read(self._offset + first * 4, min(1 << _SLICE_BITS, self._count - first) * 4))
        if sys.byteorder == "big":
            entries.byteswap()
        with self._lock:
            while len(self._slices) >= _MAX_SLICES:
                del self._slices[next(iter(self._slices))]
            self._slices[number] = entries
        return entries


def _run_length(entries: array[int], first: int) -> int:
    expected = repeat(first) if first >= layout.ZERO else count(first)
    return next(compress(count(), map(ne, entries, expected)), len(entries))
