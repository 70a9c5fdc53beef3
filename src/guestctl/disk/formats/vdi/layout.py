"""Structures of a VDI file: the pre-header, the header of version 1.1, and the entries of the block map."""

from __future__ import annotations

import struct
from enum import IntEnum

# szFileInfo, u32Signature, u32Version.
PRE_HEADER = struct.Struct("<64sII")
SIGNATURE = 0xBEDA107F
VERSION = 0x00010001

# Follows the pre-header: cbHeader, u32Type, fFlags, szComment, offBlocks, offData, LegacyGeometry
# (cCylinders, cHeads, cSectors, cbSector), u32Dummy, cbDisk, cbBlock, cbBlockExtra, cBlocks,
# cBlocksAllocated, uuidCreate, uuidModify, uuidLinkage, uuidParentModify.
HEADER = struct.Struct("<III256sII4IIQIIII16s16s16s16s")
# VirtualBox appends another geometry and writes the longer size.
LCHS_GEOMETRY = struct.Struct("<4I")
SECTOR_BYTES = 512

# Entries of the block map count blocks from offData on, but for these two.
FREE = 0xFFFFFFFF
ZERO = 0xFFFFFFFE

DEFAULT_BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 1 << 30
NIL_UUID = bytes(16)


class ImageType(IntEnum):
    """Values of ``u32Type``."""

    NORMAL = 1
    FIXED = 2
    UNDO = 3
    DIFF = 4
