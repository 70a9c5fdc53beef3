"""On-disk structures of exFAT, with the names of Microsoft's specification. Little-endian."""

from __future__ import annotations

from struct import Struct

# Section 3.1: FileSystemName, VolumeLength, FatOffset, FatLength, ClusterHeapOffset, ClusterCount,
# FirstClusterOfRootDirectory, VolumeSerialNumber, FileSystemRevision, VolumeFlags, BytesPerSectorShift,
# SectorsPerClusterShift, NumberOfFats, BootSignature
BOOT_SECTOR = Struct("<3x8s53x8xQIIIIIIHHBBB399xH")
BOOT_SECTOR_BYTES = 512
FILE_SYSTEM_NAME = b"EXFAT   "
BOOT_SIGNATURE = 0xAA55
REGION_SECTORS = 12  # of the main boot region; the backup follows
CHECKSUM_SECTOR = 11
UNSUMMED = (106, 107, 112)  # VolumeFlags and PercentInUse change while mounted
MIN_SECTOR_SHIFT, MAX_SECTOR_SHIFT, MAX_CLUSTER_SHIFT = 9, 12, 25
VOLUME_DIRTY, MEDIA_FAILURE = 1 << 1, 1 << 2

FIRST_CLUSTER = 2
END_OF_CHAIN = 0xFFFFFFF8  # and what follows; 0xFFFFFFF7 is a bad cluster

# Section 6: directory entries. EntryType has InUse, TypeCategory (secondary), TypeImportance (benign) and a code.
ENTRY_BYTES = 32
IN_USE, SECONDARY, BENIGN = 0x80, 0x40, 0x20
BITMAP, UPCASE, LABEL, FILE, STREAM, NAME = 0x81, 0x82, 0x83, 0x85, 0xC0, 0xC1
# EntryType, SecondaryCount, SetChecksum, FileAttributes, CreateTimestamp, LastModifiedTimestamp,
# LastAccessedTimestamp, Create10msIncrement, LastModified10msIncrement, and the three offsets from UTC
FILE_ENTRY = Struct("<BBHH2xIIIBBBBB7x")
# EntryType, GeneralSecondaryFlags, NameLength, NameHash, ValidDataLength, FirstCluster, DataLength
STREAM_ENTRY = Struct("<BBxBH2xQ4xIQ")
NO_FAT_CHAIN = 1 << 1
NAME_UNITS = 15
NAME_OFFSET = 2
MAX_SECONDARIES = 18
# BitmapFlags or nothing, TableChecksum or nothing, FirstCluster, DataLength
TABLE_ENTRY = Struct("<xB2xI12xIQ")
LABEL_UNITS = 11

ATTR_READ_ONLY, ATTR_DIRECTORY = 0x01, 0x10
UTC_OFFSET_VALID = 0x80
MAX_DIRECTORY_BYTES = 256 << 20
MAX_UPCASE_BYTES = 128 << 10
IDENTITY_RUN = 0xFFFF  # in the up-case table: so many units as the next one says stand for themselves
