"""B-trees: nodes of one size in a file, of which the first has the header."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.hfsplus import layout as L

_MAX_DEPTH = 16
_MAX_CACHED_BYTES = 4 << 20
_MAX_KEY_LENGTH = slice(L.TREE_HEADER_OFFSET + 20, L.TREE_HEADER_OFFSET + 22)
_CHILD = struct.Struct(">I")


class Node(NamedTuple):
    next: int
    kind: int
    height: int
    records: list[tuple[bytes, bytes]]  # keys, with their lengths before them, and data


class BTree:
    """A tree in the fork `device`, whose keys have at least `key_bytes`. `order` makes of one what it is sorted by."""

    def __init__(
        self, device: BlockDevice, name: str, key_bytes: int, order: Callable[[bytes], tuple[int, ...]]
    ) -> None:
        self._device = device
        self._name = name
        self._key_bytes = key_bytes
        self._order = order
        self._cache: OrderedDict[int, Node] = OrderedDict()
        size = L.TREE_HEADER_OFFSET + L.TREE_HEADER.size
        if device.size < size:
            raise self._bad("cut off", 0)
        head = bytes(device.read(0, size))
        if L.NODE.unpack_from(head)[1] != L.NODE_HEADER:
            raise self._bad("no header node", 0)
        depth, self._root, node_size, total, self.key_compare, attributes = L.TREE_HEADER.unpack_from(
            head, L.TREE_HEADER_OFFSET
        )
        if not L.MIN_NODE_BYTES <= node_size <= L.MAX_NODE_BYTES or node_size & (node_size - 1):
            raise self._bad(f"nodes of {node_size} bytes", 0)
        if total * node_size > device.size or depth > _MAX_DEPTH:
            raise self._bad(f"{total} nodes, {depth} levels", 0)
        if not attributes & L.TREE_BIG_KEYS:
            raise self._bad("keys of the old kind", 0)
        self._size, self._count, self._depth = node_size, total, depth
        # Without this flag keys in index nodes have the room of the longest one, but their own length all the same.
        self._max_key = 0 if attributes & L.TREE_VARIABLE_INDEX_KEYS else int.from_bytes(head[_MAX_KEY_LENGTH], "big")

    def node(self, number: int) -> Node:
        """A node, parsed once and kept for a while."""
        found = self._cache.get(number)
        if found is None:
            if not 0 < number < self._count:
                raise self._bad(f"no node {number} of {self._count}", 0)
            found = self._parse(number)
            self._cache[number] = found
            if len(self._cache) * self._size > _MAX_CACHED_BYTES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(number)
        return found

    def _parse(self, number: int) -> Node:
        place = number * self._size
        data = bytes(self._device.read(place, self._size))
        following, kind, height, count = L.NODE.unpack_from(data)
        table = self._size - 2 * (count + 1)
        if kind not in (L.NODE_LEAF, L.NODE_INDEX) or table < L.NODE.size:
            raise self._bad(f"node {number} is of kind {kind}, with {count} records", place)
        offsets = struct.unpack_from(f">{count + 1}H", data, table)[::-1]
        records = []
        for start, end in pairwise(offsets):
            if not L.NODE.size <= start < end - 2 <= table - 2:
                raise self._bad(f"a record at {start} to {end} of node {number}", place)
            length = 2 + int.from_bytes(data[start : start + 2], "big")
            room = 2 + self._max_key if self._max_key and kind == L.NODE_INDEX else length
            content = start + room + room % 2
            if not self._key_bytes <= length <= room or content > end:
                raise self._bad(f"a key of {length} bytes at {start} of node {number}", place)
            records.append((data[start : start + length], data[content:end]))
        return Node(following, kind, height, records)

    def scan(self, target: tuple[int, ...]) -> Iterator[tuple[bytes, bytes]]:
        """(key, data) of the records that do not come before `target`, in order."""
        for key, data, _ in self.scan_places(target):
            yield key, data

    def scan_places(self, target: tuple[int, ...]) -> Iterator[tuple[bytes, bytes, int]]:
        """As `scan`, with the place of each record: its node's number and its index, as one number."""
        if not self._depth:
            return
        number = self._leaf(target)
        started = False
        seen: set[int] = set()
        while number not in seen:
            seen.add(number)
            node = self.node(number)
            if node.kind != L.NODE_LEAF:
                raise self._bad(f"node {number} is no leaf", number * self._size)
            for index, (key, data) in enumerate(node.records):
                if started or self._order(key) >= target:
                    started = True
                    yield key, data, number << 16 | index
            if not node.next:
                return
            number = node.next
        raise self._bad("leaves in a circle", number * self._size)

    def record(self, place: int) -> tuple[bytes, bytes]:
        """The record at a place that `scan_places` told."""
        return self.node(place >> 16).records[place & 0xFFFF]

    def _leaf(self, target: tuple[int, ...]) -> int:
        """The leaf in which records from `target` on begin, or the one before it."""
        number: int = self._root
        height = self._depth + 1
        while True:
            node = self.node(number)
            if node.height >= height or not node.height:
                raise self._bad(f"node {number} has height {node.height} below {height}", number * self._size)
            if node.kind == L.NODE_LEAF:
                return number
            height = node.height
            low, high = 0, len(node.records)
            while low < high:
                middle = (low + high) // 2
                if self._order(node.records[middle][0]) < target:
                    low = middle + 1
                else:
                    high = middle
            if not node.records or len(node.records[max(0, low - 1)][1]) < _CHILD.size:
                raise self._bad(f"node {number} has no child", number * self._size)
            (number,) = _CHILD.unpack_from(node.records[max(0, low - 1)][1])

    def _bad(self, message: str, offset: int) -> InvalidFormat:
        return InvalidFormat(message, structure=f"{self._name} B-tree", offset=offset)
