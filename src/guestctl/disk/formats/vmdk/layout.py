"""On-disk structures and numbers of VMDK files.

Hosted sparse extents, markers and COWD as in VMware's "Virtual Disk Format 5.0"; seSparse, which no
public document of VMware describes, as qemu-img reads it. Everything is little-endian; sectors have
512 bytes.
"""

from __future__ import annotations

import struct

SECTOR_BYTES = 512

# SparseExtentHeader ("Hosted Sparse Extents"), which is also the footer of a stream.
SPARSE_MAGIC = b"KDMV"
# magicNumber, version, flags, capacity, grainSize, descriptorOffset, descriptorSize, numGTEsPerGT,
# rgdOffset, gdOffset, overHead, uncleanShutdown, the four end-of-line characters, compressAlgorithm
SPARSE_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
MAX_SPARSE_VERSION = 3
FLAG_NEWLINE_TEST = 1 << 0
FLAG_REDUNDANT_TABLES = 1 << 1
FLAG_ZEROED_GRAINS = 1 << 2
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
NEWLINE_TEST = b"\n \r\n"
COMPRESSION_NONE = 0
COMPRESSION_DEFLATE = 1
GD_AT_END = 0xFFFF_FFFF_FFFF_FFFF
ENTRIES_PER_TABLE = 512
GRAIN_SECTORS = 128  # what VMware and qemu-img write
ZEROED_GRAIN = 1  # a grain table entry, with FLAG_ZEROED_GRAINS

# Marker ("Stream-Optimized Compressed Sparse Extents"): value, size, and where size is 0 the type.
GRAIN_MARKER = struct.Struct("<QI")
METADATA_MARKER = struct.Struct("<QII496x")
MARKER_END_OF_STREAM = 0
MARKER_GRAIN_TABLE = 1
MARKER_GRAIN_DIRECTORY = 2
MARKER_FOOTER = 3
# From the end of the file: the footer, then the end-of-stream marker.
FOOTER_DISTANCE = 2 * SECTOR_BYTES

# COWDisk_Header ("ESXi Host Sparse Extents")
COWD_MAGIC = b"COWD"
# magicNumber, version, flags, numSectors, grainSize, gdOffset, numGDEntries, freeSector
COWD_HEADER = struct.Struct("<4sIIIIIII")
COWD_HEADER_BYTES = 2048
COWD_UNCLEAN = struct.Struct("<I")
COWD_UNCLEAN_OFFSET = 1648
COWD_ENTRIES_PER_TABLE = 4096

# seSparse: the constant header, then the volatile one.
SESPARSE_MAGIC = 0xCAFEBABE
SESPARSE_MAGIC_BYTES = b"\xbe\xba\xfe\xca\0\0\0\0"
# magic, version, capacity, grain size, grain table size, flags, 4 reserved; then offset and size, in
# sectors, of: volatile header, journal header, journal, grain directory, grain tables, free bitmap,
# backmap, grains
SESPARSE_HEADER = struct.Struct("<26Q")
SESPARSE_VERSION = 0x2_0000_0001
SESPARSE_GRAIN_SECTORS = 8
SESPARSE_TABLE_SECTORS = 64
SESPARSE_VOLATILE_MAGIC = 0xCAFECAFE
SESPARSE_VOLATILE_HEADER = struct.Struct("<4Q")  # magic, free grain table, next transaction, replay journal
SESPARSE_TABLE_ALLOCATED = 0x1000_0000  # the upper half of a grain directory entry
SESPARSE_TYPE_SHIFT = 60  # of a grain table entry
SESPARSE_UNALLOCATED = 0
SESPARSE_UNMAPPED = 1  # by the guest's SCSI UNMAP
SESPARSE_ZERO = 2
SESPARSE_ALLOCATED = 3

DESCRIPTOR_MAGIC = b"# Disk DescriptorFile"
NO_PARENT_CID = 0xFFFF_FFFF
