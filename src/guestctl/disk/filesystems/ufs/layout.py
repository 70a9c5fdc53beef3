"""On-disk structures of UFS1 and UFS2: fs(5), and the headers ``ffs/fs.h``, ``dinode.h`` and ``dir.h`` that it names.

All of them stand in the byte order of the machine that made the filesystem. Offsets are in bytes.
"""

from __future__ import annotations

SUPERBLOCK_BYTES = 1376
MAGIC_OFFSET = 1372
MAGIC_UFS1, MAGIC_UFS2 = 0x011954, 0x19540119
# SBLOCKSEARCH: where a superblock is looked for.
SUPERBLOCK_OFFSETS = (65536, 8192, 0, 262144)

# struct fs: field -> (offset, format)
SUPERBLOCK_FIELDS = {
    "cblkno": (12, "i"),
    "iblkno": (16, "i"),
    "old_cgoffset": (24, "i"),
    "old_cgmask": (28, "i"),
    "old_size": (36, "i"),
    "old_dsize": (40, "i"),
    "ncg": (44, "I"),
    "bsize": (48, "i"),
    "fsize": (52, "i"),
    "frag": (56, "i"),
    "minfree": (60, "i"),
    "nindir": (116, "i"),
    "inopb": (120, "i"),
    "id_high": (144, "I"),
    "id_low": (148, "I"),
    "ipg": (184, "I"),
    "fpg": (188, "i"),
    "old_nbfree": (196, "i"),
    "old_nifree": (200, "i"),
    "old_nffree": (204, "i"),
    "clean": (209, "b"),
    "sblockloc": (1000, "q"),
    "nbfree": (1016, "q"),
    "nifree": (1024, "q"),
    "nffree": (1032, "q"),
    "size": (1080, "q"),
    "dsize": (1088, "q"),
    "flags": (1312, "i"),
    "maxsymlinklen": (1320, "i"),
    "old_inodefmt": (1324, "i"),
}
VOLUME_NAME = (680, "32s")  # fs_volname, of UFS2
FLAG_UNCLEAN = 0x01
INODE_FORMAT_44 = 2  # fs_old_inodefmt: uids of 32 bits, and file types in directories

ROOT_INODE = 2
DIRECT_BLOCKS, INDIRECT_LEVELS = 12, 3
UFS1_INODE_BYTES, UFS2_INODE_BYTES = 128, 256
# Where the addresses of blocks begin in an inode; short symbolic links lie there.
UFS1_BLOCKS, UFS2_BLOCKS = 40, 112

DIRECTORY_BLOCK_BYTES = 512  # DIRBLKSIZ: no entry crosses a multiple of it
DIRECTORY_ENTRY = "IHBB"  # d_ino, d_reclen, d_type, d_namlen
FILE_TYPES = tuple(kind << 12 for kind in range(16)) + (0,) * 240  # d_type is st_mode >> 12; 0 is unknown
