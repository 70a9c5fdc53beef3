"""On-disk structures of FAT, with the names of Microsoft's specification (fatgen103). Little-endian."""

from __future__ import annotations

from struct import Struct

# BIOS parameter block, "Boot Sector and BPB Structure": BPB_BytsPerSec .. BPB_TotSec32
BPB = Struct("<11xHBHBHHBH2x2x4xI")
# The part of FAT32, from offset 36: BPB_FATSz32 .. BPB_BkBootSec
BPB_FAT32_OFFSET = 36
BPB_FAT32 = Struct("<IHHIHH")

BOOT_SECTOR_BYTES = 512
SIGNATURE_OFFSET = 510
SIGNATURE = b"\x55\xaa"

# BS_Reserved1, BS_BootSig, BS_VolID, BS_VolLab, which end the BPB, and the offset of BS_FilSysType
TAIL = Struct("<BBI11s")
FAT16_TAIL_OFFSET, FAT16_TYPE_OFFSET = 37, 54
FAT32_TAIL_OFFSET, FAT32_TYPE_OFFSET = 65, 82
BOOT_SIGNATURE_ID = 0x28  # an older form: the volume has an id, and no label
BOOT_SIGNATURE = 0x29
STATE_DIRTY = 1 << 0  # not in fatgen103: Windows and Linux set it while mounted
NO_LABEL = b"NO NAME    "

EXT_FLAGS_ACTIVE = 0x0F
EXT_FLAGS_NO_MIRROR = 1 << 7

# FSInfo: FSI_LeadSig, FSI_StrucSig, FSI_Free_Count
FSINFO = Struct("<4s480x4sI")
FSINFO_LEAD = b"RRaA"
FSINFO_STRUCT = b"rrAa"

# "FAT Type Determination": the highest counts of clusters
MAX_FAT12_CLUSTERS = 4084
MAX_FAT16_CLUSTERS = 65524
MAX_FAT32_CLUSTERS = 0x0FFFFFF5
FIRST_CLUSTER = 2

# Entry 1 of the table: clear while mounted
CLEAN_SHUTDOWN = {16: 1 << 15, 32: 1 << 27}
NO_HARD_ERRORS = {16: 1 << 14, 32: 1 << 26}

# Directory entry: DIR_Name, DIR_Attr, DIR_NTRes, DIR_CrtTimeTenth, DIR_CrtTime, DIR_CrtDate,
# DIR_LstAccDate, DIR_FstClusHI, DIR_WrtTime, DIR_WrtDate, DIR_FstClusLO, DIR_FileSize
ENTRY_BYTES = 32
ENTRY = Struct("<11sBBBHHHHHHHI")
ENTRY_NAME = Struct("<11sBB19x")
ENTRY_HEAD = Struct("<11xB8xH4xHI")  # DIR_Attr, DIR_FstClusHI, DIR_FstClusLO, DIR_FileSize
ENTRY_TIMES = Struct("<13xBHHH2xHH6x")
# Long name entry: LDIR_Ord, LDIR_Name1, LDIR_Chksum, LDIR_Name2, LDIR_Name3
LONG_ENTRY = Struct("<B10s2xB12s2x4s")

ATTR_READ_ONLY = 0x01
ATTR_VOLUME_ID = 0x08
ATTR_DIRECTORY = 0x10
ATTR_LONG_NAME = 0x0F
ATTR_LONG_NAME_MASK = 0x3F

FREE = 0xE5
END = 0x00
KANJI_E5 = 0x05  # stands for a first byte of 0xE5
LAST_LONG_ENTRY = 0x40
MAX_LONG_ENTRIES = 20
# DIR_NTRes, not in fatgen103: Windows NT keeps names that are all lower case short
LOWER_BASE = 0x08
LOWER_EXT = 0x10

# A directory's bytes: its entries are numbered with 16 bits.
MAX_DIRECTORY_BYTES = 65536 * ENTRY_BYTES
