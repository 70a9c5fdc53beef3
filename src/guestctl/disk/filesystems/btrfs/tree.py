"""B-trees: blocks that are verified when they are read, searched by key.

Sections "Header", "Internal Node", "Leaf Node". A block's checksum, fsid, logical address, level and
generation must be what its parent says, as must its first key; keys must ascend up to the parent's next, and
the data of a leaf's items must fill its end without gaps. A block that fails is read from its other copy.
Since the level falls by one from parent to child, no damage makes a search endless; since the bounds
of leaves ascend, none makes an iteration endless.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from operator import add, lt
from typing import NamedTuple

from guestctl.core.errors import ChecksumMismatch, InvalidFormat
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import Checksum
from guestctl.disk.filesystems.btrfs.chunks import LogicalSpace, MissingDevice
from guestctl.disk.filesystems.btrfs.superblock import Superblock, TreeRoot

Key = tuple[int, int, int]  # objectid, type, offset
Item = tuple[int, int, int, int, int]  # key, where its data lies in the leaf, how long it is
_STRUCTURE = "tree block"
_MAX_CACHED_LEAVES = 512
_MAX_CACHED_NODES = 1024
_PAST = (L.MAX_U64, 256, 0)


class Leaf(NamedTuple):
    """The items of a leaf, ascending."""

    data: bytes
    items: list[Item]


class BlockReader:
    """Reads and caches tree blocks. ``damaged_count`` counts copies of blocks that were not sound."""

    def __init__(
        self, space: LogicalSpace, superblock: Superblock, checksum: Checksum, warnings: list[str], *, verify: bool
    ) -> None:
        self.space = space
        self._fsid = superblock.metadata_uuid
        self.nodesize = superblock.nodesize
        self._checksum = checksum
        self._verify = verify
        self._warnings = warnings
        self.damaged_count = 0
        self._leaves: dict[int, Leaf] = {}
        self._nodes: dict[tuple[int, int], list[Item]] = {}

    def leaf(self, bytenr: int, generation: int | None) -> Leaf:
        try:
            return self._leaves[bytenr]
        except KeyError:
            if len(self._leaves) >= _MAX_CACHED_LEAVES:
                self._leaves = {}
        data, count = self._read(bytenr, 0, generation)
        leaf = self._leaves[bytenr] = Leaf(data, self._items(data, count, bytenr))
        return leaf

    def node(self, bytenr: int, level: int, generation: int | None) -> list[Item]:
        """The rows of an internal node: key, block number, generation."""
        try:
            return self._nodes[bytenr, level]
        except KeyError:
            if len(self._nodes) >= _MAX_CACHED_NODES:
                self._nodes = {}
        data, count = self._read(bytenr, level, generation)
        end = L.HEADER_BYTES + count * L.KEY_POINTER.size
        if not count or end > len(data):
            raise self.bad(bytenr, f"{count} key pointers")
        rows: list[Item] = list(L.KEY_POINTER.iter_unpack(data[L.HEADER_BYTES : end]))
        for one, other in pairwise(rows):
            if one[:3] >= other[:3]:
                raise self.bad(bytenr, "keys do not ascend")
        self._nodes[bytenr, level] = rows
        return rows

    def _items(self, data: bytes, count: int, bytenr: int) -> list[Item]:
        end = L.HEADER_BYTES + count * L.ITEM.size
        if end > len(data):
            raise self.bad(bytenr, f"{count} items")
        if not count:
            return []
        objects, types, offsets, places, sizes = zip(*L.ITEM.iter_unpack(data[L.HEADER_BYTES : end]), strict=True)
        room = len(data) - L.HEADER_BYTES
        # Each item's data ends where that of the item before begins.
        if list(map(add, places, sizes)) != [room, *places[:-1]] or places[-1] < end - L.HEADER_BYTES:
            raise self.bad(bytenr, "the data of items overlap or leave gaps")
        places = tuple([place + L.HEADER_BYTES for place in places])
        items = list(zip(objects, types, offsets, places, sizes, strict=True))
        # Places descend, so that equal keys do not pass as ascending either.
        if not all(map(lt, items, items[1:])):
            raise self.bad(bytenr, "keys do not ascend")
        return items

    def _read(self, bytenr: int, level: int, generation: int | None) -> tuple[bytes, int]:
        failure: Exception | None = None
        for number in range(self.space.copy_count(bytenr)):
            try:
                data = self.space.copy(bytenr, self.nodesize, number)
                count = self._check(data, bytenr, level, generation)
            except (InvalidFormat, MissingDevice) as error:
                if not isinstance(error, MissingDevice):
                    self.damaged_count += 1
                failure = failure or error
                continue
            if failure is not None and not isinstance(failure, MissingDevice) and self.damaged_count == 1:
                self._warnings.append(f"{failure}; another copy was used")
            return data, count
        assert failure is not None  # there is at least one copy
        raise failure

    def _check(self, data: bytes, bytenr: int, level: int, generation: int | None) -> int:
        if self._verify:
            computed = self._checksum(data[L.CSUM_BYTES :])
            if computed != data[: len(computed)]:
                raise ChecksumMismatch(
                    structure=_STRUCTURE,
                    offset=self.space.physical(bytenr),
                    expected=int.from_bytes(data[: len(computed)], "little"),
                    actual=int.from_bytes(computed, "little"),
                )
        fsid, address, _, _, own_generation, _owner, count, own_level = L.HEADER.unpack_from(data, L.CSUM_BYTES)
        if fsid != self._fsid:
            raise self.bad(bytenr, f"fsid is {fsid.hex()}, expected {self._fsid.hex()}")
        if address != bytenr:
            raise self.bad(bytenr, f"bytenr is {address:#x}, expected {bytenr:#x}")
        if own_level != level:
            raise self.bad(bytenr, f"level is {own_level}, expected {level}")
        if generation is not None and own_generation != generation:
            raise self.bad(bytenr, f"generation is {own_generation}, expected {generation}")
        return int(count)

    def bad(self, bytenr: int, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure=_STRUCTURE, offset=self.space.physical(bytenr))


class Tree:
    """One B-tree; ``changes`` are items that a log adds or, where None, takes away."""

    def __init__(self, blocks: BlockReader, root: TreeRoot, changes: dict[Key, bytes | None] | None = None) -> None:
        self._blocks = blocks
        self._root = root
        if root.level >= L.MAX_LEVEL:
            raise InvalidFormat(f"a tree of {root.level} levels", structure=_STRUCTURE, offset=0)
        self._changes = changes or {}
        self._changed = sorted(self._changes)
        self._merged: dict[int, Leaf] = {}

    def find(self, key: Key) -> tuple[Leaf, Key, Key]:
        """The leaf where `key` is or would be, and the keys between which all of it lies (the second excluded)."""
        blocks = self._blocks
        bytenr, level, generation = self._root
        lower, upper = (0, 0, 0), _PAST
        probe = (*key, L.MAX_U64 + 1)
        first: Key | None = None
        while level:
            rows = blocks.node(bytenr, level, generation)
            if first is not None and rows[0][:3] != first:
                raise blocks.bad(bytenr, "does not begin with the key that its parent says")
            index = max(0, bisect_left(rows, probe) - 1)
            if index:
                lower = rows[index][:3]
            if rows[-1][:3] >= upper:
                raise blocks.bad(bytenr, "keys past those of the parent")
            if index + 1 < len(rows):
                upper = rows[index + 1][:3]
            first = rows[index][:3]
            bytenr, generation = rows[index][3:]
            level -= 1
        leaf = blocks.leaf(bytenr, generation)
        items = leaf.items
        # Only the root of an empty tree is empty, so that no leaf can stand in two places.
        if first is not None and (not items or items[0][:3] != first):
            raise blocks.bad(bytenr, "does not begin with the key that its parent says")
        if items and items[-1][:3] >= upper:
            raise blocks.bad(bytenr, "keys past those of the parent")
        if self._changed:
            leaf = self._merge(bytenr, leaf, lower, upper)
        return leaf, lower, upper

    def _merge(self, bytenr: int, leaf: Leaf, lower: Key, upper: Key) -> Leaf:
        merged = self._merged.get(bytenr)
        if merged is not None:
            return merged
        first, last = bisect_left(self._changed, lower), bisect_left(self._changed, upper)
        if first < last:
            items = {item[:3]: item for item in leaf.items}
            parts, place = [leaf.data], len(leaf.data)
            for key in self._changed[first:last]:
                data = self._changes[key]
                if data is None:
                    items.pop(key, None)
                else:
                    items[key] = (*key, place, len(data))
                    parts.append(data)
                    place += len(data)
            leaf = Leaf(b"".join(parts), [items[key] for key in sorted(items)])
            self._merged[bytenr] = leaf
        return leaf

    def get(self, key: Key) -> bytes | None:
        """The data of the item with exactly this key."""
        leaf, _, _ = self.find(key)
        index = bisect_left(leaf.items, key)
        if index == len(leaf.items) or leaf.items[index][:3] != key:
            return None
        at, size = leaf.items[index][3:]
        return leaf.data[at : at + size]

    def leaves(self, first: Key, last: Key) -> Iterator[tuple[bytes, list[Item]]]:
        """Items from key `first` to key `last`, both included, leaf by leaf."""
        key, past = first, (*last, L.MAX_U64)
        while True:
            leaf, _, upper = self.find(key)
            items = leaf.items
            start, end = bisect_left(items, first), bisect_left(items, past)
            if start < end:
                yield leaf.data, items[start:end]
            if upper > last:
                return
            key = upper

    def items(self, first: Key, last: Key) -> Iterator[tuple[Key, bytes]]:
        for data, items in self.leaves(first, last):
            for objectid, kind, offset, at, size in items:
                yield (objectid, kind, offset), data[at : at + size]
