"""A disk on which what its filesystems do not use reads as zeros."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from guestctl.block import BlockDevice, Extent, MappedDevice
from guestctl.core.errors import ConversionError, DetectionError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem
from guestctl.disk.partition import PartitionTable

# Below this a hole saves less than what it costs to keep.
_MIN_RANGE_BYTES = 64 << 10


class SparsifiedDevice(MappedDevice):
    """`base` with zeros in `ranges`: (offset, length), ascending, which do not overlap."""

    def __init__(self, base: BlockDevice, ranges: list[tuple[int, int]]) -> None:
        self.base = base
        self.size = base.size
        self.sector_size = base.sector_size
        self._ranges = ranges
        self._starts = [start for start, _ in ranges]

    def extent(self, offset: int) -> Extent:
        index = bisect_right(self._starts, offset)
        begin = 0
        if index:
            start, length = self._ranges[index - 1]
            if offset < start + length:
                return Extent(start, length, None)
            begin = start + length
        end = self._starts[index] if index < len(self._starts) else self.size
        return Extent(begin, end - begin, self.base, begin)


def sparsified(disk: BlockDevice) -> SparsifiedDevice:
    """`disk` without what the filesystems on it, or in its partitions, do not use.

    Filesystems whose free blocks are not known, or not to be trusted, stay as they are. Raises
    `ConversionError` where two filesystems claim the same bytes.
    """
    found = sorted(_filesystems(disk), key=lambda item: item[0])
    for (start, filesystem), (following, _) in pairwise(found):
        if start + filesystem.size > following:
            raise ConversionError(f"two filesystems overlap at offset {following:#x}: the disk cannot be sparsified")
    ranges = [
        (start + offset, length)
        for start, filesystem in found
        for offset, length in _free_ranges(filesystem)
        if length >= _MIN_RANGE_BYTES and start + offset + length <= disk.size
    ]
    return SparsifiedDevice(disk, ranges)


def _filesystems(disk: BlockDevice) -> Iterator[tuple[int, FileSystem[Any]]]:
    table = PartitionTable.detect(disk)
    partitions = [(partition.start, partition.device(disk)) for partition in table.partitions] if table else [(0, disk)]
    for start, device in partitions:
        try:
            yield start, FileSystem.detect(device)
        except (DetectionError, InvalidFormat, UnsupportedFeature):
            continue


def _free_ranges(filesystem: FileSystem[Any]) -> list[tuple[int, int]]:
    try:
        return list(filesystem.free_ranges())
    except (InvalidFormat, UnsupportedFeature):
        return []
