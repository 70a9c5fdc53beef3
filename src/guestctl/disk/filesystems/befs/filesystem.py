"""``BefsFileSystem``: the one class that others see."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from guestctl.block import BlockDevice
from guestctl.block.bitmap import bit_ranges
from guestctl.block.device import SliceDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.befs.directory import Tree
from guestctl.disk.filesystems.befs.inode import Inode, Inodes
from guestctl.disk.filesystems.befs.superblock import Superblock, identify, read_superblock
from guestctl.disk.stat import PlainStat

_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_TARGET_BYTES = 64 << 10
_BITMAP_BLOCK = 1


class BefsFileSystem(FileSystem[int]):
    """An open volume; nodes are the blocks of inodes."""

    type = "befs"

    def __init__(self, device: BlockDevice, superblock: Superblock) -> None:
        identity = identify(device)
        if identity is not None:
            self.version, self.label, self.uuid = identity.version, identity.label, identity.uuid
        self.block_size = superblock.block_size
        self.size = superblock.blocks * superblock.block_size
        self.root = superblock.root
        self.warnings = []
        if self.size > device.size:
            self.warnings.append(f"the volume has {self.size} bytes, its device {device.size}")
        self._device = device
        self._superblock = superblock
        self._inodes = Inodes(device, superblock)

    def usage(self) -> Usage:
        free = max(0, self._superblock.blocks - self._superblock.used_blocks) * self.block_size
        return Usage(self.size, self.size - free, free)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """By the bitmap after the superblock's block, whose words are in the volume's byte order."""
        if self._superblock.order == ">":
            raise UnsupportedFeature("the free blocks of a big-endian BFS", feature="free blocks")
        if self.size > self._device.size:
            raise UnsupportedFeature("the free blocks of a volume that is cut off", feature="free blocks")
        # With room between the groups' bitmaps they are not one.
        if (1 << self._superblock.group_shift) % (self.block_size * 8):
            raise UnsupportedFeature("allocation groups that do not fill their bitmaps", feature="free blocks")
        bitmap = SliceDevice(self._device, _BITMAP_BLOCK * self.block_size, self.size)
        for start, end in bit_ranges(bitmap, self._superblock.blocks, "little", is_set=False):
            yield start * self.block_size, (end - start) * self.block_size

    def _inode(self, node: int, kind: int, error: int) -> Inode:
        inode = self._inodes.read(node)
        if stat.S_IFMT(inode.mode) != kind:
            raise OSError(error, os.strerror(error))
        return inode

    def node_stat(self, node: int) -> PlainStat:
        return self._inodes.status(self._inodes.read(node))

    def node_entries(self, node: int) -> Iterator[tuple[str, int, int]]:
        inode = self._inode(node, stat.S_IFDIR, errno.ENOTDIR)
        data = self._content(inode, _MAX_DIRECTORY_BYTES)
        for name, block in Tree(data, self._superblock.order, inode.offset).entries():
            if name not in (b".", b".."):
                yield name.decode("utf-8", "surrogateescape"), block, 0

    def node_target(self, node: int) -> str:
        inode = self._inode(node, stat.S_IFLNK, errno.EINVAL)
        target = inode.short_target
        if target is None:
            target = self._content(inode, _MAX_TARGET_BYTES).partition(b"\0")[0]
        return target.decode("utf-8", "surrogateescape")

    def node_data(self, node: int) -> BlockDevice:
        return self._inodes.data(self._inode(node, stat.S_IFREG, errno.EINVAL))

    def _content(self, inode: Inode, limit: int) -> bytes:
        if inode.size > limit:
            raise InvalidFormat(f"{inode.size} bytes", structure="inode", offset=inode.offset)
        return bytes(self._inodes.data(inode).read(0, inode.size))


def open_filesystem(device: BlockDevice, options: Options = Options()) -> BefsFileSystem:
    """The volume on `device`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    superblock = read_superblock(device)
    if superblock.log_start != superblock.log_end:
        raise UnsupportedFeature("a log that is to be replayed", feature="log replay")
    return BefsFileSystem(device, superblock)
