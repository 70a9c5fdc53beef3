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
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import name_hash
from guestctl.disk.filesystems.btrfs.directory import Name, parse_names
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
        self._files: dict[int, _Extents] = {}

    def run(self) -> Changes:
        everything: tuple[Key, Key] = (0, 0, 0), (L.MAX_U64, 255, L.MAX_U64)
        for key, data in self._log.items(*everything):
            if key[1] == L.INODE_ITEM_KEY:
                self._inode(key, data)
        for (ino, kind, index), data in self._log.items(*everything):
            if kind == L.DIR_INDEX_KEY:
                names = list(parse_names(data))
                if len(names) != 1:
                    raise _bad(f"{len(names)} names of one index", ino)
                entry = names[0]
                if entry.key_type != L.INODE_ITEM_KEY or self._inode_item(entry.objectid) is not None:
                    self._add(ino, index, entry, data)
        for key, data in self._log.items(*everything):
            if key[1] in (L.INODE_REF_KEY, L.INODE_EXTREF_KEY):
                self._references(key, data)
            elif key[1] == L.XATTR_ITEM_KEY:
                self._put(key, data)
            elif key[1] == L.EXTENT_DATA_KEY:
                self._extent(key, data)
            elif key[1] == L.EXTENT_CSUM_KEY:
                self.checksums[key] = data
        for ino in self._recount:
            self._count_links(ino)
        for ino, extents in self._files.items():
            for start, extent in extents.changes():
                self._put((ino, L.EXTENT_DATA_KEY, start), extent)
            self._set(ino, nbytes=extents.allocated())
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

    def _inode_item(self, ino: int) -> bytes | None:
        data = self._get((ino, L.INODE_ITEM_KEY, 0))
        if data is not None and len(data) != L.INODE_BYTES:
            raise _bad(f"an INODE_ITEM of {len(data)} bytes", ino)
        return data

    def _set(self, ino: int, **values: int) -> None:
        """Change fields of an inode that is there."""
        data = self._inode_item(ino)
        if data is not None:
            self._put((ino, L.INODE_ITEM_KEY, 0), _with(data, **values))

    def _extents(self, ino: int) -> _Extents:
        if ino not in self._files:
            first, last = (ino, L.EXTENT_DATA_KEY, 0), (ino, L.EXTENT_DATA_KEY, L.MAX_U64)
            self._files[ino] = _Extents([(key[2], data) for key, data in self._tree.items(first, last)], ino)
        return self._files[ino]

    def _put(self, key: Key, data: bytes | None) -> None:
        self._changes.setdefault(key[0], {})[key] = data

    # Inodes

    def _inode(self, key: Key, data: bytes) -> None:
        """Replay an INODE_ITEM, and what must be gone because of it."""
        ino = key[0]
        if len(data) != L.INODE_BYTES:
            raise _bad(f"an inode of {len(data)} bytes", ino)
        size, mode = L.INODE_HEAD.unpack_from(data)
        kind = stat.S_IFMT(mode)
        known = self._inode_item(ino)
        for old, _ in self._items(ino, L.XATTR_ITEM_KEY):
            self._put(old, None)
        if kind == stat.S_IFDIR:
            self._remove_names(ino)
            known = self._inode_item(ino)
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
            self._extents(ino).drop(-(-size // self._sectorsize) * self._sectorsize, L.MAX_U64)
        elif kind == stat.S_IFLNK:
            self._extents(ino)
        if kind != stat.S_IFDIR:
            self._recount.add(ino)

    def _remove_names(self, directory: int) -> None:
        ranges: list[tuple[int, int]] = []
        for (_, _, first), data in self._log.items(
            (directory, L.DIR_LOG_INDEX_KEY, 0), (directory, L.DIR_LOG_INDEX_KEY, L.MAX_U64)
        ):
            if len(data) != _DIR_LOG_INDEX.size:
                raise _bad(f"a DIR_LOG_INDEX of {len(data)} bytes", directory)
            # What an earlier range covers is not gone through again.
            first = max(first, ranges[-1][1] + 1) if ranges else first
            (last,) = _DIR_LOG_INDEX.unpack(data)
            if first <= last:
                ranges.append((first, last))
        for first, last in ranges:
            start, end = (directory, L.DIR_INDEX_KEY, first), (directory, L.DIR_INDEX_KEY, last)
            logged = {key: [entry.name for entry in parse_names(data)] for key, data in self._log.items(start, end)}
            for key, data in list(self._tree.items(start, end)):
                for entry in parse_names(data):
                    if entry.name not in logged.get(key, ()):
                        self._remove(directory, key[2], entry.name)

    def _count_links(self, ino: int) -> None:
        data = self._inode_item(ino)
        if data is not None and not stat.S_ISDIR(L.INODE_HEAD.unpack_from(data)[1]):
            self._set(ino, links=self._name_count(ino))

    # Names

    def _name_count(self, ino: int) -> int:
        return sum(
            len(_parse_references(key, data))
            for kind in (L.INODE_REF_KEY, L.INODE_EXTREF_KEY)
            for key, data in self._items(ino, kind)
        )

    def _references(self, key: Key, data: bytes) -> None:
        ino = key[0]
        logged = _parse_references(key, data)
        inode = self._inode_item(ino)
        # The root of a subvolume refers to itself, by no name that a directory has.
        if inode is None or any(reference.parent == ino for reference in logged):
            return
        mode = L.INODE_HEAD.unpack_from(inode)[1]
        if stat.S_IFMT(mode) not in L.FILE_KINDS:
            raise _bad(f"mode is {mode:#o}", ino)
        kind = L.FILE_KINDS.index(stat.S_IFMT(mode))
        # Names under the same key that are not in the log are gone.
        known = self._get(key)
        for reference in _parse_references(key, known or b""):
            if reference not in logged:
                self._remove(reference.parent, reference.number, reference.name)
        for parent, index, name in logged:
            if self._inode_item(parent) is not None:
                entry = L.DIR_ITEM.pack(ino, L.INODE_ITEM_KEY, 0, 0, 0, len(name), kind) + name
                self._add(parent, index, Name(ino, L.INODE_ITEM_KEY, kind, name, b""), entry)

    def _add(self, directory: int, index: int, target: Name, entry: bytes) -> None:
        """Add a name (`target`, and as a DIR_INDEX item `entry`), and take it from what had it or its index."""
        name = target.name
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
            if self._index_of(directory, target.objectid, name) != index:
                key = (target.objectid, L.INODE_REF_KEY, directory)
                self._put(key, (self._get(key) or b"") + L.INODE_REF.pack(index, len(name)) + name)
            self._recount.add(target.objectid)

    def _index_of(self, directory: int, ino: int, name: bytes) -> int | None:
        for key in _reference_keys(directory, ino, name):
            for reference in _parse_references(key, self._get(key) or b""):
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
        for key in _reference_keys(directory, ino, name):
            references = _parse_references(key, self._get(key) or b"")
            kept = [one for one in references if (one.parent, one.name) != (directory, name)]
            if kept != references:
                self._put(key, b"".join(_pack_reference(key[1], one) for one in kept) or None)
        self._recount.add(ino)

    def _resize(self, directory: int, change: int) -> None:
        data = self._inode_item(directory)
        if data is not None:
            self._set(directory, size=max(0, L.INODE_HEAD.unpack_from(data)[0] + change))

    def _extent(self, key: Key, data: bytes) -> None:
        extents = self._extents(key[0])
        extents.drop(*_span(key[2], data, self._sectorsize))
        extents.add(key[2], data)


class _Extents:
    """The EXTENT_DATA items of a file: where they begin, and their data."""

    def __init__(self, rows: list[tuple[int, bytes]], ino: int) -> None:
        self._ino = ino
        self._original = dict(rows)
        self._starts = [start for start, _ in rows]
        self._data = [data for _, data in rows]

    def add(self, start: int, data: bytes) -> None:
        index = bisect_left(self._starts, start)
        self._starts.insert(index, start)
        self._data.insert(index, data)

    def drop(self, start: int, end: int) -> None:
        """Take the bytes from `start` to `end` out; what an extent has before or after stays."""
        first, last = max(0, bisect_right(self._starts, start) - 1), bisect_left(self._starts, end)
        starts: list[int] = []
        kept: list[bytes] = []
        for begin, data in zip(self._starts[first:last], self._data[first:last], strict=True):
            _, finish = _span(begin, data, 1)
            if finish <= start or begin >= end:
                starts.append(begin)
                kept.append(data)
                continue
            if data[L.INLINE_AT - 1] == L.EXTENT_INLINE:
                continue
            bytenr, disk_bytes, skip, _ = L.FILE_EXTENT_DISK.unpack_from(data, L.INLINE_AT)
            head = data[: L.INLINE_AT]
            if begin < start:
                starts.append(begin)
                kept.append(head + L.FILE_EXTENT_DISK.pack(bytenr, disk_bytes, skip, start - begin))
            if finish > end:
                skip = skip + end - begin if bytenr else 0
                if skip > L.MAX_U64:
                    raise _bad("an extent that ends past any", self._ino)
                starts.append(end)
                kept.append(head + L.FILE_EXTENT_DISK.pack(bytenr, disk_bytes, skip, finish - end))
        self._starts[first:last] = starts
        self._data[first:last] = kept

    def changes(self) -> Iterator[tuple[int, bytes | None]]:
        """What is not as it was: where it begins, and its data, or None where there is no longer any."""
        current = dict(zip(self._starts, self._data, strict=True))
        for start in self._original.keys() - current.keys():
            yield start, None
        for start, data in current.items():
            if self._original.get(start) != data:
                yield start, data

    def allocated(self) -> int:
        """Bytes that are not holes."""
        total = 0
        for start, data in zip(self._starts, self._data, strict=True):
            begin, end = _span(start, data, 1)
            inline = data[L.INLINE_AT - 1] == L.EXTENT_INLINE
            if inline or L.FILE_EXTENT_DISK.unpack_from(data, L.INLINE_AT)[0]:
                total += end - begin
        return total


def _span(start: int, data: bytes, unit: int) -> tuple[int, int]:
    """Where an extent begins and ends in its file; inline ones are rounded up to `unit`."""
    if len(data) >= L.INLINE_AT and data[L.INLINE_AT - 1] == L.EXTENT_INLINE:
        return start, start + -(-L.FILE_EXTENT.unpack_from(data)[1] // unit) * unit
    if len(data) < L.INLINE_AT + L.FILE_EXTENT_DISK.size:
        raise _bad(f"EXTENT_DATA of {len(data)} bytes", start)
    return start, start + L.FILE_EXTENT_DISK.unpack_from(data, L.INLINE_AT)[3]


def _reference_keys(directory: int, ino: int, name: bytes) -> tuple[Key, Key]:
    """The two items that may tell of a name."""
    extended = name_hash(name, directory & 0xFFFFFFFF)
    return (ino, L.INODE_REF_KEY, directory), (ino, L.INODE_EXTREF_KEY, extended)


def _parse_references(key: Key, data: bytes) -> list[_Reference]:
    """The names in an INODE_REF or INODE_EXTREF item."""
    layout = L.INODE_REF if key[1] == L.INODE_REF_KEY else L.INODE_EXTREF
    references = []
    position = 0
    while position < len(data):
        if position + layout.size > len(data):
            raise _bad("a reference that is cut off", key[0])
        *parent, number, length = layout.unpack_from(data, position)
        position += layout.size
        name = data[position : position + length]
        if not length or len(name) != length:
            raise _bad(f"a name of {length} bytes", key[0])
        references.append(_Reference(parent[0] if parent else key[2], number, name))
        position += length
    return references


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
