"""The superblock, at 512 bytes or, as on PowerPC, at the beginning; and the identity of a volume.

The volume's id is an attribute of the root directory, in its inode.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import Identity

_OFFSETS = (512, 0)
_BYTES = 132
_MAGIC_OFFSET = 32
_ORDERS = {b"1SFB": "<", b"BFS1": ">"}
# block_size, block_shift, num_blocks, used_blocks, magic2, ag_shift,
# log_start, log_end, magic3, root_dir
_FIELDS = "40xIIQQ4xI4xI16xQQIIHH"
_MAGIC2, _MAGIC3 = 0xDD121031, 0x15B6830E
_BLOCK_SIZES = (1024, 2048, 4096, 8192)
_STRUCTURE = "superblock"
_SMALL_DATA_OFFSET = 232
_ID_NAME = b"be:volume_id"
# small_data in an inode: type, lengths of name and value; then the name, three bytes of padding and the value
_SMALL_DATA = "IHH"
_PADDING = 3


class Superblock(NamedTuple):
    """Of a volume that can be read. Addresses are in blocks."""

    order: str
    block_size: int
    blocks: int
    used_blocks: int
    group_shift: int
    log_start: int
    log_end: int
    root: int

    def address(self, group: int, start: int) -> int:
        """The block that a block run begins with."""
        return (group << self.group_shift) + start


def read_superblock(device: BlockDevice) -> Superblock:
    """Raises `InvalidFormat`."""
    found = _find(device)
    if found is None:
        raise InvalidFormat("none", structure=_STRUCTURE, offset=_OFFSETS[0])
    offset, data, order = found
    (
        block_size, block_shift, blocks, used, magic2, group_shift, log_start, log_end, magic3,
        group, start, _,
    ) = Struct(order + _FIELDS).unpack_from(data)  # fmt: skip
    if (magic2, magic3) != (_MAGIC2, _MAGIC3):
        raise InvalidFormat(f"magic2 is {magic2:#x}, magic3 {magic3:#x}", structure=_STRUCTURE, offset=offset)
    if block_size not in _BLOCK_SIZES or 1 << min(block_shift, 32) != block_size:
        message = f"blocks of {block_size} bytes, shift {block_shift}"
        raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
    if group_shift > 32 or not blocks or blocks >> 48:
        message = f"{blocks} blocks, ag_shift {group_shift}"
        raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
    root = (group << group_shift) + start
    return Superblock(order, block_size, blocks, used, group_shift, log_start, log_end, root)


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a volume, or None where `device` holds none."""
    found = _find(device)
    if found is None:
        return None
    _, data, order = found
    label = data[:_MAGIC_OFFSET].decode("utf-8", "surrogateescape").partition("\0")[0].rstrip() or None
    version = "little-endian" if order == "<" else "big-endian"
    try:
        superblock = read_superblock(device)
        place = superblock.root * superblock.block_size
        identifier = _volume_id(bytes(device.read(place, superblock.block_size)), order)
    except InvalidFormat:
        identifier = None
    return Identity("befs", version=version, label=label, uuid=identifier)


def _find(device: BlockDevice) -> tuple[int, bytes, str] | None:
    """The superblock's offset, its bytes and their order."""
    for offset in _OFFSETS:
        if offset + _BYTES <= device.size:
            data = bytes(device.read(offset, _BYTES))
            order = _ORDERS.get(data[_MAGIC_OFFSET : _MAGIC_OFFSET + 4])
            if order is not None:
                return offset, data, order
    return None


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
