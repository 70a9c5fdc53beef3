"""What ``qemu-img map`` says of a qcow2 image and its chain."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from guestctl.block.device import BlockDevice
from guestctl.disk.formats.qcow2.clusters import Kind
from guestctl.disk.formats.qcow2.refcounts import is_preallocated
from guestctl.disk.reader import DiskReader, MapEntry

if TYPE_CHECKING:
    from guestctl.disk.formats.qcow2.reader import Qcow2Reader, Resolved


def map_entries(reader: Qcow2Reader) -> Iterator[MapEntry]:
    """The whole disk, neighbours that are alike joined."""
    pending: MapEntry | None = None
    for entry in _Mapper(reader).entries():
        if pending is not None and _continues(pending, entry):
            pending = pending._replace(length=pending.length + entry.length)
            continue
        if pending is not None:
            yield pending
        pending = entry
    if pending is not None:
        yield pending


def _continues(first: MapEntry, second: MapEntry) -> bool:
    if first[2:7] != second[2:7] or first.filename != second.filename:
        return False
    if first.offset is None or second.offset is None:
        return first.offset is second.offset
    return first.offset + first.length == second.offset


class _Mapper:
    def __init__(self, reader: Qcow2Reader) -> None:
        self._reader = reader
        self._holes: dict[int, _Holes | None] = {}  # by depth
        self._below: _Cursor | None = None

    def entries(self) -> Iterator[MapEntry]:
        offset = 0
        while offset < self._reader.size:
            entry = self._entry(offset, self._reader.resolve(offset))
            yield entry
            offset += entry.length

    def _entry(self, offset: int, resolved: Resolved) -> MapEntry:
        level, depth, mapping, below, stop = resolved
        length = stop - offset
        if below is not None:
            self._below = self._below or _Cursor(below)
            found = self._below.at(offset, length)
            return found._replace(depth=found.depth + depth)
        kind = mapping.kind
        if kind is Kind.COMPRESSED:
            return MapEntry(offset, length, depth, present=True, zero=False, data=True, compressed=True)
        present, zero, data = kind is not Kind.UNALLOCATED, kind is not Kind.DATA, kind is Kind.DATA
        # Encrypted bytes do not lie in the file as they are. Subclusters have a place before they are allocated.
        if mapping.host_offset is None or level.header.crypt_method:
            return MapEntry(offset, length, depth, present, zero, data, compressed=False)
        host_offset = mapping.host_offset + offset - mapping.start
        if data:
            length, zero = self._hole(level, depth, host_offset, length)
        place = level.data.host_offset(host_offset) if level.data is not None else host_offset
        return MapEntry(offset, length, depth, present, zero, data, False, place, level.data_path)

    def _hole(self, level: Qcow2Reader, depth: int, host_offset: int, length: int) -> tuple[int, bool]:
        """Length and nature of what begins at `host_offset`: a hole of the file or not.

        Like qemu, only images that seem to be preallocated are looked at that closely.
        """
        if depth not in self._holes:
            data = level.data
            self._holes[depth] = _Holes(data) if data is not None and is_preallocated(level) else None
        holes = self._holes[depth]
        return (length, False) if holes is None else holes.at(host_offset, length)


class _Holes:
    """Where the runs of a file change from data to hole and back."""

    def __init__(self, device: BlockDevice) -> None:
        self._starts = array("Q")
        self._first_is_hole = False
        hole = None
        for run in device.runs(0, device.size):
            if hole is None:
                self._first_is_hole = run.source is None
            if hole is not (run.source is None):
                hole = run.source is None
                self._starts.append(run.offset)
        self._starts.append(device.size)

    def at(self, offset: int, length: int) -> tuple[int, bool]:
        index = bisect_right(self._starts, offset) - 1
        if index + 1 >= len(self._starts):
            return length, True  # past the end of the file
        hole = self._first_is_hole ^ bool(index & 1)
        return min(length, self._starts[index + 1] - offset), hole


class _Cursor:
    """The map of an image, asked for ascending offsets."""

    def __init__(self, reader: DiskReader) -> None:
        self._entries = reader.map()
        self._current = next(self._entries)

    def at(self, offset: int, length: int) -> MapEntry:
        """What holds `offset`, at most `length` bytes of it."""
        while self._current.start + self._current.length <= offset:
            self._current = next(self._entries)
        entry = self._current
        skip = offset - entry.start
        host_offset = None if entry.offset is None else entry.offset + skip
        return entry._replace(start=offset, length=min(length, entry.length - skip), offset=host_offset)
