"""RAID5 and RAID6 arithmetic on whole stripes: exclusive or by big integers, products by tables.

RAID6's Q is the sum of 2^i times data stripe i in the field of 256 elements with polynomial 0x11D.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache


def xor(parts: Iterable[bytes], length: int) -> bytes:
    """The exclusive or of `parts`, each of `length` bytes."""
    total = 0
    for part in parts:
        total ^= int.from_bytes(part, "little")
    return total.to_bytes(length, "little")


def syndrome(stripes: dict[int, bytes], length: int) -> bytes:
    """What the data stripes (by index) contribute to Q."""
    return xor((stripe.translate(_times(_power(index))) for index, stripe in stripes.items()), length)


def rebuild(
    wanted: int, missing: list[int], data: dict[int, bytes], p: bytes | None, q: bytes | None, length: int
) -> bytes | None:
    """Data stripe `wanted` from the others (`data`, by index) and the parity; None where too much is missing.

    `missing` are all data stripes that are not in `data`, `wanted` among them.
    """
    if len(missing) == 1 and p is not None:
        return xor((p, *data.values()), length)
    if len(missing) == 1 and q is not None:
        return xor((q, syndrome(data, length)), length).translate(_times(_inverse(_power(wanted))))
    if len(missing) == 2 and p is not None and q is not None:
        other = missing[0] if missing[1] == wanted else missing[1]
        p_rest = xor((p, *data.values()), length)
        q_rest = xor((q, syndrome(data, length)), length)
        total = xor((q_rest, p_rest.translate(_times(_power(other)))), length)
        return total.translate(_times(_inverse(_power(wanted) ^ _power(other))))
    return None


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
    return 1 if exponent == 0 else _product(_power((exponent - 1) % 255), 2)


@cache
def _inverse(value: int) -> int:
    return next(other for other in range(1, 256) if _product(value, other) == 1)


@cache
def _times(factor: int) -> bytes:
    return bytes(_product(value, factor) for value in range(256))
