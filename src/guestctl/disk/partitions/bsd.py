"""BSD disklabels, alone on a disk or inside a slice of an MBR or a partition of a GPT.

4.4BSD's <sys/disklabel.h>, little-endian; the label is in sector 1, or at byte 64 of sector 0. Which entries are
partitions and which numbers they get follows Linux: unused ones have none, and those in a slice come after all others.
FreeBSD counts starts from the slice where its partition "c" starts at 0; NetBSD and OpenBSD count from the disk.
A wrong checksum is a warning, as some writers (parted) leave one. Kept out, with a warning: partitions that lie
outside their slice.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.disk.partition import Partition, PartitionTable, past_the_end

_MAGIC = b"\x57\x45\x56\x82"
_OFFSETS = (512, 64)
# d_magic2, d_checksum, d_npartitions; then the entries: p_size, p_offset, p_fstype.
_TAIL = Struct("<132x4sHH")
_ENTRIES_OFFSET = 148
_ENTRY = Struct("<II4xB3x")
_LETTERS = "abcdefghijklmnopqrstuv"
_MAX_PARTITIONS = len(_LETTERS)  # OpenBSD has 16, NetBSD up to 22
_FREEBSD = ("0xa5", "516e7cb4-6ecf-11d6-8ff8-00022d09712b")
_UNUSED, _WHOLE = 0, 2
_TYPES = {
    1: "swap",
    7: "4.2BSD",
    8: "MSDOS",
    9: "4.4LFS",
    11: "HPFS",
    12: "ISO 9660",
    13: "boot",
    14: "Vinum",
    17: "ext2",
    27: "ZFS",
}


class _Entry(NamedTuple):
    size_sectors: int
    start_lba: int
    type: int


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The disklabel of a whole disk, or None where it has none."""
    warnings: list[str] = []
    entries = _read_label(device, warnings)
    if entries is None:
        return None
    used = [
        (letter, one)
        for letter, one in zip(_LETTERS, entries, strict=False)
        if one.type != _UNUSED and one.size_sectors
    ]
    partitions = tuple(_partition(number, *one, sector_size) for number, one in enumerate(used, 1))
    return PartitionTable("bsd", sector_size, partitions, warnings=(*warnings, *past_the_end(partitions, device)))


def parse_nested(
    disk: BlockDevice, outer: Partition, first_number: int, warnings: list[str]
) -> tuple[Partition, ...] | None:
    """The partitions of the disklabel in `outer`, numbered from `first_number` on; None where there is no label."""
    entries = _read_label(outer.device(disk), warnings)
    if entries is None:
        return None
    relative = outer.type in _FREEBSD and len(entries) > _WHOLE and not entries[_WHOLE].start_lba
    shift = outer.start_lba if relative else 0
    partitions: list[Partition] = []
    for letter, entry in zip(_LETTERS, entries, strict=False):
        start = entry.start_lba + shift
        whole = (start, entry.size_sectors) == (outer.start_lba, outer.size_sectors)
        if entry.type == _UNUSED or whole or not entry.size_sectors:
            continue
        if start < outer.start_lba or start + entry.size_sectors > outer.start_lba + outer.size_sectors:
            warnings.append(f"partition {letter} of the disklabel lies outside of partition {outer.number}")
            continue
        number = first_number + len(partitions)
        partitions.append(_partition(number, letter, entry._replace(start_lba=start), outer.sector_size))
    return tuple(partitions)


def _read_label(device: BlockDevice, warnings: list[str]) -> list[_Entry] | None:
    for offset in _OFFSETS:
        length = _ENTRIES_OFFSET + _MAX_PARTITIONS * _ENTRY.size
        data = bytes(device.read(offset, min(length, device.size - offset))) if offset < device.size else b""
        if not data.startswith(_MAGIC) or len(data) < _ENTRIES_OFFSET:
            continue
        magic, checksum, count = _TAIL.unpack_from(data)
        end = _ENTRIES_OFFSET + count * _ENTRY.size
        if magic != _MAGIC or count > _MAX_PARTITIONS or end > len(data):
            continue
        actual = 0
        for (word,) in Struct("<H").iter_unpack(data[:end]):
            actual ^= word
        if actual:
            warnings.append(f"the disklabel's checksum is {checksum:#x}, expected {checksum ^ actual:#x}")
        return [_Entry(*fields) for fields in _ENTRY.iter_unpack(data[_ENTRIES_OFFSET:end])]
    return None


def _partition(number: int, letter: str, entry: _Entry, sector_size: int) -> Partition:
    return Partition(
        number=number,
        start_lba=entry.start_lba,
        size_sectors=entry.size_sectors,
        sector_size=sector_size,
        type=f"{entry.type:#04x}",
        type_name=_TYPES.get(entry.type),
        name=letter,
    )
