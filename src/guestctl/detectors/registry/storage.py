"""The cells of a hive in memory, which are allocated, changed and freed.

A hive bin is a multiple of 4096 bytes and is filled with cells without gaps; a cell in use has a negative
size. Neighbouring free cells of one bin are joined. A new bin comes at the end of the hive.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from struct import Struct

from guestctl.block import MemoryDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.detectors.registry import layout as L
from guestctl.detectors.registry.cells import Cells, bad

_BIN_HEADER = Struct("<4sII8xQ4x")  # signature, offset, bytes, time stamp
_BIN_UNIT_BYTES = 4096
MAX_HIVE_BYTES = 1 << 31  # offsets of cells have their highest bit for volatile ones
_LEAST_CELL_BYTES = 8
_CELL_SHIFT = 3  # cells begin at multiples of 8


class Storage(Cells):
    """`Cells` of a hive's bytes, with its base block. Raises `InvalidFormat` where a bin or cell is not sound."""

    def __init__(self, hive: bytes, bins_bytes: int, minor: int) -> None:
        super().__init__(MemoryDevice(hive), bins_bytes, minor)
        self.minor = minor
        self.buffer = bytearray(hive[: L.BASE_BLOCK_BYTES + self.bins_bytes])
        self._free: list[tuple[int, int]] = []  # (bytes, offset), ascending
        self._sizes: dict[int, int] = {}  # of free cells, by their offsets
        self._ends: dict[int, int] = {}  # offsets of free cells, by their ends
        self._used = bytearray(self.bins_bytes >> _CELL_SHIFT)  # 1 where a cell that is in use begins
        self._find_cells()

    def read(self, offset: int, least: int, structure: str) -> bytes:
        size = self._size(offset, structure)
        if least > size - 4:
            raise bad(f"a cell of {size} bytes", offset, structure)
        start = L.BASE_BLOCK_BYTES + offset
        return bytes(self.buffer[start + 4 : start + size])

    def write(self, offset: int, at: int, data: bytes) -> None:
        """Put `data` into the cell at `offset`, `at` bytes from its content's start."""
        if at + len(data) > self._size(offset, "cell") - 4:
            raise bad(f"{at + len(data)} bytes do not fit in the cell", offset, "cell")
        start = L.BASE_BLOCK_BYTES + offset + 4 + at
        self.buffer[start : start + len(data)] = data

    def allocate(self, content: bytes) -> int:
        """The offset of a new cell with `content`."""
        size = max(_LEAST_CELL_BYTES, -(-(len(content) + 4) // 8) * 8)
        place = bisect_left(self._free, (size, 0))
        if place == len(self._free):
            self._add_bin(size)
            place = bisect_left(self._free, (size, 0))
        available, offset = self._free[place]
        self._take(offset, available)
        if available - size >= _LEAST_CELL_BYTES:
            self._give(offset + size, available - size)
        else:
            size = available
        self._set_size(offset, -size)
        self._used[offset >> _CELL_SHIFT] = 1
        start = L.BASE_BLOCK_BYTES + offset + 4
        self.buffer[start : start + size - 4] = content.ljust(size - 4, b"\0")
        return offset

    def free(self, offset: int) -> None:
        """Free a cell; one that is free already is damage."""
        size = self._size(offset, "cell")
        self._used[offset >> _CELL_SHIFT] = 0
        before = self._ends.get(offset)
        if before is not None:
            size += self._sizes[before]
            self._take(before, self._sizes[before])
            offset = before
        after = self._sizes.get(offset + size)
        if after is not None:
            self._take(offset + size, after)
            size += after
        self._give(offset, size)

    def _size(self, offset: int, structure: str) -> int:
        if offset & 7 or offset >= self.bins_bytes or not self._used[offset >> _CELL_SHIFT]:
            raise bad("there is no cell in use", offset, structure)
        return -int(L.CELL_SIZE.unpack_from(self.buffer, L.BASE_BLOCK_BYTES + offset)[0])

    def _set_size(self, offset: int, size: int) -> None:
        L.CELL_SIZE.pack_into(self.buffer, L.BASE_BLOCK_BYTES + offset, size)

    def _take(self, offset: int, size: int) -> None:
        del self._free[bisect_left(self._free, (size, offset))]
        del self._sizes[offset], self._ends[offset + size]

    def _give(self, offset: int, size: int) -> None:
        self._set_size(offset, size)
        insort(self._free, (size, offset))
        self._sizes[offset] = size
        self._ends[offset + size] = offset

    def _find_cells(self) -> None:
        found = []
        offset = 0
        while offset < self.bins_bytes:
            end = offset + self._bin_bytes(offset)
            offset += _BIN_HEADER.size
            while offset < end:
                size = L.CELL_SIZE.unpack_from(self.buffer, L.BASE_BLOCK_BYTES + offset)[0]
                length = abs(size)
                if length & 7 or not _LEAST_CELL_BYTES <= length <= end - offset:
                    raise bad(f"a cell of {length} bytes", offset, "cell")
                if size > 0:
                    found.append((size, offset))
                else:
                    self._used[offset >> _CELL_SHIFT] = 1
                offset += length
        self._free = sorted(found)
        self._sizes = {offset: size for size, offset in found}
        self._ends = {offset + size: offset for size, offset in found}

    def _bin_bytes(self, offset: int) -> int:
        if offset + _BIN_HEADER.size > self.bins_bytes:
            raise bad("no room for its header", offset, "hive bin")
        magic, place, size, _ = _BIN_HEADER.unpack_from(self.buffer, L.BASE_BLOCK_BYTES + offset)
        if magic != L.BIN_MAGIC or place != offset:
            raise bad(f"signature is {bytes(magic)!r}, offset {place:#x}", offset, "hive bin")
        if size % _BIN_UNIT_BYTES or not 0 < size <= self.bins_bytes - offset:
            raise bad(f"{size} bytes", offset, "hive bin")
        return int(size)

    def _add_bin(self, cell_bytes: int) -> None:
        offset = self.bins_bytes
        size = -(-(_BIN_HEADER.size + cell_bytes) // _BIN_UNIT_BYTES) * _BIN_UNIT_BYTES
        if offset + size > MAX_HIVE_BYTES:
            raise UnsupportedFeature("a hive of more than 2 GiB", feature="hive size")
        self.buffer += bytes(size)
        self._used += bytes(size >> _CELL_SHIFT)
        _BIN_HEADER.pack_into(self.buffer, L.BASE_BLOCK_BYTES + offset, L.BIN_MAGIC, offset, size, 0)
        self.bins_bytes += size
        self._give(offset + _BIN_HEADER.size, size - _BIN_HEADER.size)
