"""The superblock of a member, in both formats (include/uapi/linux/raid/md_p.h).

Version 0.90 lies before the end of the device, at a multiple of 64 KiB, in the byte order of the machine
that wrote it; version 1 is little-endian and lies before the end (1.0), at 0 (1.1) or at 4 KiB (1.2).
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.block.device import Buffer
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature

_SECTOR_BYTES = 512
_MAGIC = 0xA92B4EFC
_NEVER = (1 << 64) - 1  # MaxSector: nothing is left to resync

# Version 1: magic, major_version, feature_map, set_uuid, set_name; level, layout, size, chunksize, raid_disks
_SB_1 = struct.Struct("<III4x16s32s8xiIQII32x")
# data_offset, data_size, super_offset, recovery_offset or journal_tail, dev_number, devflags
_DEVICE_1 = struct.Struct("<QQQQI20xB7x")
# events, resync_offset, sb_csum, max_dev
_STATE_1 = struct.Struct("<8xQQII32x")
_DEVICE_1_OFFSET = 128
_STATE_1_OFFSET = 192
_ROLES_1_OFFSET = 256
_SUPER_OFFSET_1 = 144
_CHECKSUM_1 = 216
_SB_1_BYTES = 4096
_MAX_DEVICES_1 = (_SB_1_BYTES - _ROLES_1_OFFSET) // 2
_FEATURE_RECOVERY_OFFSET = 2
_FEATURE_RESHAPE_ACTIVE = 4
_FEATURE_BAD_BLOCKS = 8
_FEATURE_REPLACEMENT = 16
_FEATURE_RECOVERY_BITMAP = 128
_FEATURE_JOURNAL = 512
_FEATURE_RAID0_LAYOUT = 4096
_KNOWN_FEATURES = 0x1FFF
_ROLE_MAX = 0xFF00
_ROLE_JOURNAL = 0xFFFD
_WRITE_MOSTLY_1 = 1

# Version 0.90, in words of 32 bits
_WORDS_0 = 1024
_SET_UUID = (5, 13, 14, 15)
_LEVEL, _SIZE, _RAID_DISKS, _STATE, _CHECKSUM, _EVENTS, _LAYOUT, _CHUNK_SIZE = 7, 8, 10, 33, 38, 39, 64, 65
_DISKS, _DISK_WORDS, _MAX_DISKS, _THIS_DISK = 128, 32, 27, 992
_RAID_DISK, _DISK_STATE = 3, 4
_STATE_CLEAN = 1
_DISK_FAULTY, _DISK_SYNC, _DISK_WRITE_MOSTLY = 1, 4, 1 << 9
_MINOR_RESHAPE = 91


class Superblock(NamedTuple):
    """What one member says of its array and of itself. Sizes and offsets are in bytes."""

    version: str  # as blkid has it
    uuid: str
    label: str | None
    level: int
    layout: int | None  # None: RAID0 that does not say
    chunk_bytes: int
    disk_count: int
    component_bytes: int  # of each member that the array uses, for levels with redundancy
    events: int
    roles: dict[int, int]  # by number of a member, where that is in sync or being rebuilt
    clean: bool
    reshaping: bool
    journal: int | None  # the number of the member that is the journal; -1: there was one
    number: int
    data_offset: int
    data_bytes: int
    in_sync: bool
    replacement: bool
    bad_blocks: bool
    write_mostly: bool
    journal_tail: int


class Place(NamedTuple):
    """Where a superblock of which version was found."""

    offset: int
    version: str


def find_superblock(device: BlockDevice) -> Place | None:
    """The first superblock, in blkid's order."""
    ends = ((device.size // 65536 * 65536 - 65536, "0.90"), (device.size // 4096 * 4096 - 8192, "1.0"))
    for offset, version in (*ends, (0, "1.1"), (4096, "1.2")):
        if not 0 <= offset <= device.size - _SB_1_BYTES:
            continue
        head = device.read(offset, _SUPER_OFFSET_1 + 8)
        order = ">" if version == "0.90" and bytes(head[:4]) == struct.pack(">I", _MAGIC) else "<"
        magic, major = struct.unpack_from(order + "II", head)
        (super_offset,) = struct.unpack_from("<Q", head, _SUPER_OFFSET_1)
        if magic != _MAGIC or major != (0 if version == "0.90" else 1):
            continue
        if major == 0 or super_offset * _SECTOR_BYTES == offset:
            return Place(offset, version)
    return None


def read_superblock(device: BlockDevice, *, verify: bool = True) -> Superblock:
    """The superblock of a member. Raises `InvalidFormat` and `UnsupportedFeature`."""
    place = find_superblock(device)
    if place is None:
        raise InvalidFormat("there is none", structure="md superblock", offset=0)
    raw = device.read(place.offset, _SB_1_BYTES)
    return (_parse_0 if place.version == "0.90" else _parse_1)(raw, place, verify)


def _parse_1(raw: Buffer, place: Place, verify: bool) -> Superblock:
    _, _, features, uuid, name, level, layout, size, chunk, disk_count = _SB_1.unpack_from(raw)
    data_offset, data_size, _, recovery, number, flags = _DEVICE_1.unpack_from(raw, _DEVICE_1_OFFSET)
    events, resync_offset, stored, max_dev = _STATE_1.unpack_from(raw, _STATE_1_OFFSET)
    if max_dev > _MAX_DEVICES_1:
        raise InvalidFormat(f"max_dev is {max_dev}", structure="md superblock", offset=place.offset, actual=max_dev)
    covered = bytearray(raw[: _ROLES_1_OFFSET + 2 * max_dev])
    covered[_CHECKSUM_1 : _CHECKSUM_1 + 4] = bytes(4)
    if verify:
        _check(_folded(_words(covered + bytes(len(covered) % 4))), stored, place)
    if features & ~_KNOWN_FEATURES:
        raise UnsupportedFeature(f"features {features:#x} of an md array", feature="md feature")
    raw_roles = [role for (role,) in struct.iter_unpack("<H", covered[_ROLES_1_OFFSET:])]
    journals = [at for at, role in enumerate(raw_roles) if role == _ROLE_JOURNAL]
    has_journal = bool(features & _FEATURE_JOURNAL)
    is_journal = number in journals
    return Superblock(
        version=place.version,
        uuid=_hyphenated(uuid),
        label=name.partition(b"\0")[0].decode("utf-8", "surrogateescape") or None,
        level=level,
        layout=None if level == 0 and not features & _FEATURE_RAID0_LAYOUT else layout,
        chunk_bytes=chunk * _SECTOR_BYTES,
        disk_count=disk_count,
        component_bytes=size * _SECTOR_BYTES,
        events=events,
        roles={at: role for at, role in enumerate(raw_roles) if role < _ROLE_MAX},
        clean=resync_offset == _NEVER,
        reshaping=bool(features & _FEATURE_RESHAPE_ACTIVE),
        journal=journals[0] if journals else -1 if has_journal else None,
        number=number,
        data_offset=data_offset * _SECTOR_BYTES,
        data_bytes=data_size * _SECTOR_BYTES,
        in_sync=not features & (_FEATURE_RECOVERY_OFFSET | _FEATURE_RECOVERY_BITMAP),
        replacement=bool(features & _FEATURE_REPLACEMENT),
        bad_blocks=bool(features & _FEATURE_BAD_BLOCKS),
        write_mostly=bool(flags & _WRITE_MOSTLY_1),
        journal_tail=recovery * _SECTOR_BYTES if is_journal else 0,
    )


def _parse_0(raw: Buffer, place: Place, verify: bool) -> Superblock:
    words = _words(raw)
    big_endian = words[0] != _MAGIC
    if big_endian:
        words.byteswap()
    _, _, minor, patch = words[:4]
    stored, words[_CHECKSUM] = words[_CHECKSUM], 0
    if verify:
        _check(_folded(words), stored, place)
    events = words[_EVENTS : _EVENTS + 2][:: 1 if big_endian else -1]
    disks = [words[at : at + _DISK_WORDS] for at in range(_DISKS, _THIS_DISK, _DISK_WORDS)]
    number = words[_THIS_DISK]
    if number >= _MAX_DISKS:
        raise InvalidFormat(f"this_disk is {number}", structure="md superblock", offset=place.offset, actual=number)
    level = _signed(words[_LEVEL])
    return Superblock(
        version=f"0.{minor}.{patch}",
        uuid=_hyphenated(struct.pack(">4I", *(words[at] for at in _SET_UUID))),
        label=None,
        level=level,
        layout=None if level == 0 else words[_LAYOUT],
        chunk_bytes=words[_CHUNK_SIZE],
        disk_count=words[_RAID_DISKS],
        component_bytes=words[_SIZE] << 10,
        events=events[0] << 32 | events[1],
        roles={
            at: disk[_RAID_DISK]
            for at, disk in enumerate(disks)
            if disk[_DISK_STATE] & (_DISK_SYNC | _DISK_FAULTY) == _DISK_SYNC
        },
        clean=bool(words[_STATE] & _STATE_CLEAN),
        reshaping=minor >= _MINOR_RESHAPE,
        journal=None,
        number=number,
        data_offset=0,
        data_bytes=place.offset,
        in_sync=True,
        replacement=False,
        bad_blocks=False,
        write_mostly=bool(disks[number][_DISK_STATE] & _DISK_WRITE_MOSTLY),
        journal_tail=0,
    )


def _words(raw: Buffer | bytearray) -> array[int]:
    """Little-endian words of 32 bits."""
    words = array("I", bytes(raw))
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _folded(words: array[int]) -> int:
    total = sum(words)
    return (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF


def _check(computed: int, stored: int, place: Place) -> None:
    if computed != stored:
        raise ChecksumMismatch(structure="md superblock", offset=place.offset, expected=computed, actual=stored)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _hyphenated(uuid: bytes) -> str:
    text = uuid.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
