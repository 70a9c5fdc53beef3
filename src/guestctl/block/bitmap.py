"""Runs of equal bits in a bitmap, found without looking at each bit in Python."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Literal, NamedTuple

from guestctl.block.device import BlockDevice, Buffer

_CHUNK_BYTES = 64 << 10  # each bit is a character for a while
_RUN = re.compile("0+|1+")


class BitRun(NamedTuple):
    """Bits ``start`` to ``end`` (exclusive), which are all as ``is_set`` says."""

    start: int
    end: int
    is_set: bool


class BitRuns:
    """The runs of the first `count` bits of a bitmap.

    `order` tells which bit of a byte comes first: ``big`` for the most significant one.
    """

    def __init__(self, bitmap: Buffer, count: int, order: Literal["big", "little"]) -> None:
        bits = format(int.from_bytes(bitmap, order), f"0{len(bitmap) * 8}b")
        if order == "little":
            bits = bits[::-1]
        bits = bits[:count]
        self._first = bits[0] == "1"
        self._ends = array("Q", (match.end() for match in _RUN.finditer(bits)))

    def at(self, bit: int) -> BitRun:
        """The run that holds `bit`."""
        index = bisect_right(self._ends, bit)
        start = self._ends[index - 1] if index else 0
        return BitRun(start, self._ends[index], self._first ^ bool(index & 1))

    def __iter__(self) -> Iterator[BitRun]:
        start, is_set = 0, self._first
        for end in self._ends:
            yield BitRun(start, end, is_set)
            start, is_set = end, not is_set

    def __len__(self) -> int:
        return len(self._ends)


def bit_ranges(
    bitmap: BlockDevice, count: int, order: Literal["big", "little"], *, is_set: bool
) -> Iterator[tuple[int, int]]:
    """(start, end) of the bits that are as `is_set` says, among the first `count`; in chunks, not joined."""
    for first in range(0, count, _CHUNK_BYTES * 8):
        bits = min(_CHUNK_BYTES * 8, count - first)
        for run in BitRuns(bitmap.read(first // 8, -(-bits // 8)), bits, order):
            if run.is_set == is_set:
                yield first + run.start, first + run.end
