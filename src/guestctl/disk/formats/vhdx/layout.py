"""Structures of a VHDX file, with the field names of [MS-VHDX] (the section of each in parentheses).

Numbers are little-endian, and so are the first three fields of GUIDs. Checksums are CRC-32C over
the structure with zeros in the place of the checksum.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from uuid import UUID

from google_crc32c import extend

KIB, MIB = 1 << 10, 1 << 20

# (2.2.1) File Type Identifier: Signature, Creator.
FILE_SIGNATURE = b"vhdxfile"
FILE_IDENTIFIER = struct.Struct("<8s512s")
FILE_IDENTIFIER_BYTES = 64 * KIB

# (2.2.2) Headers: Signature, Checksum, SequenceNumber, FileWriteGuid, DataWriteGuid, LogGuid,
# LogVersion, Version, LogLength, LogOffset.
HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
HEADER_SIGNATURE = b"head"
HEADER_OFFSETS = (64 * KIB, 128 * KIB)
HEADER_BYTES = 4 * KIB
VERSION = 1
LOG_VERSION = 0

# (2.2.3) Region tables: Signature, Checksum, EntryCount, Reserved; entries: Guid, FileOffset, Length, Required.
REGION_TABLE = struct.Struct("<4sIII")
REGION_TABLE_SIGNATURE = b"regi"
REGION_TABLE_OFFSETS = (192 * KIB, 256 * KIB)
REGION_TABLE_BYTES = 64 * KIB
REGION_ENTRY = struct.Struct("<16sQII")
MAX_TABLE_ENTRIES = 2047
BAT_REGION = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA_REGION = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")

# (2.3.1) Log entries: Signature, Checksum, EntryLength, Tail, SequenceNumber, DescriptorCount, Reserved,
# LogGuid, FlushedFileOffset, LastFileOffset; descriptors and data sectors follow.
LOG_ENTRY = struct.Struct("<4sIIIQII16sQQ")
LOG_ENTRY_SIGNATURE = b"loge"
LOG_SECTOR_BYTES = 4 * KIB
# Signature, then of a zero descriptor Reserved, ZeroLength, of a data descriptor TrailingBytes, LeadingBytes;
# then FileOffset, SequenceNumber.
DESCRIPTOR = struct.Struct("<4s4s8sQQ")
ZERO_SIGNATURE = b"zero"
DATA_SIGNATURE = b"desc"
# Signature, SequenceHigh, Data, SequenceLow.
DATA_SECTOR = struct.Struct("<4sI4084sI")
DATA_SECTOR_SIGNATURE = b"data"

# (2.5) BAT entries: State (3 bits), Reserved (17), FileOffsetMB (44): masked, the last is an offset in bytes.
BAT_STATE_MASK = 7
BAT_OFFSET_MASK = -1 << 20 & (1 << 64) - 1
CHUNK_SECTORS = 1 << 23  # that one sector bitmap block describes
BITMAP_BLOCK_BYTES = MIB
BITMAP_PRESENT = 6


class State(IntEnum):
    """PAYLOAD_BLOCK_*: states of a payload block."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    UNMAPPED_0_95 = 5  # of the format's draft
    FULLY_PRESENT = 6
    PARTIALLY_PRESENT = 7


# (2.6.1) Metadata table: Signature, Reserved, EntryCount; entries: ItemId, Offset, Length, flags, Reserved.
METADATA_TABLE = struct.Struct("<8sHH20x")
METADATA_SIGNATURE = b"metadata"
METADATA_TABLE_BYTES = 64 * KIB
METADATA_ENTRY = struct.Struct("<16sIII4x")
METADATA_IS_USER = 1
METADATA_IS_VIRTUAL_DISK = 2
METADATA_IS_REQUIRED = 4

# (2.6.2) Known items.
FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
VIRTUAL_DISK_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
VIRTUAL_DISK_ID = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR_SIZE = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR_SIZE = UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
LEAVE_BLOCKS_ALLOCATED = 1
HAS_PARENT = 2
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = MIB, 256 * MIB
MAX_DISK_BYTES = 64 << 40

# (2.6.2.6) Parent locator: LocatorType, Reserved, KeyValueCount; entries: KeyOffset, ValueOffset,
# KeyLength, ValueLength.
LOCATOR = struct.Struct("<16sHH")
LOCATOR_ENTRY = struct.Struct("<IIHH")
VHDX_LOCATOR = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")


def checksum(structure: bytes) -> int:
    """The checksum of a structure that keeps it, as all do, in its bytes 4 to 8."""
    return int(extend(extend(0, structure[:4] + bytes(4)), structure[8:]))


def chunk_ratio(logical_sector_size: int, block_size: int) -> int:
    """Payload blocks to one sector bitmap block (2.5)."""
    return CHUNK_SECTORS * logical_sector_size // block_size
