"""``BtrfsFileSystem``: one subvolume of a Btrfs as the root of a tree, the others below it as directories."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import FileSystem, Options, Subvolume, Usage
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import name_hash
from guestctl.disk.filesystems.btrfs.directory import Name, Row, list_leaf, parse_names
from guestctl.disk.filesystems.btrfs.extents import ExtentCache, FileData
from guestctl.disk.filesystems.btrfs.inode import InodeStat
from guestctl.disk.filesystems.btrfs.subvolumes import list_subvolumes, parse_root_ref
from guestctl.disk.filesystems.btrfs.volume import Volume
from guestctl.disk.stat import PlainStat

# (tree, inode); and where a snapshot has an empty directory for a subvolume that is not in it,
# (tree, EMPTY_SUBVOLUME_DIR, the directory's inode, the subvolume).
Node = tuple[int, ...]
_DIRECTORY, _REGULAR, _LINK = 0x4, 0x8, 0xA  # mode >> 12
_FILE_TYPES = frozenset((0x1, 0x2, _DIRECTORY, 0x6, _REGULAR, _LINK, 0xC))
_MAX_TARGET_BYTES = 4096
_MAX_CACHED_INODES, _MAX_INODE_LEAVES = 1 << 16, 1 << 10  # a leaf has up to 64 KiB
_inode_head = L.INODE_HEAD.unpack_from


class BtrfsFileSystem(FileSystem[Node]):
    """A subvolume that is read, by default the one that a mount shows. Nodes are (tree, inode)."""

    type = "btrfs"

    def __init__(self, volume: Volume, subvolume: int) -> None:
        superblock = volume.superblock
        self._volume = volume
        self.label = superblock.label.decode("utf-8", "surrogateescape") or None
        self.uuid = str(uuid.UUID(bytes=superblock.fsid))
        self.size = superblock.total_bytes
        self.block_size = superblock.sectorsize
        self.warnings = volume.warnings
        self.members = tuple(volume.space.devices.values())
        self.subvolume_id = subvolume
        self._extents = ExtentCache(
            volume.space, superblock.sectorsize, volume.checksum if volume.verify else None, volume.checksum_tree
        )
        self._inodes: dict[Node, tuple[bytes, int]] = {}
        self._inode_leaves = 0  # that those keep in memory
        self.root = self._subvolume_root(subvolume)

    def _subvolume_root(self, subvolume: int) -> Node:
        item = self._volume.root(subvolume)
        if item is None:
            raise InvalidFormat(f"subvolume {subvolume} is not there", structure="ROOT_ITEM", offset=0)
        return subvolume, item.root_dirid

    @property
    def damaged_count(self) -> int:
        """How many copies of tree blocks were not sound so far."""
        return self._volume.blocks.damaged_count

    def subvolumes(self) -> list[Subvolume]:
        """All subvolumes but the top-level one, by id."""
        return list(list_subvolumes(self._volume))

    def open_subvolume(self, subvolume: int | str) -> BtrfsFileSystem:
        """The subvolume with this id (5 is the top level) or path, as a filesystem of its own.

        Raises ``FileNotFoundError`` where there is none.
        """
        if isinstance(subvolume, str):
            path = subvolume.strip("/")
            number = L.FS_TREE if not path else next((one.id for one in self.subvolumes() if one.path == path), None)
        else:
            is_there = subvolume == L.FS_TREE or L.FIRST_FREE_OBJECT <= subvolume <= L.LAST_FREE_OBJECT
            number = subvolume if is_there and self._volume.root(subvolume) is not None else None
        if number is None:
            raise FileNotFoundError(errno.ENOENT, "No such subvolume", str(subvolume))
        return BtrfsFileSystem(self._volume, number)

    def usage(self) -> Usage:
        return self._volume.usage()

    # Inodes

    def node_stat(self, node: Node) -> InodeStat | PlainStat:
        try:
            data, at = self._inodes[node]
        except KeyError:
            if len(node) > 2:
                return self._empty_directory(node)
            data, at = self._find_inode(node)
        size, mode = _inode_head(data, at)
        if mode >> 12 not in _FILE_TYPES or size >> 63:
            raise InvalidFormat(
                f"inode {node[1]} of tree {node[0]}: mode {mode:#o}, size {size}", structure="INODE_ITEM", offset=0
            )
        return InodeStat(node[1], mode, size, data, at, self.block_size)

    def _inode(self, node: Node) -> InodeStat:
        status = self.node_stat(node)
        if not isinstance(status, InodeStat):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return status

    def _find_inode(self, node: Node) -> tuple[bytes, int]:
        tree, ino = node
        leaf, _, _ = self._volume.tree(tree).find((ino, L.INODE_ITEM_KEY, 0))
        self._inode_leaves += 1
        if len(self._inodes) > _MAX_CACHED_INODES or self._inode_leaves > _MAX_INODE_LEAVES:
            self._inodes, self._inode_leaves = {}, 1
        data = leaf.data
        self._inodes.update(
            [
                ((tree, objectid), (data, at))
                for objectid, kind, _, at, size in leaf.items
                if kind == L.INODE_ITEM_KEY and size == L.INODE_BYTES
            ]
        )
        found = self._inodes.get(node)
        if found is None:
            raise InvalidFormat(f"inode {ino} of tree {tree} is not there", structure="INODE_ITEM", offset=0)
        return found

    def _empty_directory(self, node: Node) -> PlainStat:
        parent = self.node_stat(node[::2][:2])
        return PlainStat(
            st_ino=L.EMPTY_SUBVOLUME_DIR,
            st_mode=_DIRECTORY << 12 | 0o755,
            st_nlink=1,
            st_size=0,
            st_blocks=0,
            st_atime_ns=parent.st_atime_ns,
            st_mtime_ns=parent.st_mtime_ns,
            st_ctime_ns=parent.st_ctime_ns,
            st_birthtime_ns=parent.st_mtime_ns,
            st_uid=parent.st_uid,
            st_gid=parent.st_gid,
        )

    def node_space(self, node: Node) -> int:
        return node[0]

    # Directories

    def node_entries(self, node: Node) -> Iterable[tuple[str, Node, int]]:
        if len(node) > 2:
            return []
        number, ino = node
        self._check_kind(node, _DIRECTORY, errno.ENOTDIR)
        rows: list[Row] = []
        others: list[tuple[int, Name]] = []
        first, last = (ino, L.DIR_INDEX_KEY, 0), (ino, L.DIR_INDEX_KEY, L.MAX_U64)
        for data, items in self._volume.tree(number).leaves(first, last):
            list_leaf(number, data, items, rows, others)
        for place, name in others:
            rows[place] = (rows[place][0], self._target_node(node, name), rows[place][2])
        return rows

    def node_lookup(self, node: Node, name: str) -> Node | None:
        if len(node) > 2:
            return None
        raw = name.encode("utf-8", "surrogateescape")
        number, ino = node
        self._check_kind(node, _DIRECTORY, errno.ENOTDIR)
        data = self._volume.tree(number).get((ino, L.DIR_ITEM_KEY, name_hash(raw)))
        for entry in parse_names(data) if data is not None else ():
            if entry.name == raw:
                return self._target_node(node, entry)
        return None

    def _target_node(self, directory: Node, name: Name) -> Node:
        if name.key_type == L.INODE_ITEM_KEY:
            return directory[0], name.objectid
        if name.key_type != L.ROOT_ITEM_KEY:
            raise InvalidFormat(
                f"an entry that refers to a key of type {name.key_type}", structure="DIR_ITEM", offset=0
            )
        tree, ino = directory
        reference = self._volume.root_tree.get((tree, L.ROOT_REF_KEY, name.objectid))
        # A snapshot has the names of the subvolumes in its original, but not those subvolumes.
        if reference is None or parse_root_ref(reference) != (ino, name.name):
            return tree, L.EMPTY_SUBVOLUME_DIR, ino, name.objectid
        return self._subvolume_root(name.objectid)

    def _check_kind(self, node: Node, kind: int, error: int) -> InodeStat:
        status = self._inode(node)
        if status.st_mode >> 12 != kind:
            raise OSError(error, os.strerror(error))
        return status

    # Content

    def node_target(self, node: Node) -> str:
        status = self._check_kind(node, _LINK, errno.EINVAL)
        size = status.st_size
        if not 0 < size <= _MAX_TARGET_BYTES:
            raise InvalidFormat(f"a symbolic link of {size} bytes", structure="INODE_ITEM", offset=0)
        target = bytes(self._data(node, status).read(0, size))
        if b"\0" in target:
            raise InvalidFormat(f"a symbolic link to {target!r}", structure="EXTENT_DATA", offset=0)
        return target.decode("utf-8", "surrogateescape")

    def node_data(self, node: Node) -> BlockDevice:
        return self._data(node, self._check_kind(node, _REGULAR, errno.EINVAL))

    def _data(self, node: Node, status: InodeStat) -> FileData:
        checked = not status.flags & L.FLAG_NODATASUM
        return FileData(self._volume.tree(node[0]), node[1], status.st_size, self._extents, checked=checked)

    def node_xattrs(self, node: Node) -> dict[str, bytes]:
        if len(node) > 2:
            return {}
        tree, ino = node
        first, last = (ino, L.XATTR_ITEM_KEY, 0), (ino, L.XATTR_ITEM_KEY, L.MAX_U64)
        return {
            entry.name.decode("utf-8", "surrogateescape"): entry.value
            for _, data in self._volume.tree(tree).items(first, last)
            for entry in parse_names(data)
        }


def default_subvolume(volume: Volume) -> int:
    """What a mount shows: the entry ``default`` of the directory in the root tree, or the top level."""
    directory = volume.superblock.root_dir_objectid
    data = volume.root_tree.get((directory, L.DIR_ITEM_KEY, name_hash(b"default")))
    for entry in parse_names(data) if data is not None else ():
        if entry.name == b"default" and entry.key_type == L.ROOT_ITEM_KEY:
            return entry.objectid
    return L.FS_TREE


def _replay(volume: Volume) -> None:
    from guestctl.disk.filesystems.btrfs import log

    try:
        volume.changes = log.replay(volume)
        volume.warnings.append("the log was replayed in memory")
    except InvalidFormat as error:
        if volume.verify:
            raise
        volume.warnings.append(f"the log cannot be replayed and was left out: {error}")


def open_filesystem(device: BlockDevice, options: Options = Options()) -> BtrfsFileSystem:
    """The default subvolume of the filesystem on `device` and those of ``options.siblings`` that belong to it.

    Raises `InvalidFormat`, `ChecksumMismatch` and `UnsupportedFeature`, of which `MissingDevice` is one.
    """
    volume = Volume(device, options.siblings, verify=not options.ignore_checksums)
    if volume.superblock.log_root.bytenr:
        _replay(volume)
    return BtrfsFileSystem(volume, default_subvolume(volume))
