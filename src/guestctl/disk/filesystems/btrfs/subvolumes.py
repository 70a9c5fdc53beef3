"""Subvolumes and snapshots: sections "ROOT_ITEM", "ROOT_REF" and "ROOT_BACKREF"."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import Subvolume
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.volume import Volume

_MAX_DEPTH = 4096


def list_subvolumes(volume: Volume) -> Iterator[Subvolume]:
    """All subvolumes below the top level, by id."""
    first, last = (L.FIRST_FREE_OBJECT, L.ROOT_ITEM_KEY, 0), (L.LAST_FREE_OBJECT, 255, L.MAX_U64)
    known: set[int] = set()
    for (number, kind, parent), data in volume.root_tree.items(first, last):
        if kind == L.ROOT_ITEM_KEY:
            known.add(number)
        elif kind == L.ROOT_BACKREF_KEY and number in known:
            item = volume.root(number)
            if item is None or not item.refs:
                continue
            directory, name = parse_root_ref(data)
            yield Subvolume(
                id=number,
                parent_id=parent,
                path=_path(volume, parent, directory, name),
                uuid=_uuid(item.uuid),
                parent_uuid=_uuid(item.parent_uuid),
                generation=item.root.generation or 0,
                read_only=bool(item.flags & L.ROOT_READ_ONLY),
            )


def _uuid(value: bytes) -> str | None:
    return str(uuid.UUID(bytes=value)) if any(value) else None


def parse_root_ref(data: bytes) -> tuple[int, bytes]:
    """The directory that holds a subvolume, and its name there."""
    if len(data) < L.ROOT_REF.size:
        raise InvalidFormat(f"{len(data)} bytes", structure="ROOT_REF", offset=0)
    directory, _, length = L.ROOT_REF.unpack_from(data)
    name = data[L.ROOT_REF.size : L.ROOT_REF.size + length]
    if len(name) != length:
        raise InvalidFormat(f"a name of {length} bytes in {len(data)}", structure="ROOT_REF", offset=0)
    return directory, name


def _path(volume: Volume, tree: int, directory: int, name: bytes) -> str | None:
    parts = [name]
    for _ in range(_MAX_DEPTH):
        if directory == L.FIRST_FREE_OBJECT:
            if tree == L.FS_TREE:
                return b"/".join(reversed(parts)).decode("utf-8", "surrogateescape")
            references = list(
                volume.root_tree.items((tree, L.ROOT_BACKREF_KEY, 0), (tree, L.ROOT_BACKREF_KEY, L.MAX_U64))
            )
            if not references:
                return None
            (_, _, tree), data = references[0]
            directory, name = parse_root_ref(data)
        else:
            first, last = (directory, L.INODE_REF_KEY, 0), (directory, L.INODE_REF_KEY, L.MAX_U64)
            found = next(volume.tree(tree).items(first, last), None)
            if found is None or len(found[1]) < L.INODE_REF.size:
                return None
            directory = found[0][2]
            _, length = L.INODE_REF.unpack_from(found[1])
            name = found[1][L.INODE_REF.size : L.INODE_REF.size + length]
        parts.append(name)
    return None
