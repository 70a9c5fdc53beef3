"""The file allocation table: for each cluster, the one that follows it in its file."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import EndOfDevice, InvalidFormat
from guestctl.disk.filesystems.fat.boot_sector import BootSector
from guestctl.disk.filesystems.fat.layout import FIRST_CLUSTER

_PAGE_BYTES = 64 << 10
_MAX_PAGES = 512  # 32 MiB
# How far a chain is followed past the end of its file, where clusters were allocated in advance.
_MAX_SPARE_CLUSTERS = 1 << 20
# After so many clusters of a run the next ones are compared in bulk.
_BULK_CLUSTERS = 16
_LOW_NIBBLE = bytes(byte & 0x0F for byte in range(256))


class Chain(NamedTuple):
    """The clusters of a file as runs of neighbours."""

    positions: array[int]  # where each run begins in the file, in clusters
    clusters: array[int]  # the first cluster of each run
    cluster_count: int


class AllocationTable:
    """The table in use of a volume, read a page at a time."""

    def __init__(self, device: BlockDevice, boot: BootSector) -> None:
        self._device = device
        self._offset = boot.fat_offset
        self._bits = boot.bits
        self._mask = (1 << min(boot.bits, 28)) - 1
        self._end_of_chain = self._mask - 7
        self._end = FIRST_CLUSTER + boot.cluster_count
        # a page of FAT12 is the whole table, of 6 KiB
        self._page_entries = self._end if boot.bits == 12 else _PAGE_BYTES * 8 // boot.bits
        self._pages: dict[int, array[int]] = {}

    def __contains__(self, cluster: int) -> bool:
        return FIRST_CLUSTER <= cluster < self._end

    def entry(self, cluster: int) -> int:
        """The raw entry of `cluster`."""
        index, place = divmod(cluster, self._page_entries)
        return self._page(index)[place] & self._mask

    def following(self, cluster: int) -> int | None:
        """The cluster after `cluster` in its file, or None at the end."""
        self._check(cluster, cluster)
        following = self.entry(cluster)
        if following >= self._end_of_chain:
            return None
        self._check(following, cluster)
        return following

    def chain(self, first: int, count: int) -> Chain:
        """The first `count` clusters of the file that begins in cluster `first`; at least one.

        Raises `InvalidFormat` where the chain is shorter, loops, or leads out of the volume.
        """
        if count > self._end - FIRST_CLUSTER:
            raise self._invalid(f"{count} clusters are more than the volume has", first)
        chain, last = self._follow(first, count)
        if chain.cluster_count < count:
            raise self._invalid(
                f"the chain from cluster {first} ends {count - chain.cluster_count} clusters early", last
            )
        # A chain that ends has passed no cluster twice, so for most files this look is enough.
        if self.entry(last) < self._end_of_chain:
            self._check_spare(first, last)
        return chain

    def whole_chain(self, first: int, limit: int) -> Chain:
        """All clusters from `first` to the end; a chain of more than `limit` is an error, as any loop is."""
        chain, last = self._follow(first, limit)
        if self.entry(last) < self._end_of_chain:
            raise self._invalid(f"the chain from cluster {first} loops, or has more than {limit} clusters", last)
        return chain

    def free_count(self) -> int:
        """How many clusters are free, by counting them."""
        width = self._bits // 8
        if self._bits == 12:
            return self._page(0)[FIRST_CLUSTER : self._end].count(0)
        free = 0
        length = (self._end - FIRST_CLUSTER) * width
        for run, data in self._device.chunks(self._offset + FIRST_CLUSTER * width, length):
            if run.source is None:
                free += run.length // width
            else:
                if width == 4:
                    masked = bytearray(data)
                    masked[3::4] = masked[3::4].translate(_LOW_NIBBLE)
                    data = memoryview(masked)
                free += _entries(data, self._bits).count(0)
        return free

    def free_clusters(self) -> Iterator[tuple[int, int]]:
        """Runs of free clusters, ascending: (first cluster, count)."""
        mask = 0x0FFFFFFF
        for index in range(-(-self._end // self._page_entries)):
            base = index * self._page_entries
            cluster = base
            for is_free, entries in groupby(self._page(index), lambda entry: not entry & mask):
                count = sum(1 for _ in entries)
                start, end = max(cluster, FIRST_CLUSTER), min(cluster + count, self._end)
                if is_free and start < end:
                    yield start, end - start
                cluster += count

    def _follow(self, first: int, limit: int) -> tuple[Chain, int]:
        """The chain from `first`, at most `limit` clusters of it, and its last cluster."""
        positions, clusters = array("I"), array("I")
        page, base, top = array("I"), 0, 0
        mask, end = self._mask, self._end
        cluster, previous, neighbour = first, first, -1
        position = bulk_position = 0
        while position < limit:
            if not FIRST_CLUSTER <= cluster < end:
                if cluster >= self._end_of_chain and position:
                    break
                self._check(cluster, previous)
            if cluster != neighbour:
                positions.append(position)
                clusters.append(cluster)
                bulk_position = position + _BULK_CLUSTERS
            if not base <= cluster < top:
                index = cluster // self._page_entries
                page = self._page(index)
                base = index * self._page_entries
                top = base + self._page_entries
            if position == bulk_position:
                count = _count_neighbours(page, base, cluster, limit - position - 1)
                position += count
                cluster += count
                bulk_position = position + (1 if count else _BULK_CLUSTERS)
            previous = cluster
            neighbour = cluster + 1
            cluster = page[cluster - base] & mask
            position += 1
        return Chain(positions, clusters, position), previous

    def _check_spare(self, first: int, last: int) -> None:
        """Raise for a chain that loops; it has clusters past the end of the file.

        Brent's algorithm: the cluster of each power of two is compared with those after it.
        """
        mark, next_mark = last, 1
        cluster = self.entry(last)
        for step in range(1, _MAX_SPARE_CLUSTERS + 1):
            if not FIRST_CLUSTER <= cluster < self._end:
                return
            if cluster == mark:
                break
            if step == next_mark:
                mark, next_mark = cluster, 2 * step
            cluster = self.entry(cluster)
        raise self._invalid(f"the chain from cluster {first} loops", last)

    def _check(self, cluster: int, previous: int) -> None:
        if not FIRST_CLUSTER <= cluster < self._end:
            raise self._invalid(f"cluster {cluster} is not one of {FIRST_CLUSTER} to {self._end - 1}", previous)

    def _page(self, index: int) -> array[int]:
        page = self._pages.get(index)
        if page is None:
            start = index * self._page_entries
            count = min(self._page_entries, self._end - start)
            offset, length = self._offset + start * self._bits // 8, -(-count * self._bits // 8)
            if offset + length > self._device.size:
                raise EndOfDevice(offset=offset, length=length, size=self._device.size)
            if len(self._pages) >= _MAX_PAGES:
                self._pages.clear()
            page = self._pages[index] = _entries(self._device.read(offset, length), self._bits)
        return page

    def _invalid(self, message: str, cluster: int) -> InvalidFormat:
        return InvalidFormat(
            message, structure="file allocation table", offset=self._offset + cluster * self._bits // 8
        )


def _entries(data: Buffer, bits: int) -> array[int]:
    if bits == 12:
        return _entries12(data)
    entries = array("H" if bits == 16 else "I")
    entries.frombytes(data)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


def _count_neighbours(page: array[int], base: int, cluster: int, limit: int) -> int:
    """At most `limit` entries from that of `cluster` on which each name the next cluster, on its page.

    There may be more by less than the last window; `page` begins with the entry of cluster `base`.
    """
    done = 0
    window = 4 * _BULK_CLUSTERS
    while done < limit:
        first = cluster + done
        entries = page[first - base : first - base + min(window, limit - done)]
        if not entries or entries != array(page.typecode, range(first + 1, first + 1 + len(entries))):
            break
        done += len(entries)
        window *= 2
    # the last entry of the page names a cluster of the next
    return min(done, len(page) - 1 - (cluster - base))


def _entries12(data: Buffer) -> array[int]:
    """Two entries in three bytes: the low 12 bits of 24, then the high."""
    entries = array("H", bytes(len(data) * 8 // 12 * 2))
    low, middle, high = data[0::3], data[1::3], data[2::3]
    entries[0::2] = array("H", [a | (b & 0x0F) << 8 for a, b in zip(low, middle, strict=False)])
    entries[1::2] = array("H", [b >> 4 | c << 4 for b, c in zip(middle, high, strict=False)])
    return entries
