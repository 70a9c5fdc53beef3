"""Volumes of IBM's direct access storage devices (z/OS DFSMSdfp, volume labels; Linux's dasdfmt), big-endian.

The label is in the third block, its text in EBCDIC. Read: the Linux disk layout (LNX1), which has one partition.
Refused by name: the compatible disk layout (VOL1) and CMS minidisks (CMS1).
"""

from __future__ import annotations

from struct import Struct

from guestctl.block.device import BlockDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_BLOCK_SIZES = (4096, 2048, 1024, 512)
_LABEL_BLOCK = 2
# Identifier, volume serial; version of the layout and, from 2 on, the number of blocks.
_LABEL = Struct(">4s6s69xBQ")
_LINUX, _OTHERS = "LNX1", ("VOL1", "CMS1")
_VERSION_2 = 0xF2


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The partition of `device`, or None where it has no volume label. Raises `UnsupportedFeature`."""
    for block_size in _BLOCK_SIZES:
        offset = _LABEL_BLOCK * block_size
        if offset + _LABEL.size > device.size:
            continue
        data = bytes(device.read(offset, _LABEL.size))
        identifier = data[:4].decode("cp037")
        if identifier in _OTHERS:
            raise UnsupportedFeature(f"the layout {identifier} of a DASD", feature=f"DASD {identifier}")
        if identifier == _LINUX:
            return _table(device, data, block_size, sector_size)
    return None


def _table(device: BlockDevice, data: bytes, block_size: int, sector_size: int) -> PartitionTable:
    _, serial, version, blocks = _LABEL.unpack(data)
    unit = block_size // sector_size
    start = (_LABEL_BLOCK + 1) * unit
    size = blocks * unit if version >= _VERSION_2 else device.size // sector_size
    partitions = (Partition(1, start, max(0, size - start), sector_size, type="0x00", type_name=None),)
    uuid = serial.decode("cp037").strip() or None
    return PartitionTable("dasd", sector_size, partitions, uuid, past_the_end(partitions, device))
