"""Marvin32, the hash of log entries ("Windows registry file format specification", section "Marvin32")."""

from __future__ import annotations

_SEED = 0x82EF4D887A4E55C5
_MASK = 0xFFFFFFFF


def marvin32(data: bytes) -> int:
    """The hash of `data` with the seed of the registry."""
    low, high = _SEED & _MASK, _SEED >> 32
    whole = len(data) & ~3
    tail = int.from_bytes(data[whole:] + b"\x80", "little")
    for word in (*memoryview(data[:whole]).cast("I"), tail, 0):
        low = low + word & _MASK
        high ^= low
        low = (low << 20 & _MASK | low >> 12) + high & _MASK
        high = (high << 9 & _MASK | high >> 23) ^ low
        low = (low << 27 & _MASK | low >> 5) + high & _MASK
        high = high << 19 & _MASK | high >> 13
    return high << 32 | low
