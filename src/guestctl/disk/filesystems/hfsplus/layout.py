"""On-disk structures of TN1150, all big-endian. Offsets are in bytes."""

from __future__ import annotations

import uuid
from struct import Struct

HEADER_OFFSET, HEADER_BYTES = 1024, 512  # the alternate one lies 1024 bytes before the end
SIGNATURES = {b"H+": (4,), b"HX": (5,)}  # and their versions
# HFSPlusVolumeHeader: signature, version, attributes, journalInfoBlock, blockSize, totalBlocks, freeBlocks, finderInfo
HEADER = Struct(">2sHI4xI24xIII28x32s")
FORK_BYTES = 80
ALLOCATION_FORK, EXTENTS_FORK, CATALOG_FORK, ATTRIBUTES_FORK = 112, 192, 272, 352
ATTRIBUTE_UNMOUNTED, ATTRIBUTE_JOURNALED = 1 << 8, 1 << 13
# The volume's identifier is the last part of finderInfo; its UUID is made from that in a namespace of Apple's.
IDENTIFIER = slice(24, 32)
NAMESPACE = uuid.UUID("b3e20f39-f292-11d6-97a4-00306543ecac")

# HFS master directory block: signature, drAlBlkSiz, drAlBlSt, drEmbedSigWord, drEmbedExtent
WRAPPER_SIGNATURE = b"BD"
WRAPPER = Struct(">2s18xI4xH94x2sHH")

# HFSPlusForkData: logicalSize, totalBlocks; then eight extents
FORK = Struct(">Q4xI")
EXTENTS = Struct(">16I")
EXTENTS_OFFSET, EXTENTS_BYTES, EXTENTS_COUNT = 16, 64, 8

# BTNodeDescriptor: fLink, kind, height, numRecords
NODE = Struct(">I4xbBH2x")
NODE_LEAF, NODE_INDEX, NODE_HEADER = -1, 0, 1
# BTHeaderRec: treeDepth, rootNode, nodeSize, totalNodes, keyCompareType, attributes
TREE_HEADER_OFFSET = 14
TREE_HEADER = Struct(">HI12xH2xI11xBI")
COMPARE_BINARY = 0xBC
TREE_BIG_KEYS, TREE_VARIABLE_INDEX_KEYS = 2, 4
MIN_NODE_BYTES, MAX_NODE_BYTES = 512, 32768

# Keys, after keyLength: HFSPlusCatalogKey, HFSPlusExtentKey, HFSPlusAttrKey
CATALOG_KEY = Struct(">2xIH")
EXTENT_KEY = Struct(">2xBxII")  # forkType, fileID, startBlock
ATTRIBUTE_KEY = Struct(">4xIIH")  # fileID, startBlock, length of the name
DATA_FORK, RESOURCE_FORK = 0, 0xFF
EXTENTS_FILE, CATALOG_FILE, ALLOCATION_FILE, ATTRIBUTES_FILE = 3, 4, 6, 8
ROOT_PARENT, ROOT_FOLDER = 1, 2

# HFSPlusCatalogFolder and -File: recordType, valence (of folders), id, createDate, contentModDate, attributeModDate,
# accessDate; HFSPlusBSDInfo: ownerID, groupID, ownerFlags, fileMode, special; then Finder's information
RECORD = Struct(">h2xIIIIII4xIIxBHI32s")
FOLDER_RECORD, FILE_RECORD, FOLDER_THREAD, FILE_THREAD = 1, 2, 3, 4
RECORD_BYTES = {FOLDER_RECORD: 88, FILE_RECORD: 248}
FILE_DATA_FORK, FILE_RESOURCE_FORK = 88, 168
FLAG_COMPRESSED = 0x20  # UF_COMPRESSED of ownerFlags
HARD_LINK = b"hlnkhfs+"  # fdType and fdCreator
PRIVATE_FOLDER = "\0\0\0\0HFS+ Private Data"
EPOCH = 2082844800  # 1970 in seconds since 1904

# Attribute records: recordType; HFSPlusAttrInlineData: attrSize
ATTRIBUTE_TYPE = Struct(">I")
ATTRIBUTE_INLINE, ATTRIBUTE_FORK, ATTRIBUTE_EXTENTS = 0x10, 0x20, 0x30
INLINE_SIZE, INLINE_DATA_OFFSET = Struct(">12xI"), 16
ATTRIBUTE_FORK_OFFSET = 8
