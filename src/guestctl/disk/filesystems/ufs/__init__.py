"""UFS1 and UFS2, the Fast File System of the BSDs, in both byte orders.

Specification: fs(5) and the headers of FreeBSD that it names.

===========================================  =====================================================
blocks of 4 to 64 KiB, fragments, tables     read
sparse files, short and long links           read
4.2BSD inodes and directories                read
soft updates, journals                       not replayed: a filesystem that was not unmounted warns
extended attributes of UFS2                  not shown
backup superblocks                           not looked for
===========================================  =====================================================
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.ufs.filesystem import UfsFileSystem, open_filesystem
from guestctl.disk.filesystems.ufs.layout import SUPERBLOCK_BYTES
from guestctl.disk.filesystems.ufs.superblock import find, parse_identity

__all__ = ["UfsFileSystem", "identify", "open_filesystem"]


def identify(device: BlockDevice) -> Identity | None:
    """What `device` holds; None where no superblock is."""
    found = find(device)
    if found is None:
        return None
    offset, order = found
    return parse_identity(bytes(device.read(offset, SUPERBLOCK_BYTES)), order)
