"""``Qcow2Writer``: a new qcow2 image, versions 2 and 3.

The header has the first cluster. Data follows as it is handed over, so that consecutive guest ranges
lie one after the other in the file; `finish` appends the L2 tables, the L1 table, the refcount
table and its blocks. A preallocated image, and an external data file, have every guest cluster at a
place that follows from its number.

Compressed clusters lie byte to byte and may straddle host clusters. One that does not shrink is
stored as it is, in a place from a small reserve, so that it does not tear the others apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from guestctl.block.device import Buffer
from guestctl.block.output import Output, OutputFile
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.compression import Compress, compressor
from guestctl.disk.formats.qcow2.header import Extensions, Header, build_first_cluster
from guestctl.disk.formats.qcow2.tables import Extents, write_mapping, write_refcounts
from guestctl.disk.writer import ImageWriter, Placement, write_zeros

_MAX_RESERVE_CLUSTERS = 16


class Preallocation(NamedTuple):
    """What ``preallocation`` names: which parts of the image are there before they are needed."""

    metadata: bool = False
    space: bool = False
    zeros: bool = False


class Qcow2Writer(ImageWriter):
    """Places data clusters and remembers where; the tables are made at the end."""

    format = DiskFormat.QCOW2

    def __init__(
        self,
        output: Output,
        header: Header,
        extensions: Extensions,
        preallocation: Preallocation,
        *,
        data_file: OutputFile | None,
        compress: bool,
    ) -> None:
        self.size = header.size
        self._output = output
        self._file = output.main
        self._data_file = data_file
        self._header = header
        self._extensions = extensions
        self._preallocation = preallocation
        self._cluster_bits = header.cluster_bits
        self._cluster_size = header.cluster_size
        self._unit_bits = header.cluster_bits - (5 if header.extended_l2 and not compress else 0)
        self.unit = 1 << self._unit_bits
        self._compress: Compress | None = compressor(header.compression_type) if compress else None
        self._min_packed_bytes = _min_packed_bytes(header) if compress else 0
        self._max_end = _max_end(header, compress=compress)
        self._extents = Extents(self._unit_bits)
        self._next = 0  # guest byte up to which a preallocated image is filled
        self._end = 1  # host clusters in use; the first is the header's
        self._packed_end = 0  # host byte after the last compressed cluster
        self._partial = (-1, 0)  # with subclusters: the last guest cluster with a place, and the place
        self._reserve = (0, 0)  # first and end of host clusters for what does not shrink
        self._stored_clusters = 0
        # With compression: references to each host cluster.
        self._counts: array[int] | None = array("I", (1,)) if compress else None
        self._base = self._preallocate()

    @property
    def packs(self) -> bool:
        return self._compress is not None

    def pack(self, start: int, data: Buffer) -> bytes | None:
        assert self._compress is not None
        missing = self._cluster_size - len(data)
        packed = self._compress(bytes(data) + bytes(missing) if missing else data)
        if len(packed) < self._min_packed_bytes:
            packed = packed.ljust(self._min_packed_bytes, b"\0")
        return packed if len(packed) < self._cluster_size else None

    def place(self, start: int, length: int) -> list[Placement]:
        if self._base is not None:
            self._fill_up_to(start)
            self._next = start + length
            offset = self._base + start
            self._note(start, length, offset | layout.OFLAG_COPIED)
            return [Placement(start, length, self._data_file or self._file, offset)]
        placements = []
        stop = start + length
        first, last = start >> self._cluster_bits, stop - 1 >> self._cluster_bits
        if first == self._partial[0]:  # the rest of a cluster of which a part has its place
            part = min(stop, first + 1 << self._cluster_bits) - start
            placements.append(self._placed(start, part, self._partial[1]))
            start, first = start + part, first + 1
        while start < stop:
            host, count = self._allocate(last - first + 1)
            part = min(stop, first + count << self._cluster_bits) - start
            placements.append(self._placed(start, part, host << self._cluster_bits))
            start, first = start + part, first + count
            self._partial = (first - 1, host + count - 1 << self._cluster_bits)
        return _joined(placements)

    def place_packed(self, start: int, sizes: Sequence[int]) -> tuple[OutputFile, int]:
        assert self._counts is not None
        bits, counts = self._cluster_bits, self._counts
        if (self._packed_end - 1 >> bits) + 1 != self._end:  # other clusters follow the last compressed one
            self._packed_end = self._end << bits
        offset = self._packed_end
        bounds = list(accumulate(sizes, initial=offset))
        self._packed_end = bounds[-1]
        self._grow((self._packed_end - 1 >> bits) + 1 - self._end, count=0)
        for begin, end in pairwise(bounds):
            counts[begin >> bits] += 1
            if begin >> bits != end - 1 >> bits:
                counts[end - 1 >> bits] += 1
        self._extents.append_packed(start >> bits, offset, sizes)
        return self._file, offset

    def zero(self, start: int, length: int) -> None:
        if self._extensions.backing_file is None:
            return
        if self._header.version == 2:
            self.place(start, length)  # clusters that nobody fills
        else:
            self._note(start, length, layout.OFLAG_ZERO)

    def finish(self) -> None:
        self._fill_up_to(self.size)
        header, bits = self._header, self._cluster_bits
        self._release_reserve()
        l1_offset = self._end << bits
        self._grow(-(-header.l1_size * 8 >> bits), count=1)
        l2_offset = self._end << bits
        identity = self._base if self._preallocation.metadata else None
        tables = write_mapping(self._file, header, self._extents, identity, l1_offset, l2_offset)
        self._grow(tables, count=1)
        table_offset, table_clusters, end = write_refcounts(self._file, header, self._end, self._counts)
        self._file.truncate(end << bits)
        if self._data_file is not None:
            self._data_file.truncate(self.size)
        header = replace(
            header,
            l1_table_offset=l1_offset if header.l1_size else 0,
            refcount_table_offset=table_offset,
            refcount_table_clusters=table_clusters,
        )
        self._file.write_at(0, build_first_cluster(header, self._extensions))

    def _preallocate(self) -> int | None:
        """Where guest offset 0 lies, if the place of every cluster follows from its number."""
        file, base, length = self._file, self._cluster_size, -(-self.size >> self._cluster_bits) << self._cluster_bits
        if self._data_file is not None:
            file, base, length = self._data_file, 0, self.size
        elif not self._preallocation.metadata:
            return None
        else:
            self._grow(length >> self._cluster_bits, count=1)
        if self._preallocation.space and length:
            file.reserve(base, length)
        return base

    def _allocate(self, clusters: int) -> tuple[int, int]:
        """The first and the number of consecutive host clusters: so many, or fewer."""
        if self._counts is None:
            first = self._end
            self._grow(clusters, count=1)
            return first, clusters
        first, end = self._reserve
        if first == end:
            first = self._end
            self._grow(max(clusters, min(self._stored_clusters, _MAX_RESERVE_CLUSTERS)), count=0)
            end = self._end
        clusters = min(clusters, end - first)
        self._counts[first : first + clusters] = array("I", (1,)) * clusters
        self._stored_clusters += clusters
        self._reserve = (first + clusters, end)
        return first, clusters

    def _release_reserve(self) -> None:
        """Shorten the file again by a reserve at its end; one elsewhere stays as free clusters."""
        first, end = self._reserve
        if self._counts is not None and end == self._end:
            self._end = first
            del self._counts[first:]
        self._reserve = (0, 0)

    def _grow(self, clusters: int, *, count: int) -> None:
        self._end += clusters
        if self._end > self._max_end:
            raise ConversionError(
                f"qcow2: a file of {self._end << self._cluster_bits} bytes is too large for this cluster_size, "
                "refcount_bits and compression"
            )
        if self._counts is not None:
            self._counts.extend(array("I", (count,)) * clusters)

    def _placed(self, start: int, length: int, host_offset: int) -> Placement:
        """A placement in clusters of which the first lies at `host_offset`."""
        offset = host_offset + (start & self._cluster_size - 1)
        self._note(start, length, offset | layout.OFLAG_COPIED)
        return Placement(start, length, self._file, offset)

    def _note(self, start: int, length: int, place: int) -> None:
        self._extents.append(start >> self._unit_bits, -(-length >> self._unit_bits), place)

    def _fill_up_to(self, offset: int) -> None:
        """Write zeros, if the user wants them, where nothing was placed."""
        if self._preallocation.zeros and self._base is not None and offset > self._next:
            write_zeros(self._data_file or self._file, self._base + self._next, offset - self._next)


def _joined(placements: list[Placement]) -> list[Placement]:
    """With those joined that lie one after the other."""
    joined: list[Placement] = []
    for placement in placements:
        if joined and joined[-1].offset + joined[-1].length == placement.offset:
            start, length, file, offset = joined.pop()
            placement = Placement(start, length + placement.length, file, offset)
        joined.append(placement)
    return joined


def _min_packed_bytes(header: Header) -> int:
    """Shorter ones would let more than the largest refcount of compressed clusters touch one host cluster."""
    max_refcount = (1 << (1 << header.refcount_order)) - 1
    return (header.cluster_size - 2) // (max_refcount - 1) + 1


def _max_end(header: Header, *, compress: bool) -> int:
    """How many clusters the file can have."""
    blocks = layout.MAX_REFCOUNT_TABLE_BYTES // 8
    clusters = blocks * (header.cluster_size * 8 >> header.refcount_order)
    offset_bits = layout.compressed_offset_bits(header.cluster_bits) if compress else layout.HOST_OFFSET_BITS
    return min(clusters, 1 << offset_bits - header.cluster_bits)
