"""SquashFS 4.0, as in the kernel's documentation (Documentation/filesystems/squashfs.rst).

Read: all compressors (gzip, lzma, lzo, xz with its filters, lz4, zstd); tables and blocks that are
not compressed; blocks of 4 KiB to 1 MiB; holes, fragments and tail ends; all types of inodes, basic
and extended; directory indexes; extended attributes, inline and shared.
The export table is not needed: inodes are found through directories.
Refused: versions before 4.0, which exist in both byte orders, and after.
"""

from __future__ import annotations

from guestctl.block.device import BlockDevice
from guestctl.disk.filesystem import Identity, Options
from guestctl.disk.filesystems.squashfs.filesystem import SquashFileSystem
from guestctl.disk.filesystems.squashfs.superblock import read_version


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a SquashFS, or None where `device` holds none."""
    version = read_version(device)
    if version is None:
        return None
    return Identity("squashfs" if version[0] >= 4 else "squashfs3", version=f"{version[0]}.{version[1]}")


def open_filesystem(device: BlockDevice, options: Options) -> SquashFileSystem:
    """The filesystem on `device`; raises `InvalidFormat` and `UnsupportedFeature`."""
    return SquashFileSystem(device)
