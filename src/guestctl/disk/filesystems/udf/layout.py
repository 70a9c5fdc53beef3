"""On-disk structures: ECMA-167 parts 3 and 4, and OSTA UDF 2.60. All are little-endian; offsets are in bytes."""

from __future__ import annotations

import stat
from struct import Struct

# Tag (3/7.2): identifier, version, checksum, serial number, CRC, its length, location
TAG = Struct("<HHBxHHHI")
TAG_BYTES = 16
# Tag identifiers (3/7.2.1, 4/7.2.1)
PRIMARY_VOLUME, ANCHOR, VOLUME_POINTER, PARTITION, LOGICAL_VOLUME = 1, 2, 3, 5, 6
TERMINATING, INTEGRITY = 8, 9
FILE_SET, FILE_IDENTIFIER, ALLOCATION_EXTENT, INDIRECT_ENTRY = 256, 257, 258, 259
FILE_ENTRY, ATTRIBUTE_HEADER, SPACE_BITMAP, EXTENDED_FILE_ENTRY = 261, 262, 264, 266
SPARING_TABLE = 0

DESCRIPTOR_BYTES = 512
# Anchor (3/10.2): length and location of the main and the reserve sequence
ANCHOR_EXTENTS = Struct("<16xIIII")
# Of the descriptors that follow one another: their number (3/8.4.2), which is the last part of this
SEQUENCE_NUMBER = Struct("<16xI")
NEXT_SEQUENCE = Struct("<20xII")  # Volume Descriptor Pointer (3/10.3)
# Logical Volume Descriptor (3/10.6): block size, file set (long_ad), length and count of partition maps,
# integrity sequence (extent_ad)
LOGICAL = Struct("<212xI32x16sII160xII")
PARTITION_MAPS_OFFSET = 440
# Partition Descriptor (3/10.5): number, start, length
PARTITION_DESCRIPTOR = Struct("<22xH164xII")
PARTITION_HEADER_OFFSET = 56
# Partition Header (4/14.3): extents of the unallocated space table and bitmap
PARTITION_HEADER = Struct("<IIII")
# Integrity Descriptor (3/10.10): type, next extent, count of partitions, length of the implementation use
INTEGRITY_DESCRIPTOR = Struct("<28xIII32xII")
INTEGRITY_TABLES_OFFSET = 80
INTEGRITY_OPEN = 0
# Logical Volume Integrity Descriptor Implementation Use (UDF 2.2.6.4): files, directories, minimum revision to read
INTEGRITY_USE = Struct("<32xIIH")
MAX_READ_REVISION = 0x0260

# Partition maps (3/10.7, UDF 2.2.8 to 2.2.10): type, length
MAP_HEADER = Struct("<BB")
MAP_TYPE1 = Struct("<2xHH")  # volume sequence number, partition number
# Type 2: identifier, revision of UDF; volume sequence number, partition number
MAP_TYPE2 = Struct("<5x23sH6xHH")
MAP_BYTES = {1: 6, 2: 64}
SPARABLE_MAP = Struct("<40xHBxI4I")  # packet length, count, size and locations of tables
METADATA_MAP = Struct("<40xII")  # locations of the main and the mirror file
VIRTUAL_ID, SPARABLE_ID, METADATA_ID = b"*UDF Virtual Partition", b"*UDF Sparable Partition", b"*UDF Metadata Partition"
# Sparing table (UDF 2.2.12): identifier, count of entries, sequence number; then pairs
SPARING = Struct("<17x23s8xH2xI")
SPARING_ENTRY = Struct("<II")
SPARING_TABLE_ID = b"*UDF Sparing Table"
UNUSED_PACKET = 0xFFFFFFF0  # and above
# Virtual allocation table: before UDF 2.00 an identifier ends it, since then a header begins it.
VAT_TRAILER_BYTES, VAT_HEADER_LENGTH = 36, Struct("<H")
UNALLOCATED_BLOCK = 0xFFFFFFFF

# File Set Descriptor (4/14.1): root directory (long_ad)
FILE_SET_ROOT = slice(400, 416)
LONG_AD = Struct("<IIH6x")
SHORT_AD = Struct("<II")
# Of an extent's length the upper two bits (4/14.14.1.1)
EXTENT_LENGTH_MASK = (1 << 30) - 1
EXTENT_RECORDED, EXTENT_CONTINUES = 0, 3
ALLOCATION_EXTENT_LENGTH = Struct("<20xI")
ALLOCATION_EXTENT_BYTES = 24

# File Entry (4/14.9) and Extended File Entry (4/14.17), both from the ICB tag (4/14.6) on:
# strategy, file type, flags, uid, gid, permissions, link count, information length
ENTRY = Struct("<20xH5xB6xHIIIH6xQ")
ENTRY_BLOCKS, EXTENDED_ENTRY_BLOCKS = Struct("<64xQ"), Struct("<72xQ")
# Times of access, modification, (creation,) attributes
ENTRY_TIMES, EXTENDED_ENTRY_TIMES = Struct("<72x12s12s12s"), Struct("<80x12s12s12s12s")
ENTRY_LENGTHS, EXTENDED_ENTRY_LENGTHS = (
    Struct("<168xII"),
    Struct("<208xII"),
)  # extended attributes, allocation descriptors
ENTRY_BYTES, EXTENDED_ENTRY_BYTES = 176, 216
INDIRECT_ICB = slice(36, 52)  # 4/14.7
STRATEGY, STRATEGY_INDIRECT = 4, 4096
# ICB flags (4/14.6.8)
ALLOCATION_MASK, SHORT, LONG, EXTENDED, EMBEDDED = 7, 0, 1, 2, 3
FLAG_MODES = ((0x0040, stat.S_ISUID), (0x0080, stat.S_ISGID), (0x0100, stat.S_ISVTX))
NO_OWNER, OVERFLOW_OWNER = 0xFFFFFFFF, 65534
# File types (4/14.6.6)
FILE_TYPES = {
    0: stat.S_IFREG,
    4: stat.S_IFDIR,
    5: stat.S_IFREG,
    6: stat.S_IFBLK,
    7: stat.S_IFCHR,
    9: stat.S_IFIFO,
    10: stat.S_IFSOCK,
    12: stat.S_IFLNK,
    248: stat.S_IFREG,  # virtual allocation table
    249: stat.S_IFREG,  # real-time
}
METADATA_TYPES = (250, 251)  # main and mirror
# Extended attributes (4/14.10): type, subtype, length; the device specification's major and minor number
ATTRIBUTES_BYTES = 24
ATTRIBUTE = Struct("<IB3xI")
DEVICE_SPECIFICATION = (12, 1)
DEVICE_NUMBERS = Struct("<16xII")

# File Identifier Descriptor (4/14.4): characteristics, length of the name, ICB, length of the implementation use
IDENTIFIER = Struct("<18xBB16sH")
IDENTIFIER_BYTES = 38
HIDDEN, DIRECTORY, DELETED, PARENT = 1, 2, 4, 8
# Path component (4/14.16.1): type, length of the name
COMPONENT = Struct("<BBH")
COMPONENT_OTHER_ROOT, COMPONENT_ROOT, COMPONENT_PARENT, COMPONENT_SELF, COMPONENT_NAME = 1, 2, 3, 4, 5

# Timestamp (1/7.3): type and time zone, year, month, day, hour, minute, second, centiseconds, hundreds of
# microseconds, microseconds
TIMESTAMP = Struct("<HHBBBBBBBB")

BITMAP = Struct("<16xII")  # Space Bitmap Descriptor (4/14.12): bits, bytes
