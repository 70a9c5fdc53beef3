"""On-disk structures of a hive, little-endian. Offsets of cells count from the end of the base block."""

from __future__ import annotations

from struct import Struct

BASE_BLOCK_BYTES = 4096
BASE_MAGIC = b"regf"
# signature, primary and secondary sequence numbers, last written, major and minor version, file type,
# file format, root cell, bytes of hive bins, clustering factor
BASE_BLOCK = Struct("<4sIIQIIIIIII")
BASE_CHECKED_BYTES, BASE_CHECKSUM_OFFSET = 508, 508

BIN_MAGIC = b"hbin"
CELL_SIZE = Struct("<i")  # negative where the cell is in use; with these four bytes

KEY_MAGIC = b"nk"
# signature, flags, last written, 4, parent, subkeys, volatile subkeys, list of subkeys, its volatile twin,
# values, list of values, security, class name, 20 of lengths and a work variable, length of the name, of the class
KEY = Struct("<2sHQ4xIIIIIIIII20xHH")
KEY_COMPRESSED_NAME = 0x0020  # of Latin-1

VALUE_MAGIC = b"vk"
# signature, length of the name, bytes of data, where they are, type, flags
VALUE = Struct("<2sHIIIH2x")
VALUE_COMPRESSED_NAME = 0x0001
RESIDENT = 1 << 31  # in the length: the data are in the place of the offset

LIST = Struct("<2sH")  # signature, elements
LEAVES = {b"li": 4, b"lf": 8, b"lh": 8}  # bytes of an element, which begins with the offset of a key
ROOT_LIST = b"ri"
BIG_DATA = Struct("<2sHI")  # signature, segments, list of them
BIG_DATA_MAGIC = b"db"
SEGMENT_BYTES = 16344
BIG_DATA_MINOR = 4  # from version 1.4 on
NONE = 0xFFFFFFFF

LOG_TYPE_NEW = 6
LOG_SECTOR_BYTES = 512
DIRTY_VECTOR_MAGIC = b"DIRT"
LOG_ENTRY_MAGIC = b"HvLE"
# signature, bytes, flags, sequence number, bytes of hive bins, dirty pages, hash of the entry's rest, hash of
# what stands before that
LOG_ENTRY = Struct("<4sIIIIIQQ")
DIRTY_PAGE = Struct("<II")  # offset from the end of the base block, bytes

REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_DWORD_BIG_ENDIAN, REG_LINK, REG_MULTI_SZ, REG_QWORD = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    11,
)
