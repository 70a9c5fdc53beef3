"""On-disk structures, flags and limits of XFS, in the specification's names.

The specification is "XFS Algorithms & Data Structures" (chapters named below). Integers are
big-endian, except checksums (little-endian) and what the log holds (the host's order). Offsets in
comments are in bytes from the start of the structure. Version 4 filesystems have no checksums;
version 5 ones describe themselves: a block knows its place, its owner and its filesystem.
"""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

# Chapter "Superblocks"

MAGIC = b"XFSB"
SUPERBLOCK_BYTES = 264
SUPERBLOCK = struct.Struct(
    ">4sI3Q16s"  # 0 sb_magicnum sb_blocksize sb_dblocks sb_rblocks sb_rextents sb_uuid
    "4Q"  # 48 sb_logstart sb_rootino sb_rbmino sb_rsumino
    "5I"  # 80 sb_rextsize sb_agblocks sb_agcount sb_rbmblocks sb_logblocks
    "4H12s"  # 100 sb_versionnum sb_sectsize sb_inodesize sb_inopblock sb_fname
    "8B"  # 120 sb_blocklog sb_sectlog sb_inodelog sb_inopblog sb_agblklog sb_rextslog sb_inprogress sb_imax_pct
    "4Q16x"  # 128 sb_icount sb_ifree sb_fdblocks sb_frextents
    "4x3I"  # 176 sb_inoalignmt at 180, sb_unit sb_width
    "BBHI"  # 192 sb_dirblklog sb_logsectlog sb_logsectsize sb_logsunit
    "II4I"  # 200 sb_features2 sb_bad_features2 sb_features_compat _ro_compat _incompat _log_incompat
    "4sI8xQ16s"  # 224 sb_crc sb_spino_align sb_lsn at 240, sb_meta_uuid
)
SUPERBLOCK_CRC = 224


class SuperblockFields(NamedTuple):
    """The fields that `SUPERBLOCK` unpacks."""

    sb_magicnum: bytes
    sb_blocksize: int
    sb_dblocks: int
    sb_rblocks: int
    sb_rextents: int
    sb_uuid: bytes
    sb_logstart: int
    sb_rootino: int
    sb_rbmino: int
    sb_rsumino: int
    sb_rextsize: int
    sb_agblocks: int
    sb_agcount: int
    sb_rbmblocks: int
    sb_logblocks: int
    sb_versionnum: int
    sb_sectsize: int
    sb_inodesize: int
    sb_inopblock: int
    sb_fname: bytes
    sb_blocklog: int
    sb_sectlog: int
    sb_inodelog: int
    sb_inopblog: int
    sb_agblklog: int
    sb_rextslog: int
    sb_inprogress: int
    sb_imax_pct: int
    sb_icount: int
    sb_ifree: int
    sb_fdblocks: int
    sb_frextents: int
    sb_inoalignmt: int
    sb_unit: int
    sb_width: int
    sb_dirblklog: int
    sb_logsectlog: int
    sb_logsectsize: int
    sb_logsunit: int
    sb_features2: int
    sb_bad_features2: int
    sb_features_compat: int
    sb_features_ro_compat: int
    sb_features_incompat: int
    sb_features_log_incompat: int
    sb_crc: bytes
    sb_spino_align: int
    sb_lsn: int
    sb_meta_uuid: bytes


VERSION_MASK = 0xF
VERSION_SHARED = 0x200
VERSION_LOGV2 = 0x400
VERSION_DIRV2 = 0x2000
VERSION_BORG = 0x4000  # names are compared without regard to case
VERSION_MOREBITS = 0x8000
VERSION2_LAZYSBCOUNT = 0x2
VERSION2_FTYPE = 0x200
VERSION2_NAMES = {
    VERSION2_LAZYSBCOUNT: "lazysbcount",
    0x8: "attr2",
    0x80: "projid32bit",
    0x100: "crc",
    VERSION2_FTYPE: "ftype",
}

INCOMPAT_FTYPE = 0x1
INCOMPAT_META_UUID = 0x4
INCOMPAT_NEEDSREPAIR = 0x10
INCOMPAT_NAMES = {
    INCOMPAT_FTYPE: "ftype",
    0x2: "sparse inodes",
    INCOMPAT_META_UUID: "meta_uuid",
    0x8: "bigtime",
    INCOMPAT_NEEDSREPAIR: "needsrepair",
    0x20: "nrext64",
    0x40: "exchange-range",
    0x80: "parent pointers",
    0x100: "metadir",
    0x200: "zoned",
    0x400: "zone gaps",
}
INCOMPAT_SUPPORTED = 0xFF
LOG_INCOMPAT_NAMES = {0x1: "logged extended attributes"}

MIN_BLOCK_LOG, MAX_BLOCK_LOG = 9, 16
MIN_SECTOR_LOG, MAX_SECTOR_LOG = 9, 15
MIN_INODE_LOG, MAX_INODE_LOG = 8, 11
MIN_V5_INODE_LOG = 9
MIN_AG_BLOCKS = 64
MAX_DIR_BLOCK_LOG = 16

# Chapter "AG Free Space Management", "AG Inode Management"

# agf_magicnum, agf_seqno at 8, agf_length, agf_roots[0], agf_levels[0] at 28, agf_flcount at 48, agf_freeblks,
# agf_btreeblks at 60
AGF = struct.Struct(">4s4xIII8xI16xII4xI")
AGF_MAGIC = b"XAGF"
AGF_CRC = 216
AGI = struct.Struct(">4s4xIII8xI")  # agi_magicnum, agi_seqno at 8, agi_length, agi_count, agi_freecount at 28
AGI_MAGIC = b"XAGI"
AGI_CRC = 312

FREE_SPACE_MAGIC_V4, FREE_SPACE_MAGIC_V5 = b"ABTB", b"AB3B"
SHORT_HEADER_V4, SHORT_HEADER_V5 = 16, 56
SHORT_CRC = 52
FREE_SPACE = struct.Struct(">II")  # ar_startblock ar_blockcount
SHORT_POINTER = struct.Struct(">I")
MAX_FREE_SPACE_LEVELS = 9

# Chapter "On-disk Inode"

INODE_MAGIC = b"IN"
DI_CRC = 100
DI_INO = 152
DI_UUID = 160
LITERAL_V2, LITERAL_V3 = 100, 176

FMT_DEV, FMT_LOCAL, FMT_EXTENTS, FMT_BTREE = 0, 1, 2, 3
DIFLAG_REALTIME = 0x1
DIFLAG2_BIGTIME = 0x8
DIFLAG2_NREXT64 = 0x10

INODE_HEAD = struct.Struct(">IH50xq")  # di_magic and di_mode, di_version and di_format; di_size at 56
INODE_UID = struct.Struct(">8xI")
INODE_GID = struct.Struct(">12xI")
INODE_ONLINK = struct.Struct(">6xH")
INODE_NLINK = struct.Struct(">16xI")
INODE_ATIME = struct.Struct(">32xQ80xQ")  # a time, and di_flags2 at 120, which says what it means
INODE_MTIME = struct.Struct(">40xQ72xQ")
INODE_CTIME = struct.Struct(">48xQ64xQ")
INODE_CRTIME = struct.Struct(">144xQ")
INODE_NBLOCKS = struct.Struct(">64xQ")
INODE_NEXTENTS = struct.Struct(">76xIH")  # di_nextents di_anextents
INODE_BIG_NEXTENTS = struct.Struct(">24xQ44xI")  # di_big_nextents; di_big_anextents at 76
INODE_FORKS = struct.Struct(">82xBB")  # di_forkoff di_aformat
INODE_FLAGS = struct.Struct(">90xH")
INODE_FLAGS2 = struct.Struct(">120xQ")
BIGTIME_EPOCH = 1 << 31  # seconds before 1970 at which the large time stamps begin

# Chapter "Data Extents"

EXTENT = struct.Struct(">QQ")
EXTENT_BYTES = EXTENT.size
BLOCK_HEADER = struct.Struct(">4sHH")  # bb_magic bb_level bb_numrecs
BMBT_KEY = struct.Struct(">Q")  # and pointers
BMBT_MAGIC_V4, BMBT_MAGIC_V5 = b"BMAP", b"BMA3"
BMBT_HEADER_V4, BMBT_HEADER_V5 = 24, 72
BMDR = struct.Struct(">HH")  # bb_level bb_numrecs
BMDR_BYTES = BMDR.size
MAX_BMBT_LEVELS = 9
FILE_OFFSET_BITS = 54

# Chapters "Directories" and "Extended Attributes"

DIR_LEAF_OFFSET = 1 << 35  # bytes into a directory at which its hash index begins
DATA_MAGICS_V4 = {b"XD2B": True, b"XD2D": False}  # whether the block holds the hash index, too
DATA_MAGICS_V5 = {b"XDB3": True, b"XDD3": False}
DATA_HEADER_V4, DATA_HEADER_V5 = 16, 64
DATA_ENTRY = struct.Struct(">QB")  # inumber namelen
DATA_UNUSED = struct.Struct(">HH")  # freetag length
FREE_TAG = 0xFFFF
BLOCK_TAIL = struct.Struct(">II")  # count stale
HASH_ENTRY = struct.Struct(">II")  # hashval address; in a node: hashval before
HASH_ENTRY_BYTES = HASH_ENTRY.size
DATA_ALIGN = 8  # an address counts units of 8 bytes

DA_INFO = struct.Struct(">IIH")  # forw back magic
DA_COUNT = struct.Struct(">HH")  # count, and level in a node, stale in a leaf
DA_HEADER_V4, DA_HEADER_V5 = 12, 56  # xfs_da_blkinfo, xfs_da3_blkinfo
LEAF_HEADER_V4, LEAF_HEADER_V5 = 16, 64  # nodes and leaves of directories, nodes of attributes
DA_NODE_MAGICS = {0xFEBE, 0x3EBE}
DIR_LEAF_MAGICS = {0xD2F1, 0x3DF1, 0xD2FF, 0x3DFF}
ATTR_LEAF_MAGICS = {0xFBEE, 0x3BEE}
MAX_DA_LEVELS = 5

ATTR_LEAF_HEADER_V4, ATTR_LEAF_HEADER_V5 = 32, 80
ATTR_ENTRY = struct.Struct(">IHBx")  # hashval nameidx flags
ATTR_LOCAL = struct.Struct(">HB")  # valuelen namelen
ATTR_REMOTE = struct.Struct(">IIB")  # valueblk valuelen namelen
ATTR_SF_HEADER = struct.Struct(">HBx")  # totsize count
ATTR_SF_ENTRY = struct.Struct(">BBB")  # namelen valuelen flags
ATTR_FLAG_LOCAL, ATTR_FLAG_ROOT, ATTR_FLAG_SECURE, ATTR_FLAG_PARENT, ATTR_FLAG_INCOMPLETE = 1, 2, 4, 8, 0x80
REMOTE_HEADER = struct.Struct(">4sII")  # magic, offset, bytes: of remote values (XARM) and links (XSLM)
REMOTE_HEADER_BYTES = 56
REMOTE_VALUE_MAGIC, SYMLINK_MAGIC = b"XARM", b"XSLM"

MAX_SYMLINK_BYTES = 1024
MAX_VALUE_BYTES = 1 << 16


class SelfDescription(NamedTuple):
    """Where a block of a version 5 filesystem says what it is."""

    crc: int
    blkno: int
    uuid: int
    owner: int


BMBT_SELF = SelfDescription(64, 24, 40, 56)
DATA_SELF = SelfDescription(4, 8, 24, 40)
DA_SELF = SelfDescription(12, 16, 32, 48)
REMOTE_SELF = SelfDescription(12, 40, 16, 32)

FILE_TYPES = (
    0,
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFLNK,
) + (0,) * 248
