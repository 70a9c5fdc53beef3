"""On-disk structures of a journal file, with the field names of "Journal File Format" (systemd.io/JOURNAL_FILE_FORMAT).

All numbers are little-endian. A compact file has 32-bit offsets in entries and entry arrays.
"""

from __future__ import annotations

import struct

SIGNATURE = b"LPKSHHRH"
# signature, compatible_flags, incompatible_flags, state, file_id, machine_id, tail_entry_boot_id, seqnum_id,
# header_size, arena_size, data_hash_table_offset, data_hash_table_size, field_hash_table_offset,
# field_hash_table_size, tail_object_offset, n_objects, n_entries, tail_entry_seqnum, head_entry_seqnum,
# entry_array_offset
HEADER = struct.Struct("<8sIIB7x16s16s16s16s12Q")
HEADER_MIN_BYTES = 208

INCOMPATIBLE_COMPRESSED_XZ = 1
INCOMPATIBLE_COMPRESSED_LZ4 = 2
INCOMPATIBLE_KEYED_HASH = 4
INCOMPATIBLE_COMPRESSED_ZSTD = 8
INCOMPATIBLE_COMPACT = 16
INCOMPATIBLE_KNOWN = 31

OBJECT_DATA = 1
OBJECT_FIELD = 2
OBJECT_ENTRY = 3
OBJECT_FIELD_HASH_TABLE = 5
OBJECT_ENTRY_ARRAY = 6
OBJECT_COMPRESSED_XZ = 1
OBJECT_COMPRESSED_LZ4 = 2
OBJECT_COMPRESSED_ZSTD = 4

# type, flags, size
OBJECT = struct.Struct("<BB6xQ")
# hash, next_hash_offset, next_field_offset, entry_offset, entry_array_offset, n_entries after the object's header;
# then of a compact file tail_entry_array_offset and tail_entry_array_n_entries
DATA = struct.Struct("<16x6Q")
DATA_PAYLOAD = 64
COMPACT_DATA_PAYLOAD = 72
# hash, next_hash_offset, head_data_offset
FIELD = struct.Struct("<16x3Q")
FIELD_PAYLOAD = 40
# seqnum, realtime, monotonic, boot_id, xor_hash
ENTRY = struct.Struct("<16xQQQ16sQ")
ENTRY_ITEMS = 64
ENTRY_ITEM_BYTES = 16  # object_offset, hash
COMPACT_ENTRY_ITEM_BYTES = 4
# next_entry_array_offset
ENTRY_ARRAY = struct.Struct("<16xQ")
ENTRY_ARRAY_ITEMS = 24
# head_hash_offset, tail_hash_offset
HASH_ITEM = struct.Struct("<QQ")
