"""What every `BlockDevice` must do, checked against a flat copy of its bytes."""

from __future__ import annotations

import random

import pytest

from guestctl.block import BlockDevice
from guestctl.core.errors import EndOfDevice


def check_device(device: BlockDevice, flat: bytes, *, seed: int = 0, rounds: int = 200) -> None:
    """Random reads, runs and chunks of `device` give the bytes of `flat`."""
    assert device.size == len(flat)
    source = random.Random(seed)
    ranges = [(0, len(flat)), (0, 0), (len(flat), 0)]
    for _ in range(rounds):
        offset = source.randrange(len(flat) + 1)
        length = min(len(flat) - offset, source.choice((1, 17, 511, 512, 513, 4096, 5000, 70_000)))
        ranges.append((offset, length))
    for offset, length in ranges:
        expected = flat[offset : offset + length]
        assert bytes(device.read(offset, length)) == expected
        check_runs(device, offset, length, expected)
        assert b"".join(bytes(buffer) for _, buffer in device.chunks(offset, length)) == expected
        assert b"".join(device.buffers(offset, length)) == expected
    for offset, length in ((-1, 1), (0, len(flat) + 1), (len(flat), 1), (1 << 63, 1), (0, -1)):
        with pytest.raises(EndOfDevice):
            device.read(offset, length)
        with pytest.raises(EndOfDevice):
            list(device.runs(offset, length))


def check_runs(device: BlockDevice, offset: int, length: int, expected: bytes) -> None:
    """Runs are ascending, without gaps, and lead to the bytes."""
    position = offset
    for run in device.runs(offset, length):
        assert run.offset == position
        assert run.length > 0
        part = expected[position - offset : position - offset + run.length]
        if run.source is None:
            assert part.count(0) == run.length
        else:
            assert bytes(run.source.read(run.source_offset, run.length)) == part
        position += run.length
    assert position == offset + length
