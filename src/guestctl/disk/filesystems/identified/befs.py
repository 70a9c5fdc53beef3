"""BFS of BeOS and Haiku ("Practical File System Design with the Be File System"), of either byte order.

The volume's id is an attribute of the root directory, in its inode.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text

_SUPERBLOCKS = (512, 0)
_MAGIC_OFFSET = 32
# Name, then from the magic on: block size, AG shift, root directory (group, start, length).
_SUPERBLOCK = "32s8xI32xI36xIHH"
_SUPERBLOCK_BYTES = 124
_MAX_BLOCK_BYTES = 8192
_SMALL_DATA_OFFSET = 232
_ID_NAME = b"be:volume_id"
# Attribute in an inode: type, lengths of name and value; then the name, three bytes of padding and the value.
_SMALL_DATA = "IHH"
_PADDING = 3


def identify(device: BlockDevice) -> Identity | None:
    for offset in _SUPERBLOCKS:
        data = read_at(device, offset, _SUPERBLOCK_BYTES)
        order = {b"1SFB": "<", b"BFS1": ">"}.get(data[_MAGIC_OFFSET : _MAGIC_OFFSET + 4])
        if order is not None and len(data) == _SUPERBLOCK_BYTES:
            return _identity(device, data, order)
    return None


def _identity(device: BlockDevice, data: bytes, order: str) -> Identity:
    name, block_size, shift, group, start, _ = Struct(order + _SUPERBLOCK).unpack_from(data)
    identifier = None
    if 0 < block_size <= _MAX_BLOCK_BYTES and shift < 32:
        inode = read_at(device, ((group << shift) + start) * block_size, block_size)
        identifier = _volume_id(inode, order)
    version = "little-endian" if order == "<" else "big-endian"
    return Identity("befs", version=version, label=text(name), uuid=identifier)


def _volume_id(inode: bytes, order: str) -> str | None:
    entry = Struct(order + _SMALL_DATA)
    at = _SMALL_DATA_OFFSET
    while at + entry.size <= len(inode):
        _, name_length, value_length = entry.unpack_from(inode, at)
        name_at = at + entry.size
        value_at = name_at + name_length + _PADDING
        if not name_length:
            return None
        if inode[name_at : name_at + name_length] == _ID_NAME and value_length == 8:
            value = inode[value_at : value_at + 8]
            return f"{int.from_bytes(value, 'little' if order == '<' else 'big'):016x}"
        at = value_at + value_length + 1
    return None
