"""Directory entries and extended attributes, which share one structure (sections "DIR_ITEM", "XATTR_ITEM")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.tree import Item

_unpack = L.DIR_ITEM.unpack_from
_KINDS = L.FILE_KINDS
Row = tuple[str, tuple[int, ...], int]


class Name(NamedTuple):
    """One entry of an item: what it refers to, its name, and the value of an attribute."""

    objectid: int
    key_type: int
    kind: int
    name: bytes
    value: bytes


def parse_names(data: bytes) -> Iterator[Name]:
    """The entries of a DIR_ITEM, DIR_INDEX or XATTR_ITEM."""
    position = 0
    while position < len(data):
        if position + L.DIR_ITEM_BYTES > len(data):
            raise _bad(f"{len(data) - position} bytes at the end")
        objectid, key_type, _, _, value_length, length, kind = _unpack(data, position)
        position += L.DIR_ITEM_BYTES
        end = position + length
        if not length or end + value_length > len(data):
            raise _bad(f"a name of {length} and a value of {value_length} bytes in {len(data)}")
        yield Name(objectid, key_type, kind, data[position:end], data[end : end + value_length])
        position = end + value_length


def list_leaf(tree: int, data: bytes, items: list[Item], rows: list[Row], others: list[tuple[int, Name]]) -> None:
    """Add the entries of a leaf's DIR_INDEX items to `rows`; subvolumes also to `others`, with their places."""
    for _, _, _, at, size in items:
        if size <= L.DIR_ITEM_BYTES:
            raise _bad(f"{size} bytes")
        objectid, key_type, _, _, value_length, length, kind = _unpack(data, at)
        if not length or L.DIR_ITEM_BYTES + length + value_length != size or kind >= len(_KINDS):
            raise _bad(f"a name of {length} bytes, a value of {value_length}, type {kind}, in {size}")
        start = at + L.DIR_ITEM_BYTES
        name = data[start : start + length]
        if key_type != L.INODE_ITEM_KEY:
            others.append((len(rows), Name(objectid, key_type, kind, name, b"")))
        rows.append((name.decode("utf-8", "surrogateescape"), (tree, objectid), _KINDS[kind]))


def _bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="DIR_ITEM", offset=0)
