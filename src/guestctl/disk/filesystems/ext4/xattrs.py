"""Extended attributes of ext2, ext3 and ext4: bytes in, names and values out.

Specification: "Extended Attributes" in the kernel's ext4 documentation. Little-endian. A table of
entries stands behind the fields of an inode (``ext4_xattr_ibody_header``) or in a block of its own
(``ext4_xattr_header``); values fill the same area from its end, and entries may share one.

Read: attributes in the inode, in a block, and with their value in another inode (``ea_inode``);
names of every index that the kernel shows, and ``system.data`` (inline data) and
``system.richacl``, which it does not; POSIX ACLs, stored in a short form (version 1), as the
kernel shows them (version 2). Left out, as by the kernel: entries of any other index, such as the
encryption context; an ACL without entries; the second of two entries with one name.

Refused: attribute blocks of more than one block, which no version of the format came to use, and
values longer than the kernel can show.

An entry's hash is verified, as in the kernel, only where the value lies in another inode. That of
a value beside its entry guards nothing the block's checksum does not: the kernel sets it for
finding equal blocks, and leaves it zero in the inode.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature

# Gives the value of an attribute from the inode that holds it: inode number, length in bytes, and
# the CRC32C that the value has according to its entry (seeded as all of the filesystem's are).
ReadValue = Callable[[int, int, int], bytes]

_MAGIC = 0xEA020000
_IBODY_HEADER = struct.Struct("<I")  # h_magic
_HEADER = struct.Struct("<I4xI")  # h_magic h_blocks
_HEADER_BYTES = 32
_CHECKSUM = 0x10  # h_checksum
_ENTRY = struct.Struct("<BBHIII")  # e_name_len e_name_index e_value_offs e_value_inum e_value_size e_hash
_END = bytes(4)

# "Attribute Name Indices"; 10 is the Hurd's, in the kernel's header only.
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
    10: "gnu.",
}
_SYSTEM_INDEX = 7
_ACLS = frozenset((_PREFIXES[2], _PREFIXES[3]))

# "POSIX ACLs", with the tags of acl(5). Only a named user or group has an id on the disk.
_ACL_DISK_VERSION, _ACL_XATTR_VERSION = 1, 2
_ACL_VERSION = struct.Struct("<I")
_ACL_SHORT = struct.Struct("<HH")  # e_tag e_perm
_ACL_ENTRY = struct.Struct("<HHI")  # e_tag e_perm e_id
_ACL_NAMED = frozenset((0x02, 0x08))  # ACL_USER ACL_GROUP
_ACL_UNNAMED = frozenset((0x01, 0x04, 0x10, 0x20))  # ACL_USER_OBJ ACL_GROUP_OBJ ACL_MASK ACL_OTHER
_ACL_UNDEFINED_ID = 0xFFFFFFFF

_MAX_VALUE_BYTES = 1 << 16  # XATTR_SIZE_MAX: no system call sets or gets a longer one
# Entries may share a value, or name long ones in other inodes. A block of 4 KiB has room for the
# entries of 13 MiB of values.
_MAX_TOTAL_BYTES = 64 << 20

_MASK = 0xFFFFFFFF


class _Entry(NamedTuple):
    position: int  # in the area
    name_index: int
    name: bytes
    start: int  # of the value, in the area
    size: int
    inum: int
    hash: int


def parse_inode_body(area: memoryview, read_value: ReadValue, *, offset: int) -> dict[str, bytes]:
    """The attributes in `area`, the part of an inode behind its ``i_extra_isize``; `offset` is where it lies.

    Where a name is in the block too, this one counts. Raises `InvalidFormat`, `UnsupportedFeature`
    and whatever `read_value` raises.
    """
    return _attributes(area, _body_entries(area, offset), read_value, offset)


def parse_block(block: memoryview, read_value: ReadValue, *, offset: int) -> dict[str, bytes]:
    """The attributes in an attribute block (``i_file_acl``) that lies at `offset`; raises as `parse_inode_body`."""
    if len(block) < _HEADER_BYTES:
        raise _bad_header(f"cut off after {len(block)} bytes", offset)
    magic, blocks = _HEADER.unpack_from(block)
    if magic != _MAGIC:
        raise _bad_header(f"h_magic is {magic:#x}", offset, _MAGIC, magic)
    if blocks != 1:
        raise _bad_header(f"h_blocks is {blocks}", offset, 1, blocks)
    return _attributes(block, _entries(block, _HEADER_BYTES, 0, offset), read_value, offset)


def verify_block(block: memoryview, *, seed: int, block_number: int, offset: int) -> None:
    """Check the checksum of an attribute block (``metadata_csum``); `seed` is the filesystem's.

    Raises `ChecksumMismatch`.
    """
    import google_crc32c

    data = bytes(block)
    if len(data) < _HEADER_BYTES:
        raise _bad_header(f"cut off after {len(data)} bytes", offset)
    actual = int.from_bytes(data[_CHECKSUM : _CHECKSUM + 4], "little")
    crc = seed ^ _MASK  # the library inverts before and after, the kernel does not
    for part in (block_number.to_bytes(8, "little"), data[:_CHECKSUM], bytes(4), data[_CHECKSUM + 4 :]):
        crc = google_crc32c.extend(crc, part)
    expected = crc ^ _MASK
    if actual != expected:
        raise ChecksumMismatch(structure="ext4_xattr_header", offset=offset, expected=expected, actual=actual)


def raw_inline_data(area: memoryview, *, offset: int = 0) -> bytes | None:
    """The value of ``system.data`` in `area`, which continues an inline file; None where there is none."""
    for entry in _body_entries(area, offset):
        if entry.name_index == _SYSTEM_INDEX and entry.name == b"data":
            if entry.inum:
                raise _bad("inline data in another inode", offset + entry.position)
            return bytes(area[entry.start : entry.start + entry.size])
    return None


def _body_entries(area: memoryview, offset: int) -> list[_Entry]:
    if len(area) < _IBODY_HEADER.size or _IBODY_HEADER.unpack_from(area)[0] != _MAGIC:
        return []
    return _entries(area, _IBODY_HEADER.size, _IBODY_HEADER.size, offset)


def _entries(area: memoryview, first: int, base: int, offset: int) -> list[_Entry]:
    """The table that begins at `first`; its ``e_value_offs`` count from `base`."""
    entries = []
    position, end = first, len(area)
    while area[position : position + 4] != _END:
        if position + _ENTRY.size > end:
            raise _bad("the table does not end", offset + position)
        length, index, value, inum, size, hash_ = _ENTRY.unpack_from(area, position)
        name = bytes(area[position + _ENTRY.size : position + _ENTRY.size + length])
        if len(name) < length or b"\0" in name:
            raise _bad(f"e_name_len is {length}", offset + position, actual=length)
        entries.append(_Entry(position, index, name, base + value, size, inum, hash_))
        position += _ENTRY.size + (length + 3 & ~3)
    values = position + len(_END)
    for entry in entries:
        if entry.size > _MAX_VALUE_BYTES:
            raise _bad(f"e_value_size is {entry.size}", offset + entry.position, actual=entry.size)
        lowest = values if entry.size else 0
        if not entry.inum and not lowest <= entry.start <= end - (entry.size + 3 & ~3):
            message = f"a value of {entry.size} bytes at {entry.start} is not between {values} and {end}"
            raise _bad(message, offset + entry.position, actual=entry.start)
    return entries


def _attributes(area: memoryview, entries: list[_Entry], read_value: ReadValue, offset: int) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    total = 0
    for entry in entries:
        prefix = _PREFIXES.get(entry.name_index)
        if prefix is None:
            continue
        name = prefix + entry.name.decode("utf-8", "surrogateescape")
        if name in attributes:
            continue
        total += entry.size
        if total > _MAX_TOTAL_BYTES:
            message = f"more than {_MAX_TOTAL_BYTES} bytes of extended attributes"
            raise UnsupportedFeature(message, feature="large extended attributes")
        value = _distant(entry, read_value) if entry.inum else bytes(area[entry.start : entry.start + entry.size])
        if name in _ACLS:
            acl = _acl(value, offset + entry.position)
            if acl is None:
                continue
            value = acl
        attributes[name] = value
    return attributes


def _distant(entry: _Entry, read_value: ReadValue) -> bytes:
    """The value that lies in another inode. The entry's hash is the name's, rotated, xor the value's CRC32C."""
    rotated = _rotate(_name_hash(entry.name), 16)
    try:
        return read_value(entry.inum, entry.size, entry.hash ^ rotated)
    except ChecksumMismatch:
        if entry.name.isascii():
            raise
        # Kernels before 6.2 take bytes from 0x80 as negative where char is signed.
        signed = _rotate(_name_hash(entry.name, signed=True), 16)
        return read_value(entry.inum, entry.size, entry.hash ^ signed)


def _name_hash(name: bytes, signed: bool = False) -> int:
    result = 0
    for byte in name:
        extended = byte | 0xFFFFFF00 if signed and byte >= 0x80 else byte
        result = _rotate(result, 5) ^ extended
    return result


def _rotate(value: int, count: int) -> int:
    return (value << count | value >> 32 - count) & _MASK


def _acl(value: bytes, offset: int) -> bytes | None:
    """The kernel's form of an ACL as it is on the disk; None for an empty one."""
    if not value:
        return None
    if len(value) < _ACL_VERSION.size or _ACL_VERSION.unpack_from(value)[0] != _ACL_DISK_VERSION:
        raise InvalidFormat("a_version is not 1", structure="ext4_acl_header", offset=offset)
    result = bytearray(_ACL_VERSION.pack(_ACL_XATTR_VERSION))
    position = _ACL_VERSION.size
    while position < len(value):
        tag = value[position] | value[position + 1] << 8 if position + _ACL_SHORT.size <= len(value) else 0
        if tag in _ACL_UNNAMED:
            result += value[position : position + _ACL_SHORT.size] + _ACL_UNDEFINED_ID.to_bytes(4, "little")
            position += _ACL_SHORT.size
        elif tag in _ACL_NAMED and position + _ACL_ENTRY.size <= len(value):
            result += value[position : position + _ACL_ENTRY.size]
            position += _ACL_ENTRY.size
        else:
            raise InvalidFormat(f"bad entry at byte {position}", structure="ext4_acl_entry", offset=offset, actual=tag)
    return bytes(result) if position > _ACL_VERSION.size else None


def _bad_header(message: str, offset: int, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure="ext4_xattr_header", offset=offset, expected=expected, actual=actual)


def _bad(message: str, offset: int, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure="ext4_xattr_entry", offset=offset, actual=actual)
