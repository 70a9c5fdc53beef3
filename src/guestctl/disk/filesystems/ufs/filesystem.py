"""``UfsFileSystem``: the one class that others see."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.ufs import layout as L
from guestctl.disk.filesystems.ufs.blocks import FileData, Tables
from guestctl.disk.filesystems.ufs.directory import parse_entries
from guestctl.disk.filesystems.ufs.groups import free_ranges
from guestctl.disk.filesystems.ufs.inode import InodeStat, InodeTable
from guestctl.disk.filesystems.ufs.superblock import Superblock, read_superblock

_DIRECTORY, _REGULAR, _LINK = 0x4, 0x8, 0xA  # di_mode >> 12
_MAX_TARGET_BYTES = 4096
# A directory is read at once.
_MAX_DIRECTORY_BYTES = 1 << 30


class UfsFileSystem(FileSystem[int]):
    """An open filesystem; nodes are inode numbers."""

    type = "ufs"
    root = L.ROOT_INODE

    def __init__(self, device: BlockDevice, superblock: Superblock) -> None:
        identity = superblock.identity
        self.version, self.label, self.uuid = identity.version, identity.label, identity.uuid
        self.block_size = superblock.block_size
        self.size = superblock.fragments * superblock.fragment_size
        self.warnings = [] if superblock.clean else ["the filesystem was not unmounted, and needs fsck"]
        if self.size > device.size:
            self.warnings.append(f"the filesystem has {self.size} bytes, its device {device.size}")
        self._superblock = superblock
        self._tables = Tables(device, superblock)
        self._inodes = InodeTable(device, superblock)

    def usage(self) -> Usage:
        superblock = self._superblock
        size = max(0, superblock.data_fragments)
        free = min(max(0, superblock.free_fragments), size)
        reserved = size * max(0, superblock.reserved_percent) // 100
        return Usage(
            size=size * superblock.fragment_size,
            used=(size - free) * superblock.fragment_size,
            available=max(0, free - reserved) * superblock.fragment_size,
            inodes=superblock.inodes_count - L.ROOT_INODE,
            inodes_used=max(0, superblock.inodes_count - L.ROOT_INODE - max(0, superblock.free_inodes)),
        )

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        if not self._superblock.clean:
            raise UnsupportedFeature("the free blocks of a filesystem that needs fsck", feature="free blocks")
        return free_ranges(self._tables.device, self._superblock)

    def node_stat(self, node: int) -> InodeStat:
        return self._inodes.stat(node)

    def _inode(self, node: int, kind: int, error: int) -> InodeStat:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != kind:
            raise OSError(error, os.strerror(error))
        return inode

    def node_entries(self, node: int) -> Iterable[tuple[str, int, int]]:
        inode = self._inode(node, _DIRECTORY, errno.ENOTDIR)
        if inode.st_size > min(_MAX_DIRECTORY_BYTES, self.size):
            raise InvalidFormat(f"a directory of {inode.st_size} bytes", structure="inode", offset=inode.offset)
        data = bytes(self._data(inode).read(0, inode.st_size))
        superblock = self._superblock
        return parse_entries(data, superblock.order, typed=superblock.typed_entries, offset=inode.offset)

    def node_target(self, node: int) -> str:
        inode = self._inode(node, _LINK, errno.EINVAL)
        size = inode.st_size
        if not 0 < size <= _MAX_TARGET_BYTES:
            raise InvalidFormat(f"a symbolic link of {size} bytes", structure="inode", offset=inode.offset)
        short = size < self._superblock.max_symlink or not inode.st_blocks
        target = inode.inline(size) if short else bytes(self._data(inode).read(0, size))
        if len(target) != size or b"\0" in target:
            raise InvalidFormat(f"a symbolic link to {target!r}", structure="inode", offset=inode.offset)
        return target.decode("utf-8", "surrogateescape")

    def node_data(self, node: int) -> BlockDevice:
        return self._data(self._inode(node, _REGULAR, errno.EINVAL))

    def _data(self, inode: InodeStat) -> FileData:
        return FileData(self._tables, inode.addresses, inode.st_size)


def open_filesystem(device: BlockDevice, options: Options = Options()) -> UfsFileSystem:
    """The filesystem on `device`. Raises `InvalidFormat`."""
    return UfsFileSystem(device, read_superblock(device))
