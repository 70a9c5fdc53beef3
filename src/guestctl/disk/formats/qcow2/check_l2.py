"""The part of a check that goes through L2 tables, a list of entries at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_, ne, or_

from guestctl.block.device import BlockDevice
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.check_counts import ReferenceCounts
from guestctl.disk.formats.qcow2.clusters import parse_compressed, table_from_bytes
from guestctl.disk.formats.qcow2.header import Header
from guestctl.disk.formats.qcow2.refcounts import read_padded

# Small enough that few slices of a disk in use have gaps, large enough that the work per slice vanishes.
_SLICE_BYTES = 4 << 10
_READ_BYTES = 64 << 10


class L2Checker:
    """Counts what L2 tables refer to. The figures are of the active state, corruptions of all."""

    def __init__(self, file: BlockDevice, header: Header, counts: ReferenceCounts) -> None:
        self._file = file
        self._counts = counts
        self._extended = header.extended_l2
        self._has_data_file = header.has_data_file
        self._cluster_bits = header.cluster_bits
        self._cluster_size = header.cluster_size
        self._unaligned_mask = layout.L2_OFFSET_MASK & header.cluster_size - 1
        self._zeros = bytes(_SLICE_BYTES)
        self._ramp = _Ramp(min(_SLICE_BYTES, header.cluster_size) // 8, header.cluster_size)
        # With any of these bits in a slice its entries are looked at one by one.
        self._odd_mask = layout.OFLAG_COMPRESSED | layout.L2_RESERVED_MASK | layout.OFLAG_ZERO | self._unaligned_mask
        self.corruptions = 0
        self.uncopied = 0  # active references to clusters without the "copied" flag
        self.allocated = self.fragmented = self.compressed = 0

    def count(self, table: int, references: int, active: int) -> None:
        """Count the table at offset `table`, to which `references` L1 entries refer, `active` of them active."""
        previous = None  # where the cluster before lies
        for raw in self._slices(table):
            if raw == self._zeros[: len(raw)]:
                continue
            first = int.from_bytes(raw[:8], "big")
            if self._is_plain(first) and self._ramp.starts(raw, first):
                previous = self._count_ramp(first & layout.L2_OFFSET_MASK, previous, references, active)
                continue
            entries, bitmaps = self._split(raw)
            if bitmaps is not None:
                self.corruptions += references * self._wrong_bitmaps(entries, bitmaps)
            if reduce(or_, entries) & self._odd_mask or self._has_data_file:
                standard = self._inspect(entries, references)
                self._count_compressed(entries, bitmaps, references, active)
            else:
                standard = [entry for entry in entries if entry & layout.L2_OFFSET_MASK]
            if not standard:
                continue
            hosts = [entry & layout.L2_OFFSET_MASK for entry in standard]
            if not self._has_data_file:
                self._counts.add_clusters(hosts, references)
            self.uncopied += active * _count_uncopied(standard)
            breaks = sum(map(ne, hosts[1:], map(self._cluster_size.__add__, hosts)))
            breaks += previous is not None and hosts[0] != previous + self._cluster_size
            self.allocated += active * len(hosts)
            self.fragmented += active * breaks
            previous = hosts[-1]

    def _is_plain(self, entry: int) -> bool:
        """Whether `entry` is an aligned, copied standard descriptor, of which a ramp may be made."""
        plain = entry & (self._odd_mask | layout.OFLAG_COPIED) == layout.OFLAG_COPIED
        return plain and not self._extended and not self._has_data_file

    def _count_ramp(self, host: int, previous: int | None, references: int, active: int) -> int:
        """Count clusters that follow one another from `host` on; where the last of them lies."""
        number = self._ramp.length
        self._counts.add_clusters(range(host, host + (number << self._cluster_bits), self._cluster_size), references)
        self.allocated += active * number
        if previous is not None and host != previous + self._cluster_size:
            self.fragmented += active
        return host + (number - 1 << self._cluster_bits)

    def wrong_flags(self, table: int) -> int:
        """Clusters whose "copied" flag does not say whether their stored count is 1."""
        wrong = 0
        for raw in self._slices(table):
            entries, _ = self._split(raw)
            standard = [entry for entry in entries if self._is_stored(entry)]
            if self._has_data_file:  # whose clusters count as 1
                wrong += _count_uncopied(standard)
                continue
            stored = self._counts.stored
            wrong += sum((stored(entry & layout.L2_OFFSET_MASK) == 1) != entry >> 63 for entry in standard)
        return wrong

    def _slices(self, table: int) -> Iterator[bytes]:
        """An L2 table in parts; none where it is past the end of the file."""
        step = min(_READ_BYTES, self._cluster_size)
        for start in range(table, min(table + self._cluster_size, self._file.size), step):
            raw = bytes(read_padded(self._file, start, step))
            for offset in range(0, step, _SLICE_BYTES):
                yield raw[offset : offset + _SLICE_BYTES]

    def _split(self, raw: bytes) -> tuple[array[int], array[int] | None]:
        """Descriptors and subcluster bitmaps."""
        values = table_from_bytes(raw)
        return (values[0::2], values[1::2]) if self._extended else (values, None)

    def _is_stored(self, entry: int) -> bool:
        """Whether a standard descriptor, and no other, gives the cluster a place in a file."""
        if entry & layout.OFLAG_COMPRESSED:
            return False
        if entry & layout.L2_OFFSET_MASK:
            return True
        is_zero = entry & layout.OFLAG_ZERO and not self._extended
        return bool(self._has_data_file and entry & layout.OFLAG_COPIED and not is_zero)

    def _inspect(self, entries: Sequence[int], references: int) -> list[int]:
        """The standard descriptors that are stored; counts what is wrong with any of them."""
        stored = []
        for entry in entries:
            if not entry or entry & layout.OFLAG_COMPRESSED:
                continue
            if entry & layout.L2_RESERVED_MASK:
                self.corruptions += references
            if self._is_stored(entry):
                stored.append(entry)
                if entry & self._unaligned_mask:
                    self.corruptions += references
        return stored

    def _wrong_bitmaps(self, entries: array[int], bitmaps: array[int]) -> int:
        """Standard clusters whose subclusters contradict one another or their cluster."""
        wrong = 0
        for entry, bitmap in zip(entries, bitmaps, strict=True):
            if bitmap and not entry & layout.OFLAG_COMPRESSED:
                forbidden = bitmap >> layout.SUBCLUSTERS if self._is_stored(entry) else layout.ALL_ALLOCATED
                wrong += bool(bitmap & forbidden)
        return wrong

    def _count_compressed(self, entries: array[int], bitmaps: array[int] | None, references: int, active: int) -> None:
        for index, entry in enumerate(entries):
            if not entry & layout.OFLAG_COMPRESSED:
                continue
            if entry & layout.OFLAG_COPIED:
                self.corruptions += references
            if self._has_data_file:
                self.corruptions += references
                continue
            if bitmaps is not None and bitmaps[index]:
                self.corruptions += references
                continue
            start, length = parse_compressed(entry, self._cluster_bits)
            self._counts.add(start, length, references)
            self.allocated += active
            self.compressed += active
            # qemu: their sectors are read more than once, so they are fragmented by nature.
            self.fragmented += active


class _Ramp:
    """A test of whole slices: is each entry a cluster after the one before?

    Entries are the digits, to base 2**64, of one number, and a slice that starts with `first` must
    be ``first * (1, 1, 1...) + (0, 1, 2...) * cluster size``. Two operations instead of a loop.
    """

    def __init__(self, length: int, cluster_size: int) -> None:
        self.length = length
        self._ones = int.from_bytes((1).to_bytes(8, "big") * length, "big")
        steps = b"".join((index * cluster_size).to_bytes(8, "big") for index in range(length))
        self._steps = int.from_bytes(steps, "big")

    def starts(self, raw: bytes, first: int) -> bool:
        return int.from_bytes(raw, "big") == first * self._ones + self._steps


def _count_uncopied(entries: list[int]) -> int:
    if reduce(and_, entries, layout.OFLAG_COPIED):
        return 0
    return sum(1 for entry in entries if not entry & layout.OFLAG_COPIED)
