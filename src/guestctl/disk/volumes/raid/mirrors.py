"""RAID10: chunks in several copies, near each other, far from each other, or one after the other in an offset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice, Extent
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.raid.missing import TooManyMissing
from guestctl.disk.volumes.raid.striped import StripedDevice


class Layout(NamedTuple):
    """How chunks are copied: ``near`` times in a row of legs, and all of that ``far`` times."""

    near: int
    far: int
    offset: bool  # the far copies lie in the next rows, not in the next part of the leg
    far_set: int  # far copies move within so many legs


def parse_layout(layout: int, count: int) -> Layout:
    """The kernel's number of a layout for `count` legs. Raises `InvalidFormat` and `UnsupportedFeature`."""
    near, far, offset, sets = layout & 0xFF, layout >> 8 & 0xFF, bool(layout >> 16 & 1), layout >> 17
    if not near or not far or near * far > count:
        raise InvalidFormat(f"layout {layout:#x} for {count} members", structure="RAID10 layout", offset=0)
    if sets > 2:
        raise UnsupportedFeature(f"layout {layout:#x} of RAID10", feature="RAID10 layout")
    far_set = (count, count // far, far * near)[sets]
    return Layout(near, far, offset, far_set)


class MirroredStripes(StripedDevice):
    """An array of which each chunk is read from its first copy that is there."""

    def __init__(self, legs: Sequence[BlockDevice | None], chunk: int, layout: Layout) -> None:
        present = [leg for leg in legs if leg is not None]
        if not present or not chunk or any(leg.size != present[0].size for leg in present):
            raise InvalidFormat(f"{len(legs)} legs of RAID10", structure="RAID10 layout", offset=0)
        self._legs = legs
        self._chunk = chunk
        self._layout = layout
        chunk_count = present[0].size // chunk // layout.far * len(legs) // layout.near
        self.size = chunk_count * chunk
        self.sector_size = max(leg.sector_size for leg in present)
        used = -(-chunk_count * layout.near * layout.far // len(legs))
        self._stride = chunk if layout.offset else used // layout.far * chunk
        # Where copies lie repeats after as many chunks as there are legs.
        if not all(any(legs[leg] for leg, _ in self._copies(number)) for number in range(len(legs))):
            raise TooManyMissing("RAID10", [number for number, leg in enumerate(legs) if leg is None])

    def extent(self, offset: int) -> Extent:
        number = offset // self._chunk
        for leg, start in self._copies(number):
            device = self._legs[leg]
            if device is not None:
                return Extent(number * self._chunk, self._chunk, device, start)
        raise AssertionError("the constructor looked at every combination of legs")

    def _copies(self, number: int) -> Iterator[tuple[int, int]]:
        """(leg, offset on it) of each copy of a chunk."""
        near, far, is_offset, far_set = self._layout
        count = len(self._legs)
        for copy in range(number * near, number * near + near):
            row, leg = divmod(copy, count)
            start = row * (far if is_offset else 1) * self._chunk
            yield leg, start
            for _ in range(1, far):
                leg = _next_in_set(leg, near, far_set, count)
                start += self._stride
                yield leg, start


def _next_in_set(leg: int, step: int, far_set: int, count: int) -> int:
    """The leg `step` further in its set, where the last set also has the legs that make no full one."""
    first = leg // far_set * far_set
    last = (count // far_set - 1) * far_set
    leg += step
    if count % far_set and leg > last:
        return last + (leg - last) % (count - last)
    return first + leg % far_set
