"""Comparing the contents of two disks, as ``qemu-img compare`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block import BlockDevice, Run
from guestctl.block.device import Buffer, zeros

_PIECE_BYTES = 1 << 20
_SECTOR_BYTES = 512


class Comparison(NamedTuple):
    """``offset`` is the first sector that differs, in bytes, or None; ``message`` is qemu-img's."""

    identical: bool
    offset: int | None
    message: str


def compare(left: BlockDevice, right: BlockDevice, *, strict: bool = False) -> Comparison:
    """Compare two disks; where one is longer, its rest must be zeros.

    With `strict` the sizes must be equal, and so must be which ranges are allocated.
    """
    if strict and left.size != right.size:
        return Comparison(False, None, "Strict mode: Image size mismatch!")
    size = min(left.size, right.size)
    for offset, length, in_left, in_right in _common(left, right, size):
        if strict and (in_left.source is None) != (in_right.source is None):
            return Comparison(False, offset, f"Strict mode: Offset {offset} block status mismatch!")
        if in_left.source is None and in_right.source is None:
            continue
        mismatch = _mismatch(left, right, offset, length)
        if mismatch is not None:
            return _differs(mismatch)
    longer = left if left.size > right.size else right
    for run, buffer in longer.chunks(size, longer.size - size):
        if run.source is not None:
            mismatch = _first_difference(buffer, zeros(run.length))
            if mismatch is not None:
                return _differs(run.offset + mismatch)
    warning = "" if left.size == right.size else "Warning: Image size mismatch!\n"
    return Comparison(True, None, warning + "Images are identical.")


def _differs(offset: int) -> Comparison:
    return Comparison(False, offset, f"Content mismatch at offset {offset}!")


def _common(left: BlockDevice, right: BlockDevice, size: int) -> Iterator[tuple[int, int, Run, Run]]:
    """Ranges in which each side has one run, with these runs."""
    left_runs, right_runs = left.runs(0, size), right.runs(0, size)
    offset = left_end = right_end = 0
    while offset < size:
        if offset == left_end:
            in_left = next(left_runs)
            left_end += in_left.length
        if offset == right_end:
            in_right = next(right_runs)
            right_end += in_right.length
        end = min(left_end, right_end)
        yield offset, end - offset, in_left, in_right
        offset = end


def _mismatch(left: BlockDevice, right: BlockDevice, offset: int, length: int) -> int | None:
    for start in range(offset, offset + length, _PIECE_BYTES):
        part = min(_PIECE_BYTES, offset + length - start)
        found = _first_difference(left.read(start, part), right.read(start, part))
        if found is not None:
            return start + found
    return None


def _first_difference(left: Buffer, right: Buffer) -> int | None:
    """The offset of the first sector that differs."""
    if bytes(left) == bytes(right):
        return None
    a, b = memoryview(left), memoryview(right)
    low, high = 0, -(-len(a) // _SECTOR_BYTES)  # the first differing sector lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        same = bytes(a[low * _SECTOR_BYTES : middle * _SECTOR_BYTES]) == bytes(
            b[low * _SECTOR_BYTES : middle * _SECTOR_BYTES]
        )
        low, high = (middle, high) if same else (low, middle)
    return low * _SECTOR_BYTES
