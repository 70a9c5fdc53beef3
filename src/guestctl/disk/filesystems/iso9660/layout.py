"""On-disk structures of ISO 9660 (ECMA-119), with its names.

Numbers are recorded in both orders; the little-endian one is read.
"""

from __future__ import annotations

from struct import Struct

# Section 6.2.1: volume descriptors begin in logical sector 16, of 2048 bytes.
SECTOR_BYTES = 2048
DESCRIPTORS_OFFSET = 16 * SECTOR_BYTES
MAX_DESCRIPTORS = 64
STANDARD_IDENTIFIER = b"CD001"
HIGH_SIERRA_IDENTIFIER = b"CDROM"
BOOT_RECORD, PRIMARY, SUPPLEMENTARY, TERMINATOR = 0, 1, 2, 255

# Section 8.4: Volume Descriptor Type, Standard Identifier, Volume Identifier, Volume Space Size, Escape Sequences,
# Volume Set Size, Logical Block Size
DESCRIPTOR = Struct("<B5s34x32s8xI4x32sH6xH")
ROOT_RECORD = slice(156, 190)
CREATION_DATE = slice(813, 830)
MODIFICATION_DATE = slice(830, 847)
JOLIET_ESCAPES = (b"%/@", b"%/C", b"%/E")
LABEL_BYTES = 32
HIGH_SIERRA_LABEL = slice(48, 80)

# Section 9.1: Length of Directory Record, Extended Attribute Record Length, Location of Extent, Data Length,
# Recording Date and Time, File Flags, File Unit Size, Interleave Gap Size, Length of File Identifier
RECORD = Struct("<BBI4xI4x7sBBB4xB")
MAX_RECORD_BYTES = 255
FLAG_DIRECTORY = 0x02
FLAG_ASSOCIATED = 0x04
FLAG_MULTI_EXTENT = 0x80

# System Use Sharing Protocol 1.12, and the Rock Ridge Interchange Protocol 1.12
SYSTEM_USE = Struct("<2sBB")  # signature, length, version
CONTINUATION = Struct("<I4xI4xI4x")  # CE: block, offset, length
SHARING_PROTOCOL = b"SP\x07\x01\xbe\xef"  # and LEN_SKP
XA_BYTES, XA_SIGNATURE = 14, slice(6, 8)  # of CD-ROM XA, which may come before
POSIX_ATTRIBUTES = Struct("<I4xI4xI4xI4x")  # PX: mode, links, uid, gid
DEVICE_NUMBER = Struct("<I4xI4x")  # PN: high, low
BLOCK = Struct("<I4x")  # CL
NAME_CONTINUE, NAME_CURRENT, NAME_PARENT, COMPONENT_ROOT = 1, 2, 4, 8
TIME_CREATION, TIME_MODIFY, TIME_ACCESS, TIME_ATTRIBUTES, TIME_LONG = 0x01, 0x02, 0x04, 0x08, 0x80
ZISOFS = Struct(
    "<2sBBQ"
)  # ZF: algorithm, header size / 4, log2 of the block size, size; the first has it in both orders

# El Torito 1.0
BOOT_SYSTEM = b"EL TORITO SPECIFICATION"
CATALOG_POINTER = Struct("<71xI")
CATALOG_ENTRY_BYTES = 32
BOOT_ENTRY = Struct("<BBH2xHI")  # indicator, media type, load segment, sector count, load RBA
SECTION_HEADER = Struct("<BBH")  # indicator, platform, count of entries
BOOTABLE, MORE_HEADERS, LAST_HEADER, EXTENSION = 0x88, 0x90, 0x91, 0x44
