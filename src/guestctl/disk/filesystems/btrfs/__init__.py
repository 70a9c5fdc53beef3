"""Btrfs.

Specification: "On-disk Format" of the Btrfs documentation. Read: all checksums, all profiles of
chunks over one or several devices, subvolumes and snapshots, all kinds of extents and compression;
each module's docstring lists what it reads and refuses. Refused as a whole, by name: unknown
incompatible features, and zoned, extent_tree_v2, raid_stripe_tree and remap_tree.
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.btrfs import layout, superblock
from guestctl.disk.filesystems.btrfs.chunks import MissingDevice
from guestctl.disk.filesystems.btrfs.filesystem import BtrfsFileSystem, open_filesystem

__all__ = ["BtrfsFileSystem", "MissingDevice", "identify", "open_filesystem"]


def identify(device: BlockDevice) -> Identity | None:
    """What `device` holds, by blkid's rules, and where the first superblock is damaged by its mirrors."""
    for offset in layout.SUPERBLOCK_OFFSETS:
        if device.size < offset + layout.SUPERBLOCK_BYTES:
            break
        identity = superblock.identify(bytes(device.read(offset, layout.SUPERBLOCK_BYTES)))
        if identity is not None:
            return identity
    return None
