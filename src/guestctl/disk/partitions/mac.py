"""Apple partition maps ("Inside Macintosh: Devices", chapter 3), big-endian.

Block 0 tells the size of the blocks in which the rest counts; the map begins in block 1 and is its own first
partition. All entries have a number, free space too, as for Linux.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block.device import BlockDevice
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_DRIVER_MAGIC, _ENTRY_MAGIC = b"ER", b"PM"
_BLOCK_SIZE = Struct(">2xH")
# Entries in the map, first block, blocks, name, type.
_ENTRY = Struct(">2s2xIII32s32s")
_MAX_ENTRIES = 256


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The map of `device`, or None where it has none."""
    if device.size < 4:
        return None
    head = device.read(0, 4)
    (block_size,) = _BLOCK_SIZE.unpack(head)
    if head[:2] != _DRIVER_MAGIC or block_size < sector_size or block_size % sector_size:
        return None
    warnings: list[str] = []
    partitions: list[Partition] = []
    number, count = 1, 1
    while number <= min(count, _MAX_ENTRIES):
        offset = number * block_size
        data = device.read(offset, _ENTRY.size) if offset + _ENTRY.size <= device.size else b""
        if data[:2] != _ENTRY_MAGIC:
            if number == 1:
                return None
            warnings.append(f"no entry in block {number} of the map, which has {count}")
            break
        _, entries, start, size, name, kind = _ENTRY.unpack(data)
        if number == 1:
            count = entries
        partitions.append(_partition(number, start, size, block_size // sector_size, sector_size, name, kind))
        number += 1
    if count > _MAX_ENTRIES:
        warnings.append(f"entries after {_MAX_ENTRIES} are ignored")
    found = tuple(partitions)
    return PartitionTable("mac", sector_size, found, warnings=(*warnings, *past_the_end(found, device)))


def _partition(number: int, start: int, size: int, unit: int, sector_size: int, name: bytes, kind: bytes) -> Partition:
    return Partition(
        number=number,
        start_lba=start * unit,
        size_sectors=size * unit,
        sector_size=sector_size,
        type=_text(kind) or "",
        type_name=None,
        name=_text(name),
    )


def _text(data: bytes) -> str | None:
    return data.partition(b"\0")[0].decode("mac-roman") or None
