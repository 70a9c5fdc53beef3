"""``Ext4FileSystem``: an ext2, ext3 or ext4 filesystem that is read.

A journal that was not replayed is replayed into an overlay first, and a warning says so. What
fails its checksum fails alone with `ChecksumMismatch` and is counted; ``Options.ignore_checksums``
reads it anyway, and also reads a filesystem whose journal is too damaged to be replayed, as it is
without it. Encrypted names are listed (see `directory`), encrypted files and links are refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from guestctl.block import BlockDevice, MemoryDevice, Overlay
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.ext4 import checksums, xattrs
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.directory import DirectoryReader, DirEntries, Spans, fold, spans_of
from guestctl.disk.filesystems.ext4.extents import FileData, open_extents, single_run
from guestctl.disk.filesystems.ext4.groups import GroupTable
from guestctl.disk.filesystems.ext4.indirect import open_block_map
from guestctl.disk.filesystems.ext4.inode import InodeStat, InodeTable
from guestctl.disk.filesystems.ext4.superblock import Superblock, Volume, read_superblock

_DIRECTORY, _REGULAR, _LINK = 0x4, 0x8, 0xA  # i_mode >> 12
# A larger directory is searched for a name rather than parsed, until that many names were asked for.
_SEARCHED_BYTES = 64 << 10
_MAX_SEARCHES = 16
_MAX_CACHED_NAMES = 1 << 16
# ext4_calculate_resv_clusters: what the kernel keeps for itself when extents must be split.
_RESERVED_SHARE, _MAX_RESERVED_CLUSTERS = 50, 4096


class _Listing(NamedTuple):
    """A directory as `node_lookup` keeps it."""

    names: dict[str, int]
    folded: dict[str, int] | None  # case-insensitive directories
    damage: InvalidFormat | None


class Ext4FileSystem(FileSystem[int]):
    """An open filesystem; nodes are inode numbers. `open_filesystem` makes it.

    ``damaged_count`` counts the inodes, blocks and descriptors that failed their checksums so far.
    """

    root = L.ROOT_INODE

    def __init__(self, device: BlockDevice, superblock: Superblock, *, verify: bool) -> None:
        identity = superblock.identity
        self.type = identity.type
        self.version = identity.version
        self.label = identity.label
        self.uuid = identity.uuid
        self.block_size = superblock.block_size
        self.size = superblock.blocks_count * superblock.block_size
        self._superblock = superblock
        self._volume = Volume(device, superblock, verify=verify)
        self.warnings = self._volume.warnings
        self._groups = GroupTable(self._volume)
        self._inodes = InodeTable(self._groups)
        self.node_stat = self._inodes.stat  # type: ignore[assignment, method-assign]  # a walk asks for every file's
        self._listings: dict[int, _Listing] = {}
        self._searches: dict[int, int] = {}
        self._cached_names = 0
        if self.size > device.size:
            self.warnings.append(f"the filesystem has {self.size} bytes, its device {device.size}")

    @property
    def damaged_count(self) -> int:
        return len(self._volume.damaged)

    def close(self) -> None:
        if isinstance(self._volume.device, Overlay):
            self._volume.device.close()

    def usage(self) -> Usage:
        superblock = self._superblock
        free, free_inodes = superblock.free_blocks_count, superblock.free_inodes_count
        if not superblock.clean or superblock.incompat & L.INCOMPAT_RECOVER:
            free_clusters, free_inodes = self._groups.free_counts()
            free = free_clusters * superblock.cluster_blocks
        overhead = self._groups.overhead_blocks(self._journal_blocks())
        reserved = superblock.reserved_blocks_count + self._reserved_clusters() * superblock.cluster_blocks
        size = max(0, superblock.blocks_count - overhead)
        return Usage(
            size=size * self.block_size,
            used=max(0, size - free) * self.block_size,
            available=max(0, free - reserved) * self.block_size,
            inodes=superblock.inodes_count,
            inodes_used=max(0, superblock.inodes_count - free_inodes),
        )

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        if not self._superblock.clean:
            raise UnsupportedFeature("the free blocks of a filesystem that needs fsck", feature="free blocks")
        return self._groups.free_ranges()

    def _journal_blocks(self) -> int:
        number = self._superblock.journal_inode
        if not self._superblock.compat & L.COMPAT_HAS_JOURNAL or not number:
            return 0
        return self._inodes.read(number).st_size // self.block_size

    def _reserved_clusters(self) -> int:
        if not self._superblock.incompat & L.INCOMPAT_EXTENTS:
            return 0
        clusters = self._superblock.blocks_count // self._superblock.cluster_blocks
        return min(clusters // _RESERVED_SHARE, _MAX_RESERVED_CLUSTERS)

    def node_stat(self, node: int) -> InodeStat:
        return self._inodes.stat(node)

    def node_entries(self, node: int) -> Iterable[tuple[str, int, int]]:
        """The names in a directory. A damaged block fails alone: its error is raised after the other blocks' names."""
        inode = self._directory_inode(node)
        flags = inode.flags
        if flags & L.FL_EXTENTS and not flags & (L.FL_INLINE_DATA | L.FL_ENCRYPT):
            offset = single_run(self._volume, inode, inode.st_size)
            entries = DirectoryReader(self._volume, inode).undamaged(offset) if offset else None
            if entries is not None:
                return entries
        return chain.from_iterable(self._read_directory(inode))

    def _directory_inode(self, node: int) -> InodeStat:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != _DIRECTORY:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return inode

    def _read_directory(self, inode: InodeStat) -> Iterator[DirEntries]:
        reader = DirectoryReader(self._volume, inode)
        if inode.flags & L.FL_INLINE_DATA:
            return reader.inline_entries(self._inline_areas(inode))
        return reader.entries(self._spans(inode))

    def node_lookup(self, node: int, name: str) -> int | None:
        """The inode that `name` has. Where it is not among the readable names of a damaged directory, raises."""
        listing = self._listings.get(node)
        if listing is None:
            inode = self._directory_inode(node)
            child = self._search(inode, name)
            if child is not None:
                return child
            listing = self._list(inode)
        child = listing.names.get(name)
        if child is None and listing.folded is not None:
            child = listing.folded.get(fold(name))
        if child is None and listing.damage is not None:
            raise listing.damage
        return child

    def _search(self, inode: InodeStat, name: str) -> int | None:
        """The inode that `name` has in a large directory that few names were asked of so far."""
        searches = self._searches.get(inode.st_ino, 0)
        if inode.st_size <= _SEARCHED_BYTES or searches >= _MAX_SEARCHES:
            return None
        if inode.flags & (L.FL_ENCRYPT | L.FL_INLINE_DATA):
            return None
        self._searches[inode.st_ino] = searches + 1
        return DirectoryReader(self._volume, inode).search(self._spans(inode), name)

    def _list(self, inode: InodeStat) -> _Listing:
        names: dict[str, int] = {}
        damage = None
        try:
            for entries in self._read_directory(inode):
                for name, child, _ in entries:
                    names.setdefault(name, child)
        except InvalidFormat as error:
            damage = error
        folded = None
        if inode.flags & L.FL_CASEFOLD and self._superblock.incompat & L.INCOMPAT_CASEFOLD:
            folded = {fold(name): child for name, child in reversed(names.items())}
        listing = _Listing(names, folded, damage)
        self._cached_names += len(names)
        if self._cached_names > _MAX_CACHED_NAMES:
            self._listings, self._searches, self._cached_names = {}, {}, len(names)
        self._listings[inode.st_ino] = listing
        return listing

    def node_target(self, node: int) -> str:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != _LINK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._refuse_encrypted(inode)
        size = inode.st_size
        if not 0 < size <= L.MAX_SYMLINK_BYTES:
            raise self._bad(inode, f"a symbolic link of {size} bytes")
        if inode.flags & L.FL_INLINE_DATA:
            target = self._inline_data(inode)
        elif size < L.I_BLOCK_BYTES and not inode.flags & L.FL_EXTENTS:
            target = inode.i_block[:size]
        else:
            target = bytes(self._mapped(inode, size).read(0, size))
        if not target or b"\0" in target:
            raise self._bad(inode, f"a symbolic link to {target!r}")
        return target.decode("utf-8", "surrogateescape")

    def node_data(self, node: int) -> BlockDevice:
        inode = self._inodes.stat(node)
        if inode.st_mode >> 12 != _REGULAR:
            raise OSError(errno.EINVAL, "Not a regular file")
        flags = inode.flags
        if flags & L.FL_ENCRYPT:
            self._refuse_encrypted(inode)
        if flags & L.FL_INLINE_DATA:
            return MemoryDevice(self._inline_data(inode))
        return self._mapped(inode, inode.st_size)

    def _mapped(self, inode: InodeStat, size: int) -> FileData:
        opener = open_extents if inode.flags & L.FL_EXTENTS else open_block_map
        return opener(self._volume, inode, size)

    def _spans(self, inode: InodeStat) -> Spans:
        """Where the blocks of a directory lie."""
        size = -(-inode.st_size // self.block_size) * self.block_size
        if inode.flags & L.FL_EXTENTS:
            offset = single_run(self._volume, inode, size)
            if offset:
                return [(offset, size)]
        return spans_of(self._volume, inode, self._mapped(inode, size))

    def _refuse_encrypted(self, inode: InodeStat) -> None:
        if inode.flags & L.FL_ENCRYPT:
            raise UnsupportedFeature(f"inode {inode.st_ino} is encrypted with fscrypt", feature="fscrypt")

    def _inline_data(self, inode: InodeStat) -> bytes:
        """The content of an inode that holds it itself, as long as ``i_size`` says."""
        data = b"".join([area for _, area in self._inline_areas(inode)])
        if inode.st_size > len(data):
            raise self._bad(inode, f"{inode.st_size} bytes of inline data in {len(data)}")
        return data[: inode.st_size]

    def _inline_areas(self, inode: InodeStat) -> list[tuple[int, bytes]]:
        """(device offset, bytes) of ``i_block`` and of its continuation in an extended attribute.

        In a directory the first four bytes are the parent's inode number, and no entries.
        """
        start = L.INLINE_DIR_PARENT_BYTES if inode.is_dir() else 0
        areas = [(inode.offset + L.I_BLOCK_OFFSET + start, inode.i_block[start:])]
        area, offset = self._xattr_area(inode)
        rest = xattrs.raw_inline_data(area, offset=offset)
        if rest:
            areas.append((offset, rest))
        return areas

    def node_xattrs(self, node: int) -> dict[str, bytes]:
        inode = self._inodes.stat(node)
        if not inode.may_have_xattrs:
            return {}
        number = inode.file_acl
        area, offset = self._xattr_area(inode)
        attributes = xattrs.parse_inode_body(area, self._ea_value, offset=offset)
        if number:
            offset = number << self._volume.block_shift
            block = memoryview(self._volume.read_block(number, "ext4_xattr_header"))
            if self._volume.seed is not None:
                self._verify_xattr_block(block, number, offset)
            shared = xattrs.parse_block(block, self._ea_value, offset=offset)
            attributes = attributes | shared | attributes  # the inode's come first, as the kernel lists them, and count
        attributes.pop("system.data", None)  # inline content, which the kernel does not list
        return attributes

    def _xattr_area(self, inode: InodeStat) -> tuple[memoryview, int]:
        """What follows the fields of an inode, and where it lies on the device."""
        start = L.GOOD_OLD_INODE_BYTES + inode.extra_isize
        if not inode.extra_isize:
            area = memoryview(b"")
        elif inode.extra_isize < L.EXTRA_ISIZE_WITH_CRTIME:
            area = memoryview(self._inodes.raw(inode.st_ino))[start:]
        else:
            area = memoryview(inode.data)[inode.at + start : inode.at + self._superblock.inode_size]
        return area, inode.offset + start

    def _verify_xattr_block(self, block: memoryview, number: int, offset: int) -> None:
        seed = checksums.stored(self._superblock.seed)
        try:
            xattrs.verify_block(block, seed=seed, block_number=number, offset=offset)
        except ChecksumMismatch as error:
            self._volume.count(error)
            raise

    def _ea_value(self, ino: int, size: int, value_hash: int) -> bytes:
        """An attribute's value that has an inode of its own; its hash is the CRC-32C of the value."""
        inode = self._inodes.stat(ino)
        if not inode.flags & L.FL_EA_INODE or inode.st_mode >> 12 != _REGULAR or inode.st_size != size:
            raise self._bad(inode, f"does not hold an extended attribute of {size} bytes")
        value = bytes(self._mapped(inode, size).read(0, size))
        computed = checksums.stored(checksums.crc32c(self._superblock.seed, value))
        if self._volume.verify and computed != value_hash:
            # Not counted: the caller knows a second way to compute the hash.
            raise ChecksumMismatch(structure="ea_inode", offset=inode.offset, expected=computed, actual=value_hash)
        return value

    def _bad(self, inode: InodeStat, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure="inode", offset=inode.offset)

    def journal(self) -> BlockDevice:
        """The content of the journal inode."""
        inode = self._inodes.read(self._superblock.journal_inode)
        return self._mapped(inode, inode.st_size)


def open_filesystem(device: BlockDevice, options: Options = Options()) -> Ext4FileSystem:
    """The filesystem on `device`, its journal replayed where it must be.

    Raises `InvalidFormat`, `ChecksumMismatch` and `UnsupportedFeature`.
    """
    verify = not options.ignore_checksums
    superblock = read_superblock(device, verify=verify)
    filesystem = Ext4FileSystem(device, superblock, verify=verify)
    recover = superblock.incompat & L.INCOMPAT_RECOVER and superblock.compat & L.COMPAT_HAS_JOURNAL
    return _recovered(filesystem, device, superblock, verify=verify) if recover else filesystem


def _recovered(
    filesystem: Ext4FileSystem, device: BlockDevice, superblock: Superblock, *, verify: bool
) -> Ext4FileSystem:
    """The filesystem after its journal was replayed into an overlay."""
    from guestctl.disk.filesystems.ext4.journal import replay

    if not superblock.journal_inode:
        raise UnsupportedFeature(
            "the journal must be replayed, and it is on another device", feature="external journal"
        )
    try:
        done = replay(device, filesystem.journal(), block_size=superblock.block_size, uuid=superblock.uuid)
    except InvalidFormat as error:
        if verify:
            raise
        filesystem.warnings.append(f"the journal was not replayed: {error}")
        return filesystem
    if done is None:
        return filesystem
    recovered = Ext4FileSystem(done.overlay, read_superblock(done.overlay, verify=verify), verify=verify)
    recovered.warnings.append(f"journal replayed: {done.blocks} blocks in {done.transactions} transactions")
    recovered.warnings.extend(done.warnings)
    return recovered
