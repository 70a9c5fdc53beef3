"""From a guest offset to what holds it ("Cluster mapping", "Extended L2 Entries").

The L1 table is one array, read when first needed. L2 tables are read in slices of at most 64 KiB,
so that a small read does not cost a table of 2 MiB, and the last used of them are kept.

Read: standard, zero (plain and preallocated) and compressed clusters, subclusters, external data
files. Reserved bits are ignored, as qemu does. Refused: tables and clusters that are not aligned,
tables outside the file, zero clusters in version 2, subclusters both allocated and zero or
allocated nowhere, compressed clusters beside an external data file.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterable
from enum import IntEnum
from itertools import compress, count, repeat
from operator import ne
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.header import Header

_MAX_SLICE_BYTES = 64 << 10
_CACHE_BYTES = 32 << 20
_SLICE_OVERHEAD_BYTES = 512  # of a slice's objects, which counts where clusters are small
_WINDOW_CLUSTERS = 256  # a mapping looks no further ahead; neighbours are joined later
_NO_ENTRIES = array("Q", bytes(_MAX_SLICE_BYTES))


class Kind(IntEnum):
    """What an L2 entry says of a cluster or subcluster."""

    UNALLOCATED = 0
    ZERO_PLAIN = 1
    ZERO_ALLOCATED = 2
    DATA = 3
    COMPRESSED = 4


class Mapping(NamedTuple):
    """A guest range of one kind, in bytes; ``host_offset`` is its place in the file, whether in use or not."""

    kind: Kind
    start: int
    length: int
    host_offset: int | None = None


class CompressedCluster(NamedTuple):
    """Where the compressed bytes of a cluster lie, and how many there are at most."""

    offset: int
    length: int


class L2Slice(NamedTuple):
    """Consecutive entries of an L2 table; ``offset`` is where they begin in the file."""

    offset: int
    entries: array[int]
    bitmaps: array[int] | None  # of the subclusters, with extended L2 entries


def table_from_bytes(data: Buffer) -> array[int]:
    """The 64-bit big-endian values in `data`."""
    table = array("Q")
    table.frombytes(data)
    if sys.byteorder == "little":
        table.byteswap()
    return table


def parse_compressed(entry: int, cluster_bits: int) -> CompressedCluster:
    """The "Compressed Clusters Descriptor" in an L2 entry."""
    offset_bits = layout.compressed_offset_bits(cluster_bits)
    offset = entry & (1 << offset_bits) - 1
    sectors = (entry >> offset_bits & (1 << cluster_bits - 8) - 1) + 1
    return CompressedCluster(offset, sectors * 512 - offset % 512)


class ClusterMap:
    """The mapping that one L1 table (the active one or a snapshot's) roots."""

    def __init__(self, device: BlockDevice, header: Header, l1_offset: int, l1_size: int) -> None:
        self._device = device
        self._l1_offset = l1_offset
        self._l1_size = l1_size
        self._l1: array[int] | None = None
        self._version = header.version
        self._has_data_file = header.has_data_file
        self._cluster_bits = header.cluster_bits
        self._cluster_size = header.cluster_size
        self._extended = header.extended_l2
        self._entry_bytes = 16 if header.extended_l2 else 8
        self.slice_bits = min(header.l2_bits, (_MAX_SLICE_BYTES // self._entry_bytes).bit_length() - 1)
        self._table_bits = header.l2_bits - self.slice_bits  # log2 of the slices in a table
        self._slice_bytes = self._entry_bytes << self.slice_bits
        self._max_slices = _CACHE_BYTES // (self._slice_bytes + _SLICE_OVERHEAD_BYTES)
        self._lock = threading.Lock()
        # By cluster number >> slice_bits. A reader may look here before it asks `locate`.
        self.slices: dict[int, L2Slice] = {}
        self._absent = L2Slice(0, *self._split(table_from_bytes(bytes(self._slice_bytes))))

    def locate(self, offset: int, length: int | None = None) -> Mapping:
        """The mapping that covers `offset`; it may begin before and end past the disk.

        With `length`, what lies further than that after `offset` is not looked for.
        """
        cluster = offset >> self._cluster_bits
        number = cluster >> self.slice_bits
        part = self.slices.get(number) or self._load(number)
        if part is self._absent:
            return self._without_table(number)
        index = cluster & (1 << self.slice_bits) - 1
        entry = part.entries[index]
        start = cluster << self._cluster_bits
        stop = index + _WINDOW_CLUSTERS
        if length is not None:
            stop = min(stop, index + 1 + (offset - start + length - 1 >> self._cluster_bits))
        if entry & layout.OFLAG_COMPRESSED:
            return self._compressed(part, index, stop, start)
        if part.bitmaps is not None:
            return self._extended_standard(part, part.bitmaps, index, stop, offset)
        host_offset = entry & layout.L2_OFFSET_MASK
        if entry & layout.OFLAG_ZERO:
            if self._version < 3:
                raise self._invalid_entry("a zero cluster in an image of version 2", part, index)
            kind = Kind.ZERO_ALLOCATED if host_offset else Kind.ZERO_PLAIN
        else:
            kind = Kind.DATA if self._is_allocated(entry) else Kind.UNALLOCATED
        return self._clusters(kind, part, index, stop, start)

    def compressed_cluster(self, cluster: int) -> CompressedCluster:
        """Where guest cluster number `cluster`, which is compressed, lies."""
        number = cluster >> self.slice_bits
        part = self.slices.get(number) or self._load(number)
        return parse_compressed(part.entries[cluster & (1 << self.slice_bits) - 1], self._cluster_bits)

    def _is_allocated(self, entry: int) -> bool:
        # Offset 0 is valid only in a data file, and then marked by the flag.
        return bool(entry & layout.L2_OFFSET_MASK or (self._has_data_file and entry & layout.OFLAG_COPIED))

    def _clusters(self, kind: Kind, part: L2Slice, index: int, stop: int, start: int) -> Mapping:
        """Clusters from `index` on, before `stop`, that continue one another, none of them in part."""
        entries = part.entries
        entry = entries[index]
        host_offset = entry & layout.L2_OFFSET_MASK
        stop = min(stop, len(entries))
        if kind in (Kind.DATA, Kind.ZERO_ALLOCATED):
            self._check_host_offset(host_offset, start, part, index)
            number = count_equal(entries, index, stop, count(entry, self._cluster_size))
        elif host_offset:  # preallocated, no subcluster in use
            number = count_equal(entries, index, stop, count(entry, self._cluster_size))
        elif entry or part.bitmaps is not None:
            number = count_equal(entries, index, stop, repeat(entry))
        else:
            number = _empty(entries, index, stop)
        if part.bitmaps is not None:
            number = min(number, count_equal(part.bitmaps, index, stop, repeat(part.bitmaps[index])))
        placed = host_offset if self._is_allocated(entry) and kind is not Kind.ZERO_PLAIN else None
        return Mapping(kind, start, number << self._cluster_bits, placed)

    def _compressed(self, part: L2Slice, index: int, stop: int, start: int) -> Mapping:
        if self._has_data_file:
            raise self._invalid_entry("a compressed cluster beside an external data file", part, index)
        ahead = part.entries[index:stop]
        number = next((n for n, entry in enumerate(ahead) if not entry & layout.OFLAG_COMPRESSED), len(ahead))
        return Mapping(Kind.COMPRESSED, start, number << self._cluster_bits)

    def _extended_standard(self, part: L2Slice, bitmaps: array[int], index: int, stop: int, offset: int) -> Mapping:
        entry, bitmap = part.entries[index], bitmaps[index]
        host_offset = entry & layout.L2_OFFSET_MASK
        allocated = self._is_allocated(entry)
        start = offset & -self._cluster_size
        if bitmap == layout.ALL_ALLOCATED and allocated:
            return self._clusters(Kind.DATA, part, index, stop, start)
        if bitmap == layout.ALL_ZERO:
            return self._clusters(Kind.ZERO_ALLOCATED if allocated else Kind.ZERO_PLAIN, part, index, stop, start)
        if bitmap == 0:
            return self._clusters(Kind.UNALLOCATED, part, index, stop, start)
        if allocated:
            self._check_host_offset(host_offset, start, part, index)
        subcluster_bits = self._cluster_bits - 5
        first = offset - start >> subcluster_bits
        state = _subcluster(bitmap, first)
        last = first + 1
        while last < layout.SUBCLUSTERS and _subcluster(bitmap, last) == state:
            last += 1
        skip = first << subcluster_bits
        kind = Kind.UNALLOCATED
        if state == (1, 1) or (state == (1, 0) and not allocated):
            problem = "both allocated and zero" if state == (1, 1) else "allocated in no cluster"
            raise self._invalid_entry(f"subcluster {first} is {problem}", part, index)
        if state == (1, 0):
            kind = Kind.DATA
        elif state == (0, 1):
            kind = Kind.ZERO_ALLOCATED if allocated else Kind.ZERO_PLAIN
        placed = host_offset + skip if allocated else None
        return Mapping(kind, start + skip, last - first << subcluster_bits, placed)

    def _without_table(self, number: int) -> Mapping:
        """Unallocated up to the next L2 table."""
        l1 = self._l1_table()
        first = number >> self._table_bits
        ahead = l1[first + 1 : first + _WINDOW_CLUSTERS]
        missing = 1 + next(compress(count(), ahead), len(ahead))
        table_bits = self._table_bits + self.slice_bits + self._cluster_bits
        if first + missing >= len(l1):
            return Mapping(Kind.UNALLOCATED, first << table_bits, 1 << 63)
        return Mapping(Kind.UNALLOCATED, first << table_bits, missing << table_bits)

    def _load(self, number: int) -> L2Slice:
        """Slice `number`, kept for later; `_absent` where the L1 table has no L2 table for it."""
        l1 = self._l1_table()
        l1_index = number >> self._table_bits
        table_offset = l1[l1_index] & layout.L1_OFFSET_MASK if l1_index < len(l1) else 0
        part = self._absent
        if table_offset:
            self._check_table(table_offset, l1_index)
            offset = table_offset + (number & (1 << self._table_bits) - 1) * self._slice_bytes
            part = L2Slice(offset, *self._split(table_from_bytes(self._device.read(offset, self._slice_bytes))))
        with self._lock:
            while len(self.slices) >= self._max_slices:
                del self.slices[next(iter(self.slices))]
            self.slices[number] = part
        return part

    def _split(self, values: array[int]) -> tuple[array[int], array[int] | None]:
        """Descriptors and subcluster bitmaps."""
        return (values[0::2], values[1::2]) if self._extended else (values, None)

    def _l1_table(self) -> array[int]:
        if self._l1 is None:
            self._l1 = table_from_bytes(self._device.read(self._l1_offset, self._l1_size * 8))
        return self._l1

    def _check_table(self, offset: int, l1_index: int) -> None:
        problem = None
        if offset % self._cluster_size:
            problem = "not aligned to a cluster"
        elif offset + self._cluster_size > self._device.size:
            problem = f"outside the file ({self._device.size} bytes)"
        if problem:
            raise InvalidFormat(f"{problem} (L1 index {l1_index})", structure="L2 table", offset=offset)

    def _check_host_offset(self, host_offset: int, start: int, part: L2Slice, index: int) -> None:
        if host_offset % self._cluster_size:
            raise self._invalid_entry(f"cluster offset {host_offset:#x} is not aligned", part, index)
        if self._has_data_file and host_offset != start:
            message = f"offset {host_offset:#x} in the external data file is not the guest's, {start:#x}"
            raise self._invalid_entry(message, part, index)

    def _invalid_entry(self, message: str, part: L2Slice, index: int) -> InvalidFormat:
        return InvalidFormat(message, structure="L2 table", offset=part.offset + index * self._entry_bytes)


def count_equal(values: array[int], index: int, stop: int, expected: Iterable[int]) -> int:
    """How many values from `index` on, before `stop`, are as expected (all in C)."""
    return next(compress(count(), map(ne, values[index:stop], expected)), stop - index)


def _empty(entries: array[int], index: int, stop: int) -> int:
    """How many entries from `index` on are 0, before `stop` or up to the end of the slice."""
    ahead = entries[index:stop]
    number = next(compress(count(), ahead), len(ahead))
    if number == _WINDOW_CLUSTERS:
        rest = entries[index:]
        if rest == _NO_ENTRIES[: len(rest)]:
            return len(rest)
    return number


def _subcluster(bitmap: int, number: int) -> tuple[int, int]:
    """(allocated, zero) of one subcluster."""
    return bitmap >> number & 1, bitmap >> layout.SUBCLUSTERS + number & 1
