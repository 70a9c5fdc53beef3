"""On-disk structures of SquashFS 4.0, with the names of the kernel's documentation. Little-endian."""

from __future__ import annotations

import stat
from struct import Struct
from typing import NamedTuple

MAGIC = b"hsqs"
MAGIC_BIG_ENDIAN = b"sqsh"

# s_magic, inodes, mkfs_time, block_size, fragments, compression, block_log, flags, no_ids, s_major, s_minor,
# root_inode, bytes_used, id_table_start, xattr_id_table_start, inode_table_start, directory_table_start,
# fragment_table_start, lookup_table_start
SUPERBLOCK = Struct("<4s4I6H8Q")
VERSION_OFFSET = 28
VERSION = Struct("<HH")
VERSION_BIG_ENDIAN = Struct(">HH")
INVALID_TABLE = (1 << 64) - 1
INVALID_FRAGMENT = INVALID_XATTR = (1 << 32) - 1
MIN_BLOCK_LOG, MAX_BLOCK_LOG = 12, 20

# Section 3.2 "Inodes": a length before each block, with a bit for those that are not compressed.
METADATA_BYTES = 8192
METADATA_LENGTH = Struct("<H")
METADATA_UNCOMPRESSED = 1 << 15
# Data and fragment blocks have it in a length of 32 bits.
DATA_UNCOMPRESSED = 1 << 24

POINTER = Struct("<Q")
ID = Struct("<I")
FRAGMENT = Struct("<QI4x")  # start_block, size
XATTR_ID = Struct("<QII")  # xattr, count, size
XATTR_TABLE = Struct("<QI4x")  # xattr_table_start, xattr_ids

INODE_HEAD = Struct("<HHHHII")  # inode_type, mode, uid, guid, mtime, inode_number
INODE_MTIME = Struct("<8xI")
FILE = Struct("<16xIIII")  # start_block, fragment, offset, file_size
EXTENDED_FILE = Struct("<16xQQ12xII4x")  # start_block, file_size, fragment, offset
FILE_SPARSE = Struct("<32xQ")
DIRECTORY = Struct("<16xI4xHH4x")  # start_block, file_size, offset
EXTENDED_DIRECTORY = Struct("<20xII4xHH4x")  # file_size, start_block, i_count, offset
DEVICE_RDEV = Struct("<20xI")


class Form(NamedTuple):
    """How a type of inode is laid out: the type bits of st_mode, its fixed bytes, and where in them things are."""

    mode: int
    bytes: int
    nlink: Struct | None = None
    size: Struct | None = None
    xattr: Struct | None = None


_NLINK = Struct("<16xI")
FORMS = {
    1: Form(stat.S_IFDIR, 32, Struct("<20xI"), Struct("<24xH")),
    2: Form(stat.S_IFREG, 32, None, Struct("<28xI")),
    3: Form(stat.S_IFLNK, 24, _NLINK, Struct("<20xI")),
    4: Form(stat.S_IFBLK, 24, _NLINK),
    5: Form(stat.S_IFCHR, 24, _NLINK),
    6: Form(stat.S_IFIFO, 20, _NLINK),
    7: Form(stat.S_IFSOCK, 20, _NLINK),
    8: Form(stat.S_IFDIR, 40, _NLINK, Struct("<20xI"), Struct("<36xI")),
    9: Form(stat.S_IFREG, 56, Struct("<40xI"), Struct("<24xQ"), Struct("<52xI")),
    10: Form(stat.S_IFLNK, 24, _NLINK, Struct("<20xI")),  # the number of its attributes follows the target
    11: Form(stat.S_IFBLK, 28, _NLINK, None, Struct("<24xI")),
    12: Form(stat.S_IFCHR, 28, _NLINK, None, Struct("<24xI")),
    13: Form(stat.S_IFIFO, 24, _NLINK, None, Struct("<20xI")),
    14: Form(stat.S_IFSOCK, 24, _NLINK, None, Struct("<20xI")),
}
LAST_BASIC_TYPE, EXTENDED_DIRECTORY_TYPE, EXTENDED_FILE_TYPE = 7, 8, 9
LARGEST_FORM = 56
KINDS = {number: FORMS[number].mode for number in range(1, 8)}  # of directory entries

DIRECTORY_HEADER = Struct("<IIi")  # count - 1, start_block, inode_number
DIRECTORY_ENTRY = Struct("<HhHH")  # offset, inode_number's difference, type, size - 1
DIRECTORY_INDEX = Struct("<III")  # index, start_block, size - 1
MAX_HEADER_ENTRIES = 256
MAX_NAME_BYTES = 256
EMPTY_DIRECTORY_BYTES = 3  # what file_size counts for "." and "..", which are not stored

XATTR_ENTRY = Struct("<HH")  # type, size of the name
XATTR_VALUE = Struct("<I")  # vsize
XATTR_OUT_OF_LINE = 1 << 8
XATTR_PREFIXES = {0: "user.", 1: "trusted.", 2: "security."}
