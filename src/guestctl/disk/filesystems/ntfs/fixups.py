"""Update sequences: the last two bytes of each 512 are kept in an array in the record's head ("Fixup").

In their place stands the update sequence number, and where it does not, the record was torn while it
was written. Many records are mended at once by slices with a stride, as a walk reads every record.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block.device import Buffer
from guestctl.disk.filesystems.ntfs import layout as L

_array = Struct("<HH").unpack_from


def mend(data: Buffer, size: int, magic: bytes) -> tuple[bytes, dict[int, str]]:
    """Records of `size` bytes with their bytes in place, and what is wrong with those that are damaged."""
    mended = _mend_alike(bytes(data), size, magic)
    if mended is not None:
        return mended, {}
    parts = []
    damaged = {}
    for number, start in enumerate(range(0, len(data), size)):
        record = bytes(data[start : start + size])
        fixed = _mend_alike(record, size, magic)
        if fixed is None:
            damaged[number] = _complaint(record, size, magic)
        parts.append(fixed or record)
    return b"".join(parts), damaged


def _mend_alike(data: bytes, size: int, magic: bytes) -> bytes | None:
    """None unless all records are sound, and have their arrays in one place."""
    records = len(data) // size
    for at in range(8):
        if data[at::size] != data[at : at + 1] * records:
            return None
    offset, length = _array(data, 4)
    sectors = size // L.FIXUP_STRIDE
    if data[:4] != magic or not _array_fits(offset, length, sectors):
        return None
    low, high = data[offset::size], data[offset + 1 :: size]
    mended = bytearray(data)
    for sector in range(sectors):
        end = (sector + 1) * L.FIXUP_STRIDE - 2
        if data[end::size] != low or data[end + 1 :: size] != high:
            return None
        kept = offset + 2 + 2 * sector
        mended[end::size] = data[kept::size]
        mended[end + 1 :: size] = data[kept + 1 :: size]
    return bytes(mended)


def _array_fits(offset: int, length: int, sectors: int) -> bool:
    return length == sectors + 1 and offset >= 8 and offset + 2 * length <= L.FIXUP_STRIDE - 2


def _complaint(record: bytes, size: int, magic: bytes) -> str:
    if record[:4] != magic:
        return f"the magic is {record[:4]!r}, expected {magic!r}"
    offset, length = _array(record, 4)
    if not _array_fits(offset, length, size // L.FIXUP_STRIDE):
        return f"an update sequence array of {length} at {offset}"
    return "the update sequence number is not at the end of each 512 bytes: a torn write"
