"""The block allocation table of a new VHDX file."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from guestctl.disk.formats.vhdx.metadata import Metadata

_SLICE_ENTRIES = 1 << 16


class NewTable:
    """Entries by payload block; those that are not set are in the state `absent`.

    Only the slices in which something was set are in memory: the table of a large disk has up to 512 MiB.
    """

    def __init__(self, metadata: Metadata, absent: int) -> None:
        self._entry_count = metadata.bat_entries
        self._ratio = metadata.chunk_ratio
        self._block_size = metadata.block_size
        self._absent = absent
        self._slices: dict[int, array[int]] = {}

    def set_blocks(self, first: int, stop: int, state: int, offset: int, step: int) -> None:
        """The payload blocks from `first` up to `stop` lie from `offset` on, `step` bytes apart."""
        while first < stop:
            chunk, within = divmod(first, self._ratio)
            index = chunk * (self._ratio + 1) + within
            number, place = divmod(index, _SLICE_ENTRIES)
            count = min(stop - first, self._ratio - within, _SLICE_ENTRIES - place)
            if step:
                values = array("Q", range(offset | state, (offset | state) + count * step, step))
            else:
                values = array("Q", (offset | state,)) * count
            self._slice(number)[place : place + count] = values
            offset += count * step
            first += count

    def set_bitmap(self, chunk: int, entry: int) -> None:
        """The entry of the sector bitmap block of `chunk`."""
        number, place = divmod(chunk * (self._ratio + 1) + self._ratio, _SLICE_ENTRIES)
        self._slice(number)[place] = entry

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """The table in ascending order: an offset in it and the bytes there, without those that are all zeros."""
        for number in range(-(-self._entry_count // _SLICE_ENTRIES)):
            if number not in self._slices and not self._absent:
                continue
            entries = self._slices.get(number) or self._absent_slice(number)
            if sys.byteorder == "big":
                entries = entries[:]
                entries.byteswap()
            yield number * _SLICE_ENTRIES * 8, entries.tobytes()

    def _slice(self, number: int) -> array[int]:
        if number not in self._slices:
            self._slices[number] = self._absent_slice(number)
        return self._slices[number]

    def _absent_slice(self, number: int) -> array[int]:
        first = number * _SLICE_ENTRIES
        entries = array("Q", (self._absent,)) * min(_SLICE_ENTRIES, self._entry_count - first)
        bitmap = (self._ratio - first) % (self._ratio + 1)
        count = len(range(bitmap, len(entries), self._ratio + 1))
        entries[bitmap :: self._ratio + 1] = array("Q", (0,)) * count
        return entries
