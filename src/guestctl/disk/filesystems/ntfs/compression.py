"""Compressed streams: units of 16 clusters, each stored as it is, compressed with LZNT1, or as a hole.

A unit of which clusters are missing at the end is compressed; one of which all are there is not.
Only whole units are decompressed, and the last few are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from guestctl.block.device import Buffer, Extent
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs import lznt1
from guestctl.disk.filesystems.ntfs.runlist import HOLE, Runs, Segment, StreamData, Volume

_MAX_UNIT_BYTES = 4 << 20
_MAX_CACHED_BYTES = 1 << 20
_MAX_CLUSTERS = 1 << 62  # in a run


class CompressedData(StreamData):
    def __init__(
        self,
        volume: Volume,
        size: int,
        initialized: int,
        load: Callable[[int], Segment],
        unit: int,
        offset: int,
    ) -> None:
        super().__init__(volume, size, initialized, load)
        if unit > _MAX_UNIT_BYTES:
            raise InvalidFormat(f"a compression unit of {unit} bytes", structure="attribute", offset=offset)
        self._unit = unit
        self._segment = Segment(0, 0, [])  # that was last asked for, in whole units
        self._cache: dict[int, bytes] = {}  # by the unit's first byte

    def _extents(self, segment: Segment) -> list[Extent]:
        segment = self._whole_units(segment.first)
        device, cluster_size, _ = self._volume
        per_unit = self._unit // cluster_size
        extents: list[Extent] = []
        pending: Runs = []  # of a unit that more than one run covers

        def emit(vcn: int, count: int, lcn: int) -> None:
            start, length = vcn * cluster_size, count * cluster_size
            extents.append(
                Extent(start, length, None) if lcn == HOLE else Extent(start, length, device, lcn * cluster_size)
            )

        def finish() -> None:
            missing = sum(count for _, count, lcn in pending if lcn == HOLE)
            total = sum(count for _, count, _ in pending)
            if not missing or missing == total:
                for run in pending:
                    emit(*run)
            else:
                start = pending[0][0] * cluster_size
                extents.append(Extent(start, total * cluster_size, self, start))
            pending.clear()

        for vcn, count, lcn in segment.runs:
            while count:
                within = vcn % per_unit
                part = count - count % per_unit if not within and count >= per_unit else min(count, per_unit - within)
                if part >= per_unit:
                    emit(vcn, part, lcn)
                else:
                    pending.append((vcn, part, lcn))
                    if within + part == per_unit:
                        finish()
                vcn += part
                count -= part
                lcn = lcn if lcn == HOLE else lcn + part
        if pending:
            finish()
        return extents

    def _whole_units(self, vcn: int) -> Segment:
        """The segment that holds a cluster, with its neighbours where a unit goes on in them."""
        if self._segment.first <= vcn < self._segment.end:
            return self._segment
        per_unit = self._unit // self._volume.cluster_size
        clusters = -(-self.size // self._volume.cluster_size)
        segments = [self._load(vcn)]
        while segments[0].first % per_unit:
            segments.insert(0, self._load(segments[0].first - 1))
        while segments[-1].end % per_unit and segments[-1].end < clusters:
            segments.append(self._load(segments[-1].end))
        runs = [run for segment in segments for run in segment.runs]
        self._segment = Segment(segments[0].first, segments[-1].end, runs)
        return self._segment

    def compute(self, offset: int, length: int) -> Buffer:
        unit = self._unit
        first = offset - offset % unit
        if offset + length <= first + unit:
            return memoryview(self._read_unit(first))[offset - first : offset - first + length]
        parts = [self._read_unit(start) for start in range(first, offset + length, unit)]
        return memoryview(b"".join(parts))[offset - first : offset - first + length]

    def _read_unit(self, start: int) -> bytes:
        data = self._cache.get(start)
        if data is None:
            device, cluster_size, _ = self._volume
            segment = self._whole_units(start // cluster_size)
            first, end = start // cluster_size, (start + self._unit) // cluster_size
            stored = b"".join(
                [
                    bytes(device.read(at * cluster_size, clusters * cluster_size))
                    for at, clusters in _clusters(segment.runs, first, end)
                ]
            )
            data = lznt1.decompress(stored, self._unit, start)
            while self._cache and (len(self._cache) + 1) * self._unit > _MAX_CACHED_BYTES:
                del self._cache[next(iter(self._cache))]
            self._cache[start] = data
        return data


def _clusters(runs: Runs, first: int, end: int) -> list[tuple[int, int]]:
    """(LCN, count) of what is mapped between two VCNs."""
    found = []
    for index in range(bisect_right(runs, (first, _MAX_CLUSTERS)) - 1, len(runs)):
        vcn, count, lcn = runs[index]
        if vcn >= end:
            break
        start, stop = max(vcn, first), min(vcn + count, end)
        if start < stop and lcn != HOLE:
            found.append((lcn + start - vcn, stop - start))
    return found
