"""A thick snapshot: its origin, with the chunks that its exception store has kept.

The persistent exception store of the kernel's dm-snapshot: a header in the first chunk; then areas,
each a chunk of (old chunk, new chunk) pairs and the chunks of data that they name. Numbers are
little-endian.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left

from guestctl.block import BlockDevice, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature

_HEADER = struct.Struct("<IIII")  # magic, valid, version, chunk_size in sectors
_MAGIC = 0x70416E53
_VERSION = 1
_PAIR_BYTES = 16


class SnapshotDevice(MappedDevice):
    """`origin` as it was when the snapshot was made."""

    def __init__(self, origin: BlockDevice, store: BlockDevice, chunk_bytes: int) -> None:
        self.size = origin.size
        self.sector_size = origin.sector_size
        self._origin = origin
        self._store = store
        magic, valid, version, chunk_sectors = _HEADER.unpack(store.read(0, _HEADER.size))
        self._exceptions: dict[int, int] = {}
        if not magic:
            self._chunk = chunk_bytes or self.size  # never activated: nothing was kept yet
        elif magic != _MAGIC or version != _VERSION:
            raise InvalidFormat(f"magic {magic:#x}, version {version}", structure="exception store", offset=0)
        elif not valid:
            raise UnsupportedFeature("an invalid snapshot: its exception store was full", feature="invalid snapshot")
        else:
            self._chunk = chunk_sectors * 512
            if not self._chunk or self._chunk & self._chunk - 1 or self._chunk > store.size:
                message = f"chunk_size is {chunk_sectors}"
                raise InvalidFormat(message, structure="exception store", offset=12, actual=chunk_sectors)
            self._read_exceptions()
        self._sorted = sorted(self._exceptions)

    def _read_exceptions(self) -> None:
        per_area = self._chunk // _PAIR_BYTES
        area = 1
        while (area + 1) * self._chunk <= self._store.size:
            pairs = array("Q")
            pairs.frombytes(self._store.read(area * self._chunk, per_area * _PAIR_BYTES))
            for old, new in zip(pairs[::2], pairs[1::2], strict=True):
                if not new:
                    return
                if (new + 1) * self._chunk > self._store.size:
                    offset = area * self._chunk
                    raise InvalidFormat(f"chunk {new} is outside", structure="exception store", offset=offset)
                self._exceptions[old] = new
            area += per_area + 1

    def extent(self, offset: int) -> Extent:
        chunk = offset // self._chunk
        start = chunk * self._chunk
        new = self._exceptions.get(chunk)
        if new is not None:
            return Extent(start, self._chunk, self._store, new * self._chunk)
        index = bisect_left(self._sorted, chunk)
        end = self._sorted[index] * self._chunk if index < len(self._sorted) else self.size
        return Extent(start, end - start, self._origin, start)
