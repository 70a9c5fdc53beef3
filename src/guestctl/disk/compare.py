"""Comparing the contents of two disks, as ``qemu-img compare`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block import BlockDevice, Run
from guestctl.block.device import CHUNK_BYTES
from guestctl.disk.reader import DiskReader, MapEntry

_SECTOR_BYTES = 512


class Comparison(NamedTuple):
    """``offset`` is the first sector that differs, in bytes, or None; ``message`` is qemu-img's."""

    identical: bool
    offset: int | None
    message: str


def compare(left: DiskReader, right: DiskReader, *, strict: bool = False) -> Comparison:
    """Compare two disks; where one is longer, its rest must be zeros.

    With `strict` the sizes must be equal, and so must be what `DiskReader.map` says of every range:
    whether it is allocated, reads as zeros, and is stored as it is. (qemu-img finds a difference
    already where a range that ends the one disk is followed by another in the other disk.)
    """
    if strict and left.size != right.size:
        return Comparison(False, None, "Strict mode: Image size mismatch!")
    status = _status_mismatch(left, right) if strict else None
    size = min(left.size, right.size)
    mismatch = first_mismatch(left, right) if status is None else _mismatch(left, right, status)
    if mismatch is None and status is not None:
        return Comparison(False, status, f"Strict mode: Offset {status} block status mismatch!")
    compared_all = left.size != right.size and (mismatch is None or mismatch >= size)
    warning = "Warning: Image size mismatch!\n" if compared_all else ""
    if mismatch is not None:
        return Comparison(False, mismatch, f"{warning}Content mismatch at offset {mismatch}!")
    return Comparison(True, None, f"{warning}Images are identical.")


def first_mismatch(left: BlockDevice, right: BlockDevice) -> int | None:
    """The offset of the first sector that differs; where one is longer, its rest must be zeros."""
    size = min(left.size, right.size)
    mismatch = _mismatch(left, right, size)
    if mismatch is None and left.size != right.size:
        longer = left if left.size > right.size else right
        mismatch = _first_data(longer, size, longer.size - size)
    return mismatch


def _status_mismatch(left: DiskReader, right: DiskReader) -> int | None:
    """Where the maps of two disks of one size first differ."""
    left_map, right_map = left.map(), right.map()
    in_left, in_right = next(left_map, None), next(right_map, None)
    offset = 0
    while in_left is not None and in_right is not None:
        if _status(in_left) != _status(in_right):
            return offset
        left_end, right_end = in_left.start + in_left.length, in_right.start + in_right.length
        offset = min(left_end, right_end)
        if offset == left_end:
            in_left = next(left_map, None)
        if offset == right_end:
            in_right = next(right_map, None)
    return None


def _status(entry: MapEntry) -> tuple[bool, bool, bool, bool]:
    return entry.present, entry.zero, entry.data, entry.offset is not None


def _mismatch(left: BlockDevice, right: BlockDevice, size: int) -> int | None:
    """The first sector before `size` that differs; what is a hole on both sides is not read."""
    for in_left, in_right in common_runs(left, right, size):
        if in_left.source is None and in_right.source is None:
            continue
        for start in range(0, in_left.length, CHUNK_BYTES):
            part = min(CHUNK_BYTES, in_left.length - start)
            found = _first_difference(_bytes(in_left, start, part), _bytes(in_right, start, part))
            if found is not None:
                return in_left.offset + start + found
    return None


def _first_data(device: BlockDevice, offset: int, length: int) -> int | None:
    """The first sector in a range of `device` that is not zeros."""
    for run, buffer in device.chunks(offset, length):
        if run.source is not None:
            found = _first_difference(bytes(buffer), bytes(len(buffer)))
            if found is not None:
                return run.offset + found
    return None


def common_runs(left: BlockDevice, right: BlockDevice, size: int) -> Iterator[tuple[Run, Run]]:
    """The runs of both sides, cut so that they have the same bounds."""
    left_runs, right_runs = left.runs(0, size), right.runs(0, size)
    in_left, in_right = next(left_runs, None), next(right_runs, None)
    while in_left is not None and in_right is not None:
        part = min(in_left.length, in_right.length)
        yield in_left._replace(length=part), in_right._replace(length=part)
        in_left = _rest(in_left, part) or next(left_runs, None)
        in_right = _rest(in_right, part) or next(right_runs, None)


def _rest(run: Run, done: int) -> Run | None:
    if run.length == done:
        return None
    return Run(run.offset + done, run.length - done, run.source, run.source_offset + done)


def _bytes(run: Run, start: int, length: int) -> bytes:
    if run.source is None:
        return bytes(length)
    return bytes(run.source.read(run.source_offset + start, length))


def _first_difference(left: bytes, right: bytes) -> int | None:
    """The offset of the first sector that differs."""
    if left == right:
        return None
    low, high = 0, -(-len(left) // _SECTOR_BYTES)  # the first differing sector lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        start, end = low * _SECTOR_BYTES, middle * _SECTOR_BYTES
        same = left[start:end] == right[start:end]
        low, high = (middle, high) if same else (low, middle)
    return low * _SECTOR_BYTES
