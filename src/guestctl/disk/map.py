"""Maps of images whose extents lie in one file, in their backing file or are zeros."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.block.device import MappedDevice
from guestctl.disk.reader import DiskReader, MapEntry


def extent_map(disk: MappedDevice, path: str, backing: DiskReader | None = None) -> Iterator[MapEntry]:
    """What `DiskReader.map` gives, from the extents of `disk`, whose data lies in the file `path` or in `backing`."""
    return joined(_entries(disk, path, backing))


def joined(entries: Iterator[MapEntry]) -> Iterator[MapEntry]:
    """The entries, neighbours that are alike as one."""
    pending: MapEntry | None = None
    for entry in entries:
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


def _entries(disk: MappedDevice, path: str, backing: DiskReader | None) -> Iterator[MapEntry]:
    offset = 0
    below: _Cursor | None = None
    while offset < disk.size:
        start, length, source, source_offset = disk.extent(offset)
        skip = offset - start
        length = min(start + length, disk.size) - offset
        if source is None:
            entry = MapEntry(offset, length, 0, present=True, zero=True, data=False, compressed=False)
        elif backing is not None and source is backing:
            below = below or _Cursor(backing)
            entry = below.at(offset, length)
            entry = entry._replace(depth=entry.depth + 1)
        else:
            place = source.host_offset(source_offset + skip)
            entry = MapEntry(offset, length, 0, True, False, True, False, place, path)
        yield entry
        offset += entry.length


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
