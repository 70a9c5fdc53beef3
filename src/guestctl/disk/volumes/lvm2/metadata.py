"""Blocks, B-trees and arrays of the device mapper's persistent data (drivers/md/persistent-data in Linux).

What thin pools and caches keep on their metadata devices. Blocks have 4096 bytes and begin with a
CRC-32C that is combined with a number of their kind; numbers are little-endian.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from google_crc32c import value as crc32c

from guestctl.block import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat

BLOCK_BYTES = 4096
_NODE = struct.Struct("<IIQIIII")  # csum, flags, blocknr, nr_entries, max_entries, value_size, padding
_NODE_XOR = 121107
_INTERNAL_NODE = 1
_LEAF_NODE = 2
_ARRAY_BLOCK = struct.Struct("<IIIIQ")  # csum, max_entries, nr_entries, value_size, blocknr
_ARRAY_XOR = 595846735
_NUMBER_BYTES = 8
_MAX_DEPTH = 16
_CACHED_NODES = 512
_NO_KEY = (1 << 64) - 1


def read_block(device: BlockDevice, number: int, xor: int, structure: str) -> bytes:
    """A block whose checksum is right."""
    offset = number * BLOCK_BYTES
    if offset + BLOCK_BYTES > device.size:
        raise InvalidFormat(f"block {number} is outside", structure=structure, offset=0, actual=number)
    block = bytes(device.read(offset, BLOCK_BYTES))
    (stored,) = struct.unpack_from("<I", block)
    computed = crc32c(block[4:]) ^ 0xFFFFFFFF ^ xor
    if computed != stored:
        raise ChecksumMismatch(structure=structure, offset=offset, expected=computed, actual=stored)
    return block


class _Node(NamedTuple):
    is_leaf: bool
    keys: array[int]
    values: array[int]


class Found(NamedTuple):
    """Where a key is, or would be, in the leaf that may have it; ``end`` is before what other leaves have."""

    keys: array[int]
    values: array[int]
    position: int  # of the last key that is not larger; -1 where there is none
    end: int


class Tree:
    """A B-tree from numbers to numbers."""

    def __init__(self, device: BlockDevice, root: int) -> None:
        self._device = device
        self._root = root
        self._nodes: OrderedDict[int, _Node] = OrderedDict()

    def find(self, key: int) -> Found:
        number, end = self._root, _NO_KEY
        for _ in range(_MAX_DEPTH):
            node = self._node(number)
            index = bisect_right(node.keys, key) - 1
            if node.is_leaf:
                return Found(node.keys, node.values, index, end)
            index = max(index, 0)
            if index + 1 < len(node.keys):
                end = min(end, node.keys[index + 1])
            number = node.values[index]
        raise self._bad(number, f"it is deeper than {_MAX_DEPTH} nodes")

    def get(self, key: int) -> int | None:
        keys, values, index, _ = self.find(key)
        return values[index] if index >= 0 and keys[index] == key else None

    def _node(self, number: int) -> _Node:
        node = self._nodes.get(number)
        if node is None:
            node = self._nodes[number] = self._read(number)
            if len(self._nodes) > _CACHED_NODES:
                self._nodes.popitem(last=False)
        return node

    def _read(self, number: int) -> _Node:
        block = read_block(self._device, number, _NODE_XOR, "btree node")
        _, flags, own_number, count, capacity, value_bytes, _ = _NODE.unpack_from(block)
        if own_number != number or flags not in (_INTERNAL_NODE, _LEAF_NODE) or value_bytes != _NUMBER_BYTES:
            raise self._bad(number, f"blocknr {own_number}, flags {flags}, value_size {value_bytes}")
        if (
            count > capacity
            or _NODE.size + 2 * _NUMBER_BYTES * capacity > BLOCK_BYTES
            or (not count and flags != _LEAF_NODE)
        ):
            raise self._bad(number, f"{count} of {capacity} entries")
        values_at = _NODE.size + _NUMBER_BYTES * capacity
        keys = numbers(block[_NODE.size : _NODE.size + _NUMBER_BYTES * count])
        if list(keys) != sorted(set(keys)):
            raise self._bad(number, "its keys do not ascend")
        return _Node(flags == _LEAF_NODE, keys, numbers(block[values_at : values_at + _NUMBER_BYTES * count]))

    def _bad(self, number: int, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure="btree node", offset=number * BLOCK_BYTES)


def read_array(device: BlockDevice, root: int, count: int) -> Iterator[int]:
    """The first `count` numbers of an array, whose blocks are the values of a B-tree."""
    tree = Tree(device, root)
    index = 0
    while count > 0:
        number = tree.get(index)
        if number is None:
            raise InvalidFormat(f"block {index} is missing", structure="array", offset=root * BLOCK_BYTES)
        block = read_block(device, number, _ARRAY_XOR, "array block")
        _, capacity, used, value_bytes, own_number = _ARRAY_BLOCK.unpack_from(block)
        end = _ARRAY_BLOCK.size + _NUMBER_BYTES * used
        if own_number != number or value_bytes != _NUMBER_BYTES or not 0 < used <= capacity or end > BLOCK_BYTES:
            message = f"blocknr {own_number}, {used} of {capacity} entries of {value_bytes} bytes"
            raise InvalidFormat(message, structure="array block", offset=number * BLOCK_BYTES)
        yield from numbers(block[_ARRAY_BLOCK.size : end])[:count]
        count -= used
        index += 1


def numbers(raw: bytes) -> array[int]:
    """Little-endian numbers of 64 bits."""
    found = array("Q", raw)
    if sys.byteorder == "big":
        found.byteswap()
    return found
