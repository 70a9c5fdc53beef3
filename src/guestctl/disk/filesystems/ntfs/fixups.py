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
    mended = bytearray(data)
    if _mend_alike(mended, size, magic):
        return bytes(mended), {}
    mended = bytearray()
    damaged = {}
    for number, start in enumerate(range(0, len(data), size)):
        record = bytearray(data[start : start + size])
        if not _mend_alike(record, size, magic):
            damaged[number] = _complaint(record, size, magic)
        mended += record
    return bytes(mended), damaged


def _mend_alike(data: bytearray, size: int, magic: bytes) -> bool:
    """Mend all records; False, and nothing done, unless all are sound and have their arrays in one place."""
    records = len(data) // size
    for at in range(8):
        if data[at::size] != data[at : at + 1] * records:
            return False
    offset, length = _array(data, 4)
    sectors = size // L.FIXUP_STRIDE
    if data[:4] != magic or not _array_fits(offset, length, sectors):
        return False
    low, high = data[offset::size], data[offset + 1 :: size]
    ends = range(L.FIXUP_STRIDE - 2, size, L.FIXUP_STRIDE)
    if any(data[end::size] != low or data[end + 1 :: size] != high for end in ends):
        return False
    for sector, end in enumerate(ends):
        kept = offset + 2 + 2 * sector
        data[end::size] = data[kept::size]
        data[end + 1 :: size] = data[kept + 1 :: size]
    return True


def _array_fits(offset: int, length: int, sectors: int) -> bool:
    return length == sectors + 1 and offset >= 8 and offset + 2 * length <= L.FIXUP_STRIDE - 2


def _complaint(record: bytearray, size: int, magic: bytes) -> str:
    if record[:4] != magic:
        return f"the magic is {bytes(record[:4])!r}, expected {magic!r}"
    offset, length = _array(record, 4)
    if not _array_fits(offset, length, size // L.FIXUP_STRIDE):
        return f"an update sequence array of {length} at {offset}"
    return "the update sequence number is not at the end of each 512 bytes: a torn write"
