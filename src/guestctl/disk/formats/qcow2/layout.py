"""The structures of a qcow2 file, with the names of qemu's ``docs/interop/qcow2.txt``; big-endian."""

from __future__ import annotations

import struct
from enum import IntFlag

MAGIC = b"QFI\xfb"

# "Header": magic, version, backing_file_offset, backing_file_size, cluster_bits, size, crypt_method,
# l1_size, l1_table_offset, refcount_table_offset, refcount_table_clusters, nb_snapshots, snapshots_offset.
HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
# incompatible_features, compatible_features, autoclear_features, refcount_order, header_length.
HEADER_V3 = struct.Struct(">QQQII")
HEADER_V3_BYTES = HEADER_V2.size + HEADER_V3.size
COMPRESSION_TYPE_OFFSET = 104
HEADER_BYTES = 112  # with compression_type and its padding

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21  # qemu's limit: 2 MiB
DEFAULT_CLUSTER_BYTES = 64 << 10
MIN_EXTENDED_CLUSTER_BITS = 14
MAX_REFCOUNT_ORDER = 6
DEFAULT_REFCOUNT_ORDER = 4  # version 2 has no other
MAX_FILE_NAME_BYTES = 1023
MAX_FORMAT_NAME_BYTES = 15  # qemu's buffer
MAX_L1_BYTES = 32 << 20  # qemu's limit, 2 EiB of disk with clusters of 2 MiB
MAX_REFCOUNT_TABLE_BYTES = 8 << 20  # qemu's limit


class Incompatible(IntFlag):
    """``incompatible_features`` that are read."""

    DIRTY = 1 << 0
    CORRUPT = 1 << 1
    DATA_FILE = 1 << 2
    COMPRESSION = 1 << 3
    EXTENDED_L2 = 1 << 4


KNOWN_INCOMPATIBLE = int(
    Incompatible.DIRTY
    | Incompatible.CORRUPT
    | Incompatible.DATA_FILE
    | Incompatible.COMPRESSION
    | Incompatible.EXTENDED_L2
)
COMPATIBLE_LAZY_REFCOUNTS = 1 << 0
AUTOCLEAR_BITMAPS = 1 << 0
AUTOCLEAR_RAW_DATA_FILE = 1 << 1

CRYPT_AES = 1
CRYPT_LUKS = 2
COMPRESSION_ZLIB = 0
COMPRESSION_ZSTD = 1

# "Header extensions": type, length of the data that follows; padded to eight bytes.
EXTENSION = struct.Struct(">II")
EXTENSION_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_FEATURE_NAMES = 0x6803F857
EXTENSION_BITMAPS = 0x23852875
EXTENSION_ENCRYPTION = 0x0537BE77
EXTENSION_DATA_FILE = 0x44415441

# "Feature name table": type (0 incompatible), bit number, name padded with zeros.
FEATURE_NAME = struct.Struct(">BB46s")
FEATURE_INCOMPATIBLE = 0
FEATURE_NAMES = (
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)
# "Bitmaps extension": nb_bitmaps, reserved, bitmap_directory_size, bitmap_directory_offset.
BITMAPS_EXTENSION = struct.Struct(">IIQQ")
# "Full disk encryption header pointer": offset, length.
ENCRYPTION_EXTENSION = struct.Struct(">QQ")

# "Cluster mapping". The names are those of qemu's messages.
L1_OFFSET_MASK = 0x00FFFFFFFFFFFE00
L1_RESERVED_MASK = 0x7F000000000001FF
L2_OFFSET_MASK = 0x00FFFFFFFFFFFE00
L2_RESERVED_MASK = 0x3F000000000001FE
OFLAG_COPIED = 1 << 63
OFLAG_COMPRESSED = 1 << 62
OFLAG_ZERO = 1 << 0
REFCOUNT_TABLE_OFFSET_MASK = 0xFFFFFFFFFFFFFE00
REFCOUNT_TABLE_RESERVED_MASK = 0x1FF
HOST_OFFSET_BITS = 56

# "Extended L2 Entries": the low half of the bitmap is allocation, the high half reads-as-zeros.
SUBCLUSTERS = 32
ALL_ALLOCATED = 0x00000000FFFFFFFF
ALL_ZERO = 0xFFFFFFFF00000000

# "Snapshots": l1_table_offset, l1_size, id_str_size, name_size, date_sec, date_nsec, vm_clock_nsec,
# vm_state_size, extra_data_size. The extra data then begins with 64-bit vm_state_size, disk_size, icount.
SNAPSHOT = struct.Struct(">QIHHIIQII")
SNAPSHOT_EXTRA_FIELD = struct.Struct(">Q")
MAX_SNAPSHOTS = 65536  # this and the next two are qemu's limits
MAX_SNAPSHOT_TABLE_BYTES = 64 << 20
MAX_SNAPSHOT_EXTRA_BYTES = 1024

# "Bitmap directory": bitmap_table_offset, bitmap_table_size, flags, type, granularity_bits,
# name_size, extra_data_size.
BITMAP = struct.Struct(">QIIBBHI")
BITMAP_IN_USE = 1 << 0
BITMAP_AUTO = 1 << 1
BITMAP_TABLE_OFFSET_MASK = 0x00FFFFFFFFFFFE00
BITMAP_TABLE_RESERVED_MASK = 0xFF000000000001FE
MAX_BITMAPS = 65535
MAX_BITMAP_NAME_BYTES = 1023


def compressed_offset_bits(cluster_bits: int) -> int:
    """The bits of the host offset in a "Compressed Clusters Descriptor"; the number of sectors is above."""
    return 62 - (cluster_bits - 8)
