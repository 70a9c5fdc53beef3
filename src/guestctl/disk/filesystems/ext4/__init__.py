"""ext2, ext3 and ext4.

Specification: the kernel's Documentation/filesystems/ext4. Everything that the kernel reads is
read, whatever the combination of features; each module's docstring lists what it reads and
refuses. Refused as a whole, by name: unknown incompatible features, compression and dirdata (which
no released kernel reads), external journal devices, and filesystems whose journal must be replayed
and is not here.
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.ext4 import layout, superblock
from guestctl.disk.filesystems.ext4.filesystem import Ext4FileSystem, open_filesystem

__all__ = ["Ext4FileSystem", "identify", "open_filesystem"]


def identify(device: BlockDevice) -> Identity | None:
    """What `device` holds, by blkid's rules; None where no superblock is."""
    if device.size < layout.SUPERBLOCK_OFFSET + layout.SUPERBLOCK_BYTES:
        return None
    return superblock.identify(bytes(device.read(layout.SUPERBLOCK_OFFSET, layout.SUPERBLOCK_BYTES)))
