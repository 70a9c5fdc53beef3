"""``SquashFileSystem``: what the path operations ask of a SquashFS."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from guestctl.block.device import BlockDevice, SliceDevice
from guestctl.disk.filesystem import FileSystem, Usage
from guestctl.disk.filesystems.squashfs import layout as L
from guestctl.disk.filesystems.squashfs.compression import decompressor
from guestctl.disk.filesystems.squashfs.data import Blocks, FileData, Fragment
from guestctl.disk.filesystems.squashfs.directory import Directories
from guestctl.disk.filesystems.squashfs.inode import InodeStat, InodeTable
from guestctl.disk.filesystems.squashfs.metadata import Metadata, Table
from guestctl.disk.filesystems.squashfs.superblock import read_superblock
from guestctl.disk.filesystems.squashfs.xattrs import XattrTable


class SquashFileSystem(FileSystem[int]):
    """A SquashFS. A node is where its inode is: `inode` says how."""

    type = "squashfs"
    version = "4.0"

    def __init__(self, device: BlockDevice) -> None:
        superblock = read_superblock(device)
        decompress = decompressor(superblock.compression)
        self._device = device
        self._superblock = superblock
        metadata = Metadata(device, decompress, superblock.bytes_used)
        ids = Table(device, metadata, superblock.id_table, superblock.id_count, L.ID)
        xattrs = None
        if superblock.xattr_table != L.INVALID_TABLE:
            xattrs = XattrTable(device, metadata, superblock.xattr_table)
        numbers = [ids[index][0] for index in range(superblock.id_count)]
        self._inodes = InodeTable(metadata, superblock, numbers, xattrs)
        self._directories = Directories(metadata, superblock.directory_table, self._inodes)
        self._fragments = Table(device, metadata, superblock.fragment_table, superblock.fragment_count, L.FRAGMENT)
        self._blocks = Blocks(device, decompress, superblock.block_size)
        self.root = superblock.root_inode
        self.size = superblock.bytes_used
        self.block_size = superblock.block_size
        self.warnings = []
        if not self._inodes.stat(self.root).is_dir():
            raise self._inodes.bad("the root is no directory", self.root)

    def usage(self) -> Usage:
        size = -(-self.size // self.block_size) * self.block_size
        inodes = self._superblock.inode_count
        return Usage(size, size, 0, inodes, inodes)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def node_stat(self, node: int) -> InodeStat:
        return self._inodes.stat(node)

    def _check_kind(self, node: int, kind: int, number: int) -> InodeStat:
        status = self._inodes.stat(node)
        if stat.S_IFMT(status.st_mode) != kind:
            raise OSError(number, os.strerror(number))
        return status

    def node_entries(self, node: int) -> Iterable[tuple[str, int, int]]:
        return self._directories.entries(self._check_kind(node, stat.S_IFDIR, errno.ENOTDIR))

    def node_lookup(self, node: int, name: str) -> int | None:
        return self._directories.lookup(node, self._check_kind(node, stat.S_IFDIR, errno.ENOTDIR), name)

    def node_target(self, node: int) -> str:
        status = self._check_kind(node, stat.S_IFLNK, errno.EINVAL)
        target = self._inodes.rest(node, status).take(self._inodes.target_bytes(node, status))
        return target.decode("utf-8", "surrogateescape")

    def node_data(self, node: int) -> BlockDevice:
        status = self._check_kind(node, stat.S_IFREG, errno.EINVAL)
        if not status.st_size:
            return SliceDevice(self._device, 0, 0)
        if status.kind == L.EXTENDED_FILE_TYPE:
            start, _, number, place = status.unpack(L.EXTENDED_FILE)
        else:
            start, number, place, _ = status.unpack(L.FILE)
        if start > self.size:
            raise self._inodes.bad(f"start_block is {start}", node)
        fragment = None
        if number != L.INVALID_FRAGMENT:
            offset, word = self._fragments[number]
            fragment = Fragment(offset, word, place)
        return FileData(self._blocks, self._inodes.rest(node, status), start, status.st_size, fragment)

    def node_xattrs(self, node: int) -> dict[str, bytes]:
        return self._inodes.xattrs(node)
