"""FILETIME: units of 100 ns since 1601 ([MS-DTYP] 2.3.3)."""

from __future__ import annotations

_EPOCH_TICKS = 116_444_736_000_000_000  # 1970
_END_TICKS = 2_650_467_744_000_000_000  # 10000, where "never" and damage lie


def filetime_ns(ticks: int) -> int | None:
    """Nanoseconds since 1970; None for 0 and for what is past the year 9999."""
    return (ticks - _EPOCH_TICKS) * 100 if 0 < ticks < _END_TICKS else None
