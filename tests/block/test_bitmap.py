"""Ranges of bits, beside a look at each bit."""

from __future__ import annotations

import random

import pytest

from guestctl.block import MemoryDevice, bitmap
from guestctl.block.bitmap import BitRuns, bit_ranges


@pytest.mark.parametrize("order", ["big", "little"])
def test_ranges(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    assert order in ("big", "little")
    monkeypatch.setattr(bitmap, "_CHUNK_BYTES", 3)
    chance = random.Random(1)
    for count in (0, 1, 7, 8, 23, 24, 25, 100):
        data = bytes(chance.choice((0, 255, 15, 129)) for _ in range(13))
        places = [7 - bit if order == "big" else bit for bit in range(8)]
        bits = [bool(byte >> place & 1) for byte in data for place in places][:count]
        for is_set in (False, True):
            found = list(bit_ranges(MemoryDevice(data), count, order, is_set=is_set))  # type: ignore[arg-type]
            assert [bit for start, end in found for bit in range(start, end)] == [
                bit for bit in range(count) if bits[bit] == is_set
            ]
        if count:
            runs = BitRuns(data, count, order)  # type: ignore[arg-type]
            assert [runs.at(run.start) for run in runs] == list(runs) and len(list(runs)) == len(runs)
