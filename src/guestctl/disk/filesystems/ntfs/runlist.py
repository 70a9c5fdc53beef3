"""Runlists ("Data Runs") and the data they map.

A run is a length and the difference to the previous run's LCN, each as long as a head byte says; one
without an LCN is a hole. Past the initialised size a stream reads as zeros, whatever is mapped there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.block.device import Extent, MappedDevice
from guestctl.core.errors import InvalidFormat

HOLE = -1
_MAX_VCN = 1 << 62

Runs = list[tuple[int, int, int]]  # first VCN, clusters, LCN or HOLE


class Volume(NamedTuple):
    """What runs are mapped with."""

    device: BlockDevice
    cluster_size: int
    clusters: int


class Segment(NamedTuple):
    """The runs of a part of a stream, in clusters, and the device offset of where they are written."""

    first: int
    end: int
    runs: Runs


def parse_runs(pairs: bytes, first_vcn: int, end_vcn: int, clusters: int, offset: int) -> Runs:
    """Runs that cover exactly the clusters from `first_vcn` to `end_vcn`; raises `InvalidFormat`."""
    runs: Runs = []
    vcn, lcn, at, size = first_vcn, 0, 0, len(pairs)
    from_bytes = int.from_bytes
    while at < size and pairs[at]:
        head = pairs[at]
        middle = at + 1 + (head & 15)
        end = middle + (head >> 4)
        count = from_bytes(pairs[at + 1 : middle], "little")
        if end > size or not 0 < head & 15 <= 8 or head >> 4 > 8 or count <= 0 or vcn + count > end_vcn:
            raise _bad(f"a run of {count} clusters at VCN {vcn}, where the stream ends at {end_vcn}", offset + at)
        if end == middle:
            runs.append((vcn, count, HOLE))
        else:
            lcn += from_bytes(pairs[middle:end], "little", signed=True)
            if lcn < 0 or lcn + count > clusters:
                raise _bad(f"a run of {count} clusters from {lcn} on, of {clusters}", offset + at)
            runs.append((vcn, count, lcn))
        vcn += count
        at = end
    if vcn != end_vcn:
        raise _bad(f"runs up to VCN {vcn}, expected {end_vcn}", offset + at)
    return runs


class Window(NamedTuple):
    """Extents that cover the bytes from ``start`` to ``end`` without gaps."""

    start: int
    end: int
    starts: list[int]
    extents: list[Extent]


def make_window(extents: list[Extent], initialized: int) -> Window:
    """`extents` ascend without gaps; neighbours are joined, and zeros begin at `initialized`."""
    joined: list[Extent] = []
    start, end = extents[0].start, extents[-1].start + extents[-1].length
    for extent in extents:
        at, length, source, source_offset = extent
        if at + length > initialized and source is not None:
            if at < initialized:
                joined_length = initialized - at
                _join(joined, Extent(at, joined_length, source, source_offset))
                at, length = initialized, length - joined_length
            source, source_offset = None, 0
        _join(joined, Extent(at, length, source, source_offset))
    return Window(start, end, [extent.start for extent in joined], joined)


def _join(extents: list[Extent], extent: Extent) -> None:
    if extents:
        last = extents[-1]
        if last.source is extent.source and (
            last.source is None or last.source_offset + last.length == extent.source_offset
        ):
            extents[-1] = Extent(last.start, last.length + extent.length, last.source, last.source_offset)
            return
    extents.append(extent)


class StreamData(MappedDevice):
    """The `size` bytes of a stream; its segments are parsed when a read comes their way."""

    def __init__(self, volume: Volume, size: int, initialized: int, load: Callable[[int], Segment]) -> None:
        self.size = size
        self._volume = volume
        self._initialized = initialized
        self._load = load  # from a VCN to the segment that holds it
        self._window = Window(0, 0, [], [])

    def extent(self, offset: int) -> Extent:
        window = self._window
        if not window.start <= offset < window.end:
            segment = self._load(offset // self._volume.cluster_size)
            window = self._window = make_window(self._extents(segment), self._initialized)
        return window.extents[bisect_right(window.starts, offset) - 1]

    def _extents(self, segment: Segment) -> list[Extent]:
        device, unit, _ = self._volume
        return [
            Extent(vcn * unit, count * unit, None if lcn == HOLE else device, 0 if lcn == HOLE else lcn * unit)
            for vcn, count, lcn in segment.runs
        ]


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="mapping pairs", offset=offset)
