"""RAID4, RAID5 and RAID6: rows of stripes, some of which hold parity.

The layouts have the numbers of the kernel's ``ALGORITHM_…`` (drivers/md/raid5.h), which are those in the
superblocks of md; RAID6 has those of RAID5 with P and Q, some more of DDF, and some of RAID5 with a
disk of Q behind.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice, Extent
from guestctl.block.device import Buffer
from guestctl.block.parity import rebuild
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.raid.missing import TooManyMissing
from guestctl.disk.volumes.raid.striped import StripedDevice

LEFT_ASYMMETRIC = 0
RIGHT_ASYMMETRIC = 1
LEFT_SYMMETRIC = 2
RIGHT_SYMMETRIC = 3
PARITY_0 = 4
PARITY_N = 5
ROTATING_ZERO_RESTART = 8
ROTATING_N_RESTART = 9
ROTATING_N_CONTINUE = 10
LEFT_ASYMMETRIC_6 = 16
RIGHT_ASYMMETRIC_6 = 17
LEFT_SYMMETRIC_6 = 18
RIGHT_SYMMETRIC_6 = 19
PARITY_0_6 = 20

_UNIT_BYTES = 64 << 10  # what is computed at once stays in the processor's cache
_CACHED_UNITS = 128
_MAX_LEGS = 257  # Q has 255 powers of 2 for data


class Row(NamedTuple):
    """Which leg of a row holds what: data in their order, P, and Q or None."""

    data: tuple[int, ...]
    p: int
    q: int | None
    powers: tuple[int, ...]  # of 2, by which each data stripe counts in Q


def rows(level: int, layout: int, count: int) -> list[Row]:
    """The rows of `count` legs until they repeat. Raises `UnsupportedFeature`."""
    make = (_RAID6 if level == 6 else _RAID5).get(PARITY_N if level == 4 else layout)
    if make is None:
        raise UnsupportedFeature(f"layout {layout} of RAID{level}", feature=f"RAID{level} layout")
    if level == 6 and layout >= LEFT_ASYMMETRIC_6:
        return [make(row, count - 1)._replace(q=count - 1) for row in range(count - 1)]
    return [make(row, count) for row in range(count)]


def _row5(p: int, count: int, *, symmetric: bool = False) -> Row:
    order = [leg for leg in range(count) if leg != p]
    data = tuple(order[p:] + order[:p] if symmetric else order)
    return Row(data, p, None, tuple(map(order.index, data)))


def _row6(p: int, q: int, count: int, *, symmetric: bool = False, ddf: bool = False) -> Row:
    """In Q data count from the leg after Q on, or by the number of their leg as DDF has it."""
    around = [leg % count for leg in range(q + 1, q + count) if leg % count != p]
    data = tuple(around if symmetric else sorted(around))
    return Row(data, p, q, data if ddf else tuple(map(around.index, data)))


_Make = Callable[[int, int], Row]
_RAID5: dict[int, _Make] = {
    LEFT_ASYMMETRIC: lambda row, n: _row5(n - 1 - row, n),
    RIGHT_ASYMMETRIC: lambda row, n: _row5(row, n),
    LEFT_SYMMETRIC: lambda row, n: _row5(n - 1 - row, n, symmetric=True),
    RIGHT_SYMMETRIC: lambda row, n: _row5(row, n, symmetric=True),
    PARITY_0: lambda row, n: _row5(0, n),
    PARITY_N: lambda row, n: _row5(n - 1, n),
}
_RAID6: dict[int, _Make] = {
    LEFT_ASYMMETRIC: lambda row, n: _row6(n - 1 - row, (n - row) % n, n),
    RIGHT_ASYMMETRIC: lambda row, n: _row6(row, (row + 1) % n, n),
    LEFT_SYMMETRIC: lambda row, n: _row6(n - 1 - row, (n - row) % n, n, symmetric=True),
    RIGHT_SYMMETRIC: lambda row, n: _row6(row, (row + 1) % n, n, symmetric=True),
    PARITY_0: lambda row, n: _row6(0, 1, n),
    PARITY_N: lambda row, n: _row6(n - 2, n - 1, n),
    ROTATING_ZERO_RESTART: lambda row, n: _row6(row, (row + 1) % n, n, ddf=True),
    ROTATING_N_RESTART: lambda row, n: _row6((n - 2 - row) % n, (n - 1 - row) % n, n, ddf=True),
    ROTATING_N_CONTINUE: lambda row, n: _row6(n - 1 - row, (n - 2 - row) % n, n, symmetric=True, ddf=True),
    LEFT_ASYMMETRIC_6: _RAID5[LEFT_ASYMMETRIC],
    RIGHT_ASYMMETRIC_6: _RAID5[RIGHT_ASYMMETRIC],
    LEFT_SYMMETRIC_6: _RAID5[LEFT_SYMMETRIC],
    RIGHT_SYMMETRIC_6: _RAID5[RIGHT_SYMMETRIC],
    PARITY_0_6: _RAID5[PARITY_0],
}


class ParityStripes(StripedDevice):
    """An array whose missing legs, one of RAID4 and RAID5 and two of RAID6, are computed from the others."""

    def __init__(self, legs: Sequence[BlockDevice | None], stripe: int, level: int, layout: int) -> None:
        parity_count = 2 if level == 6 else 1
        present = [leg for leg in legs if leg is not None]
        if (
            not 2 * parity_count <= len(legs) <= _MAX_LEGS
            or not stripe
            or any(leg.size != present[0].size for leg in present)
        ):
            raise InvalidFormat(f"{len(legs)} legs of RAID{level}", structure="RAID layout", offset=0)
        if len(legs) - len(present) > parity_count:
            raise TooManyMissing(f"RAID{level}", [number for number, leg in enumerate(legs) if leg is None])
        self._legs = legs
        self._stripe = stripe
        self._rows = rows(level, layout, len(legs))
        self._width = len(legs) - parity_count
        self.size = present[0].size // stripe * stripe * self._width
        self.sector_size = max(leg.sector_size for leg in present)
        self._unit_bytes = math.gcd(stripe, _UNIT_BYTES)
        self._units: OrderedDict[int, dict[int, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def extent(self, offset: int) -> Extent:
        number = offset // self._stripe
        row, index = divmod(number, self._width)
        leg = self._legs[self._rows[row % len(self._rows)].data[index]]
        start = number * self._stripe
        return Extent(start, self._stripe, leg, row * self._stripe) if leg else Extent(start, self._stripe, self, start)

    def compute(self, offset: int, length: int) -> Buffer:
        number, skip = divmod(offset, self._stripe)
        row, index = divmod(number, self._width)
        leg = self._rows[row % len(self._rows)].data[index]
        start = row * self._stripe + skip
        first, skip = divmod(start, self._unit_bytes)
        last = (start + length - 1) // self._unit_bytes
        parts = [self._unit(unit)[leg] for unit in range(first, last + 1)]
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        return joined if len(joined) == length else memoryview(joined)[skip : skip + length]

    def _unit(self, unit: int) -> dict[int, bytes]:
        """What the missing legs hold from their offset `unit` times the unit's size on: data only, by leg."""
        with self._lock:
            found = self._units.get(unit)
            if found is not None:
                self._units.move_to_end(unit)
                return found
        found = self._rebuild(unit * self._unit_bytes)
        with self._lock:
            self._units[unit] = found
            while len(self._units) > _CACHED_UNITS:
                self._units.popitem(last=False)
        return found

    def _rebuild(self, offset: int) -> dict[int, bytes]:
        length = self._unit_bytes
        row = self._rows[offset // self._stripe % len(self._rows)]
        missing, data = {}, {}
        for number, power in zip(row.data, row.powers, strict=True):
            leg = self._legs[number]
            if leg is None:
                missing[number] = power
            else:
                data[power] = leg.read(offset, length)
        p, q = self._legs[row.p], self._legs[row.q] if row.q is not None else None
        use_q = q is not None and (p is None or len(missing) == 2)
        p_stripe = p.read(offset, length) if p is not None else None
        q_stripe = q.read(offset, length) if q is not None and use_q else None
        stripes = rebuild(list(missing.values()), data, p_stripe, q_stripe, length)
        assert stripes is not None, "the constructor counted them"
        return dict(zip(missing, stripes, strict=True))
