"""GUID partition tables: UEFI Specification 2.10, chapter 5.3. Little-endian.

The primary header is in LBA 1, its backup in the last LBA; each names an array of entries. A disk
has a GPT where its MBR has an entry of type 0xEE, as for the kernel and blkid: without one, an old
GPT that nobody wiped would hide the MBR that replaced it.

Read: revision 1.x; entries of 128·2ⁿ bytes; logical sectors of any size the caller names; the
backup where the primary is damaged or missing; hybrid MBRs (their partitions are ignored).
Kept, with a warning: entries that overlap, end before they begin, or lie past the end of the disk.
Refused: other revisions; header or entries whose CRC is wrong in both places.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import ChecksumMismatch, EndOfDevice, InvalidFormat, UnsupportedFeature
from guestctl.disk.partition import Partition, PartitionTable
from guestctl.disk.partition_types import GPT_TYPES

# Partition attributes, table 5.8.
REQUIRED_PARTITION = 1 << 0
NO_BLOCK_IO_PROTOCOL = 1 << 1
LEGACY_BIOS_BOOTABLE = 1 << 2

_SIGNATURE = b"EFI PART"
_HEADER = Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = "<16s16sQQQ72s"
_ENTRY_BYTES = 128
_GUID = Struct("<IHH")
_UNUSED = bytes(16)
_MBR_ENTRY = Struct("<B3xB3xII")
_MBR_PROTECTIVE = 0xEE

# 32768 entries. The kernel cannot allocate more for them, and writers make 128.
_MAX_ENTRIES_BYTES = 4 << 20
_MAX_WARNINGS = 20


class _Header(NamedTuple):
    lba: int
    alternate_lba: int
    disk_guid: str
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int


def parse(device: BlockDevice, sector_size: int) -> PartitionTable | None:
    """The GPT of `device`, or None where it has none.

    Raises `InvalidFormat` where both copies are damaged, `UnsupportedFeature` for other revisions.
    """
    last_lba = device.size // sector_size - 1
    if last_lba < 2:
        return None
    mbr = _mbr_entries(device)
    if not any(system == _MBR_PROTECTIVE for _, system, _, _ in mbr):
        return None
    warnings: list[str] = []
    found = _find(device, sector_size, last_lba, warnings)
    if found is None:
        return None
    header, entries = found
    if any(system not in (0, _MBR_PROTECTIVE) and size for _, system, _, size in mbr):
        warnings.append("hybrid MBR: its own partitions are ignored, the GPT is used")
    if header.lba == 1 and header.alternate_lba > last_lba:
        warnings.append(f"the disk ends before its backup GPT in LBA {header.alternate_lba}")
    partitions = _partitions(entries, header.entry_size, sector_size)
    warnings += _complaints(partitions, last_lba)
    return PartitionTable("gpt", sector_size, partitions, header.disk_guid, tuple(warnings))


def _mbr_entries(device: BlockDevice) -> list[tuple[int, int, int, int]]:
    sector = device.read(0, 512)
    return list(_MBR_ENTRY.iter_unpack(sector[446:510])) if sector[510:] == b"\x55\xaa" else []


def _find(device: BlockDevice, sector_size: int, last_lba: int, warnings: list[str]) -> tuple[_Header, Buffer] | None:
    """The first copy that is intact, with its entries; None where no copy has a signature."""
    damage: InvalidFormat | None = None
    lbas = [1, last_lba]
    for lba in lbas:
        try:
            header = _read_header(device, lba, sector_size)
            if header is None:
                continue
            if lba == 1 and 1 < header.alternate_lba < last_lba:
                lbas.insert(1, header.alternate_lba)
            entries = _read_entries(device, header, sector_size)
        except InvalidFormat as error:
            damage = damage or error
            continue
        if lba != 1:
            reason = str(damage) if damage else f"no signature in LBA 1 at offset {sector_size:#x}"
            warnings.append(f"the backup GPT in LBA {lba} is used: {reason}")
        return header, entries
    if damage is not None:
        raise damage
    return None


def _read_header(device: BlockDevice, lba: int, sector_size: int) -> _Header | None:
    offset = lba * sector_size
    sector = device.read(offset, sector_size)
    return _parse_header(sector, lba, offset) if sector[:8] == _SIGNATURE else None


def _parse_header(sector: Buffer, lba: int, offset: int) -> _Header:
    """Table 5.5. `sector` is one logical sector, which begins with the signature."""
    (
        _signature,
        revision,
        header_size,
        header_crc,
        _reserved,
        my_lba,
        alternate_lba,
        _first_usable_lba,
        _last_usable_lba,
        disk_guid,
        entries_lba,
        entry_count,
        entry_size,
        entries_crc,
    ) = _HEADER.unpack_from(sector)
    if not _HEADER.size <= header_size <= len(sector):
        raise _invalid(f"a header of {header_size} bytes", offset)
    crc = zlib.crc32(sector[20:header_size], zlib.crc32(b"\0\0\0\0", zlib.crc32(sector[:16])))
    if crc != header_crc:
        raise ChecksumMismatch(structure="GPT header", offset=offset, expected=header_crc, actual=crc)
    if revision >> 16 != 1:
        name = f"GPT revision {revision >> 16}.{revision & 0xFFFF}"
        raise UnsupportedFeature(f"{name} is not known", feature=name)
    if my_lba != lba:
        raise InvalidFormat(
            f"it says it is in LBA {my_lba}", structure="GPT header", offset=offset, expected=lba, actual=my_lba
        )
    # UEFI 2.10, table 5.5: 128 x 2^n.
    if entry_size < _ENTRY_BYTES or entry_size & (entry_size - 1):
        raise _invalid(f"partition entries of {entry_size} bytes", offset)
    if not 0 < entry_count * entry_size <= _MAX_ENTRIES_BYTES:
        raise _invalid(f"{entry_count} partition entries of {entry_size} bytes", offset)
    return _Header(lba, alternate_lba, _guid(disk_guid), entries_lba, entry_count, entry_size, entries_crc)


def _read_entries(device: BlockDevice, header: _Header, sector_size: int) -> Buffer:
    offset = header.entries_lba * sector_size
    length = header.entry_count * header.entry_size
    if offset + length > device.size:
        raise EndOfDevice(offset=offset, length=length, size=device.size)
    entries = device.read(offset, length)
    crc = zlib.crc32(entries)
    if crc != header.entries_crc:
        raise ChecksumMismatch(
            structure="GPT partition entries", offset=offset, expected=header.entries_crc, actual=crc
        )
    return entries


def _partitions(entries: Buffer, entry_size: int, sector_size: int) -> tuple[Partition, ...]:
    """Table 5.7, for each entry in use."""
    layout = Struct(f"{_ENTRY}{entry_size - _ENTRY_BYTES}x")
    partitions = []
    for number, fields in enumerate(layout.iter_unpack(entries), 1):
        type_guid, unique_guid, starting_lba, ending_lba, attributes, name = fields
        if type_guid == _UNUSED:
            continue
        kind = _guid(type_guid)
        partitions.append(
            Partition(
                number=number,
                start_lba=starting_lba,
                size_sectors=max(0, ending_lba + 1 - starting_lba),
                sector_size=sector_size,
                type=kind,
                type_name=GPT_TYPES.get(kind),
                name=_name(name) or None,
                uuid=_guid(unique_guid),
                bootable=bool(attributes & LEGACY_BIOS_BOOTABLE),
                attributes=attributes,
            )
        )
    return tuple(partitions)


def _complaints(partitions: tuple[Partition, ...], last_lba: int) -> list[str]:
    warnings = []
    previous: Partition | None = None  # of those seen, the one that ends last
    for partition in sorted(partitions, key=lambda partition: partition.start_lba):
        end = partition.start_lba + partition.size_sectors
        if not partition.size_sectors:
            warnings.append(f"partition {partition.number} ends before it begins")
            continue
        if end - 1 > last_lba:
            warnings.append(f"partition {partition.number} ends in LBA {end - 1}, the disk in LBA {last_lba}")
        if previous is not None and partition.start_lba < previous.start_lba + previous.size_sectors:
            warnings.append(f"partitions {previous.number} and {partition.number} overlap")
        if previous is None or end > previous.start_lba + previous.size_sectors:
            previous = partition
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"and {len(warnings) - _MAX_WARNINGS} more such partitions"]
    return warnings


def _guid(raw: bytes) -> str:
    """Appendix A: the first three fields are little-endian, the rest are bytes."""
    low, middle, high = _GUID.unpack_from(raw)
    return f"{low:08x}-{middle:04x}-{high:04x}-{raw[8:10].hex()}-{raw[10:].hex()}"


def _name(raw: bytes) -> str:
    """UTF-16 up to a NUL. What is no text becomes surrogate escapes of its bytes in WTF-8."""
    text = raw.decode("utf-16-le", "surrogatepass").partition("\0")[0]
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="GPT header", offset=offset)
