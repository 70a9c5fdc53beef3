"""The catalog: what a folder holds, and the record of each file and folder."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.hfsplus import layout as L
from guestctl.disk.filesystems.hfsplus.btree import BTree
from guestctl.disk.filesystems.hfsplus.names import shown_name

_STRUCTURE = "catalog record"
_PERMISSIONS = 0o7777


class Record(NamedTuple):
    """A folder or file; ``data`` is the whole record."""

    place: int
    data: bytes
    kind: int  # FOLDER_RECORD or FILE_RECORD
    valence: int
    id: int
    created: int
    modified: int
    changed: int
    accessed: int
    uid: int
    gid: int
    flags: int
    mode: int  # with the file type
    special: int  # inode number of a hard link, count of links, or device
    finder: bytes

    @property
    def is_hard_link(self) -> bool:
        return self.kind == L.FILE_RECORD and self.finder.startswith(L.HARD_LINK)


def catalog_order(key: bytes) -> tuple[int, ...]:
    """By the folder; the thread, whose name is empty, before the names. Which of them comes first is not asked."""
    parent, length = L.CATALOG_KEY.unpack_from(key)
    return parent, min(length, 1)


class Catalog:
    """The catalog B-tree."""

    def __init__(self, tree: BTree) -> None:
        self._tree = tree

    @property
    def case_sensitive(self) -> bool:
        return bool(self._tree.key_compare == L.COMPARE_BINARY)

    def root(self) -> tuple[str, Record]:
        """The volume's name, as it is, and its root folder."""
        for name, record in self.children(L.ROOT_PARENT, lambda data: data.decode("utf-16-be", "replace")):
            if record.id == L.ROOT_FOLDER and record.kind == L.FOLDER_RECORD:
                return name, record
        raise InvalidFormat("no root folder", structure=_STRUCTURE, offset=0)

    def children(self, folder: int, show: Callable[[bytes], str] = shown_name) -> Iterator[tuple[str, Record]]:
        """(name, record) of what a folder holds, in the catalog's order."""
        for key, data, place in self._tree.scan_places((folder, 1)):
            if catalog_order(key)[0] != folder:
                return
            length = L.CATALOG_KEY.unpack_from(key)[1] * 2
            name = key[L.CATALOG_KEY.size : L.CATALOG_KEY.size + length]
            if len(name) != length:
                raise InvalidFormat(f"a name of {length} bytes", structure=_STRUCTURE, offset=place)
            yield show(name), parse_record(data, place)

    def record(self, place: int) -> Record:
        return parse_record(self._tree.record(place)[1], place)


def parse_record(data: bytes, place: int) -> Record:
    """The modes of what has none are those that Linux gives. Raises `InvalidFormat`."""
    kind = int.from_bytes(data[:2], "big")
    if len(data) < L.RECORD_BYTES.get(kind, 1 << 16):
        message = f"type {kind} of {len(data)} bytes"
        raise InvalidFormat(message, structure=_STRUCTURE, offset=place)
    _, *times_and_ids, flags, mode, special, finder = L.RECORD.unpack_from(data)
    valence, number, created, modified, changed, accessed, uid, gid = times_and_ids
    if kind == L.FOLDER_RECORD:
        mode = stat.S_IFDIR | (mode & _PERMISSIONS if mode else 0o755)
    elif not mode:
        mode = stat.S_IFREG | 0o644
    elif stat.S_ISDIR(mode) or not stat.S_IFMT(mode):
        raise InvalidFormat(f"a file of mode {mode:#o}", structure=_STRUCTURE, offset=place)
    return Record(
        place, data, kind, valence, number, created, modified, changed, accessed, uid, gid, flags, mode, special, finder
    )
