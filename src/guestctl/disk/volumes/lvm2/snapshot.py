"""A thick snapshot: its origin, with the chunks that its exception store has kept or that were written to it.

The persistent exception store of the kernel's dm-snapshot: a header in the first chunk; then areas,
each a chunk of (old chunk, new chunk) pairs and the chunks of data that they name. Numbers are
little-endian.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Mapping

from guestctl.block import BlockDevice, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.lvm2.metadata import numbers

_HEADER = struct.Struct("<IIII")  # magic, valid, version, chunk_size in sectors
_MAGIC = 0x70416E53
_VERSION = 1
_PAIR_BYTES = 16


class ChunkOverlay(MappedDevice):
    """`below`, but for chunks that lie in `store`: ``chunks`` has the place of each by its number, both in chunks."""

    def __init__(self, below: BlockDevice, store: BlockDevice, chunk_bytes: int, chunks: Mapping[int, int]) -> None:
        self.size = below.size
        self.sector_size = below.sector_size
        self._below = below
        self._store = store
        self._chunk = chunk_bytes
        self._chunks = chunks
        self._sorted = array("Q", sorted(chunks))

    def extent(self, offset: int) -> Extent:
        chunk = offset // self._chunk
        start = chunk * self._chunk
        new = self._chunks.get(chunk)
        if new is not None:
            return Extent(start, self._chunk, self._store, new * self._chunk)
        index = bisect_left(self._sorted, chunk)
        end = self._sorted[index] * self._chunk if index < len(self._sorted) else self.size
        return Extent(start, end - start, self._below, start)


class SnapshotDevice(ChunkOverlay):
    """`origin` as it was when the snapshot was made."""

    def __init__(self, origin: BlockDevice, store: BlockDevice, chunk_bytes: int) -> None:
        magic, valid, version, chunk_sectors = _HEADER.unpack(store.read(0, _HEADER.size))
        if not magic:  # never activated: nothing was kept yet
            super().__init__(origin, store, chunk_bytes or origin.size, {})
            return
        if magic != _MAGIC or version != _VERSION:
            raise InvalidFormat(f"magic {magic:#x}, version {version}", structure="exception store", offset=0)
        if not valid:
            raise UnsupportedFeature("an invalid snapshot: its exception store was full", feature="invalid snapshot")
        chunk = chunk_sectors * 512
        if not chunk or chunk & chunk - 1 or chunk > store.size:
            message = f"chunk_size is {chunk_sectors}"
            raise InvalidFormat(message, structure="exception store", offset=12, actual=chunk_sectors)
        super().__init__(origin, store, chunk, _read_exceptions(store, chunk))


def _read_exceptions(store: BlockDevice, chunk: int) -> dict[int, int]:
    """Old chunks and where they were kept."""
    exceptions: dict[int, int] = {}
    per_area = chunk // _PAIR_BYTES
    area = 1
    while (area + 1) * chunk <= store.size:
        pairs = numbers(bytes(store.read(area * chunk, per_area * _PAIR_BYTES)))
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            if not new:
                return exceptions
            if (new + 1) * chunk > store.size:
                raise InvalidFormat(f"chunk {new} is outside", structure="exception store", offset=area * chunk)
            exceptions[old] = new
        area += per_area + 1
    return exceptions
