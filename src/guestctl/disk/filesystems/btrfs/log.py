"""The log: what was fsynced since the last commit, to be laid over the trees in memory.

The superblock's ``log_root`` is a tree of ROOT_ITEMs (TREE_LOG, ROOT_ITEM, subvolume), one log for each
subvolume that has any. What follows is the effect of a replay, for one subvolume:

- INODE_ITEM: takes the place of the inode. Of a directory the size stays and follows its names, and ``nbytes``
  stays. One of generation 0 says only that the inode exists, and of a file its size unless that is 0. A
  file's extents past its end go, and so do extended attributes that the log does not have.
- DIR_LOG_INDEX: in this range of a directory's indices, names that the log does not have are gone.
- DIR_INDEX: a name; where another file has it, that loses it.
- INODE_REF, INODE_EXTREF: all names of an inode in that directory.
- EXTENT_DATA: takes the place of whatever was in its range. EXTENT_CSUM: goes to the checksum tree.
- Link counts and ``nbytes`` are counted again at the end.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import name_hash
from guestctl.disk.filesystems.btrfs.directory import parse_names
from guestctl.disk.filesystems.btrfs.superblock import TreeRoot
from guestctl.disk.filesystems.btrfs.tree import BlockReader, Key, Tree
from guestctl.disk.filesystems.btrfs.volume import Volume, parse_root_item

Changes = dict[Key, bytes | None]
_DIR_LOG_INDEX = struct.Struct("<Q")


class _Reference(NamedTuple):
    """A name of an inode."""

    parent: int
    number: int
    name: bytes


def replay(volume: Volume) -> dict[int, Changes]:
    """What the logs change, by tree. Raises `InvalidFormat` where they are damaged."""
    superblock = volume.superblock
    changes: dict[int, Changes] = {}
    if not superblock.log_root.bytenr:
        return changes
    logs = Tree(volume.blocks, superblock.log_root)
    first, last = (L.TREE_LOG_OBJECT, L.ROOT_ITEM_KEY, 0), (L.TREE_LOG_OBJECT, L.ROOT_ITEM_KEY, L.MAX_U64)
    for (_, _, subvolume), data in logs.items(first, last):
        item = volume.root(subvolume)
        if item is None:
            continue  # deleted since
        replayed = _Replay(volume.blocks, item.root, parse_root_item(data).root, superblock.sectorsize)
        changes[subvolume] = replayed.run()
        changes.setdefault(L.CSUM_TREE, {}).update(replayed.checksums)
    return changes


class _Replay:
    def __init__(self, blocks: BlockReader, root: TreeRoot, log: TreeRoot, sectorsize: int) -> None:
        self._tree = Tree(blocks, root)
        self._log = Tree(blocks, log)
        self._sectorsize = sectorsize
        self._changes: dict[int, Changes] = {}  # by objectid
        self.checksums: Changes = {}
        self._recount: set[int] = set()

    def run(self) -> Changes:
        everything: tuple[Key, Key] = (0, 0, 0), (L.MAX_U64, 255, L.MAX_U64)
        kinds: dict[int, int] = {}
        for key, data in self._log.items(*everything):
            if key[1] == L.INODE_ITEM_KEY:
                kinds[key[0]] = self._inode(key, data)
        for (ino, kind, index), data in self._log.items(*everything):
            if kind == L.DIR_INDEX_KEY:
                for entry in parse_names(data):
                    if entry.key_type != L.INODE_ITEM_KEY or self._get((entry.objectid, L.INODE_ITEM_KEY, 0)):
                        self._add(ino, index, entry.name, data)
        for key, data in self._log.items(*everything):
            if key[1] in (L.INODE_REF_KEY, L.INODE_EXTREF_KEY):
                self._references(key, data, kinds)
            elif key[1] == L.XATTR_ITEM_KEY:
                self._put(key, data)
            elif key[1] == L.EXTENT_DATA_KEY:
                self._extent(key, data)
            elif key[1] == L.EXTENT_CSUM_KEY:
                self.checksums[key] = data
        for ino in self._recount:
            self._count_links(ino)
        for ino, kind in kinds.items():
            if kind in (stat.S_IFREG, stat.S_IFLNK):
                self._count_bytes(ino)
        return {key: data for changes in self._changes.values() for key, data in changes.items()}

    # The subvolume with what was changed so far

    def _get(self, key: Key) -> bytes | None:
        changes = self._changes.get(key[0], {})
        return changes[key] if key in changes else self._tree.get(key)

    def _items(self, objectid: int, kind: int) -> list[tuple[Key, bytes]]:
        first, last = (objectid, kind, 0), (objectid, kind, L.MAX_U64)
        found: Changes = dict(self._tree.items(first, last))
        found.update((key, data) for key, data in self._changes.get(objectid, {}).items() if key[1] == kind)
        return [(key, data) for key, data in sorted(found.items()) if data is not None]

    def _put(self, key: Key, data: bytes | None) -> None:
        self._changes.setdefault(key[0], {})[key] = data

    # Inodes

    def _inode(self, key: Key, data: bytes) -> int:
        """Replay an INODE_ITEM, and what must be gone because of it; gives the type of the file."""
        ino = key[0]
        if len(data) != L.INODE_BYTES:
            raise _bad(f"an inode of {len(data)} bytes", ino)
        size, mode = L.INODE_HEAD.unpack_from(data)
        kind = stat.S_IFMT(mode)
        known = self._get(key)
        for old, _ in self._items(ino, L.XATTR_ITEM_KEY):
            self._put(old, None)
        if kind == stat.S_IFDIR:
            self._remove_names(ino)
            known = self._get(key)
        (generation,) = L.INODE_GENERATION.unpack_from(data)
        if known is None:
            self._put(key, _with(data, size=0 if kind == stat.S_IFDIR else size, nbytes=0))
        elif generation:
            known_size, _ = L.INODE_HEAD.unpack_from(known)
            (nbytes,) = L.INODE_NBYTES.unpack_from(known)
            self._put(key, _with(data, size=known_size if kind == stat.S_IFDIR else size, nbytes=nbytes))
        elif kind == stat.S_IFREG and size:
            self._put(key, _with(known, size=size))
        if kind == stat.S_IFREG and generation:
            self._drop(ino, -(-size // self._sectorsize) * self._sectorsize, L.MAX_U64)
        if kind != stat.S_IFDIR:
            self._recount.add(ino)
        return kind

    def _remove_names(self, directory: int) -> None:
        ranges = []
        for (_, _, first), data in self._log.items(
            (directory, L.DIR_LOG_INDEX_KEY, 0), (directory, L.DIR_LOG_INDEX_KEY, L.MAX_U64)
        ):
            if len(data) != _DIR_LOG_INDEX.size:
                raise _bad(f"a DIR_LOG_INDEX of {len(data)} bytes", directory)
            ranges.append((first, _DIR_LOG_INDEX.unpack(data)[0]))
        for first, last in ranges:
            start, end = (directory, L.DIR_INDEX_KEY, first), (directory, L.DIR_INDEX_KEY, max(first, last))
            logged = {key: [entry.name for entry in parse_names(data)] for key, data in self._log.items(start, end)}
            for key, data in list(self._tree.items(start, end)):
                for entry in parse_names(data):
                    if entry.name not in logged.get(key, ()):
                        self._remove(directory, key[2], entry.name)

    def _count_links(self, ino: int) -> None:
        key = (ino, L.INODE_ITEM_KEY, 0)
        data = self._get(key)
        if data is not None and not stat.S_ISDIR(L.INODE_HEAD.unpack_from(data)[1]):
            self._put(key, _with(data, links=len(self._names(ino))))

    def _count_bytes(self, ino: int) -> None:
        key = (ino, L.INODE_ITEM_KEY, 0)
        data = self._get(key)
        if data is None:
            return
        total = 0
        for (_, _, start), extent in self._items(ino, L.EXTENT_DATA_KEY):
            first, end = _span(start, extent, 1)
            inline = extent[L.INLINE_AT - 1] == L.EXTENT_INLINE
            if inline or L.FILE_EXTENT_DISK.unpack_from(extent, L.INLINE_AT)[0]:
                total += end - first
        self._put(key, _with(data, nbytes=total))

    # Names

    def _names(self, ino: int) -> list[_Reference]:
        return [
            reference
            for kind in (L.INODE_REF_KEY, L.INODE_EXTREF_KEY)
            for key, data in self._items(ino, kind)
            for reference in _parse_references(key, data)
        ]

    def _references(self, key: Key, data: bytes, kinds: dict[int, int]) -> None:
        ino = key[0]
        logged = list(_parse_references(key, data))
        inode = self._get((ino, L.INODE_ITEM_KEY, 0))
        # The root of a subvolume refers to itself, by no name that a directory has.
        if inode is None or any(reference.parent == ino for reference in logged):
            return
        kind = L.FILE_KINDS.index(stat.S_IFMT(L.INODE_HEAD.unpack_from(inode)[1]))
        # Names under the same key that are not in the log are gone.
        known = self._get(key)
        for reference in _parse_references(key, known) if known is not None else ():
            if reference not in logged:
                self._remove(reference.parent, reference.number, reference.name)
        for parent, index, name in logged:
            if self._get((parent, L.INODE_ITEM_KEY, 0)) is not None:
                entry = L.DIR_ITEM.pack(ino, L.INODE_ITEM_KEY, 0, 0, 0, len(name), kind) + name
                self._add(parent, index, name, entry)

    def _add(self, directory: int, index: int, name: bytes, entry: bytes) -> None:
        """Give `name` to what `entry` (a DIR_INDEX item) refers to, and take it from what had it or its index."""
        (target,) = parse_names(entry)
        index_key = (directory, L.DIR_INDEX_KEY, index)
        old = self._get(index_key)
        for other in parse_names(old) if old is not None else ():
            if other[:4] == target[:4]:
                return
            self._remove(directory, index, other.name)
        hash_key = (directory, L.DIR_ITEM_KEY, name_hash(name))
        old = self._get(hash_key)
        for other in parse_names(old) if old is not None else ():
            if other.name == name:
                self._remove(directory, self._index_of(directory, other.objectid, name), name)
        self._put(index_key, entry)
        self._put(hash_key, (self._get(hash_key) or b"") + entry)
        self._resize(directory, 2 * len(name))
        if target.key_type == L.INODE_ITEM_KEY:
            key = (target.objectid, L.INODE_REF_KEY, directory)
            data = self._get(key) or b""
            if _Reference(directory, index, name) not in self._names(target.objectid):
                self._put(key, data + L.INODE_REF.pack(index, len(name)) + name)
            self._recount.add(target.objectid)

    def _index_of(self, directory: int, ino: int, name: bytes) -> int | None:
        for reference in self._names(ino):
            if reference.parent == directory and reference.name == name:
                return reference.number
        return None

    def _remove(self, directory: int, index: int | None, name: bytes) -> None:
        """Take `name` out of a directory, and from the inode that has it."""
        if index is not None:
            self._put((directory, L.DIR_INDEX_KEY, index), None)
        hash_key = (directory, L.DIR_ITEM_KEY, name_hash(name))
        data = self._get(hash_key)
        if data is None:
            return
        kept = b""
        for entry in parse_names(data):
            if entry.name != name:
                location = L.DIR_ITEM.pack(
                    entry.objectid, entry.key_type, 0, 0, len(entry.value), len(entry.name), entry.kind
                )
                kept += location + entry.name + entry.value
                continue
            self._resize(directory, -2 * len(name))
            if entry.key_type == L.INODE_ITEM_KEY:
                self._remove_reference(entry.objectid, directory, name)
        self._put(hash_key, kept or None)

    def _remove_reference(self, ino: int, directory: int, name: bytes) -> None:
        for kind in (L.INODE_REF_KEY, L.INODE_EXTREF_KEY):
            for key, data in self._items(ino, kind):
                references = list(_parse_references(key, data))
                kept = [one for one in references if (one.parent, one.name) != (directory, name)]
                if kept != references:
                    self._put(key, b"".join(_pack_reference(kind, one) for one in kept) or None)
        self._recount.add(ino)

    def _resize(self, directory: int, change: int) -> None:
        key = (directory, L.INODE_ITEM_KEY, 0)
        data = self._get(key)
        if data is not None and len(data) == L.INODE_BYTES:
            size = L.INODE_HEAD.unpack_from(data)[0]
            self._put(key, _with(data, size=max(0, size + change)))

    # Extents

    def _extent(self, key: Key, data: bytes) -> None:
        if len(data) < L.INLINE_AT:
            raise _bad(f"EXTENT_DATA of {len(data)} bytes", key[0])
        self._drop(key[0], *_span(key[2], data, self._sectorsize))
        self._put(key, data)

    def _drop(self, ino: int, start: int, end: int) -> None:
        """Take the bytes from `start` to `end` out of a file; what an extent has before or after stays."""
        for key, data in self._items(ino, L.EXTENT_DATA_KEY):
            if len(data) < L.INLINE_AT:
                raise _bad(f"EXTENT_DATA of {len(data)} bytes", ino)
            first, last = _span(key[2], data, self._sectorsize)
            if last <= start or first >= end:
                continue
            self._put(key, None)
            if data[L.INLINE_AT - 1] == L.EXTENT_INLINE:
                continue
            bytenr, disk_bytes, skip, _ = L.FILE_EXTENT_DISK.unpack_from(data, L.INLINE_AT)
            head = data[: L.INLINE_AT]
            if first < start:
                self._put(key, head + L.FILE_EXTENT_DISK.pack(bytenr, disk_bytes, skip, start - first))
            if last > end:
                skip = skip + end - first if bytenr else 0
                if skip > L.MAX_U64:
                    raise _bad("an extent that ends past any", ino)
                rest = L.FILE_EXTENT_DISK.pack(bytenr, disk_bytes, skip, last - end)
                self._put((ino, L.EXTENT_DATA_KEY, end), head + rest)


def _span(start: int, data: bytes, unit: int) -> tuple[int, int]:
    """Where an extent begins and ends in its file; inline ones are rounded up to `unit`."""
    if data[L.INLINE_AT - 1] == L.EXTENT_INLINE:
        return start, start + -(-L.FILE_EXTENT.unpack_from(data)[1] // unit) * unit
    if len(data) < L.INLINE_AT + L.FILE_EXTENT_DISK.size:
        raise _bad(f"EXTENT_DATA of {len(data)} bytes", start)
    return start, start + L.FILE_EXTENT_DISK.unpack_from(data, L.INLINE_AT)[3]


def _parse_references(key: Key, data: bytes) -> Iterator[_Reference]:
    """The names in an INODE_REF or INODE_EXTREF item."""
    layout = L.INODE_REF if key[1] == L.INODE_REF_KEY else L.INODE_EXTREF
    position = 0
    while position < len(data):
        if position + layout.size > len(data):
            raise _bad("a reference that is cut off", key[0])
        *parent, index, length = layout.unpack_from(data, position)
        position += layout.size
        name = data[position : position + length]
        if not length or len(name) != length:
            raise _bad(f"a name of {length} bytes", key[0])
        yield _Reference(parent[0] if parent else key[2], index, name)
        position += length


def _pack_reference(kind: int, reference: _Reference) -> bytes:
    parent, index, name = reference
    if kind == L.INODE_REF_KEY:
        return L.INODE_REF.pack(index, len(name)) + name
    return L.INODE_EXTREF.pack(parent, index, len(name)) + name


def _with(inode: bytes, *, size: int | None = None, links: int | None = None, nbytes: int | None = None) -> bytes:
    """An INODE_ITEM with other values."""
    data = bytearray(inode)
    for layout, at, value in (("<Q", 16, size), ("<Q", 24, nbytes), ("<I", 40, links)):
        if value is not None:
            struct.pack_into(layout, data, at, min(value, (1 << 8 * struct.calcsize(layout)) - 1))
    return bytes(data)


def _bad(message: str, ino: int) -> InvalidFormat:
    return InvalidFormat(f"inode {ino}: {message}", structure="tree log", offset=0)
