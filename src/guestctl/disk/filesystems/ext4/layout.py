"""On-disk structures, flags and limits of ext2, ext3 and ext4, in the specification's names.

The specification is the kernel's Documentation/filesystems/ext4 (sections named below). All
integers are little-endian. Offsets in comments are in bytes from the start of the structure.
"""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

# Section "Super Block"

SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_BYTES = 1024
MAGIC = 0xEF53
GOOD_OLD_REV = 0
CHECKSUM_CRC32C = 1

SUPERBLOCK = struct.Struct(
    "<"
    "III"  # 0x00 s_inodes_count s_blocks_count_lo s_r_blocks_count_lo
    "III"  # 0x0C s_free_blocks_count_lo s_free_inodes_count s_first_data_block
    "II"  # 0x18 s_log_block_size s_log_cluster_size
    "III"  # 0x20 s_blocks_per_group s_clusters_per_group s_inodes_per_group
    "12xH"  # 0x2C s_magic at 0x38
    "H2xH8x"  # 0x3A s_state, s_minor_rev_level at 0x3E
    "4xI"  # 0x48 s_rev_level at 0x4C
    "8xH2x"  # 0x50 s_inode_size at 0x58
    "III"  # 0x5C s_feature_compat s_feature_incompat s_feature_ro_compat
    "16s16s"  # 0x68 s_uuid s_volume_name
    "70xH"  # 0x88 s_reserved_gdt_blocks at 0xCE
    "16xI4x"  # 0xD0 s_journal_inum at 0xE0
    "22xH4xI"  # 0xE8 s_desc_size at 0xFE, s_first_meta_bg at 0x104
    "72xII"  # 0x108 s_blocks_count_hi at 0x150, s_r_blocks_count_hi
    "I4xI16x"  # 0x158 s_free_blocks_count_hi, s_flags at 0x160
    "xB202x"  # 0x174 s_checksum_type at 0x175
    "8xIII28x"  # 0x240 s_overhead_clusters at 0x248, s_backup_bgs
    "I392xI"  # 0x270 s_checksum_seed, s_checksum at 0x3FC
)
SUPERBLOCK_CHECKSUM = 0x3FC


class SuperblockFields(NamedTuple):
    """The fields that `SUPERBLOCK` unpacks."""

    s_inodes_count: int
    s_blocks_count_lo: int
    s_r_blocks_count_lo: int
    s_free_blocks_count_lo: int
    s_free_inodes_count: int
    s_first_data_block: int
    s_log_block_size: int
    s_log_cluster_size: int
    s_blocks_per_group: int
    s_clusters_per_group: int
    s_inodes_per_group: int
    s_magic: int
    s_state: int
    s_minor_rev_level: int
    s_rev_level: int
    s_inode_size: int
    s_feature_compat: int
    s_feature_incompat: int
    s_feature_ro_compat: int
    s_uuid: bytes
    s_volume_name: bytes
    s_reserved_gdt_blocks: int
    s_journal_inum: int
    s_desc_size: int
    s_first_meta_bg: int
    s_blocks_count_hi: int
    s_r_blocks_count_hi: int
    s_free_blocks_count_hi: int
    s_flags: int
    s_checksum_type: int
    s_overhead_clusters: int
    s_backup_bg_0: int
    s_backup_bg_1: int
    s_checksum_seed: int
    s_checksum: int


STATE_VALID = 0x1
STATE_ERROR = 0x2
FLAGS_TEST_FILESYS = 0x4

MAX_LOG_BLOCK_SIZE = 6  # 64 KiB
# Kernel: a cluster is at most 1 GiB (EXT4_MAX_CLUSTER_LOG_SIZE), a block at least 1 KiB.
MAX_CLUSTER_BITS = 20
GOOD_OLD_INODE_BYTES = 128
XATTR_MAGIC = b"\x00\x00\x02\xea"  # of the attributes that follow an inode's fields
GOOD_OLD_FIRST_INODE = 11
MIN_DESC_BYTES = 32
MIN_DESC_BYTES_64BIT = 64
MAX_DESC_BYTES = 1024

COMPAT_HAS_JOURNAL = 0x4
COMPAT_DIR_INDEX = 0x20
COMPAT_SPARSE_SUPER2 = 0x200

INCOMPAT_FILETYPE = 0x2
INCOMPAT_RECOVER = 0x4
INCOMPAT_JOURNAL_DEV = 0x8
INCOMPAT_META_BG = 0x10
INCOMPAT_EXTENTS = 0x40
INCOMPAT_64BIT = 0x80
INCOMPAT_EA_INODE = 0x400
INCOMPAT_CSUM_SEED = 0x2000
INCOMPAT_LARGEDIR = 0x4000
INCOMPAT_CASEFOLD = 0x20000
INCOMPAT_NAMES = {
    0x1: "compression",
    INCOMPAT_FILETYPE: "filetype",
    INCOMPAT_RECOVER: "needs_recovery",
    INCOMPAT_JOURNAL_DEV: "journal_dev",
    INCOMPAT_META_BG: "meta_bg",
    INCOMPAT_EXTENTS: "extent",
    INCOMPAT_64BIT: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    INCOMPAT_EA_INODE: "ea_inode",
    0x1000: "dirdata",
    INCOMPAT_CSUM_SEED: "metadata_csum_seed",
    INCOMPAT_LARGEDIR: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    INCOMPAT_CASEFOLD: "casefold",
}
_INCOMPAT_REFUSED = 0x1 | INCOMPAT_JOURNAL_DEV | 0x1000
INCOMPAT_SUPPORTED = sum(INCOMPAT_NAMES) & ~_INCOMPAT_REFUSED

RO_COMPAT_SPARSE_SUPER = 0x1
RO_COMPAT_LARGE_FILE = 0x2
RO_COMPAT_BTREE_DIR = 0x4
RO_COMPAT_HUGE_FILE = 0x8
RO_COMPAT_GDT_CSUM = 0x10
RO_COMPAT_BIGALLOC = 0x200
RO_COMPAT_METADATA_CSUM = 0x400

# Section "Block Group Descriptors"

GROUP_FREE = struct.Struct("<12xHH16x")  # bg_free_blocks_count_lo at 0xC, bg_free_inodes_count_lo
GROUP_FREE_64 = struct.Struct("<12xHH28xHH16x")  # and their high halves at 0x2C
GROUP_BLOCK_BITMAP_LO = 0x0
GROUP_BLOCK_BITMAP_HI = 0x20
GROUP_INODE_BITMAP_LO = 0x4
GROUP_INODE_BITMAP_HI = 0x24
GROUP_INODE_TABLE_LO = 0x8
GROUP_INODE_TABLE_HI = 0x28
GROUP_FLAGS = 0x12
GROUP_BITMAP_CHECKSUM_LO = 0x18
GROUP_BITMAP_CHECKSUM_HI = 0x38
GROUP_DESC_CHECKSUM = 0x1E
GROUP_BLOCK_UNINIT = 0x2

# Section "Index Nodes"

ROOT_INODE = 2

I_BLOCK_OFFSET = 0x28
I_BLOCK_END = 0x64
I_BLOCK_BYTES = I_BLOCK_END - I_BLOCK_OFFSET
I_GENERATION = 0x64
I_CHECKSUM_LO = 0x7C
I_EXTRA_ISIZE = 0x80
I_CHECKSUM_HI = 0x82
EXTRA_ISIZE_WITH_CHECKSUM_HI = 4
EXTRA_ISIZE_WITH_CRTIME = 24  # up to i_crtime_extra, the last field that is read
DECODED_INODE_BYTES = GOOD_OLD_INODE_BYTES + EXTRA_ISIZE_WITH_CRTIME

# What every look at an inode needs: i_mode, i_size_lo at 0x4, i_links_count at 0x1A, i_size_high at 0x6C,
# i_extra_isize at 0x80.
INODE_HEAD = struct.Struct("<H2xI18xH80xI16xH")
INODE_CHECKSUM = struct.Struct("<124xH2xHH")  # l_i_checksum_lo at 0x7C, i_extra_isize at 0x80, i_checksum_hi
INODE_FLAGS = struct.Struct("<32xI")  # i_flags at 0x20
INODE_GENERATION = struct.Struct("<100xI")  # at 0x64
INODE_EXTRA_ISIZE = struct.Struct("<128xH")  # at 0x80
INODE_UID = struct.Struct("<2xH116xH")  # i_uid at 0x2, l_i_uid_high at 0x78
INODE_GID = struct.Struct("<24xH96xH")  # i_gid at 0x18, l_i_gid_high at 0x7A
INODE_LINKS = struct.Struct("<26xH")  # i_links_count at 0x1A
INODE_BLOCKS = struct.Struct("<28xI84xH")  # i_blocks_lo at 0x1C, l_i_blocks_high at 0x74
INODE_DEVICE = struct.Struct("<40xII")  # i_block[0], i_block[1]
INODE_FILE_ACL = struct.Struct("<104xI10xH")  # i_file_acl_lo at 0x68, l_i_file_acl_high at 0x76
INODE_ATIME = struct.Struct("<8xi128xI")  # i_atime, i_atime_extra at 0x8C
INODE_CTIME = struct.Struct("<12xi116xI")  # i_ctime, i_ctime_extra at 0x84
INODE_MTIME = struct.Struct("<16xi116xI")  # i_mtime, i_mtime_extra at 0x88
INODE_CRTIME = struct.Struct("<144xiI")  # i_crtime at 0x90, i_crtime_extra

FL_ENCRYPT = 0x800
FL_INDEX = 0x1000
FL_HUGE_FILE = 0x40000
FL_EXTENTS = 0x80000
FL_EA_INODE = 0x200000
FL_INLINE_DATA = 0x10000000
FL_CASEFOLD = 0x40000000

# Section "The Contents of inode.i_block": direct and indirect blocks, extent tree

DIRECT_BLOCKS = 12
BLOCK_MAP = struct.Struct("<15I")

EXTENT_MAGIC = 0xF30A
EXTENT_HEADER = struct.Struct("<HHHH4x")  # eh_magic eh_entries eh_max eh_depth
EXTENT_HEADER_BYTES = EXTENT_HEADER.size
EXTENT = struct.Struct("<IHHI")  # ee_block ee_len ee_start_hi ee_start_lo
EXTENT_INDEX = struct.Struct("<IIH2x")  # ei_block ei_leaf_lo ei_leaf_hi
EXTENT_BYTES = 12
EXTENT_TAIL_BYTES = 4
INIT_MAX_LEN = 32768  # ee_len above it: unwritten, and that much shorter
MAX_EXTENT_DEPTH = 5
SINGLE_EXTENT = struct.Struct("<HHHH4xIHHI")  # a header and the first extent
ROOT_EXTENTS = 4

# Section "Directory Entries"

DIR_ENTRY = struct.Struct("<IHBB")  # inode rec_len name_len file_type
DIR_ENTRY_HEADER_BYTES = 8
DIR_ENTRY_MIN_BYTES = 12
# det_reserved_zero1, det_rec_len of 12, det_reserved_zero2, det_reserved_ft; det_checksum follows.
DIR_TAIL = b"\0\0\0\0\x0c\0\0\xde"
DIR_BLOCK_TAIL = struct.Struct("<8sI")
DIR_TAIL_BYTES = DIR_BLOCK_TAIL.size
INLINE_DIR_PARENT_BYTES = 4

# Section "Hash Tree Directories"

DX_NODE_COUNT_OFFSET = 0x8
DX_ROOT_COUNT_OFFSET = 0x20
DX_COUNT_LIMIT = struct.Struct("<HH")
DX_ENTRY_BYTES = 8
DX_TAIL_BYTES = 8
DX_ROOT = struct.Struct("<4xH10xH10xxB")  # rec_len of "." at 0x4, of ".." at 0x10, info_length at 0x1D
DX_ROOT_INFO_BYTES = 8

BIGGEST_BLOCK_BYTES = 1 << 16  # its length does not fit in rec_len, and is written as 0xFFFF or 0

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

MAX_SYMLINK_BYTES = 4095  # PATH_MAX without its NUL
