"""Indexes: B+ trees whose root is resident and whose other nodes are blocks of $INDEX_ALLOCATION.

Every key stands once in the tree, in inner nodes too. So a listing reads the root and each block
that $BITMAP marks, in their order; a search descends.
"""

from __future__ import annotations

import stat
from codecs import utf_16_le_decode
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs.attributes import decode_name
from guestctl.disk.filesystems.ntfs.fixups import mend
from guestctl.disk.filesystems.ntfs.mft import MasterFileTable

_CHUNK_BYTES = 256 << 10
_MAX_DEPTH = 32
_MAX_BITMAP_BYTES = 64 << 20
# Behind a node, so that its last entry can be unpacked like the others.
_PADDING = bytes(L.NAME_ENTRY_BYTES)

_ROOT = -1
# By the attributes of an entry; of a special file only its record tells what it is.
_KIND_MASK = L.ATTR_REPARSE | L.ATTR_SYSTEM | L.NAME_IS_DIRECTORY
_KINDS = {0: stat.S_IFREG, L.NAME_IS_DIRECTORY: stat.S_IFDIR}

Entries = list[tuple[str, int, int]]


class Node(NamedTuple):
    """A node's entries are from `start` to `end` in `data`; the index has it at `position`, and the root at -1."""

    data: bytes
    start: int
    end: int
    position: int


class Index:
    """The index `name` of a file record."""

    def __init__(self, mft: MasterFileTable, node: int, name: str = "$I30") -> None:
        root = mft.locate(node, L.INDEX_ROOT, name)
        if root is None:
            raise mft.bad(node, f"has no index {name}")
        self._mft, self._node, self._name = mft, node, name
        self._root_offset = root.attribute.offset
        value = root.attribute.value
        if value is None or len(value) < L.INDEX_ROOT_BYTES + L.INDEX_HEADER_BYTES:
            raise self._bad("the root is too short", _ROOT)
        _, self.collation, self._block_size, _ = L.INDEX_ROOT_HEAD.unpack_from(value)
        self._allocation: BlockDevice | None = None
        self._root = self._parse_node(value + _PADDING, L.INDEX_ROOT_BYTES, len(value), _ROOT)

    def _open_allocation(self) -> BlockDevice | None:
        """The blocks below the root, or None where the root is all."""
        if self._allocation is None:
            located = self._mft.locate(self._node, L.INDEX_ALLOCATION, self._name)
            if located is None:
                return None
            size = self._block_size
            if not L.FIXUP_STRIDE <= size <= L.MAX_INDEX_BYTES or size & (size - 1):
                raise self._bad(f"a block of {size} bytes", _ROOT)
            self._allocation = self._mft.open(self._node, located)
        return self._allocation

    def _parse_node(self, data: bytes, header: int, limit: int, position: int) -> Node:
        first, used, _, _ = L.INDEX_HEADER.unpack_from(data, header)
        start, end = header + first, header + used
        if first < L.INDEX_HEADER_BYTES or end > limit or start > end:
            raise self._bad(f"entries from {first} to {used} in {limit - header} bytes", position)
        return Node(data, start, end, position)

    def nodes(self) -> Iterator[Node]:
        """The root and every block in use. A damaged block's error is raised after the other blocks."""
        yield self._root
        allocation = self._open_allocation()
        if allocation is None:
            return
        size = self._block_size
        count = allocation.size // size
        bitmap = self._read_bitmap(count)
        per_chunk = max(8, _CHUNK_BYTES // size)  # a multiple of 8, as sizes are powers of two
        damage: InvalidFormat | None = None
        for first in range(0, count, per_chunk):
            bits = int.from_bytes(bitmap[first // 8 : (first + per_chunk) // 8], "little")
            if not bits:
                continue
            wanted = [index for index in range(first, min(first + per_chunk, count)) if bits >> index - first & 1]
            if not wanted:
                continue
            start = wanted[0]
            data, damaged = mend(allocation.read(start * size, (wanted[-1] + 1 - start) * size), size, L.INDEX_MAGIC)
            data += _PADDING
            for index in wanted:
                try:
                    if index - start in damaged:
                        raise self._bad(damaged[index - start], index * size)
                    yield self._parse_block(data, (index - start) * size, index * size)
                except InvalidFormat as error:
                    damage = damage or error
        if damage is not None:
            raise damage

    def _read_bitmap(self, count: int) -> bytes:
        located = self._mft.locate(self._node, L.BITMAP_ATTRIBUTE, self._name)
        if located is None or located.attribute.size > _MAX_BITMAP_BYTES:
            raise self._bad("has no bitmap", _ROOT)
        if count * self._block_size > self._mft.boot.size:
            raise self._bad(f"{count} blocks, more than the volume holds", _ROOT)
        return self._mft.value(located)[: (count + 7) // 8]

    def _parse_block(self, data: bytes, at: int, position: int) -> Node:
        vcn = L.INDEX_BLOCK.unpack_from(data, at)[3]
        if vcn * self._vcn_unit != position:
            raise self._bad(f"a block with VCN {vcn} at VCN {position // self._vcn_unit}", position)
        return self._parse_node(data, at + L.INDEX_BLOCK_HEADER_OFFSET, at + self._block_size, position)

    @property
    def _vcn_unit(self) -> int:
        """Blocks smaller than a cluster are numbered by their sectors."""
        cluster_size = self._mft.boot.cluster_size
        return cluster_size if cluster_size <= self._block_size else L.FIXUP_STRIDE

    def names(self, node: Node) -> Entries:
        """The files that a node of a directory names, once each: no short names, no metafiles."""
        data, at, end, position = node
        entries: Entries = []
        append, unpack = entries.append, L.NAME_ENTRY.unpack_from
        decode = utf_16_le_decode  # without a search for the codec
        kinds, kind_mask = _KINDS, _KIND_MASK
        hidden, mask = L.FIRST_USER_RECORD, L.RECORD_NUMBER_MASK
        while at < end:
            reference, length, flags, attributes, name_length, namespace = unpack(data, at)
            if flags & 2:
                return entries
            name_end = at + 82 + 2 * name_length
            following = at + length
            if name_end > following or following > end or not name_length:
                break
            if namespace != 2 and reference & mask >= hidden:
                try:
                    name = decode(data[at + 82 : name_end], "strict", True)[0]
                except UnicodeDecodeError:
                    name = decode_name(data[at + 82 : name_end])
                append((name, reference, kinds.get(attributes & kind_mask, 0)))
            at = following
        raise self._bad(f"a wrong entry at {at}, or none that is the last", position)

    def search(self, target: Any, key: Callable[[bytes, int, int], Any]) -> Iterator[tuple[bytes, int]]:
        """(node, position) of the entries whose key equals `target`; `key` decodes that of an entry.

        Keys ascend, and equal ones may stand side by side in several nodes.
        """
        return self._search(self._root, target, key, set(), 0)

    def _search(
        self, node: Node, target: Any, key: Callable[[bytes, int, int], Any], seen: set[int], depth: int
    ) -> Iterator[tuple[bytes, int]]:
        data, at, end, position = node
        while at + L.INDEX_ENTRY_BYTES <= end:
            _, length, key_length, flags = L.INDEX_ENTRY.unpack_from(data, at)
            if length < L.INDEX_ENTRY_BYTES + (8 if flags & L.ENTRY_HAS_CHILD else 0) or at + length > end:
                raise self._bad(f"an entry of {length} bytes at {at}", position)
            last = flags & L.ENTRY_IS_LAST
            if not last and L.INDEX_ENTRY_BYTES + key_length > length:
                raise self._bad(f"a key of {key_length} bytes in an entry of {length}", position)
            found = None if last else key(data, at, key_length)
            if found is None or found >= target:
                if flags & L.ENTRY_HAS_CHILD:
                    vcn = int.from_bytes(data[at + length - 8 : at + length], "little")
                    if depth >= _MAX_DEPTH:
                        raise self._bad(f"deeper than {_MAX_DEPTH} nodes", position)
                    yield from self._search(self._child(vcn, seen, position), target, key, seen, depth + 1)
                if last or found != target:
                    return
                yield data, at
            at += length
        raise self._bad("a node without a last entry", position)

    def _child(self, vcn: int, seen: set[int], parent: int) -> Node:
        allocation = self._open_allocation()
        position = vcn * self._vcn_unit
        if allocation is None or position % self._block_size or position + self._block_size > allocation.size:
            raise self._bad(f"a child at VCN {vcn}", parent)
        if vcn in seen:
            raise self._bad(f"the child at VCN {vcn} is in two places", parent)
        seen.add(vcn)
        data, damaged = mend(allocation.read(position, self._block_size), self._block_size, L.INDEX_MAGIC)
        if damaged:
            raise self._bad(damaged[0], position)
        return self._parse_block(data + _PADDING, 0, position)

    def _bad(self, message: str, position: int) -> InvalidFormat:
        offset = self._root_offset
        if self._allocation is not None and 0 <= position < self._allocation.size:
            offset = next(self._allocation.runs(position, 1)).source_offset
        number = self._node & L.RECORD_NUMBER_MASK
        return InvalidFormat(f"record {number}: {message}", structure=f"index {self._name}", offset=offset)
