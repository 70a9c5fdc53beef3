"""Directories: B+trees of names, whose leaves are linked from left to right."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from guestctl.core.errors import InvalidFormat

_MAGIC = 0x69F6C2E8
_HEADER = "III4xq"  # magic, node_size, max_number_of_levels, root_node_ptr
_NODE = "qqqHH"  # left, right, overflow, all_key_count, all_key_length
_NONE = -1
_KEYS_OFFSET, _ALIGNMENT = 28, 8
_MAX_LEVELS = 32
_MIN_NODE_BYTES, _MAX_NODE_BYTES = 512, 64 << 10  # all that are made have 1024
_STRUCTURE = "B+tree"


class Tree:
    """The tree in the bytes of a directory, whose inode lies at `offset`. Raises `InvalidFormat`."""

    def __init__(self, data: bytes, order: str, offset: int) -> None:
        self._data = data
        self._order = order
        self._offset = offset
        self._node = Struct(order + _NODE)
        header = Struct(order + _HEADER)
        if len(data) < header.size:
            raise self._bad(f"a directory of {len(data)} bytes")
        magic, self._node_size, _, self._root = header.unpack_from(data)
        if magic != _MAGIC or not _MIN_NODE_BYTES <= self._node_size <= _MAX_NODE_BYTES:
            raise self._bad(f"magic {magic:#x}, nodes of {self._node_size} bytes")

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """(name, block of the inode) in order."""
        place = self._first_leaf()
        seen = set()
        while place != _NONE:
            if place in seen:
                raise self._bad("leaves in a circle")
            seen.add(place)
            place, _, keys, values = self._read(place)
            yield from zip(keys, values, strict=True)

    def _first_leaf(self) -> int:
        place: int = self._root
        for _ in range(_MAX_LEVELS):
            _, overflow, _, values = self._read(place)
            if overflow == _NONE:
                return place
            place = values[0] if values else overflow
        raise self._bad("too many levels")

    def _read(self, place: int) -> tuple[int, int, list[bytes], tuple[int, ...]]:
        """(right, overflow, keys, values) of the node at a place in the directory."""
        if place < 0 or place % self._node_size or place + self._node_size > len(self._data):
            raise self._bad(f"no node at {place}")
        _, right, overflow, count, key_bytes = self._node.unpack_from(self._data, place)
        lengths = _KEYS_OFFSET + key_bytes
        lengths += -lengths % _ALIGNMENT
        if lengths + count * (2 + 8) > self._node_size:
            raise self._bad(f"{count} keys of {key_bytes} bytes in the node at {place}")
        ends = Struct(f"{self._order}{count}H").unpack_from(self._data, place + lengths)
        values = Struct(f"{self._order}{count}q").unpack_from(self._data, place + lengths + 2 * count)
        keys, start = [], 0
        for end in ends:
            if not start < end <= key_bytes:
                raise self._bad(f"a key at {start} to {end} of {key_bytes} in the node at {place}")
            keys.append(self._data[place + _KEYS_OFFSET + start : place + _KEYS_OFFSET + end])
            start = end
        return right, overflow, keys, values

    def _bad(self, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure=_STRUCTURE, offset=self._offset)
