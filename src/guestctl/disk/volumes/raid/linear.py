"""What has no redundancy: devices one after the other, in stripes, and zeros."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from guestctl.block import BlockDevice, Extent, MappedDevice
from guestctl.disk.volumes.raid.striped import StripedDevice


class Concatenation(MappedDevice):
    """Devices one after the other."""

    def __init__(self, parts: Sequence[BlockDevice]) -> None:
        self._parts = parts
        *self._starts, self.size = accumulate((part.size for part in parts), initial=0)
        self.sector_size = max(part.sector_size for part in parts)

    def extent(self, offset: int) -> Extent:
        index = bisect_right(self._starts, offset) - 1
        part = self._parts[index]
        return Extent(self._starts[index], part.size, part, 0)


class Stripes(StripedDevice):
    """Devices of one size, of which each has every so-many-th stripe of `stripe` bytes."""

    def __init__(self, legs: Sequence[BlockDevice], stripe: int) -> None:
        self._legs = legs
        self._stripe = stripe
        self.size = sum(leg.size for leg in legs)
        self.sector_size = max(leg.sector_size for leg in legs)

    def extent(self, offset: int) -> Extent:
        number = offset // self._stripe
        row, leg = divmod(number, len(self._legs))
        return Extent(number * self._stripe, self._stripe, self._legs[leg], row * self._stripe)


class Zeros(MappedDevice):
    """A segment that has no place anywhere."""

    def __init__(self, size: int) -> None:
        self.size = size

    def extent(self, offset: int) -> Extent:
        return Extent(0, self.size, None)
