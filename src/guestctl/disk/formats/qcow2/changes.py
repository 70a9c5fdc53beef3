"""``ChangingClusters``: the L1 and L2 tables of a file that is written in place ("Cluster mapping").

Slices of L2 tables are changed in memory until `write`. A table that snapshots share is copied first.
"""

from __future__ import annotations

from array import array

from guestctl.block.device import zeros
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.allocation import Allocation, Clusters, GrowingFile
from guestctl.disk.formats.qcow2.clusters import ClusterMap, L2Slice
from guestctl.disk.formats.qcow2.header import Header
from guestctl.disk.formats.qcow2.tables import big_endian

_MAX_CHANGED_BYTES = 8 << 20
_SLICE_OVERHEAD_BYTES = 512


class ChangingClusters(ClusterMap):
    """The active mapping of `file`, whose standard L2 entries may be changed."""

    def __init__(self, file: GrowingFile, header: Header, allocation: Allocation) -> None:
        super().__init__(file.device, header, header.l1_table_offset, header.l1_size)
        self._file = file
        self._allocation = allocation
        self._changed: dict[int, L2Slice] = {}  # by number, as in `slices`, which may forget them
        self._changed_l1: set[int] = set()
        self._max_changed = _MAX_CHANGED_BYTES // (self._slice_bytes + _SLICE_OVERHEAD_BYTES)

    @property
    def changed(self) -> bool:
        return bool(self._changed or self._changed_l1)

    @property
    def full(self) -> bool:
        """Whether so much was changed that it should be written."""
        return len(self._changed) >= self._max_changed

    def has_table(self, number: int) -> bool:
        """Whether there is an L2 table for slice `number`."""
        return (self.slices.get(number) or self._load(number)) is not self._absent

    def entries(self, number: int) -> array[int]:
        """The entries of slice `number`, to be looked at."""
        return (self.slices.get(number) or self._load(number)).entries

    def change(self, number: int) -> array[int]:
        """The entries of slice `number`, to be changed."""
        part = self._changed.get(number)
        if part is None:
            self._own_table(number >> self._table_bits)
            part = self._changed[number] = self.slices.get(number) or self._load(number)
        return part.entries

    def write(self) -> None:
        """Write what was changed: L2 tables, then the L1 entries that lead to new ones."""
        for part in self._changed.values():
            self._file.write(part.offset, big_endian(part.entries[:]))
        self._changed.clear()
        if self._changed_l1:
            self._file.sync()
            l1 = self._l1_table()
            for index in self._changed_l1:
                self._file.write(self._l1_offset + index * 8, big_endian(l1[index : index + 1]))
            self._changed_l1.clear()

    def _load(self, number: int) -> L2Slice:
        return self._changed.get(number) or super()._load(number)

    def _own_table(self, l1_index: int) -> None:
        """Make sure that the L1 entry leads to an L2 table that nothing else refers to."""
        l1 = self._l1_table()
        old = l1[l1_index] & layout.L1_OFFSET_MASK
        if old and l1[l1_index] & layout.OFLAG_COPIED:
            return
        if old:
            self._check_table(old, l1_index)
        content = self._device.read(old, self._cluster_size) if old else zeros(self._cluster_size)
        found = self._allocation.allocate(1)
        try:
            self._file.write(found.first << self._cluster_bits, content)
            if old:
                self._allocation.release([Clusters(old >> self._cluster_bits, 1)])
        except BaseException:
            self._allocation.give_back(found)
            raise
        l1[l1_index] = found.first << self._cluster_bits | layout.OFLAG_COPIED
        self._changed_l1.add(l1_index)
        for number in range(l1_index << self._table_bits, l1_index + 1 << self._table_bits):
            self.slices.pop(number, None)
