"""Do the grain tables of a VMDK image lie in its files, and do no two tables or grains share their place?

qemu-img ends at the first entry that points past the end of the file; here all are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.vmdk.grains import Kind
from guestctl.disk.formats.vmdk.layout import SECTOR_BYTES

if TYPE_CHECKING:
    from guestctl.disk.formats.vmdk.reader import Part, VmdkReader

_SLOTS_PER_PIECE = 1 << 16
# Whoever goes on after so many learns nothing, and a small file can have billions.
_MAX_CORRUPTIONS = 1 << 20


def check_image(reader: VmdkReader) -> dict[str, Any]:
    """The counts under qemu-img's keys, of which it leaves out those that are 0."""
    corruptions = 0
    used: dict[str, Places] = {}
    for part in reader.parts:
        if part.sparse is not None and part.path is not None:
            places = used.setdefault(
                part.path, Places(SECTOR_BYTES if part.sparse.compressed else part.sparse.grain_bytes)
            )
            corruptions += _check_part(part, places)
    corruptions += reader.damaged
    result = {"filename": reader.path, "format": reader.format.value, "check-errors": 0}
    return result | ({"corruptions": corruptions} if corruptions else {})


class Places:
    """Which slots of a file are in use, a bit for each; pieces without any cost nothing."""

    def __init__(self, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._pieces: dict[int, bytearray] = {}

    def take(self, offset: int) -> bool:
        """Whether nothing began in the slot of `offset` before."""
        piece, slot = divmod(offset // self._slot_bytes, _SLOTS_PER_PIECE)
        bits = self._pieces.get(piece)
        if bits is None:
            bits = self._pieces[piece] = bytearray(_SLOTS_PER_PIECE // 8)
        byte, bit = slot >> 3, 1 << (slot & 7)
        if bits[byte] & bit:
            return False
        bits[byte] |= bit
        return True


def _check_part(part: Part, places: Places) -> int:
    assert part.grains is not None and part.sparse is not None and part.device is not None
    corruptions = 0
    end = part.device.size
    grain_bytes = part.sparse.grain_bytes
    table_bytes = grain_bytes * part.sparse.entries_per_table
    tables, table = Places(SECTOR_BYTES), -1
    offset = 0
    while offset < part.size and corruptions < _MAX_CORRUPTIONS:
        try:
            if offset // table_bytes != table:
                table = offset // table_bytes
                place = part.grains.table_at(offset)
                if place and not tables.take(place):
                    corruptions += 1
                    offset = (table + 1) * table_bytes
                    continue
            mapping = part.grains.locate(offset)
        except InvalidFormat as error:
            corruptions += 1
            lost = table_bytes if error.structure == "grain directory" else grain_bytes
            offset += lost - offset % lost
            continue
        grains = range(mapping.start, min(mapping.start + mapping.length, part.size), grain_bytes)
        if mapping.kind is Kind.DATA:
            for position in range(mapping.host_offset, mapping.host_offset + len(grains) * grain_bytes, grain_bytes):
                corruptions += position >= end or not places.take(position)
        elif mapping.kind is Kind.COMPRESSED and part.compressed is not None:
            corruptions += sum(not _is_sound(part, start // grain_bytes, places) for start in grains)
        offset = mapping.start + mapping.length
    return corruptions


def _is_sound(part: Part, grain: int, places: Places) -> bool:
    assert part.grains is not None and part.compressed is not None
    position = part.grains.stored(grain)
    try:
        part.compressed.check(grain)
    except InvalidFormat:
        return False
    return places.take(position)
