"""Volume headers of IRIX (SGI's <sys/dvh.h>), big-endian, in sector 0.

Numbers are those of the slots; the volume header itself and the whole disk have theirs, as for Linux.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block.device import BlockDevice
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_HEADER_BYTES = 512
_MAGIC = b"\x0b\xe5\xa9\x41"
_SLOTS_OFFSET, _SLOTS_END = 312, 504
_SLOT = Struct(">III")  # blocks, first block, type
_TYPES = {
    0: "volume header",
    3: "raw",
    5: "EFS",
    6: "whole disk",
    7: "EFS",
    8: "logical volume",
    10: "XFS",
    11: "XFS log",
    12: "XLV volume",
    0x82: "Linux swap",
    0x83: "Linux",
}


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The volume header of `device`, or None where it has none, or one whose checksum is wrong."""
    if device.size < _HEADER_BYTES:
        return None
    data = bytes(device.read(0, _HEADER_BYTES))
    if not data.startswith(_MAGIC) or sum(word for (word,) in Struct(">I").iter_unpack(data)) & 0xFFFFFFFF:
        return None
    partitions = tuple(
        Partition(
            number=number,
            start_lba=start,
            size_sectors=size,
            sector_size=sector_size,
            type=f"{kind:#04x}",
            type_name=_TYPES.get(kind),
        )
        for number, (size, start, kind) in enumerate(_SLOT.iter_unpack(data[_SLOTS_OFFSET:_SLOTS_END]), 1)
        if size
    )
    return PartitionTable("dvh", sector_size, partitions, warnings=past_the_end(partitions, device))
