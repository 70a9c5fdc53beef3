"""The part of a check that counts the references to each cluster and compares them with the stored counts."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence

from guestctl.block.device import BlockDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.header import Header
from guestctl.disk.formats.qcow2.refcounts import (
    TYPECODES,
    counts_per_block,
    read_count,
    read_counts,
    read_refcount_table,
)

# 64 TiB of file with clusters of 64 KiB. The counts take memory only where they are not 0.
_MAX_CLUSTERS = 1 << 30


class ReferenceCounts:
    """One count per cluster of the file; first of references, after `compare` those that are stored."""

    def __init__(self, file: BlockDevice, header: Header) -> None:
        self._file = file
        self._header = header
        self._bits = header.cluster_bits
        self._cluster_size = header.cluster_size
        self._in_file = -(-file.size >> header.cluster_bits)
        if self._in_file > _MAX_CLUSTERS:
            raise UnsupportedFeature(f"a check of more than {_MAX_CLUSTERS} clusters", feature="check of a huge file")
        self._table = read_refcount_table(file, header)
        self._max_count = (1 << (1 << header.refcount_order)) - 1
        self._per_block = counts_per_block(header)
        # One more than the file has: the last reference may end in a cluster that is not there.
        self._counts = _zero_counts(TYPECODES[header.refcount_order], self._in_file + 1)
        self._highest = 0  # cluster that is referenced
        self.shared = False  # some cluster is referenced twice
        self.differ = False  # some stored count is not that of the references
        self.end_cluster = 1  # after the last cluster that is counted or referenced
        self.corruptions = self.leaks = self.check_errors = 0

    def add(self, offset: int, length: int, references: int = 1) -> None:
        """Count a range of the file; it may end in a cluster that the file only begins."""
        if not length:
            return
        if offset + length - self._file.size >= self._cluster_size:
            self.corruptions += references
            return
        counts, limit = self._counts, self._max_count
        last = offset + length - 1 >> self._bits
        self._highest = max(self._highest, last)
        for cluster in range(offset >> self._bits, last + 1):
            count = counts[cluster] + references
            if count > 1:
                self.shared = True
                if count > limit:
                    self.corruptions += count - limit
                    count = limit
            counts[cluster] = count

    def add_clusters(self, hosts: Sequence[int], references: int) -> None:
        """Count one cluster at each of the offsets `hosts`."""
        counts, bits, unaligned = self._counts, self._bits, self._cluster_size - 1
        end = self._file.size
        if isinstance(hosts, range) and references == 1 and self._add_new(hosts):
            return
        for host in hosts:
            if references == 1 and host < end and not host & unaligned and not counts[host >> bits]:
                counts[host >> bits] = 1
            else:
                self.add(host, self._cluster_size, references)
        self._highest = max(self._highest, max((host for host in hosts if host < end), default=0) >> bits)

    def _add_new(self, hosts: range) -> bool:
        """Count clusters that follow one another, if the file has them all and nothing referred to any before."""
        first, last = hosts[0] >> self._bits, hosts[-1] >> self._bits
        if last >= self._in_file:
            return False
        counts = self._counts[first : last + 1]
        if counts.tobytes() != bytes(counts.nbytes):
            return False
        counts[:] = memoryview(array(counts.format, [1]) * len(hosts))
        self._highest = max(self._highest, last)
        return True

    def count_blocks(self) -> None:
        """Count the refcount blocks, each of which must be referenced by nothing else."""
        for entry in self._table:
            offset = entry & layout.REFCOUNT_TABLE_OFFSET_MASK
            misplaced = offset % self._cluster_size or offset >> self._bits >= self._in_file
            if misplaced or entry & layout.REFCOUNT_TABLE_RESERVED_MASK:
                self.corruptions += 1
            elif offset:
                self.add(offset, self._cluster_size)
                if self._counts[offset >> self._bits] != 1:
                    self.corruptions += 1

    def compare(self) -> None:
        """Compare with the stored counts, and take these in their place."""
        end = max(self._in_file, self._highest + 1)
        for start in range(0, end, self._per_block):
            stop = min(start + self._per_block, end)
            offset = self._block_offset(start)
            if not offset and start > self._highest:
                continue
            if offset % self._cluster_size or offset >= 1 << 63:
                self.check_errors += stop - start
                continue
            self._compare_block(start, stop, offset)

    def _compare_block(self, start: int, stop: int, offset: int) -> None:
        referenced = self._counts[start:stop]
        if offset:
            stored = read_counts(self._file, self._header, offset, stop - start)
        else:
            stored = array(referenced.format, bytes(referenced.nbytes))
        in_use = referenced.tobytes()
        if stored.tobytes() != in_use:
            self.differ = True
            for expected, actual in zip(referenced, stored, strict=True):
                if actual > expected:
                    self.leaks += 1
                elif actual < expected:
                    self.corruptions += 1
            in_use = array(stored.typecode, map(max, referenced, stored)).tobytes()
            self._counts[start:stop] = memoryview(stored)
        if in_use != bytes(len(in_use)):
            self.end_cluster = start - (-len(in_use.rstrip(b"\0")) // stored.itemsize)

    def stored(self, offset: int) -> int:
        """The stored count of the cluster at `offset`, also where the file ends before it."""
        cluster = offset >> self._bits
        if cluster < self._in_file:
            return self._counts[cluster]
        block_offset = self._block_offset(cluster)
        if not block_offset or block_offset % self._cluster_size:
            return 0
        return read_count(self._file, self._header, block_offset, cluster % self._per_block)

    def _block_offset(self, cluster: int) -> int:
        index = cluster // self._per_block
        return self._table[index] & layout.REFCOUNT_TABLE_OFFSET_MASK if index < len(self._table) else 0


def _zero_counts(typecode: str, length: int) -> memoryview[int]:
    """Zeros that occupy no memory before they are written."""
    size = length * array(typecode).itemsize
    if hasattr(mmap, "MAP_PRIVATE"):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, size)
    return memoryview(memory).cast("B").cast(typecode)  # type: ignore[call-overload,no-any-return]
