"""Master boot records: the partition table of DOS, with chains of logical partitions.

There is no specification; this follows what Linux and blkid take for a table, and for which number
a partition gets. Little-endian; LBAs count logical sectors, 512 bytes of sector 0 hold the table.

Read: primary, extended (types 0x05, 0x0F, 0x85) and logical partitions; logical sectors of 512 and
of 4096 bytes. The table does not say which: a device that says 4096 is believed, and of one that
says 512 the content of the partitions decides, where it is only found in units of 4096.
Kept, with a warning: partitions past the end of the disk; chains that break off, loop or go on and on.
Not a table: the boot sector of a filesystem or volume, and a table without partitions on a disk
that has one; a protective MBR without its GPT. Tables nested in partitions (BSD, Solaris) are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer, MemoryDevice, SliceDevice
from guestctl.disk.filesystems import matches
from guestctl.disk.partition import Partition, PartitionTable
from guestctl.disk.partition_types import MBR_TYPES

_SECTOR_BYTES = 512  # that hold a table, whatever the sector size
_SIGNATURE_OFFSET = 440  # the disk's, 4 bytes
_TABLE_OFFSET = 446
_MAGIC_OFFSET = 510
_MAGIC = b"\x55\xaa"
_ENTRY = Struct("<B3xB3xII")
_ACTIVE = 0x80
_EXTENDED_TYPES = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_AIX_MAGIC = b"\xc9\xc2\xd4\xc1"
_FIRST_LOGICAL = 5
_MAX_PARTITIONS = 256  # DISK_MAX_PARTS of Linux
_LARGE_SECTOR_BYTES = 4096
_CONTENT_BYTES = 8 << 20  # of a partition, where magics are looked for


class _Entry(NamedTuple):
    boot_indicator: int
    type: int
    start_lba: int
    size_sectors: int

    @property
    def extended(self) -> bool:
        return self.type in _EXTENDED_TYPES


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The partition table in the MBR of `device`, or None where it has none in sectors of that size."""
    if device.size < _SECTOR_BYTES:
        return None
    sector = bytes(device.read(0, _SECTOR_BYTES))
    entries = _parse_table(sector)
    if entries is None or not _is_plausible(sector, entries):
        return None
    used = [entry for entry in entries if entry.size_sectors]
    if not used and not _is_empty_table(device, sector):
        return None
    if _sector_size(device, used) != sector_size:
        return None
    signature = int.from_bytes(sector[_SIGNATURE_OFFSET : _SIGNATURE_OFFSET + 4], "little")
    uuid = f"{signature:08x}" if signature else None
    warnings: list[str] = []
    numbered = [(number, 0, entry) for number, entry in enumerate(entries, 1) if entry.size_sectors]
    for container in used:
        if container.extended:
            for base_lba, entry in _logical(device, container, sector_size, warnings):
                number = max(numbered[-1][0] + 1, _FIRST_LOGICAL)
                if number >= _MAX_PARTITIONS:
                    warnings.append(f"logical partitions after number {number - 1} are ignored")
                    break
                numbered.append((number, base_lba, entry))
    partitions = tuple(_partition(number, base_lba, entry, sector_size, uuid) for number, base_lba, entry in numbered)
    for partition in partitions:
        if partition.start + partition.size > device.size:
            last_lba = partition.start_lba + partition.size_sectors - 1
            warnings.append(
                f"partition {partition.number} ends in LBA {last_lba}, the disk in LBA {device.size // sector_size - 1}"
            )
    return PartitionTable("msdos", sector_size, partitions, uuid, tuple(warnings))


def _parse_table(sector: Buffer) -> list[_Entry] | None:
    if sector[_MAGIC_OFFSET:_SECTOR_BYTES] != _MAGIC:
        return None
    return [_Entry(*fields) for fields in _ENTRY.iter_unpack(sector[_TABLE_OFFSET:_MAGIC_OFFSET])]


def _is_plausible(sector: bytes, entries: list[_Entry]) -> bool:
    """Whether `sector` is a master boot record, and not another sector with the magic of one."""
    if any(entry.boot_indicator not in (0, _ACTIVE) or entry.type == _PROTECTIVE for entry in entries):
        return False
    if sector.startswith(_AIX_MAGIC):
        return False
    if any(probe.type != "vfat" for probe, _ in matches(MemoryDevice(sector))):  # FAT's magic is the one of a table
        return False
    return not _is_fat(sector)


def _is_fat(sector: bytes) -> bool:
    if sector[11] or sector[12] not in (2, 4, 8, 16):  # BPB_BytsPerSec: spares most disks the import
        return False
    from guestctl.disk.filesystems.fat.boot_sector import parse_boot_sector

    return parse_boot_sector(sector) is not None


def _is_empty_table(device: BlockDevice, sector: bytes) -> bool:
    """Whether a table without partitions is meant as one.

    The boot loaders of filesystems and volumes end in the same magic, before 64 bytes of zeros.
    """
    if any(probe.type != "vfat" for probe, _ in matches(device)):
        return False
    return any(sector[_SIGNATURE_OFFSET : _SIGNATURE_OFFSET + 4]) or not any(sector[:_SIGNATURE_OFFSET])


def _sector_size(device: BlockDevice, entries: list[_Entry]) -> int:
    if device.sector_size == _LARGE_SECTOR_BYTES:
        return _LARGE_SECTOR_BYTES
    if any((entry.start_lba + entry.size_sectors) * _LARGE_SECTOR_BYTES > device.size for entry in entries):
        return _SECTOR_BYTES
    for sector_size in (_SECTOR_BYTES, _LARGE_SECTOR_BYTES):
        if any(_has_content(device, entry.start_lba * sector_size) for entry in entries):
            return sector_size
    return _SECTOR_BYTES


def _has_content(device: BlockDevice, start: int) -> bool:
    """Whether something known begins at `start`: a boot record, a filesystem or a volume."""
    return any(matches(SliceDevice(device, start, _CONTENT_BYTES)))


def _logical(
    device: BlockDevice, container: _Entry, sector_size: int, warnings: list[str]
) -> Iterator[tuple[int, _Entry]]:
    """The logical partitions in a container, each with the LBA that its start is relative to.

    Each lies behind an extended boot record, a sector like the MBR. Of its entries the first is
    the partition and the second leads to the next record; the third and fourth, which OS/2 used,
    count where they lie inside the record's own range. Starts of partitions are relative to their
    record, those of records to the container.
    """
    lba, size = container.start_lba, container.size_sectors
    seen: set[int] = set()
    while True:
        seen.add(lba)
        offset = lba * sector_size
        if offset + _SECTOR_BYTES > device.size:
            warnings.append(f"an extended boot record in LBA {lba} lies past the end of the disk")
            return
        entries = _parse_table(device.read(offset, _SECTOR_BYTES))
        if entries is None:
            if len(seen) > 1:  # a container nobody has used yet holds anything
                warnings.append(f"no extended boot record in LBA {lba}, where one is expected")
            return
        for slot, entry in enumerate(entries):
            if entry.size_sectors and not entry.extended and (slot < 2 or _is_inside(entry, lba, size, container)):
                yield lba, entry
        following = next((entry for entry in entries if entry.size_sectors and entry.extended), None)
        if following is None:
            return
        lba, size = container.start_lba + following.start_lba, following.size_sectors
        if lba in seen:
            warnings.append(f"the chain of extended boot records loops to LBA {lba}")
            return
        if len(seen) >= _MAX_PARTITIONS:
            warnings.append(f"more than {_MAX_PARTITIONS} extended boot records")
            return


def _is_inside(entry: _Entry, record_lba: int, record_size: int, container: _Entry) -> bool:
    end_lba = record_lba + entry.start_lba + entry.size_sectors
    return (
        entry.start_lba + entry.size_sectors <= record_size and end_lba <= container.start_lba + container.size_sectors
    )


def _partition(number: int, base_lba: int, entry: _Entry, sector_size: int, uuid: str | None) -> Partition:
    return Partition(
        number=number,
        start_lba=base_lba + entry.start_lba,
        size_sectors=entry.size_sectors,
        sector_size=sector_size,
        type=f"{entry.type:#04x}",
        type_name=MBR_TYPES.get(entry.type),
        uuid=f"{uuid}-{number:02x}" if uuid else None,
        bootable=entry.boot_indicator == _ACTIVE,
        extended=entry.extended,
    )
