"""Root sectors of Atari's hard disks (AHDI 3.00 Release Notes), big-endian.

There is no magic: a sector is one where its entries are sound. An entry "XGM" is a chain of further root sectors,
whose starts are relative to themselves and to the first of them. The eight entries of ICD are not read.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_SECTOR_BYTES = 512
_DISK_SIZE = Struct(">450xI")
_ENTRIES_OFFSET, _ENTRIES_END = 454, 502
_ENTRY = Struct(">B3sII")  # flag, identifier, start, size
_EXISTS, _BOOTABLE = 0x1, 0x80
_EXTENDED = b"XGM"
_MBR_MAGIC = b"\x55\xaa"
_MAX_PARTITIONS = 256


class _Entry(NamedTuple):
    flag: int
    identifier: bytes
    start_lba: int
    size_sectors: int


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The partitions of `device`, or None where its first sector is not a root sector."""
    entries = _read(device, 0)
    if entries is None or not any(entry.size_sectors for entry in entries):
        return None
    warnings: list[str] = []
    partitions: list[Partition] = []
    number = 1
    for entry in entries:
        if not entry.flag & _EXISTS:
            number += 1
            continue
        inner = _extended(device, entry, warnings) if entry.identifier == _EXTENDED else [entry]
        for item in inner:
            partitions.append(_partition(number, item, sector_size))
            number += 1
    found = tuple(partitions)
    return PartitionTable("atari", sector_size, found, warnings=(*warnings, *past_the_end(found, device)))


def _read(device: BlockDevice, lba: int) -> list[_Entry] | None:
    """The entries of a root sector, where all that exist are sound."""
    if (lba + 1) * _SECTOR_BYTES > device.size:
        return None
    sector = bytes(device.read(lba * _SECTOR_BYTES, _SECTOR_BYTES))
    entries = [_Entry(*fields) for fields in _ENTRY.iter_unpack(sector[_ENTRIES_OFFSET:_ENTRIES_END])]
    existing = [entry for entry in entries if entry.flag & _EXISTS]
    if lba == 0 and (sector.endswith(_MBR_MAGIC) or not existing or not _fits(device, sector, existing)):
        return None
    return entries


def _fits(device: BlockDevice, sector: bytes, entries: list[_Entry]) -> bool:
    end = device.size // _SECTOR_BYTES
    (size,) = _DISK_SIZE.unpack_from(sector)
    return size <= end and all(
        entry.identifier.isalnum() and entry.start_lba > 0 and entry.start_lba + entry.size_sectors <= end
        for entry in entries
    )


def _extended(device: BlockDevice, container: _Entry, warnings: list[str]) -> list[_Entry]:
    found: list[_Entry] = []
    lba = container.start_lba
    seen: set[int] = set()
    while True:
        entries = _read(device, lba)
        if entries is None or lba in seen or len(found) >= _MAX_PARTITIONS or not entries[0].flag & _EXISTS:
            warnings.append(f"the chain of root sectors breaks off at LBA {lba}")
            return found
        seen.add(lba)
        found.append(entries[0]._replace(start_lba=lba + entries[0].start_lba))
        following = entries[1]
        if not following.flag & _EXISTS or following.identifier != _EXTENDED:
            return found
        lba = container.start_lba + following.start_lba


def _partition(number: int, entry: _Entry, sector_size: int) -> Partition:
    return Partition(
        number=number,
        start_lba=entry.start_lba,
        size_sectors=entry.size_sectors,
        sector_size=sector_size,
        type=entry.identifier.decode("latin-1"),
        type_name=None,
        bootable=bool(entry.flag & _BOOTABLE),
    )
