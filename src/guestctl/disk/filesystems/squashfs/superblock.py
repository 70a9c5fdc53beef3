"""The superblock (section 3 of the kernel's documentation of SquashFS)."""

from __future__ import annotations

from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.squashfs import layout as L


class Superblock(NamedTuple):
    """Offsets and sizes in bytes; a table that is not there begins at `layout.INVALID_TABLE`."""

    inode_count: int
    block_size: int
    fragment_count: int
    compression: int
    id_count: int
    root_inode: int
    bytes_used: int
    id_table: int
    xattr_table: int
    inode_table: int
    directory_table: int
    fragment_table: int


def read_version(device: BlockDevice) -> tuple[int, int] | None:
    """s_major and s_minor, in whichever byte order; None where the magic is not there."""
    if device.size < L.SUPERBLOCK.size:
        return None
    data = device.read(0, L.VERSION_OFFSET + L.VERSION.size)
    if data[:4] == L.MAGIC:
        major, minor = L.VERSION.unpack_from(data, L.VERSION_OFFSET)
    elif data[:4] == L.MAGIC_BIG_ENDIAN:
        major, minor = L.VERSION_BIG_ENDIAN.unpack_from(data, L.VERSION_OFFSET)
    else:
        return None
    return major, minor


def read_superblock(device: BlockDevice) -> Superblock:
    """Raises `InvalidFormat`, and `UnsupportedFeature` for all versions but 4.0."""
    version = read_version(device)
    if version is None:
        raise _bad("no SquashFS magic")
    order = "" if device.read(0, 4) == L.MAGIC else " (big-endian)"
    if version != (4, 0) or order:
        name = f"SquashFS {version[0]}.{version[1]}{order}"
        raise UnsupportedFeature(f"{name} is not read", feature=name)
    fields = L.SUPERBLOCK.unpack(device.read(0, L.SUPERBLOCK.size))
    (_, inodes, _, block_size, fragments, compression, block_log, _, ids, _, _, root, used, *tables) = fields
    id_table, xattr_table, inode_table, directory_table, fragment_table, _ = tables
    if not L.MIN_BLOCK_LOG <= block_log <= L.MAX_BLOCK_LOG or block_size != 1 << block_log:
        raise _bad(f"block_size is {block_size}, block_log {block_log}")
    if used > device.size:
        raise _bad(f"bytes_used is {used}, but the device has {device.size}")
    if not L.SUPERBLOCK.size <= inode_table < directory_table <= used:
        raise _bad(f"tables at {inode_table} and {directory_table} of {used} bytes")
    return Superblock(
        inodes, block_size, fragments, compression, ids, root, used,
        id_table, xattr_table, inode_table, directory_table, fragment_table,
    )  # fmt: skip


def _bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="superblock", offset=0)
