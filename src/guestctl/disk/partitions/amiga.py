"""Rigid disk blocks of the Amiga (AmigaDOS Technical Reference, <devices/hardblocks.h>), big-endian.

The block is among the first 16 sectors; partitions are a chain of blocks, numbered in its order. Their starts and
sizes are in cylinders, whose size each tells for itself.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block.device import BlockDevice
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_SEARCHED_SECTORS = 16
_BLOCK_BYTES = 256  # of each block that count
_RIGID, _PARTITION = b"RDSK", b"PART"
_LONGS = Struct(">64I")
_MAX_PARTITIONS = 128
_END = 0xFFFFFFFF
# Places in units of four bytes: of the rigid disk block, and of a partition's.
_SUMMED_LONGS, _BLOCK_SIZE, _PARTITION_LIST = 1, 4, 7
_NEXT, _FLAGS, _NAME_BYTE = 4, 5, 36
_SURFACES, _BLOCKS_PER_TRACK, _LOW_CYLINDER, _HIGH_CYLINDER, _DOS_TYPE = 35, 37, 41, 42, 48
_BOOTABLE = 0x1


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The partitions of `device`, or None where it has no rigid disk block."""
    head = bytes(device.read(0, min(_SEARCHED_SECTORS * sector_size, device.size)))
    blocks = (_checked(head[at : at + _BLOCK_BYTES], _RIGID) for at in range(0, len(head), sector_size))
    rigid = next(filter(None, blocks), None)
    if rigid is None:
        return None
    longs = _LONGS.unpack(rigid)
    unit = longs[_BLOCK_SIZE]
    if unit < sector_size or unit % sector_size:
        return None
    warnings: list[str] = []
    partitions: list[Partition] = []
    block = longs[_PARTITION_LIST]
    seen: set[int] = set()
    while block != _END:
        offset = block * unit
        fits = offset + _BLOCK_BYTES <= device.size
        data = _checked(bytes(device.read(offset, _BLOCK_BYTES)), _PARTITION) if fits else None
        if data is None or block in seen or len(partitions) >= _MAX_PARTITIONS:
            warnings.append(f"the chain of partitions breaks off at block {block}")
            break
        seen.add(block)
        partitions.append(_partition(len(partitions) + 1, data, unit // sector_size, sector_size))
        block = _LONGS.unpack(data)[_NEXT]
    found = tuple(partitions)
    return PartitionTable("amiga", sector_size, found, warnings=(*warnings, *past_the_end(found, device)))


def _checked(data: bytes, identifier: bytes) -> bytes | None:
    """A block, where it has that identifier and a sound checksum."""
    if not data.startswith(identifier) or len(data) < _BLOCK_BYTES:
        return None
    longs = _LONGS.unpack(data)
    count = longs[_SUMMED_LONGS]
    return data if count <= len(longs) and not sum(longs[:count]) & _END else None


def _partition(number: int, data: bytes, unit: int, sector_size: int) -> Partition:
    longs = _LONGS.unpack(data)
    cylinder = longs[_SURFACES] * longs[_BLOCKS_PER_TRACK] * unit
    name = data[_NAME_BYTE + 1 : _NAME_BYTE + 1 + min(31, data[_NAME_BYTE])]
    return Partition(
        number=number,
        start_lba=longs[_LOW_CYLINDER] * cylinder,
        size_sectors=max(0, longs[_HIGH_CYLINDER] - longs[_LOW_CYLINDER] + 1) * cylinder,
        sector_size=sector_size,
        type=f"{longs[_DOS_TYPE]:#010x}",
        type_name=None,
        name=name.decode("latin-1") or None,
        bootable=bool(longs[_FLAGS] & _BOOTABLE),
    )
