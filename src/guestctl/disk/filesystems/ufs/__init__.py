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
from guestctl.core.errors import GuestctlError
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.ufs.filesystem import UfsFileSystem, open_filesystem
from guestctl.disk.filesystems.ufs.superblock import read_superblock

__all__ = ["UfsFileSystem", "identify", "open_filesystem"]


def identify(device: BlockDevice) -> Identity | None:
    """What `device` holds; None where no sound superblock is."""
    try:
        return read_superblock(device).identity
    except GuestctlError:
        return None
