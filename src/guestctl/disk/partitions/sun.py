"""Disk labels of SunOS and Solaris on SPARC (Sun's <sys/dklabel.h>), big-endian, in sector 0.

Starts are cylinders. The slice of the whole disk is no partition here, as for partx; numbers are those of the slices.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block.device import BlockDevice
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_LABEL_BYTES = 512
_SLICES = 8
# VTOC: tag and flags of each slice, and what says that they are there.
_TAGS = Struct(">142x16H")
_SANITY_OFFSET, _SANITY = 188, b"\x60\x0d\xde\xee"
# Tracks in a cylinder, sectors in a track; start and size of each slice; magic.
_GEOMETRY = Struct(">436xHH4x16I")
_MAGIC_OFFSET, _MAGIC = 508, b"\xda\xbe"
_WHOLE_DISK = 5
_TAG_NAMES = {
    1: "boot",
    2: "root",
    3: "swap",
    4: "usr",
    7: "var",
    8: "home",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
}


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The label of `device`, or None where it has none, or one whose checksum is wrong."""
    if device.size < _LABEL_BYTES:
        return None
    data = bytes(device.read(0, _LABEL_BYTES))
    if data[_MAGIC_OFFSET : _MAGIC_OFFSET + 2] != _MAGIC or _checksum(data):
        return None
    tracks, sectors, *places = _GEOMETRY.unpack_from(data)
    has_tags = data[_SANITY_OFFSET : _SANITY_OFFSET + 4] == _SANITY
    tags = _TAGS.unpack_from(data)[::2] if has_tags else (0,) * _SLICES
    partitions = tuple(
        Partition(
            number=number + 1,
            start_lba=places[2 * number] * tracks * sectors,
            size_sectors=places[2 * number + 1],
            sector_size=sector_size,
            type=f"{tag:#04x}",
            type_name=_TAG_NAMES.get(tag),
        )
        for number, tag in enumerate(tags)
        if places[2 * number + 1] and tag != _WHOLE_DISK
    )
    return PartitionTable("sun", sector_size, partitions, warnings=past_the_end(partitions, device))


def _checksum(data: bytes) -> int:
    """Zero where it is right."""
    result = 0
    for (word,) in Struct(">H").iter_unpack(data):
        result ^= word
    return result
