"""The on-disk structures of NTFS, little-endian throughout, with the field names of the NTFS documentation.

"NTFS Documentation" by Richard Russon and Yuval Fledel, chapters 2 (files), 3 (attributes) and 4
(concepts); reparse points are those of [MS-FSCC] 2.1.2.
"""

from __future__ import annotations

from struct import Struct
from sys import byteorder
from typing import Literal

# Boot sector: bytes per sector, sectors per cluster, total sectors, LCN of $MFT and of $MFTMirr,
# clusters per file record, clusters per index record, serial number.
BOOT_SECTOR_BYTES = 512
BOOT_SECTOR = Struct("<11xHB26xQQQb3xb3xQ")
OEM_ID = b"NTFS    "
MAX_CLUSTER_BYTES = 2 << 20
SECTOR_SIZES = (256, 512, 1024, 2048, 4096)
# File records have 1 or 4 KiB, index blocks 4 KiB or a cluster; more makes no sense.
MIN_RECORD_BYTES, MAX_RECORD_BYTES = 256, 64 << 10
MAX_INDEX_BYTES = 2 << 20

# A reference to a file: 48 bits of record number, 16 bits of sequence number (0: not checked).
REFERENCE_BITS = 48
RECORD_NUMBER_MASK = (1 << REFERENCE_BITS) - 1

MFT, MFT_MIRROR, LOG_FILE, VOLUME, ROOT, BITMAP, SECURE, UPCASE = 0, 1, 2, 3, 5, 6, 9, 10
FIRST_USER_RECORD = 16  # below are metafiles, which a mount does not list
MIRRORED_RECORDS = 4

# Update sequence arrays protect units of this many bytes, whatever the sector size.
FIXUP_STRIDE = 512
FILE_MAGIC = b"FILE"
INDEX_MAGIC = b"INDX"
# magic, offset and length of the update sequence array, sequence number, hard link count, offset of the
# first attribute, flags, bytes in use, base record.
RECORD = Struct("<4sHH8xHHHHI4xQ")
RECORD_BYTES = 42
IN_USE, IS_DIRECTORY = 0x1, 0x2

STANDARD_INFORMATION, ATTRIBUTE_LIST, FILE_NAME, OBJECT_ID = 0x10, 0x20, 0x30, 0x40
SECURITY_DESCRIPTOR, VOLUME_NAME, VOLUME_INFORMATION, DATA = 0x50, 0x60, 0x70, 0x80
INDEX_ROOT, INDEX_ALLOCATION, BITMAP_ATTRIBUTE, REPARSE_POINT, EXTENDED_ATTRIBUTES = 0x90, 0xA0, 0xB0, 0xC0, 0xE0
END_OF_ATTRIBUTES = 0xFFFFFFFF

# type, length, non-resident flag, name length, offset of the name, flags, id.
ATTRIBUTE = Struct("<IIBBHHH")
# value length, value offset.
RESIDENT = Struct("<16xIH")
RESIDENT_BYTES = 24
# first and last VCN, offset of the mapping pairs, compression unit (log2 of clusters), allocated size,
# real size, initialised size.
NON_RESIDENT = Struct("<16xQQHH4xQQQ")
NON_RESIDENT_BYTES = 64
TOTAL_ALLOCATED = Struct("<64xQ")  # where compressed or sparse: the clusters that are really there
ATTRIBUTE_COMPRESSED, ATTRIBUTE_ENCRYPTED, ATTRIBUTE_SPARSE = 0x0001, 0x4000, 0x8000
COMPRESSION_MASK = 0x00FF

# type, length, name length, offset of the name, first VCN, file reference, attribute id.
LIST_ENTRY = Struct("<IHBBQQH")
LIST_ENTRY_BYTES = 26
MAX_LIST_BYTES = 256 << 10  # Windows allows no longer attribute list

# $STANDARD_INFORMATION: creation, modification, record change, access time (8 bytes each), file attributes.
FILE_ATTRIBUTES_OFFSET = 0x20
SECURITY_ID_OFFSET = 0x34
MAX_DESCRIPTOR_BYTES = 256 << 10
ATTR_SYSTEM, ATTR_SPARSE, ATTR_REPARSE, ATTR_COMPRESSED, ATTR_ENCRYPTED = 0x4, 0x200, 0x400, 0x800, 0x4000
# 100 ns units from 1601 to 1970.
EPOCH = 116_444_736_000_000_000

# All writers of version 3.1 put a resident $STANDARD_INFORMATION first, in the same place: bytes of a record that
# then do not vary, which are the attributes' offset, base record, attribute's type, non-resident flag and value offset;
# and what a walk wants of the others: sequence number, flags and file attributes.
USUAL_FIRST_ATTRIBUTE, USUAL_VALUE_OFFSET = 56, 24
_USUAL_PARTS = ((20, b"\x38\0"), (32, bytes(8)), (56, b"\x10\0\0\0"), (64, b"\0"), (76, b"\x18\0"))
_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
# As (index, format, value) in a memoryview of the format.
USUAL_VALUES = tuple(
    (at // len(part), _FORMATS[len(part)], int.from_bytes(part, byteorder)) for at, part in _USUAL_PARTS
)
USUAL_RECORD = Struct("<16xH4xH88xI")

# $INDEX_ROOT: attribute type, collation rule, index block size, clusters per block; then an index header.
INDEX_ROOT_HEAD = Struct("<IIIB3x")
INDEX_ROOT_BYTES = 16
# offset of the first entry, bytes in use, bytes allocated, flags; offsets count from here.
INDEX_HEADER = Struct("<IIIB3x")
INDEX_HEADER_BYTES = 16
# magic, offset and length of the update sequence array, VCN of this block.
INDEX_BLOCK = Struct("<4sHH8xQ")
INDEX_BLOCK_HEADER_OFFSET = 24
COLLATION_FILE_NAME, COLLATION_ULONG = 1, 0x10
# file reference (or, in views: offset and length of the data), entry length, key length, flags.
INDEX_ENTRY = Struct("<QHHH2x")
INDEX_ENTRY_BYTES = 16
VIEW_ENTRY = Struct("<HH4xHHH2x")
ENTRY_HAS_CHILD, ENTRY_IS_LAST = 0x1, 0x2
# An index entry of a directory: reference, entry length, flags; then from the $FILE_NAME:
# file attributes, name length, namespace.
NAME_ENTRY = Struct("<QH2xH58xI4xBB")
NAME_OFFSET = 0x42
NAME_ENTRY_BYTES = INDEX_ENTRY_BYTES + NAME_OFFSET
NAME_LENGTH_OFFSET = 80
MAX_NAME = 255
NAMESPACE_DOS = 2
NAME_IS_DIRECTORY = 0x10000000

# $VOLUME_INFORMATION: major and minor version, flags.
VOLUME_FIELDS = Struct("<8xBBH")
VOLUME_DIRTY = 0x1

UPCASE_BYTES = 128 << 10

# [MS-FSCC] 2.1.2: tag, data length; the top bit of a tag is Microsoft's, others carry a GUID of 16 bytes.
REPARSE_HEAD = Struct("<IH2x")
REPARSE_BYTES, REPARSE_GUID_BYTES = 8, 16
MAX_REPARSE_BYTES = 16 << 10
TAG_MOUNT_POINT, TAG_SYMLINK = 0xA0000003, 0xA000000C
TAG_LX_SYMLINK, TAG_LX_FIFO, TAG_LX_CHR, TAG_LX_BLK, TAG_AF_UNIX = (
    0xA000001D,
    0x80000024,
    0x80000025,
    0x80000026,
    0x80000023,
)
TAG_WOF, TAG_DEDUP = 0x80000017, 0x80000013
WOF_STREAM = "WofCompressedData"
# substitute name's offset and length, print name's offset and length; offsets count from the end of these.
LINK_NAMES = Struct("<4H")

# [MS-FSCC] 2.4.15, extended attributes: offset of the next one, flags, name length, value length; then the name,
# a zero and the value. WSL keeps a device number in one of them: two words of 32 bits.
EXTENDED_ATTRIBUTE = Struct("<IBBH")
MAX_EA_BYTES = 64 << 10
LX_DEVICE_NAME, LX_DEVICE = b"$LXDEV", Struct("<II")

# Files of Services for Unix with the system attribute: magic, then a target in UTF-16 or a device number.
INTERIX_LINK, INTERIX_CHR, INTERIX_BLK = b"IntxLNK\1", b"IntxCHR\0", b"IntxBLK\0"
INTERIX_DEVICE = Struct("<8xQQ")
MAX_INTERIX_BYTES = 8 + 2 * 4096
