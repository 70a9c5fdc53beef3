"""On-disk structures of Btrfs, all little-endian: section names are those of "On-disk Format"."""

from __future__ import annotations

import struct

MAGIC = b"_BHRfS_M"
SUPERBLOCK_OFFSETS = (64 << 10, 64 << 20, 256 << 30)
SUPERBLOCK_BYTES = 4096
CSUM_BYTES = 32  # room for every checksum; what is not used is zero

# Superblock: fsid, bytenr, flags, magic, generation, root, chunk_root, log_root, log_root_transid, total_bytes,
# bytes_used, root_dir_objectid, num_devices, sectorsize, nodesize, leafsize, stripesize, sys_chunk_array_size,
# chunk_root_generation, compat_flags, compat_ro_flags, incompat_flags, csum_type, root_level, chunk_root_level,
# log_root_level
SUPERBLOCK = struct.Struct("<16sQQ8s9Q5I4QHBBB")
SUPERBLOCK_AT = 0x20
DEV_ITEM_AT = 0xC9
LABEL_AT = 0x12B
LABEL_BYTES = 256
METADATA_UUID_AT = 0x23B
SYS_CHUNK_ARRAY_AT = 0x32B
SYS_CHUNK_ARRAY_BYTES = 2048

INCOMPAT_ZONED = 1 << 12
INCOMPAT_METADATA_UUID = 1 << 10
INCOMPAT_NAMES = {
    0: "mixed_backref",
    1: "default_subvol",
    2: "mixed_groups",
    3: "compress_lzo",
    4: "compress_zstd",
    5: "big_metadata",
    6: "extended_iref",
    7: "raid56",
    8: "skinny_metadata",
    9: "no_holes",
    10: "metadata_uuid",
    11: "raid1c34",
    12: "zoned",
    13: "extent_tree_v2",
    14: "raid_stripe_tree",
    16: "simple_quota",
    17: "remap_tree",
}
INCOMPAT_READ = 0x0FFF | 1 << 16
COMPAT_RO_BLOCK_GROUP_TREE = 1 << 3

CSUM_CRC32C, CSUM_XXHASH64, CSUM_SHA256, CSUM_BLAKE2B = range(4)

# devid, total_bytes, bytes_used, io_align, io_width, sector_size, type, generation, start_offset, dev_group,
# seek_speed, bandwidth, uuid, fsid
DEV_ITEM = struct.Struct("<QQQIIIQQQIBB16s16s")
KEY = struct.Struct("<QBQ")
# Header, after the checksum: fsid, bytenr, flags, chunk tree uuid, generation, owner, nritems, level
HEADER = struct.Struct("<16sQQ16sQQIB")
HEADER_BYTES = 0x65
KEY_POINTER = struct.Struct("<QBQQQ")  # key, block number, generation
ITEM = struct.Struct("<QBQII")  # key, data offset relative to the end of the header, data size
MAX_LEVEL = 8

# length, owner, stripe_len, type, io_align, io_width, sector_size, num_stripes, sub_stripes
CHUNK = struct.Struct("<QQQQIIIHH")
STRIPE = struct.Struct("<QQ16s")  # devid, offset, device uuid
STRIPE_LEN = 64 << 10

INODE_BYTES = 160
INODE_HEAD = struct.Struct("<16xQ28xI")  # size, mode
INODE_GENERATION = struct.Struct("<Q")
INODE_NBYTES = struct.Struct("<24xQ")
INODE_NLINK = struct.Struct("<40xI")
INODE_UID = struct.Struct("<44xI")
INODE_GID = struct.Struct("<48xI")
INODE_RDEV = struct.Struct("<56xQ")
INODE_FLAGS = struct.Struct("<64xQ")
INODE_ATIME = struct.Struct("<112xqI")
INODE_CTIME = struct.Struct("<124xqI")
INODE_MTIME = struct.Struct("<136xqI")
INODE_OTIME = struct.Struct("<148xqI")
FLAG_NODATASUM = 1

# generation, root_dirid, bytenr, byte_limit, bytes_used, last_snapshot, flags, refs, drop_progress, drop_level, level
ROOT_ITEM = struct.Struct("<160x7QI17sBB")
ROOT_ITEM_UUIDS = struct.Struct("<239xQ16s16s16s")  # generation_v2, uuid, parent_uuid, received_uuid
ROOT_READ_ONLY = 1
ROOT_REF = struct.Struct("<QQH")  # directory, sequence, name length

DIR_ITEM = struct.Struct("<QBQQHHB")  # location key, transid, data_len, name_len, type
DIR_ITEM_BYTES = 30
INODE_REF = struct.Struct("<QH")  # index, name length
INODE_EXTREF = struct.Struct("<QQH")  # directory, index, name length

# generation, ram_bytes, compression, encryption, other encoding, type
FILE_EXTENT = struct.Struct("<QQBBHB")
FILE_EXTENT_DISK = struct.Struct("<QQQQ")  # disk_bytenr, disk_num_bytes, offset, num_bytes
INLINE_AT = 21
EXTENT_INLINE, EXTENT_REGULAR, EXTENT_PREALLOC = range(3)
COMPRESS_NONE, COMPRESS_ZLIB, COMPRESS_LZO, COMPRESS_ZSTD = range(4)

BLOCK_GROUP_ITEM = struct.Struct("<QQQ")  # used, chunk_objectid, flags

# Item types
INODE_ITEM_KEY = 1
INODE_REF_KEY = 12
INODE_EXTREF_KEY = 13
XATTR_ITEM_KEY = 24
ORPHAN_ITEM_KEY = 48
DIR_LOG_INDEX_KEY = 72
DIR_ITEM_KEY = 84
DIR_INDEX_KEY = 96
EXTENT_DATA_KEY = 108
EXTENT_CSUM_KEY = 128
ROOT_ITEM_KEY = 132
ROOT_BACKREF_KEY = 144
ROOT_REF_KEY = 156
BLOCK_GROUP_ITEM_KEY = 192
DEV_ITEM_KEY = 216
CHUNK_ITEM_KEY = 228

# Objects
ROOT_TREE = 1
EXTENT_TREE = 2
CHUNK_TREE = 3
FS_TREE = 5
CSUM_TREE = 7
BLOCK_GROUP_TREE = 11
FIRST_FREE_OBJECT = 256
LAST_FREE_OBJECT = (1 << 64) - 256
DEV_ITEMS_OBJECT = 1
EXTENT_CSUM_OBJECT = (1 << 64) - 10
TREE_LOG_OBJECT = (1 << 64) - 6
EMPTY_SUBVOLUME_DIR = 2
MAX_U64 = (1 << 64) - 1

# Block groups
GROUP_DATA, GROUP_SYSTEM, GROUP_METADATA = 1, 2, 4
RAID0, RAID1, DUP, RAID10, RAID5, RAID6, RAID1C3, RAID1C4 = (1 << bit for bit in range(3, 11))
PROFILE_MASK = RAID0 | RAID1 | DUP | RAID10 | RAID5 | RAID6 | RAID1C3 | RAID1C4

# Directory entries: type -> st_mode >> 12
FILE_KINDS = (0, 0x8000, 0x4000, 0x2000, 0x6000, 0x1000, 0xC000, 0xA000)
MAX_NAME_BYTES = 255
