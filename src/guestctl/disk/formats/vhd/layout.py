"""Structures of a VHD file, with the field names of the "Virtual Hard Disk Image Format Specification" (October 2006).

Numbers are big-endian; file names in locators are UTF-16, little-endian, the parent's name in the
header is big-endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum

SECTOR_BYTES = 512

# "Hard Disk Footer Format": Cookie, Features, File Format Version, Data Offset, Time Stamp, Creator
# Application, Creator Version, Creator Host OS, Original Size, Current Size, Disk Geometry (3), Disk
# Type, Checksum, Unique Id, Saved State.
FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
FOOTER_COOKIE = b"conectix"
FOOTER_BYTES = 512
OLD_FOOTER_BYTES = 511  # of Virtual PC before version 2004
FOOTER_CHECKSUM_OFFSET = 64
FILE_FORMAT_VERSION = 0x00010000
FEATURES_RESERVED = 2  # "must always be set to 1"
NO_OFFSET = (1 << 64) - 1


class DiskType(IntEnum):
    """The footer's disk types; the others are deprecated or reserved."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


# "Dynamic Disk Header Format": Cookie, Data Offset, Table Offset, Header Version, Max Table Entries,
# Block Size, Checksum, Parent Unique ID, Parent Time Stamp, Parent Unicode Name; then eight locators.
HEADER = struct.Struct(">8sQQIIII16sI4x512s")
HEADER_COOKIE = b"cxsparse"
HEADER_BYTES = 1024
HEADER_CHECKSUM_OFFSET = 36
HEADER_VERSION = 0x00010000
# Platform Code, Platform Data Space, Platform Data Length, Platform Data Offset.
LOCATOR = struct.Struct(">4sII4xQ")
LOCATORS = 8
MAX_LOCATOR_BYTES = 64 << 10  # a path on Windows has at most 32,767 characters
PLATFORM_RELATIVE = b"W2ru"
PLATFORM_ABSOLUTE = b"W2ku"
PLATFORM_MAC = b"MacX"

UNUSED = 0xFFFFFFFF  # in the block allocation table
DEFAULT_BLOCK_BYTES = 2 << 20

EPOCH = 946684800  # time stamps count seconds from 2000-01-01, 12:00 AM UTC
# A block's sector offset has 32 bits; this is what Microsoft's tools and qemu allow.
MAX_DISK_BYTES = 2040 << 30

# "Appendix: CHS Calculation".
MAX_GEOMETRY = (65535, 16, 255)
MAX_GEOMETRY_SECTORS = 65535 * 16 * 255
# Programs to which the current size is the disk's; all others mean the geometry. qemu keeps this list: Hyper-V,
# qemu with force_size, Disk2vhd, XenServer and XenConverter; and images exported from Azure.
CURRENT_SIZE_CREATORS = frozenset((b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"))


def checksum(structure: bytes, offset: int) -> int:
    """One's complement of the sum of all bytes of `structure` but its checksum at `offset`."""
    return ~(sum(structure) - sum(structure[offset : offset + 4])) & 0xFFFFFFFF


def bitmap_bytes(block_bytes: int) -> int:
    """The sector bitmap of a block, "padded to a 512-byte sector boundary"."""
    bits = block_bytes // SECTOR_BYTES
    return -(-bits // (8 * SECTOR_BYTES)) * SECTOR_BYTES
