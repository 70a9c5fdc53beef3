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
    heads = memoryview(data).cast("Q")[:: size // 8].tolist()
    offset, length = _array(data, 4)
    sectors = size // L.FIXUP_STRIDE
    if heads.count(heads[0]) != len(heads) or data[:4] != magic or not _array_fits(offset, length, sectors):
        return False
    units = memoryview(data).cast("H")
    stride, first = size // 2, offset // 2
    numbers = units[first::stride].tolist()
    ends = range(L.FIXUP_STRIDE // 2 - 1, stride, L.FIXUP_STRIDE // 2)
    if any(units[end::stride].tolist() != numbers for end in ends):
        return False
    for kept, end in enumerate(ends, first + 1):
        units[end::stride] = units[kept::stride]
    return True


def _array_fits(offset: int, length: int, sectors: int) -> bool:
    return length == sectors + 1 and offset >= 8 and not offset % 2 and offset + 2 * length <= L.FIXUP_STRIDE - 2


def _complaint(record: bytearray, size: int, magic: bytes) -> str:
    if record[:4] != magic:
        return f"the magic is {bytes(record[:4])!r}, expected {magic!r}"
    offset, length = _array(record, 4)
    if not _array_fits(offset, length, size // L.FIXUP_STRIDE):
        return f"an update sequence array of {length} at {offset}"
    return "the update sequence number is not at the end of each 512 bytes: a torn write"
