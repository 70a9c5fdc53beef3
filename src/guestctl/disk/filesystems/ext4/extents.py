"""The data of a file: extent trees, and the device that both ways of mapping share.

Section "Extent Tree" of the kernel's ext4 documentation. Read: trees of depth 0 to 5, holes before,
between and after, unwritten extents (zeros), bigalloc (extents count blocks there too). A tree is
checked as the kernel checks it: extents ascend and do not overlap, a node begins at the block that
its parent says, its depth is one less, every block lies inside the filesystem, and the checksum
of a node is right. Nodes below the root are read when a read comes their way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple

from guestctl.block.device import Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import checksums
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.inode import InodeStat
from guestctl.disk.filesystems.ext4.superblock import Volume

# Logical block numbers have 32 bits.
LOGICAL_BLOCKS = 1 << 32
_STRUCTURE = "extent tree node"
_header = L.EXTENT_HEADER.unpack_from
_single = L.SINGLE_EXTENT.unpack_from


class Window(NamedTuple):
    """Extents that cover the bytes from ``start`` to ``end`` of a file without gaps."""

    start: int
    end: int
    starts: list[int]
    extents: list[Extent]


class FileData(MappedDevice):
    """The `size` bytes of a file: one window that covers it, or windows that `load` makes on demand."""

    def __init__(self, size: int, window: Window, load: Callable[[int], Window] | None = None) -> None:
        self.size = size
        self._window = window
        self._load = load

    def extent(self, offset: int) -> Extent:
        window = self._window
        if self._load is not None and not window.start <= offset < window.end:
            window = self._window = self._load(offset)
        return window.extents[bisect_right(window.starts, offset) - 1]


def make_window(volume: Volume, runs: Iterable[tuple[int, int, int]], start: int, end: int) -> Window:
    """A window from `start` to `end` (bytes) of `runs`: ascending (first block, count, first block on
    the device or 0 where the file reads as zeros). Holes are filled in, and neighbours joined."""
    shift = volume.block_shift
    extents: list[Extent] = []
    position = start
    for block, count, physical in runs:
        at = block << shift
        if at > position:
            extents.append(Extent(position, at - position, None))
        length = count << shift
        source, source_offset = (volume.device, physical << shift) if physical else (None, 0)
        if extents:
            last = extents[-1]
            if last.source is source and (source is None or last.source_offset + last.length == source_offset):
                at, length, source_offset = last.start, last.length + length, last.source_offset
                extents.pop()
        extents.append(Extent(at, length, source, source_offset))
        position = at + length
    if position < end:
        extents.append(Extent(position, end - position, None))
    return Window(start, max(position, end), [extent.start for extent in extents], extents)


def open_extents(volume: Volume, inode: InodeStat, size: int) -> FileData:
    """The first `size` bytes of a file that has an extent tree. Raises `InvalidFormat`."""
    offset = single_run(volume, inode, size)
    if offset:
        return FileData(size, Window(0, size, [0], [Extent(0, size, volume.device, offset)]))
    tree = _ExtentTree(volume, inode, size)
    if tree.depth == 0:
        return FileData(size, make_window(volume, tree.root_runs(), 0, size))
    return FileData(size, Window(0, 0, [], []), tree.load)


def single_run(volume: Volume, inode: InodeStat, size: int) -> int:
    """The device offset of a file that lies in one piece, as most do; 0 for all others, sound or not."""
    magic, entries, maximum, depth, block, length, start_hi, start_lo = _single(inode.data, inode.at + L.I_BLOCK_OFFSET)
    if magic != L.EXTENT_MAGIC or entries != 1 or maximum != L.ROOT_EXTENTS or depth or block:
        return 0
    physical: int = start_lo | start_hi << 32
    if size > length << volume.block_shift or length > L.INIT_MAX_LEN or physical + length > volume.blocks_count:
        return 0
    return physical << volume.block_shift if physical > volume.superblock.first_data_block else 0


class _ExtentTree:
    def __init__(self, volume: Volume, inode: InodeStat, size: int) -> None:
        self._volume = volume
        self._inode = inode
        self._size = size
        self._root_offset = inode.offset + L.I_BLOCK_OFFSET
        self._root = inode.i_block
        self.depth = self._check_header(self._root, self._root_offset, None)

    def root_runs(self) -> list[tuple[int, int, int]]:
        return self._leaf_runs(self._root, self._root_offset, 0, LOGICAL_BLOCKS)

    def load(self, offset: int) -> Window:
        """The leaf that covers `offset`, or the hole where there is none."""
        shift = self._volume.block_shift
        block = offset >> shift
        if block >= LOGICAL_BLOCKS:
            return make_window(self._volume, (), LOGICAL_BLOCKS << shift, self._size)
        node, node_offset, lower, upper = self._root, self._root_offset, 0, LOGICAL_BLOCKS
        for depth in range(self.depth - 1, -1, -1):
            starts, children = self._index(node, node_offset, lower, upper)
            index = bisect_right(starts, block) - 1
            if index < 0:
                return make_window(self._volume, (), lower << shift, starts[0] << shift)
            lower = starts[index]
            upper = starts[index + 1] if index + 1 < len(starts) else upper
            node_offset = children[index] << shift
            node = self._read_node(children[index], depth, lower)
        return make_window(
            self._volume, self._leaf_runs(node, node_offset, lower, upper), lower << shift, upper << shift
        )

    def _index(self, node: bytes, offset: int, lower: int, upper: int) -> tuple[list[int], list[int]]:
        """(first logical block, block number) of each child, as two lists."""
        rows = list(L.EXTENT_INDEX.iter_unpack(_entries(node)))
        if not rows:
            raise _bad("eh_entries is 0 above the leaves", offset)
        starts = [row[0] for row in rows]
        ascending = all(map(int.__lt__, starts, starts[1:]))
        if not ascending or starts[0] < lower or starts[-1] >= upper:
            raise _bad("ei_block of an index does not ascend", offset)
        return starts, [row[1] | row[2] << 32 for row in rows]

    def _leaf_runs(self, node: bytes, offset: int, lower: int, upper: int) -> list[tuple[int, int, int]]:
        volume = self._volume
        first_data_block = volume.superblock.first_data_block
        runs = []
        expected = lower
        for block, length, start_hi, start_lo in L.EXTENT.iter_unpack(_entries(node)):
            physical = start_lo | start_hi << 32
            unwritten = length > L.INIT_MAX_LEN
            if unwritten:
                length -= L.INIT_MAX_LEN
            if block < expected or not length:
                raise _bad(f"extent of {length} blocks at block {block}, expected one from {expected} on", offset)
            if physical <= first_data_block or physical + length > volume.blocks_count:
                raise _bad(f"extent of {length} blocks from {physical} on is outside the filesystem", offset)
            expected = block + length
            runs.append((block, length, 0 if unwritten else physical))
        if expected > upper:
            raise _bad(f"extents up to block {expected} in a node that ends at {upper}", offset)
        return runs

    def _read_node(self, block: int, depth: int, lower: int) -> bytes:
        node = self._volume.read_block(block, _STRUCTURE)
        offset = block << self._volume.block_shift
        self._check_header(node, offset, depth)
        self._check_checksum(node, offset)
        first = int.from_bytes(node[L.EXTENT_HEADER_BYTES : L.EXTENT_HEADER_BYTES + 4], "little")
        if first != lower and len(_entries(node)):
            raise _bad(f"begins at block {first}, but its parent says {lower}", offset, lower, first)
        return node

    def _check_header(self, node: bytes, offset: int, depth: int | None) -> int:
        magic, entries, maximum, actual_depth = _header(node)
        if magic != L.EXTENT_MAGIC:
            raise _bad(f"eh_magic is {magic:#x}, expected {L.EXTENT_MAGIC:#x}", offset, L.EXTENT_MAGIC, magic)
        if not entries <= maximum <= (len(node) - L.EXTENT_HEADER_BYTES) // L.EXTENT_BYTES:
            raise _bad(f"eh_entries is {entries}, eh_max {maximum}", offset, maximum, entries)
        if actual_depth > L.MAX_EXTENT_DEPTH or depth not in (None, actual_depth):
            raise _bad(f"eh_depth is {actual_depth}", offset, depth, actual_depth)
        return int(actual_depth)

    def _check_checksum(self, node: bytes, offset: int) -> None:
        if self._volume.seed is None:
            return
        tail = L.EXTENT_HEADER_BYTES + _header(node)[2] * L.EXTENT_BYTES
        stored = int.from_bytes(node[tail : tail + L.EXTENT_TAIL_BYTES], "little")
        seed = checksums.inode_seed(self._volume.seed, self._inode.st_ino, self._inode.generation)
        computed = checksums.stored(checksums.crc32c(seed, node[:tail]))
        if computed != stored:
            raise self._volume.mismatch(_STRUCTURE, offset, stored=stored, computed=computed)


def _entries(node: bytes) -> bytes:
    return node[L.EXTENT_HEADER_BYTES : L.EXTENT_HEADER_BYTES + _header(node)[1] * L.EXTENT_BYTES]


def _bad(message: str, offset: int, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset, expected=expected, actual=actual)
