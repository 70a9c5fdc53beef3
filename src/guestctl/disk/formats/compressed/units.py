"""Units of a compressed file, each of which can be decompressed without the others: xz blocks, zstd frames."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice, zeros
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.compressed.spool import Segment, SpoolDevice

# A larger unit is decompressed into a file instead of memory. xz makes blocks of 24 MiB where it uses threads.
MAX_UNIT_BYTES = 32 << 20
_CACHE_BYTES = 64 << 20
# Bounds the memory for a table, and the time to read it.
MAX_UNITS = 1 << 21
# What shrinks by this much may be nothing but zeros.
_ZERO_RATIO = 500
_MAX_ZERO_PATTERNS = 256


class Unit(NamedTuple):
    """``length`` bytes at ``offset`` of the file, that hold ``size`` bytes of the content from ``start`` on."""

    number: int
    start: int
    size: int
    offset: int
    length: int


Content = Callable[[Unit], Iterator[bytes]]


class Units:
    """All units of a file, in order."""

    def __init__(self) -> None:
        self._starts = array("Q", (0,))
        self._offsets = array("Q")
        self._lengths = array("Q")
        self.largest = 0

    @property
    def size(self) -> int:
        return self._starts[-1]

    def append(self, size: int, offset: int, length: int) -> None:
        if not size:
            return
        end = self._starts[-1] + size
        if end >= 1 << 63:
            raise InvalidFormat(f"a content of {end} bytes", structure="sizes", offset=offset)
        if len(self._offsets) >= MAX_UNITS:
            raise UnsupportedFeature(f"a file of more than {MAX_UNITS} blocks or frames", feature="many blocks")
        self._starts.append(end)
        self._offsets.append(offset)
        self._lengths.append(length)
        self.largest = max(self.largest, size)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, number: int) -> Unit:
        start = self._starts[number]
        return Unit(number, start, self._starts[number + 1] - start, self._offsets[number], self._lengths[number])

    def __iter__(self) -> Iterator[Unit]:
        return map(self.__getitem__, range(len(self)))

    def at(self, offset: int) -> Unit:
        """The unit that holds `offset` of the content."""
        return self[bisect_right(self._starts, offset) - 1]


def open_units(device: BlockDevice, units: Units, content: Content) -> BlockDevice:
    """The content of the units, which owns `device`."""
    if units.largest <= MAX_UNIT_BYTES:
        return UnitDevice(device, units, content)
    segments = [Segment(unit.start, unit.size, partial(checked, unit, content)) for unit in units]
    return SpoolDevice(device, segments, units.size)


def checked(unit: Unit, content: Content) -> Iterator[bytes]:
    """The unit's content, which is as long as it should be."""
    done = 0
    for piece in content(unit):
        done += len(piece)
        if done > unit.size:
            break
        yield piece
    if done != unit.size:
        more = "more" if done > unit.size else f"{done}"
        message = f"it holds {more} bytes instead of {unit.size}"
        raise InvalidFormat(message, structure="compressed data", offset=unit.offset, expected=unit.size)


class UnitDevice(MappedDevice):
    """Decompresses units in memory and keeps the last ones."""

    def __init__(self, device: BlockDevice, units: Units, content: Content) -> None:
        self.size = units.size
        self._device = device
        self._units = units
        self._content = content
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._unit_locks = [threading.Lock() for _ in range(16)]
        self._is_zero: dict[bytes, bool] = {}  # by the compressed bytes

    def extent(self, offset: int) -> Extent:
        unit = self._units.at(offset)
        source = None if self._holds_zeros(unit) else self
        return Extent(unit.start, unit.size, source, unit.start if source else 0)

    def compute(self, offset: int, length: int) -> Buffer:
        end = offset + length
        parts: list[Buffer] = []
        while offset < end:
            unit = self._units.at(offset)
            part = min(end, unit.start + unit.size) - offset
            parts.append(memoryview(self._decompressed(unit))[offset - unit.start :][:part])
            offset += part
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def host_offset(self, offset: int) -> None:
        return None

    def close(self) -> None:
        self._kept.clear()
        self._device.close()

    def _decompressed(self, unit: Unit) -> bytes:
        content = self._kept.get(unit.number)
        if content is not None:
            return content
        with self._unit_locks[unit.number % len(self._unit_locks)]:
            content = self._kept.get(unit.number)
            if content is not None:
                return content
            content = b"".join(checked(unit, self._content))
            with self._lock:
                self._kept[unit.number] = content
                self._kept_bytes += len(content)
                while self._kept_bytes > _CACHE_BYTES:
                    self._kept_bytes -= len(self._kept.pop(next(iter(self._kept))))
        return content

    def _holds_zeros(self, unit: Unit) -> bool:
        """Whether the unit is zeros: a disk may be empty for terabytes, and the same bytes mean the same content."""
        if unit.length * _ZERO_RATIO > unit.size:
            return False
        packed = bytes(self._device.read(unit.offset, unit.length))
        key = packed + unit.size.to_bytes(8, "little")
        found = self._is_zero.get(key)
        if found is None:
            if len(self._is_zero) >= _MAX_ZERO_PATTERNS:
                return False
            content = self._decompressed(unit)
            found = self._is_zero[key] = content == zeros(len(content))
        return found
