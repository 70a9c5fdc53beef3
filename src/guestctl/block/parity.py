"""RAID5 and RAID6 arithmetic on whole stripes: exclusive or by big integers, products by tables.

P is the sum of the data stripes, Q the sum of 2^i times data stripe i, in the field of 256 elements
with polynomial 0x11D (H. Peter Anvin, "The mathematics of RAID-6").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

from guestctl.block.device import Buffer


def rebuild(
    missing: Sequence[int], data: Mapping[int, Buffer], p: Buffer | None, q: Buffer | None, length: int
) -> list[bytes] | None:
    """The `missing` data stripes, from the others (`data`) and the parity, each of `length` bytes.

    Stripes go by their index i in Q. None where too much is missing.
    """
    if len(missing) == 1 and p is not None:
        return [_sum((p, *data.values())).to_bytes(length, "little")]
    if len(missing) == 1 and q is not None:
        scale = _inverse(_power(missing[0]))
        total = _multiple(q, scale) ^ _weighted(data, {index: _product(_power(index), scale) for index in data})
        return [total.to_bytes(length, "little")]
    if len(missing) == 2 and p is not None and q is not None:
        x, y = map(_power, missing)
        scale = _inverse(x ^ y)
        factors = {index: _product(_power(index) ^ y, scale) for index in data}
        first = _multiple(q, scale) ^ _multiple(p, _product(y, scale)) ^ _weighted(data, factors)
        second = first ^ _sum((p, *data.values()))
        return [first.to_bytes(length, "little"), second.to_bytes(length, "little")]
    return None if missing else []


def _sum(stripes: Collection[Buffer]) -> int:
    total = 0
    for stripe in stripes:
        total ^= int.from_bytes(stripe, "little")
    return total


def _weighted(stripes: Mapping[int, Buffer], factors: Mapping[int, int]) -> int:
    total = 0
    for index, stripe in stripes.items():
        total ^= _multiple(stripe, factors[index])
    return total


def _multiple(stripe: Buffer, factor: int) -> int:
    return int.from_bytes(bytes(stripe).translate(_times(factor)), "little")


def _product(a: int, b: int) -> int:
    result = 0
    while b:
        if b & 1:
            result ^= a
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return result


@cache
def _power(exponent: int) -> int:
    """2 to the `exponent`, which has a period of 255."""
    value = 1
    for _ in range(exponent % 255):
        value = _product(value, 2)
    return value


@cache
def _inverse(value: int) -> int:
    return next(other for other in range(1, 256) if _product(value, other) == 1)


@cache
def _times(factor: int) -> bytes:
    return bytes(_product(value, factor) for value in range(256))
