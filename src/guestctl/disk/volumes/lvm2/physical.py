"""A physical volume: its label, its header, and the text in its metadata areas."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat
from guestctl.disk.volumes.lvm2.text import Section, parse_metadata

_SECTOR_BYTES = 512
_LABEL_SECTORS = 4
_LABEL = struct.Struct("<8sQII8s")  # id, sector_xl, crc_xl, offset_xl, type
_PV_HEADER = struct.Struct("<32sQ")  # pv_uuid, device_size_xl
_DISK_LOCN = struct.Struct("<QQ")  # offset, size
_MDA_HEADER = struct.Struct("<I16sIQQ")  # checksum_xl, magic, version, start, size
_RAW_LOCN = struct.Struct("<QQII")  # offset, size, checksum, flags
_MDA_HEADER_BYTES = 512
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_RAW_LOCN_IGNORED = 1
_INITIAL_CRC = 0xF597A6CF
# A group of thousands of volumes has some MiB.
_MAX_TEXT_BYTES = 64 << 20


class MetadataArea(NamedTuple):
    """What a metadata area holds now; its text is empty where that is nothing."""

    size: int
    text: bytes
    metadata: Section | None = None
    sequence: int = 0

    @property
    def free(self) -> int:
        """The bytes that LVM2 counts as free: the text may grow to half of what the header leaves, less a sector."""
        room = (self.size - _MDA_HEADER_BYTES) // 2 - _SECTOR_BYTES - len(self.text)
        return max(room // _SECTOR_BYTES * _SECTOR_BYTES, 0)


class PhysicalVolume(NamedTuple):
    """``damage`` says why metadata areas are missing."""

    name: str
    device: BlockDevice
    uuid: str  # as in the metadata, with hyphens
    data_offset: int  # where the first extent lies, if no metadata say otherwise
    areas: Sequence[MetadataArea]
    damage: GuestctlError | None

    @property
    def newest(self) -> MetadataArea | None:
        """The area with the newest metadata; None where the volume keeps none, or none that is sound."""
        return max((area for area in self.areas if area.metadata), key=lambda area: area.sequence, default=None)


def read_uuid(device: BlockDevice) -> str | None:
    """The UUID of the physical volume on `device`, or None where no sound label is."""
    try:
        sector, header_offset = _find_label(device)
    except InvalidFormat:
        return None
    raw_uuid, _ = _PV_HEADER.unpack_from(device.read(sector * _SECTOR_BYTES, _SECTOR_BYTES), header_offset)
    return _hyphenated(bytes(raw_uuid))


def read_physical_volume(name: str, device: BlockDevice) -> PhysicalVolume:
    """The physical volume on `device`. Raises `InvalidFormat` and `ChecksumMismatch`."""
    sector, header_offset = _find_label(device)
    header = device.read(sector * _SECTOR_BYTES, _SECTOR_BYTES)
    raw_uuid, _ = _PV_HEADER.unpack_from(header, header_offset)
    data, at = _locations(header, header_offset + _PV_HEADER.size, sector)
    places, _ = _locations(header, at, sector)
    areas = []
    damage: GuestctlError | None = None
    for offset, size in places:
        try:
            areas.append(_read_area(device, offset, size))
        except GuestctlError as error:
            damage = error
    return PhysicalVolume(name, device, _hyphenated(bytes(raw_uuid)), data[0][0] if data else 0, areas, damage)


def _find_label(device: BlockDevice) -> tuple[int, int]:
    """The sector of the label, and where in it the header of the physical volume begins."""
    damage: InvalidFormat | None = None
    for sector in range(min(_LABEL_SECTORS, device.size // _SECTOR_BYTES)):
        raw = bytes(device.read(sector * _SECTOR_BYTES, _SECTOR_BYTES))
        id_, sector_xl, stored, offset, type_ = _LABEL.unpack_from(raw)
        if id_ != b"LABELONE" or type_ != b"LVM2 001":
            continue
        computed = _crc(raw[20:])
        if computed != stored:
            at = sector * _SECTOR_BYTES
            damage = ChecksumMismatch(structure="LVM2 label", offset=at, expected=computed, actual=stored)
        elif sector_xl != sector or not _LABEL.size <= offset <= _SECTOR_BYTES - _PV_HEADER.size:
            damage = _bad("LVM2 label", "names another place", sector * _SECTOR_BYTES)
        else:
            return sector, offset
    raise damage or _bad("LVM2 label", "there is none", 0)


def _locations(header: bytes | memoryview, at: int, sector: int) -> tuple[list[tuple[int, int]], int]:
    """A list of (offset, size) that ends with zeros, and where it ends."""
    found: list[tuple[int, int]] = []
    while at + _DISK_LOCN.size <= _SECTOR_BYTES:
        offset, size = _DISK_LOCN.unpack_from(header, at)
        at += _DISK_LOCN.size
        if not offset:
            return found, at
        found.append((offset, size))
    raise _bad("pv_header", "a list of areas does not end", sector * _SECTOR_BYTES)


def _read_area(device: BlockDevice, start: int, size: int) -> MetadataArea:
    raw = bytes(device.read(start, _MDA_HEADER_BYTES))
    stored, magic, version, own_start, own_size = _MDA_HEADER.unpack_from(raw)
    if magic != _MDA_MAGIC:
        raise _bad("mda_header", "the magic is wrong", start)
    computed = _crc(raw[4:])
    if computed != stored:
        raise ChecksumMismatch(structure="mda_header", offset=start, expected=computed, actual=stored)
    if version != 1 or own_start != start or own_size != size or start + size > device.size:
        raise _bad("mda_header", f"version {version}, {own_size} bytes at {own_start:#x}", start)
    offset, length, checksum, flags = _RAW_LOCN.unpack_from(raw, _MDA_HEADER.size)
    if not offset or flags & _RAW_LOCN_IGNORED:
        return MetadataArea(size, b"")
    room = size - _MDA_HEADER_BYTES
    if not _MDA_HEADER_BYTES <= offset < size or not 0 < length <= min(room, _MAX_TEXT_BYTES):
        raise _bad("raw_locn", f"{length} bytes at {offset:#x} of an area of {size}", start + _MDA_HEADER.size)
    first = min(length, size - offset)
    text = bytes(device.read(start + offset, first))
    text += bytes(device.read(start + _MDA_HEADER_BYTES, length - first))
    computed = _crc(text)
    if computed != checksum:
        raise ChecksumMismatch(structure="LVM2 metadata", offset=start + offset, expected=computed, actual=checksum)
    metadata = parse_metadata(text, start + offset)
    return MetadataArea(size, text, metadata, metadata.sequence)


def _crc(data: bytes) -> int:
    """CRC-32 with LVM2's own initial value, and not inverted."""
    return zlib.crc32(data, _INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _hyphenated(uuid: bytes) -> str:
    text = uuid.decode("ascii", "replace")
    return "-".join(text[start:end] for start, end in pairwise((0, 6, 10, 14, 18, 22, 26, 32)))


def _bad(structure: str, message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset)
