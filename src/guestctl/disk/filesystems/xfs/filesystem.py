"""``XfsFileSystem``: an XFS filesystem that is read.

A log that was not replayed is replayed into an overlay first, and a warning says so. What fails
its checksum fails alone with `ChecksumMismatch` and is counted; ``Options.ignore_checksums`` reads
it anyway, and also reads a filesystem whose log is too damaged to be replayed, as it is without
it. Refused by name: files on a realtime device, and logs on another device, since a filesystem
whose log is not known to be empty may not be as its blocks say.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from guestctl.block import BlockDevice, Overlay
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.directory import DirectoryReader, fold
from guestctl.disk.filesystems.xfs.extents import open_data
from guestctl.disk.filesystems.xfs.groups import free_ranges, read_usage
from guestctl.disk.filesystems.xfs.inode import InodeStat, InodeTable
from guestctl.disk.filesystems.xfs.superblock import Superblock, Volume, read_superblock
from guestctl.disk.filesystems.xfs.xattrs import read_attributes

_DIRECTORY, _REGULAR, _LINK = 0x4, 0x8, 0xA  # di_mode >> 12
_MAX_CACHED_NAMES = 1 << 16
_LINK_STRUCTURE = "symbolic link block"


class _Listing(NamedTuple):
    """A directory as `node_lookup` keeps it."""

    names: dict[str, int]
    folded: dict[bytes, int] | None  # case-insensitive filesystems
    damage: InvalidFormat | None


class XfsFileSystem(FileSystem[int]):
    """An open filesystem; nodes are inode numbers. `open_filesystem` makes it.

    ``damaged_count`` counts the inodes and blocks that failed their checksums so far.
    """

    type = "xfs"

    def __init__(self, device: BlockDevice, superblock: Superblock, *, verify: bool, clean: bool = True) -> None:
        self.label = superblock.identity.label
        self.uuid = superblock.identity.uuid
        self.block_size = superblock.block_size
        self.size = superblock.blocks_count * superblock.block_size
        self.root = superblock.root_inode
        self._volume = Volume(device, superblock, verify=verify)
        self._clean = clean
        self.warnings = self._volume.warnings
        self._inodes = InodeTable(self._volume)
        self.node_stat = self._inodes.stat  # type: ignore[assignment, method-assign]  # a walk asks for every file's
        self._listings: dict[int, _Listing] = {}
        self._cached_names = 0
        if superblock.needs_repair:
            self.warnings.append("the filesystem is marked as needing xfs_repair")
        if self.size > device.size:
            self.warnings.append(f"the filesystem has {self.size} bytes, its device {device.size}")

    @property
    def damaged_count(self) -> int:
        return len(self._volume.damaged)

    def close(self) -> None:
        if isinstance(self._volume.device, Overlay):
            self._volume.device.close()

    def usage(self) -> Usage:
        return read_usage(self._volume, clean=self._clean)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        return free_ranges(self._volume)

    def node_stat(self, node: int) -> InodeStat:
        return self._inodes.stat(node)

    def node_entries(self, node: int) -> Iterable[tuple[str, int, int]]:
        """The names in a directory. A damaged block fails alone: its error is raised after the other blocks' names."""
        return chain.from_iterable(DirectoryReader(self._volume, self._directory_inode(node)).entries())

    def _directory_inode(self, node: int) -> InodeStat:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != _DIRECTORY:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return inode

    def node_lookup(self, node: int, name: str) -> int | None:
        """The inode that `name` has. Where it is not among the readable names of a damaged directory, raises."""
        listing = self._listings.get(node)
        if listing is None:
            inode = self._directory_inode(node)
            reader = DirectoryReader(self._volume, inode)
            if reader.is_large and not self._volume.superblock.ignores_case:
                try:
                    return reader.find(name.encode("utf-8", "surrogateescape"))
                except InvalidFormat:
                    pass  # the names may be sound where their index is not
            listing = self._list(node, reader)
        child = listing.names.get(name)
        if child is None and listing.folded is not None:
            child = listing.folded.get(fold(name))
        if child is None and listing.damage is not None:
            raise listing.damage
        return child

    def _list(self, node: int, reader: DirectoryReader) -> _Listing:
        names: dict[str, int] = {}
        damage = None
        try:
            for entries in reader.entries():
                for name, child, _ in entries:
                    names.setdefault(name, child)
        except InvalidFormat as error:
            damage = error
        folded = None
        if self._volume.superblock.ignores_case:
            folded = {fold(name): child for name, child in reversed(names.items())}
        listing = _Listing(names, folded, damage)
        self._cached_names += len(names)
        if self._cached_names > _MAX_CACHED_NAMES:
            self._listings, self._cached_names = {}, len(names)
        self._listings[node] = listing
        return listing

    def node_target(self, node: int) -> str:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != _LINK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        size = inode.st_size
        if not 0 < size <= L.MAX_SYMLINK_BYTES:
            raise self._bad(inode, f"a symbolic link of {size} bytes")
        target = inode.data_fork[:size] if inode.form == L.FMT_LOCAL else self._remote_target(inode, size)
        if len(target) != size or b"\0" in target:
            raise self._bad(inode, f"a symbolic link to {target!r}")
        return target.decode("utf-8", "surrogateescape")

    def _remote_target(self, inode: InodeStat, size: int) -> bytes:
        """Chapter "Symbolic Links": in version 5 each extent begins with a header."""
        v5 = self._volume.superblock.v5
        mapped = size if not v5 else self._volume.block_size * -(-size // (self._volume.block_size - 56))
        data = open_data(self._volume, inode, mapped)
        if not v5:
            return bytes(data.read(0, size))
        target = b""
        position = 0
        while len(target) < size and position < mapped:
            start, length, source, source_offset = data.extent(position)
            if source is None or start != position:
                break
            block = bytes(source.read(source_offset, min(length, mapped - start)))
            magic, offset, count = L.REMOTE_HEADER.unpack_from(block)
            if magic != L.SYMLINK_MAGIC or offset != len(target) or count > len(block) - L.REMOTE_HEADER_BYTES:
                message = f"magic is {magic!r}, offset {offset}, bytes {count}"
                raise InvalidFormat(message, structure=_LINK_STRUCTURE, offset=source_offset)
            self._volume.check_self(block, L.REMOTE_SELF, inode.st_ino, _LINK_STRUCTURE, source_offset)
            target += block[L.REMOTE_HEADER_BYTES : L.REMOTE_HEADER_BYTES + count]
            position += len(block)
        return target

    def node_data(self, node: int) -> BlockDevice:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != _REGULAR:
            raise OSError(errno.EINVAL, "Not a regular file")
        if inode.flags & L.DIFLAG_REALTIME:
            raise UnsupportedFeature("a file on the realtime device", feature="realtime")
        return open_data(self._volume, inode, inode.st_size)

    def node_xattrs(self, node: int) -> dict[str, bytes]:
        return read_attributes(self._volume, self._inodes.stat(node))

    def _bad(self, inode: InodeStat, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure="inode", offset=inode.offset)


def open_filesystem(device: BlockDevice, options: Options = Options()) -> XfsFileSystem:
    """The filesystem on `device`. Raises `InvalidFormat`, `ChecksumMismatch` and `UnsupportedFeature`."""
    verify = not options.ignore_checksums
    superblock = read_superblock(device, verify=verify)
    if not superblock.log_block:
        raise UnsupportedFeature("cannot read an XFS filesystem whose log is elsewhere", feature="external log")
    from guestctl.disk.filesystems.xfs.recovery import replay

    try:
        done = replay(device, superblock)
    except InvalidFormat as error:
        if verify:
            raise
        filesystem = XfsFileSystem(device, superblock, verify=verify, clean=False)
        filesystem.warnings.append(f"the log was not replayed: {error}")
        return filesystem
    if done is None:
        return XfsFileSystem(device, superblock, verify=verify)
    superblock = read_superblock(done.overlay, verify=verify)
    recovered = XfsFileSystem(done.overlay, superblock, verify=verify, clean=False)
    recovered.warnings.append(f"log replayed: {done.transactions} transactions")
    recovered.warnings.extend(done.warnings)
    return recovered
