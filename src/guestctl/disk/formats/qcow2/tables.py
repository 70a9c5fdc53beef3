"""The tables of a new qcow2 image: L1 and L2 ("Cluster mapping"), refcounts ("Host cluster management").

While an image is filled, `Extents` remembers runs of clusters; the tables are made of them at the
end, many megabytes at a time.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from guestctl.block.output import OutputFile
from guestctl.core.errors import ConversionError
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.header import Header

_WRITE_BYTES = 4 << 20
_REFCOUNT_TYPES = {3: "B", 4: "H", 5: "I", 6: "Q"}  # by refcount_order
_SUBCLUSTER_BITS = 5


class Extents:
    """Runs of consecutive units (clusters, or subclusters) of the guest, ascending.

    ``places`` says where a run begins, in the way of an L2 entry: a host offset with `OFLAG_COPIED`
    or `OFLAG_COMPRESSED`, or `OFLAG_ZERO`. The compressed units' bytes are in ``sizes``, all in order.
    """

    def __init__(self, unit_bits: int) -> None:
        self.unit_bits = unit_bits
        self.starts = array("Q")
        self.counts = array("Q")
        self.places = array("Q")
        self.sizes = array("I")
        self._end_place = 0  # what the next run begins with if it continues the last

    def append(self, start: int, count: int, place: int) -> None:
        step = 0 if place == layout.OFLAG_ZERO else count << self.unit_bits
        self._append(start, count, place, place + step)

    def append_packed(self, start: int, offset: int, sizes: Sequence[int]) -> None:
        self.sizes.extend(sizes)
        place = offset | layout.OFLAG_COMPRESSED
        self._append(start, len(sizes), place, place + sum(sizes))

    def _append(self, start: int, count: int, place: int, end_place: int) -> None:
        if self.starts and place == self._end_place and start == self.starts[-1] + self.counts[-1]:
            self.counts[-1] += count
        else:
            self.starts.append(start)
            self.counts.append(count)
            self.places.append(place)
        self._end_place = end_place

    def table_ranges(self, table_bits: int) -> Iterator[tuple[int, int]]:
        """First and end of the runs of tables, each of ``1 << table_bits`` units, that the extents touch."""
        first = end = 0
        for start, count in zip(self.starts, self.counts, strict=True):
            table, table_end = start >> table_bits, (start + count - 1 >> table_bits) + 1
            if table > end:
                if end > first:
                    yield first, end
                first = table
            end = table_end
        if end > first:
            yield first, end


def write_mapping(
    file: OutputFile, header: Header, extents: Extents, identity: int | None, l1_offset: int, l2_offset: int
) -> int:
    """Write the L1 table and, one after the other, the L2 tables that are needed; returns how many.

    With `identity` every guest cluster is allocated, at its own offset plus that.
    """
    table_bits = header.l2_bits + header.cluster_bits - extents.unit_bits
    ranges = extents.table_ranges(table_bits) if identity is None else iter(((0, header.l1_size),))
    l1 = array("Q", bytes(header.l1_size * 8))
    builder = _L2Builder(header, extents, identity)
    clusters_at_once = max(_WRITE_BYTES // header.cluster_size, 1) << header.l2_bits
    pending: list[memoryview] = []
    pending_bytes = count = 0
    position = l2_offset
    for first, end in ranges:
        table_offset = l2_offset + (count << header.cluster_bits) | layout.OFLAG_COPIED
        l1[first:end] = array(
            "Q", range(table_offset, table_offset + (end - first << header.cluster_bits), header.cluster_size)
        )
        count += end - first
        cluster, last = first << header.l2_bits, end << header.l2_bits
        while cluster < last:
            stop = min(last, cluster + clusters_at_once)
            pending.append(builder.build(cluster, stop))
            pending_bytes += len(pending[-1])
            cluster = stop
            if pending_bytes >= _WRITE_BYTES:
                file.write_all_at(position, pending)
                position += pending_bytes
                pending, pending_bytes = [], 0
    file.write_all_at(position, pending)
    file.write_at(l1_offset, big_endian(l1))
    return count


class _L2Builder:
    """Entries of L2 tables, asked for in ascending order."""

    def __init__(self, header: Header, extents: Extents, identity: int | None) -> None:
        self._extents = extents
        self._identity = identity
        self._cluster_bits = header.cluster_bits
        self._guest_clusters = -(-header.size >> header.cluster_bits)
        self._extended = header.extended_l2
        self._unit_bits = extents.unit_bits
        self._units = header.cluster_bits - extents.unit_bits  # log2 of those in a cluster
        self._packed = _PackedEntries(header.cluster_bits, extents.sizes)
        self._number = 0  # of the first extent that does not end before what was built

    def build(self, first: int, stop: int) -> memoryview:
        """The entries of clusters from `first` on, before `stop`."""
        entries = array("Q", bytes((stop - first) * 8))
        if self._identity is not None and first < self._guest_clusters:
            number = min(stop, self._guest_clusters) - first
            entries[:number] = self._data(number, self._identity + (first << self._cluster_bits))
        bitmaps = array("Q", bytes((stop - first) * 8)) if self._extended else None
        for start, count, place in self._parts(first << self._units, stop << self._units):
            if bitmaps is None or place & layout.OFLAG_COMPRESSED:
                index = start - first
                entries[index : index + count] = self._standard(count, place)
            elif self._units:
                self._extended_part(entries, bitmaps, start - (first << self._units), count, place)
            else:
                self._extended_part(
                    entries, bitmaps, start - first << _SUBCLUSTER_BITS, count << _SUBCLUSTER_BITS, place
                )
        if bitmaps is None:
            return big_endian(entries)
        pairs = array("Q", bytes(len(entries) * 16))
        pairs[0::2], pairs[1::2] = entries, bitmaps
        return big_endian(pairs)

    def _parts(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The extents, clipped to units from `first` on, before `stop`."""
        extents = self._extents
        while self._number < len(extents.starts):
            start, place = extents.starts[self._number], extents.places[self._number]
            end = start + extents.counts[self._number]
            if start >= stop:
                return
            begin = max(start, first)
            if place & layout.OFLAG_COPIED:
                place += begin - start << self._unit_bits
            if place & layout.OFLAG_COMPRESSED and begin == start:
                self._packed.begin(place)
            yield begin, min(end, stop) - begin, place
            if end > stop:
                return
            self._number += 1

    def _standard(self, count: int, place: int) -> array[int]:
        if place & layout.OFLAG_COMPRESSED:
            return self._packed.next(count)
        if place == layout.OFLAG_ZERO:
            return array("Q", (place,)) * count
        return self._data(count, place)

    def _data(self, count: int, place: int) -> array[int]:
        place |= layout.OFLAG_COPIED
        return array("Q", range(place, place + (count << self._cluster_bits), 1 << self._cluster_bits))

    def _extended_part(self, entries: array[int], bitmaps: array[int], start: int, count: int, place: int) -> None:
        """Subclusters from `start` on, counted from the first of the entries."""
        zero = place == layout.OFLAG_ZERO
        first, stop = start >> _SUBCLUSTER_BITS, -(-(start + count) >> _SUBCLUSTER_BITS)
        if not zero:
            place -= (start & layout.SUBCLUSTERS - 1) << self._cluster_bits - _SUBCLUSTER_BITS
            entries[first:stop] = self._data(stop - first, place)
        bitmaps[first + 1 : stop - 1] = array("Q", (layout.ALL_ZERO if zero else layout.ALL_ALLOCATED,)) * (
            stop - first - 2
        )
        for cluster in {first, stop - 1}:
            low = max(start - (cluster << _SUBCLUSTER_BITS), 0)
            high = min(start + count - (cluster << _SUBCLUSTER_BITS), layout.SUBCLUSTERS)
            bits = (1 << high) - (1 << low)
            bitmaps[cluster] |= bits << layout.SUBCLUSTERS if zero else bits


class _PackedEntries:
    """Entries of compressed clusters, in the order of their `sizes`."""

    def __init__(self, cluster_bits: int, sizes: array[int]) -> None:
        self._shift = layout.compressed_offset_bits(cluster_bits)
        self._sizes = sizes
        self._index = 0
        self._offset = 0

    def begin(self, place: int) -> None:
        """A run begins at the host offset in `place`."""
        self._offset = place & ~layout.OFLAG_COMPRESSED

    def next(self, count: int) -> array[int]:
        sizes = self._sizes[self._index : self._index + count]
        self._index += count
        bounds = list(accumulate(sizes, initial=self._offset))
        self._offset = bounds[-1]
        shift = self._shift
        # "Number of additional 512-byte sectors used for the compressed data, beyond the sector containing the offset".
        return array(
            "Q",
            [
                layout.OFLAG_COMPRESSED | (end - 1 >> 9) - (begin >> 9) << shift | begin
                for begin, end in pairwise(bounds)
            ],
        )


def write_refcounts(file: OutputFile, header: Header, end: int, counts: array[int] | None) -> tuple[int, int, int]:
    """Write the refcount table and its blocks after the `end` clusters in use.

    `counts` has the references to those; without it, each has one. Returns the table's offset, the
    clusters it occupies, and the clusters of the whole file.
    """
    bits = header.cluster_bits
    block_bits = bits + 3 - header.refcount_order
    blocks = table_clusters = 0
    while True:
        total = end + table_clusters + blocks
        needed = -(-total >> block_bits), -(-(-(-total >> block_bits) * 8) >> bits)
        if needed == (blocks, table_clusters):
            break
        blocks, table_clusters = needed
    if table_clusters << bits > layout.MAX_REFCOUNT_TABLE_BYTES:
        raise ConversionError(f"qcow2: {total} clusters are more than a refcount table of qemu's can describe")
    table_offset = end << bits
    blocks_offset = table_offset + (table_clusters << bits)
    table = array("Q", range(blocks_offset, blocks_offset + (blocks << bits), header.cluster_size))
    file.write_at(table_offset, bytes(big_endian(table)).ljust(table_clusters << bits, b"\0"))
    every_one = encode_refcounts(array("I", (1,)) * (1 << block_bits), header.refcount_order)
    at_once = max(_WRITE_BYTES >> bits, 1)
    for first in range(0, blocks, at_once):
        buffers = []
        for number in range(first, min(blocks, first + at_once)):
            start, stop = number << block_bits, min(number + 1 << block_bits, total)
            values = array("I") if counts is None else counts[start:stop]
            if not values and stop - start == 1 << block_bits:
                buffers.append(every_one)
                continue
            values.extend(array("I", (1,)) * (stop - start - len(values)))
            values.extend(array("I", (0,)) * ((1 << block_bits) - len(values)))
            buffers.append(encode_refcounts(values, header.refcount_order))
        file.write_all_at(blocks_offset + (first << bits), buffers)
    return table_offset, table_clusters, total


def encode_refcounts(values: array[int], order: int) -> bytes:
    """The refcounts as they are stored; those of less than a byte begin with its low bits."""
    if order >= 3:
        return bytes(big_endian(array(_REFCOUNT_TYPES[order], values)))
    step = 8 >> order
    small = array("B", values).tobytes()
    packed = 0
    for part in range(step):
        packed |= int.from_bytes(small[part::step], "little") << (part << order)
    return packed.to_bytes(len(small) // step, "little")


def big_endian(values: array[int]) -> memoryview:
    """The bytes of `values`, which are changed."""
    if sys.byteorder == "little":
        values.byteswap()
    return memoryview(values).cast("B")
