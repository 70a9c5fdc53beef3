"""What ``qemu-img check`` says of a qcow2 image: are its reference counts those of its tables?

References are counted for every cluster of the file: the header, L1 and L2 tables and data of the
active state and of all snapshots, the snapshot table, refcount table and blocks, bitmaps and the
encryption header. A stored count above that is a leak, one below a corruption; further corruptions
are tables and clusters that are not aligned, lie outside the file, have reserved bits set, or whose
"copied" flag contradicts their count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.bitmaps import read_bitmaps
from guestctl.disk.formats.qcow2.check_counts import ReferenceCounts
from guestctl.disk.formats.qcow2.check_l2 import L2Checker
from guestctl.disk.formats.qcow2.refcounts import iter_table
from guestctl.disk.formats.qcow2.snapshots import read_snapshots

if TYPE_CHECKING:
    from guestctl.disk.formats.qcow2.reader import Qcow2Reader

# Entries of all snapshots' L1 tables, and of all bitmap tables: bounds the work that a small file
# can ask for. 8 PiB of disk with clusters of 64 KiB.
_MAX_TABLE_ENTRIES = 1 << 24
# An L2 table that the active state and snapshots share stands at one index in all their L1 tables,
# so going through these side by side visits it once, with little memory.
_L1_CHUNK_ENTRIES = 1 << 16
_MIN_EXTRA_DATA_V3 = 16


def check_image(reader: Qcow2Reader) -> dict[str, Any]:
    """The counts under qemu-img's keys, of which it leaves out those that are 0."""
    checker = _Checker(reader)
    checker.run()
    counts, l2 = checker.counts, checker.l2
    result: dict[str, Any] = {
        "filename": reader.path,
        "format": reader.format.value,
        "check-errors": counts.check_errors,
    }
    optional = {
        "image-end-offset": counts.end_cluster << reader.header.cluster_bits,
        "total-clusters": -(-reader.header.size >> reader.header.cluster_bits),
        "allocated-clusters": l2.allocated,
        "fragmented-clusters": l2.fragmented,
        "compressed-clusters": l2.compressed,
        "corruptions": checker.corruptions + counts.corruptions + l2.corruptions,
        "leaks": counts.leaks,
    }
    return result | {key: value for key, value in optional.items() if value}


class _Checker:
    def __init__(self, reader: Qcow2Reader) -> None:
        self._file = reader.file
        self._header = reader.header
        self._extensions = reader.extensions
        self._cluster_size = reader.header.cluster_size
        self.counts = ReferenceCounts(reader.file, reader.header)
        self.l2 = L2Checker(reader.file, reader.header, self.counts)
        self.corruptions = 0

    def run(self) -> None:
        header, counts = self._header, self.counts
        counts.add(0, self._cluster_size)
        active = (header.l1_table_offset, header.l1_size)
        self._count_l1_tables([active, *self._snapshot_l1_tables()])
        counts.add(header.refcount_table_offset, header.refcount_table_clusters << header.cluster_bits)
        if self._extensions.encryption is not None:
            counts.add(*self._extensions.encryption)
        self._count_bitmaps()
        counts.count_blocks()
        counts.compare()
        if counts.check_errors:
            return  # the flags cannot be checked without all counts; qemu gives up at the first of these
        # Where all counts are right and none is above 1, the flags were checked in passing.
        if counts.shared or counts.differ or counts.corruptions:
            self._check_copied_flags(*active)
        else:
            self._check_l1_flags(iter_table(self._file, *active))
            self.corruptions += self.l2.uncopied

    def _snapshot_l1_tables(self) -> list[tuple[int, int]]:
        snapshots, table_bytes = read_snapshots(self._file, self._header)
        self.counts.add(self._header.snapshots_offset, table_bytes)
        tables = []
        for snapshot in snapshots:
            if self._header.version >= 3 and snapshot.extra_data_size < _MIN_EXTRA_DATA_V3:
                self.corruptions += 1
            if snapshot.l1_table_offset % self._cluster_size or snapshot.l1_size * 8 > layout.MAX_L1_BYTES:
                self.corruptions += 1
            else:
                tables.append((snapshot.l1_table_offset, snapshot.l1_size))
        _limit_entries(sum(entries for _, entries in tables), "snapshot table", self._header.snapshots_offset)
        return tables

    def _count_l1_tables(self, tables: list[tuple[int, int]]) -> None:
        """Count the L1 tables, the active one first, and what they refer to."""
        for offset, entry_count in tables:
            self.counts.add(offset, entry_count * 8)
        for start in range(0, max(entry_count for _, entry_count in tables), _L1_CHUNK_ENTRIES):
            active: Counter[int] = Counter()
            every: Counter[int] = Counter()
            for number, (offset, entry_count) in enumerate(tables):
                chunk = max(0, min(entry_count - start, _L1_CHUNK_ENTRIES))
                entries = list(iter_table(self._file, offset + start * 8, chunk))
                self.corruptions += sum(1 for entry in entries if entry & layout.L1_RESERVED_MASK)
                every.update(entry & layout.L1_OFFSET_MASK for entry in entries)
                if number == 0:
                    active.update(every)
            for offset, references in every.items():
                self.counts.add(offset, self._cluster_size, references)
                if offset % self._cluster_size:
                    self.corruptions += references
                self.l2.count(offset, references, active[offset])

    def _check_copied_flags(self, offset: int, entry_count: int) -> None:
        for start in range(0, entry_count, _L1_CHUNK_ENTRIES):
            entries = list(iter_table(self._file, offset + start * 8, min(entry_count - start, _L1_CHUNK_ENTRIES)))
            self._check_l1_flags(entries)
            tables = Counter(entry & layout.L1_OFFSET_MASK for entry in entries)
            for table, references in tables.items():
                if table:
                    self.corruptions += references * self.l2.wrong_flags(table)

    def _check_l1_flags(self, entries: Iterable[int]) -> None:
        for entry in entries:
            offset = entry & layout.L1_OFFSET_MASK
            if offset and (self.counts.stored(offset) == 1) != bool(entry & layout.OFLAG_COPIED):
                self.corruptions += 1

    def _count_bitmaps(self) -> None:
        extension = self._extensions.bitmaps
        if extension is None or not self._header.autoclear_features & layout.AUTOCLEAR_BITMAPS:
            return
        self.counts.add(extension.bitmap_directory_offset, extension.bitmap_directory_size)
        bitmaps = read_bitmaps(self._file, extension)
        total = sum(bitmap.bitmap_table_size for bitmap in bitmaps)
        _limit_entries(total, "bitmap directory", extension.bitmap_directory_offset)
        for bitmap in bitmaps:
            self.counts.add(bitmap.bitmap_table_offset, bitmap.bitmap_table_size * 8)
            for entry in iter_table(self._file, bitmap.bitmap_table_offset, bitmap.bitmap_table_size):
                offset = entry & layout.BITMAP_TABLE_OFFSET_MASK
                if entry & layout.BITMAP_TABLE_RESERVED_MASK or (offset and entry & 1) or offset % self._cluster_size:
                    self.corruptions += 1
                elif offset:
                    self.counts.add(offset, self._cluster_size)


def _limit_entries(count: int, structure: str, offset: int) -> None:
    if count > _MAX_TABLE_ENTRIES:
        message = f"tables of {count} entries, more than {_MAX_TABLE_ENTRIES}"
        raise InvalidFormat(message, structure=structure, offset=offset)
