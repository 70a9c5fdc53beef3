"""Grain directory and grain tables: which part of the file holds which grain of a sparse extent.

Tables are read in groups of neighbours, which lie one after the other in most files. A group that
refers to places outside the file is read through the redundant grain directory, where there is one.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Callable, Iterable
from enum import IntEnum
from itertools import compress, count, repeat
from operator import ne
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.vmdk import layout
from guestctl.disk.formats.vmdk.header import SparseLayout
from guestctl.disk.formats.vmdk.layout import SECTOR_BYTES

_GROUP_BYTES = 64 << 10
_CACHE_BYTES = 32 << 20
_WINDOW_GRAINS = 512  # a mapping looks no further ahead; neighbours are joined later
_WINDOW_TABLES = 1 << 16
_NOTHING = bytes(_GROUP_BYTES)


class Kind(IntEnum):
    """What a grain table entry says of a grain."""

    UNALLOCATED = 0
    ZERO = 1
    DATA = 2
    COMPRESSED = 3


class Mapping(NamedTuple):
    """A range of one kind, in bytes of an extent or a disk; ``host_offset`` is where `Kind.DATA` lies in the file."""

    kind: Kind
    start: int
    length: int
    host_offset: int = 0


class Group(NamedTuple):
    """The entries of some neighbouring grain tables; ``offsets`` is where each table lies, 0 where it is absent."""

    offsets: list[int]
    entries: array[int]


class GrainMap:
    """The grain tables of a hosted sparse extent or a COWD extent."""

    def __init__(self, device: BlockDevice, found: SparseLayout, warn: Callable[[str], None]) -> None:
        self._device = device
        self._layout = found
        self._warn = warn
        self._typecode = "I" if found.entry_bytes == 4 else "Q"
        self._bad_entry = (1 << found.entry_bytes * 8) - 1  # stands for what cannot be read; no grain lies there
        self._grain_bits = found.grain_bytes.bit_length() - 1
        self._grain_mask = found.grain_bytes - 1
        self._per_table = found.entries_per_table
        self._tables = max(1, _GROUP_BYTES // found.table_bytes)  # of a group
        self._per_group = self._tables * self._per_table
        self._group_bytes = self._per_group << self._grain_bits  # of the disk
        self._is_plain = found.kind != "seSparse"
        self._max_groups = _CACHE_BYTES // (self._per_group * found.entry_bytes)
        self._step = found.grain_bytes // SECTOR_BYTES  # between the entries of grains that continue one another
        self._not_stored = (0, layout.ZEROED_GRAIN) if found.zeroed_grains else (0,)
        self._end_sector = -(-device.size // SECTOR_BYTES)
        self._directory: array[int] | None = None
        self._redundant: array[int] | None = None
        self._groups: dict[int, Group] = {}
        self._repaired_groups: set[int] = set()
        self._absent = Group([], array(self._typecode))
        self._lock = threading.Lock()

    def quick_place(self, offset: int, length: int) -> int | None:
        """Where a small range of an uncompressed extent lies in the file; 0: unallocated, None: not easily said."""
        number, inside = divmod(offset, self._group_bytes)
        group = self._groups.get(number)
        if group is None or group is self._absent or not self._is_plain:
            return None
        skip = inside & self._grain_mask
        if not 0 <= length <= self._grain_mask + 1 - skip:
            return None
        entry = group.entries[inside >> self._grain_bits]
        if entry > layout.ZEROED_GRAIN:
            return entry * SECTOR_BYTES + skip
        return None if entry else 0

    def locate(self, offset: int, length: int | None = None) -> Mapping:
        """The mapping that covers `offset`; it may begin before and end past the extent.

        With `length`, what lies further than that after `offset` is not looked for.
        """
        grain = offset >> self._grain_bits
        number, index = divmod(grain, self._per_group)
        group = self._groups.get(number) or self._load(number)
        if group is self._absent:
            return self._without_tables(number)
        entries = group.entries
        entry = entries[index]
        start = grain << self._grain_bits
        stop = index + _WINDOW_GRAINS
        if length is not None:
            stop = min(stop, index + 1 + (offset - start + length - 1 >> self._grain_bits))
        stop = min(stop, len(entries))
        kind = self._kind(entry, group, index)
        if kind is Kind.DATA:
            grains = _equal(entries, index, stop, count(entry, self._step))
            return Mapping(kind, start, grains << self._grain_bits, self._host_offset(entry))
        if kind is Kind.COMPRESSED:
            ahead = entries[index:stop]
            grains = min((ahead.index(end) for end in self._not_stored if end in ahead), default=len(ahead))
        elif entry:
            grains = _equal(entries, index, stop, repeat(entry))
        else:
            grains = self._empty(entries, index, stop)
        return Mapping(kind, start, grains << self._grain_bits)

    def stored(self, grain: int) -> int:
        """Where grain number `grain`, which is stored, lies."""
        number, index = divmod(grain, self._per_group)
        group = self._groups.get(number) or self._load(number)
        return self._host_offset(group.entries[index])

    def table_at(self, offset: int) -> int:
        """Where the grain table for `offset` lies in the file; 0 where there is none."""
        number, index = divmod(offset >> self._grain_bits, self._per_group)
        group = self._groups.get(number) or self._load(number)
        return 0 if group is self._absent else group.offsets[index // self._per_table]

    def _kind(self, entry: int, group: Group, index: int) -> Kind:
        if not entry:
            return Kind.UNALLOCATED
        if entry == layout.ZEROED_GRAIN and self._layout.zeroed_grains:
            return Kind.ZERO
        if entry == self._bad_entry:
            raise self._bad_table(group, index)
        return Kind.COMPRESSED if self._layout.compressed else Kind.DATA

    def _host_offset(self, entry: int) -> int:
        return entry * SECTOR_BYTES

    def _table_offset(self, entry: int) -> int | None:
        """Where the grain table that a directory entry (not 0) names lies; None where that cannot be."""
        return entry * SECTOR_BYTES if entry < self._end_sector else None

    def _outside(self, entries: array[int]) -> bool:
        return max(entries, default=0) >= self._end_sector

    def _load(self, number: int) -> Group:
        """Group `number`, kept for later; `_absent` where the grain directory has none of its tables."""
        directory = self._primary_directory()
        wanted = directory[number * self._tables : (number + 1) * self._tables]
        group = self._absent
        if any(wanted):
            group = self._read_group(directory, number)
        if self._layout.redundant_offset is not None and (0 in wanted or self._outside(group.entries)):
            group = self._repaired(group, number)
        with self._lock:
            while len(self._groups) >= self._max_groups:
                del self._groups[next(iter(self._groups))]
            self._groups[number] = group
        return group

    def _repaired(self, group: Group, number: int) -> Group:
        """The group with what its tables lack, or have outside the file, as the redundant ones have it."""
        other = self._read_group(self._redundant_directory(), number)
        if not any(other.entries):
            return group
        offsets = group.offsets or [0] * len(other.offsets)
        before = group.entries or array(self._typecode, bytes(len(other.entries) * self._layout.entry_bytes))
        entries = array(self._typecode)
        for table, offset in enumerate(offsets):
            part = slice(table * self._per_table, (table + 1) * self._per_table)
            ours, theirs = before[part], other.entries[part]
            if not offset and other.offsets[table]:
                ours = theirs
            elif self._outside(ours):
                pairs = zip(ours, theirs, strict=True)
                ours = array(self._typecode, [b if a >= self._end_sector else a for a, b in pairs])
            entries += ours
        if entries == before:
            return group
        if number not in self._repaired_groups:
            self._repaired_groups.add(number)
            first = number * self._group_bytes
            self._warn(f"grain tables from {first:#x} on are damaged; the redundant ones are used")
        return Group([a or b for a, b in zip(offsets, other.offsets, strict=True)], entries)

    def _read_group(self, directory: array[int], number: int) -> Group:
        first = number * self._tables
        wanted = directory[first : first + self._tables]
        size = self._layout.table_bytes
        offsets = [0 if not entry else self._table_offset(entry) for entry in wanted]
        if offsets[0] and offsets == list(range(offsets[0], offsets[0] + len(offsets) * size, size)):
            entries = self._read_entries(offsets[0], size * len(offsets))
        else:
            entries = array(self._typecode)
            for offset in offsets:
                if offset:
                    entries += self._read_entries(offset, size)
                else:
                    entries.extend(repeat(self._bad_entry if offset is None else 0, self._per_table))
        return Group([0 if offset is None else offset for offset in offsets], entries)

    def _without_tables(self, number: int) -> Mapping:
        """Unallocated up to the next grain table."""
        first = number * self._tables
        missing = _absent_from(self._primary_directory(), first)
        if self._layout.redundant_offset is not None:
            missing = min(missing, _absent_from(self._redundant_directory(), first))
        missing = max(missing // self._tables, 1) * self._tables
        start, length = first * self._per_table, missing * self._per_table
        return Mapping(Kind.UNALLOCATED, start << self._grain_bits, length << self._grain_bits)

    def _empty(self, entries: array[int], index: int, stop: int) -> int:
        """How many entries from `index` on are 0, before `stop` or up to the end of the group."""
        ahead = entries[index:stop]
        grains = next(compress(count(), ahead), len(ahead))
        if grains == _WINDOW_GRAINS:
            rest = entries[index:].tobytes()
            if rest == _NOTHING[: len(rest)]:
                return len(entries) - index
        return grains

    def _primary_directory(self) -> array[int]:
        if self._directory is None:
            self._directory = self._read_directory(self._layout.directory_offset)
        return self._directory

    def _redundant_directory(self) -> array[int]:
        if self._redundant is None:
            assert self._layout.redundant_offset is not None
            self._redundant = self._read_directory(self._layout.redundant_offset)
        return self._redundant

    def _read_directory(self, offset: int) -> array[int]:
        return self._read_entries(offset, self._layout.directory_entries * self._layout.entry_bytes)

    def _read_entries(self, offset: int, length: int) -> array[int]:
        """Entries at `offset`; what lies past the end of the file is 0."""
        data: Buffer = self._device.read(offset, min(length, self._device.size - offset))
        entries = array(self._typecode)
        entries.frombytes(bytes(data).ljust(length, b"\0") if len(data) < length else data)
        if sys.byteorder == "big":
            entries.byteswap()
        return entries

    def _entry_offset(self, group: Group, index: int) -> int:
        table, index = divmod(index, self._per_table)
        return group.offsets[table] + index * self._layout.entry_bytes

    def _bad_table(self, group: Group, index: int) -> InvalidFormat:
        table = index // self._per_table
        if group.offsets[table]:
            return InvalidFormat(
                f"entry {self._bad_entry:#x}", structure="grain table", offset=self._entry_offset(group, index)
            )
        return InvalidFormat(
            f"a grain table outside the file ({self._device.size} bytes)",
            structure="grain directory",
            offset=self._layout.directory_offset,
        )


class SeSparseGrainMap(GrainMap):
    """The grain tables of an seSparse extent, whose entries have a type and count grains."""

    def __init__(self, device: BlockDevice, found: SparseLayout, warn: Callable[[str], None]) -> None:
        super().__init__(device, found, warn)
        # The low 12 bits of a grain's number stand above the others.
        self._step = 1 << 48

    def _kind(self, entry: int, group: Group, index: int) -> Kind:
        type = entry >> layout.SESPARSE_TYPE_SHIFT
        if type == layout.SESPARSE_ALLOCATED:
            return Kind.DATA
        if type in (layout.SESPARSE_UNMAPPED, layout.SESPARSE_ZERO):
            return Kind.ZERO
        if type == layout.SESPARSE_UNALLOCATED and not entry:
            return Kind.UNALLOCATED
        if entry == self._bad_entry:
            raise self._bad_table(group, index)
        raise InvalidFormat(
            f"entry {entry:#x}", structure="grain table", offset=self._entry_offset(group, index), actual=entry
        )

    def _host_offset(self, entry: int) -> int:
        number = (entry >> 48 & 0xFFF) | (entry & 0xFFFF_FFFF_FFFF) << 12
        return self._layout.grains_offset + (number << self._grain_bits)

    def _table_offset(self, entry: int) -> int | None:
        number = entry & 0xFFFF_FFFF
        if entry >> 32 != layout.SESPARSE_TABLE_ALLOCATED or (number + 1) * self._layout.table_bytes > (
            self._layout.tables_bytes
        ):
            return None
        offset = self._layout.tables_offset + number * self._layout.table_bytes
        return offset if offset < self._device.size else None

    def _outside(self, entries: array[int]) -> bool:
        return False  # there are no redundant tables to turn to


def grain_map(device: BlockDevice, found: SparseLayout, warn: Callable[[str], None]) -> GrainMap:
    return (SeSparseGrainMap if found.kind == "seSparse" else GrainMap)(device, found, warn)


def _equal(values: array[int], index: int, stop: int, expected: Iterable[int]) -> int:
    """How many values from `index` on, before `stop`, are as expected (all in C)."""
    return next(compress(count(), map(ne, values[index:stop], expected)), stop - index)


def _absent_from(directory: array[int], first: int) -> int:
    """How many entries from `first` on are 0."""
    ahead = directory[first : first + _WINDOW_TABLES]
    return next(compress(count(), ahead), len(ahead))
