"""The file allocation table (section 4): for each cluster, the one that follows it in its file."""

from __future__ import annotations

import sys
from array import array
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.exfat import layout as L
from guestctl.disk.filesystems.exfat.boot_region import BootRegion

_PAGE_ENTRIES = 16384
_MAX_PAGES = 512  # 32 MiB


class ClusterRun(NamedTuple):
    """`length` neighbours from `cluster` on; `position` is the place of the first in the file, in clusters."""

    position: int
    cluster: int
    length: int


class AllocationTable:
    """The table of a volume, read a page at a time."""

    def __init__(self, device: BlockDevice, region: BootRegion) -> None:
        self._device = device
        self._offset = region.fat_offset
        self._end = L.FIRST_CLUSTER + region.cluster_count
        self._pages: dict[int, array[int]] = {}

    def contiguous(self, first: int, count: int) -> list[ClusterRun]:
        """The clusters of a file with NoFatChain."""
        if first < L.FIRST_CLUSTER or first + count > self._end:
            raise self._bad(f"{count} clusters from {first} on of {self._end - L.FIRST_CLUSTER}", first)
        return [ClusterRun(0, first, count)]

    def chain(self, first: int, count: int) -> list[ClusterRun]:
        """The first `count` clusters of the file that begins in cluster `first`."""
        runs, following = self._follow(first, count)
        found = runs[-1].position + runs[-1].length
        if found < count:
            raise self._bad(f"the chain from {first} ends {count - found} clusters early", following)
        return runs

    def whole_chain(self, first: int, limit: int) -> list[ClusterRun]:
        """All clusters of the file that begins in `first`; more than `limit` are an error."""
        runs, following = self._follow(first, limit)
        if following < L.END_OF_CHAIN:
            raise self._bad(f"the chain from {first} has more than {limit} clusters", first)
        return runs

    def _follow(self, first: int, limit: int) -> tuple[list[ClusterRun], int]:
        """The chain from `first`, at most `limit` clusters of it, and the entry after them.

        A chain that loops comes to the beginning of one of its runs again.
        """
        if limit > self._end:
            raise self._bad(f"{limit} clusters are more than the volume has", first)
        starts: dict[int, int] = {}  # the first cluster of each run, and its position
        cluster, neighbour, position = first, -1, 0
        while position < limit and (cluster < L.END_OF_CHAIN or not position):
            if not L.FIRST_CLUSTER <= cluster < self._end:
                raise self._bad(f"cluster {cluster} is not one of 2 to {self._end - 1}", neighbour - 1)
            if cluster != neighbour:
                if cluster in starts:
                    raise self._bad(f"the chain from {first} loops", cluster)
                starts[cluster] = position
            page, place = divmod(cluster, _PAGE_ENTRIES)
            neighbour = cluster + 1
            cluster = (self._pages.get(page) or self._page(page))[place]
            position += 1
        ends = [*starts.values(), position][1:]
        runs = [ClusterRun(at, start, end - at) for (start, at), end in zip(starts.items(), ends, strict=True)]
        return runs, cluster

    def _page(self, index: int) -> array[int]:
        start = index * _PAGE_ENTRIES
        count = min(_PAGE_ENTRIES, self._end - start)
        page = array("I", bytes(self._device.read(self._offset + start * 4, count * 4)))
        if sys.byteorder == "big":
            page.byteswap()
        if len(self._pages) >= _MAX_PAGES:
            self._pages.clear()
        self._pages[index] = page
        return page

    def _bad(self, message: str, cluster: int) -> InvalidFormat:
        return InvalidFormat(message, structure="file allocation table", offset=self._offset + max(0, cluster) * 4)
