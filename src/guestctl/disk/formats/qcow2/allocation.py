"""Free clusters and their counts in a file that is written in place ("Host cluster management").

Clusters are found in the refcount blocks, which end nowhere: a block that is missing is made in the
first cluster of those it counts, and the refcount table grows into clusters that the old one could
not count. What is given up is free only after `apply_released`: until then the file on the disk may
still refer to it.
"""

from __future__ import annotations

import errno
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

from guestctl.block.file import FileDevice
from guestctl.block.output import OutputFile
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.clusters import count_equal
from guestctl.disk.formats.qcow2.header import Header
from guestctl.disk.formats.qcow2.refcounts import TYPECODES, counts_per_block, read_counts, read_refcount_table
from guestctl.disk.formats.qcow2.tables import big_endian, encode_refcounts

_TABLE_FIELDS = struct.Struct(">QI")  # refcount_table_offset, refcount_table_clusters
_TABLE_FIELDS_OFFSET = 48
_ENTRY = struct.Struct(">Q")
_CACHE_BYTES = 32 << 20


class GrowingFile(OutputFile):
    """A file that is written while `device` reads it, whose ``size`` grows with it."""

    def __init__(self, fd: int, path: str, device: FileDevice) -> None:
        super().__init__(fd, path)
        self.device = device

    def write(self, offset: int, *buffers: bytes | memoryview) -> None:
        """Write `buffers` one after the other from `offset` on."""
        try:
            self.write_all_at(offset, buffers)
        finally:  # of what failed a part may be there
            self.device.size = max(self.device.size, offset + sum(map(len, buffers)))

    def sync(self) -> None:
        """Have what was written on the disk before anything that is written later."""
        getattr(os, "fdatasync", os.fsync)(self.fd)


class Clusters(NamedTuple):
    """Consecutive clusters of the file."""

    first: int
    number: int


class Allocation:
    """The reference counts of `file`, changed in memory until `write`."""

    def __init__(self, file: GrowingFile, header: Header) -> None:
        self._file = file
        self._header = header
        self._bits = header.cluster_bits
        self._per_block = counts_per_block(header)
        self._typecode = TYPECODES[header.refcount_order]
        self._table = read_refcount_table(file.device, header)
        if header.refcount_table_offset >= file.device.size:
            offset = header.refcount_table_offset
            raise InvalidFormat("outside the file", structure="refcount table", offset=offset)
        self._place = Clusters(header.refcount_table_offset >> self._bits, header.refcount_table_clusters)
        self._l1 = Clusters(header.l1_table_offset >> self._bits, -(-header.l1_size * 8 >> self._bits))
        self._max_clusters = 1 << layout.HOST_OFFSET_BITS - self._bits
        self._blocks: dict[int, array[int]] = {}
        self._max_blocks = _CACHE_BYTES // (self._per_block * array(self._typecode).itemsize + 128)
        self._changed: set[int] = set()  # blocks
        self._new: set[int] = set()  # blocks that the table on the disk does not have
        self._released: list[Clusters] = []
        self._next = 0  # no cluster before it is free

    @property
    def full(self) -> bool:
        """Whether so much was changed that it should be written."""
        return len(self._changed) >= self._max_blocks

    def allocate(self, wanted: int) -> Clusters:
        """Free clusters, `wanted` or fewer, which are counted from now on."""
        while True:
            index, start = divmod(self._next, self._per_block)
            counts = self._block(index)
            try:
                first = counts.index(0, start)
            except ValueError:
                self._next = (index + 1) * self._per_block
                continue
            number = count_equal(counts, first, min(first + wanted, self._per_block), repeat(0))
            found = Clusters(index * self._per_block + first, number)
            self._check_free(found)
            counts[first : first + number] = array(self._typecode, (1,)) * number
            self._changed.add(index)
            self._next = found.first + number
            return found

    def give_back(self, clusters: Clusters) -> None:
        """Undo an `allocate` whose clusters nothing refers to."""
        self._subtract(clusters)

    def release(self, freed: list[Clusters]) -> None:
        """Note that one reference to each of the clusters goes away; `InvalidFormat` where they have none."""
        for index, first, stop in self._parts(freed):
            counted = index < len(self._table) and self._table[index] and all(self._block(index)[first:stop])
            if not counted:
                raise _not_counted(index)
        self._released += freed

    def apply_released(self) -> None:
        """Free what was released, which nothing on the disk refers to any more."""
        released, self._released = self._released, []
        for clusters in released:
            self._subtract(clusters)
            if len(self._changed) >= self._max_blocks:
                self.write()
        self.write()

    def write(self) -> None:
        """Write what was changed; a new block before the table that leads to it."""
        order = self._header.refcount_order
        for index in sorted(self._changed):
            offset = self._table[index] & layout.REFCOUNT_TABLE_OFFSET_MASK
            self._file.write(offset, encode_refcounts(self._blocks[index], order))
        self._changed.clear()
        if self._new:
            self._file.sync()
            for index in self._new:
                self._file.write((self._place.first << self._bits) + index * 8, _ENTRY.pack(self._table[index]))
            self._new.clear()

    def _subtract(self, clusters: Clusters) -> None:
        for index, first, stop in self._parts((clusters,)):
            counts = self._block(index)
            left = array(self._typecode, [max(count - 1, 0) for count in counts[first:stop]])
            counts[first:stop] = left
            if not any(left):
                start = index * self._per_block + first
                self._file.give_back(start << self._bits, stop - first << self._bits)
            self._changed.add(index)
        self._next = min(self._next, clusters.first)

    def _parts(self, several: Iterable[Clusters]) -> Iterator[tuple[int, int, int]]:
        """Block, first and end in it, of each block that counts some of the clusters."""
        for first, number in several:
            stop = first + number
            while first < stop:
                index, start = divmod(first, self._per_block)
                end = min(self._per_block, start + stop - first)
                yield index, start, end
                first += end - start

    def _block(self, index: int) -> array[int]:
        counts = self._blocks.get(index)
        if counts is not None:
            return counts
        while index >= len(self._table):
            self._grow_table()
        if len(self._blocks) >= self._max_blocks:
            self._blocks = {number: self._blocks[number] for number in self._changed}
        offset = self._table[index] & layout.REFCOUNT_TABLE_OFFSET_MASK
        if offset:
            if offset & (1 << self._bits) - 1 or offset >= self._file.device.size:
                message = f"not aligned to a cluster, or outside the file (index {index})"
                raise InvalidFormat(message, structure="refcount block", offset=offset)
            counts = read_counts(self._file.device, self._header, offset, self._per_block)
        else:
            counts = self._make_block(index, index * self._per_block, 1)
            self._new.add(index)
        self._blocks[index] = counts
        return counts

    def _make_block(self, index: int, cluster: int, used: int) -> array[int]:
        """A new block in `cluster`; the first `used` of the clusters it counts are in use."""
        if (index + 1) * self._per_block > self._max_clusters:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), self._file.path)
        self._table[index] = cluster << self._bits
        counts = array(self._typecode, (1,)) * used + array(self._typecode, (0,)) * (self._per_block - used)
        self._blocks[index] = counts
        self._changed.add(index)
        return counts

    def _grow_table(self) -> None:
        """Write a table of twice the size, and the blocks that count it, where the old one could count nothing."""
        self.write()
        old, entries = self._place, len(self._table)
        size = min(old.number * 2, layout.MAX_REFCOUNT_TABLE_BYTES >> self._bits)
        if size <= old.number:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), self._file.path)
        start = entries * self._per_block
        blocks = -(-size // (self._per_block - 1))
        place = Clusters(start + blocks, size)
        try:
            self._table.extend(array("Q", bytes((size << self._bits) - entries * 8)))
            for number in range(blocks):
                used = min(blocks + size - number * self._per_block, self._per_block)
                self._make_block(entries + number, start + number, used)
            self.write()
            self._file.write(place.first << self._bits, big_endian(self._table[:]))
            self._file.sync()
            self._file.write(_TABLE_FIELDS_OFFSET, _TABLE_FIELDS.pack(place.first << self._bits, size))
            self._file.sync()
        except BaseException:
            del self._table[entries:]
            for number in range(entries, entries + blocks):
                self._blocks.pop(number, None)
                self._changed.discard(number)
            raise
        self._place = place
        self.release([old])

    def _check_free(self, found: Clusters) -> None:
        """What must be in use was never counted by a damaged image."""
        for used in (Clusters(0, 1), self._place, self._l1):
            if found.first < used.first + used.number and used.first < found.first + found.number:
                raise _not_counted(found.first // self._per_block)


def _not_counted(index: int) -> InvalidFormat:
    message = f"a cluster that is in use is counted as free (index {index})"
    return InvalidFormat(message, structure="refcount block", offset=0)
