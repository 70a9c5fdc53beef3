"""XFS, versions 4 and 5.

Specification: "XFS Algorithms & Data Structures", the paper on its on-disk format. Everything that
the kernel reads is read, whatever the combination of features; each module's docstring lists what
it reads and refuses. Refused as a whole, by name: unknown incompatible features, external logs,
metadata directories and zoned devices. Refused file by file: data on a realtime device.
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.xfs import layout, superblock
from guestctl.disk.filesystems.xfs.filesystem import XfsFileSystem, open_filesystem

__all__ = ["XfsFileSystem", "identify", "open_filesystem"]


def identify(device: BlockDevice) -> Identity | None:
    """What `device` holds, by blkid's rules; None where no superblock is."""
    if device.size < layout.SUPERBLOCK_BYTES:
        return None
    return superblock.identify(bytes(device.read(0, layout.SUPERBLOCK_BYTES)))
