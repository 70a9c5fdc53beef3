"""The extents of a fork (chapter "Data Extents"), and the device that they make.

Read: extent lists inside the inode, B+trees of any depth, holes before, between and after,
unwritten extents (zeros). A tree is checked as it is read: extents ascend and do not overlap, keys
say where a child begins, levels fall by one, every extent lies inside one allocation group, and in
version 5 filesystems a block is what it says to be. Blocks below the root are read when a read
comes their way. Shared extents (reflink) look like others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple

from guestctl.block.device import Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.inode import InodeStat
from guestctl.disk.filesystems.xfs.superblock import Volume

_FILE_BLOCKS = 1 << L.FILE_OFFSET_BITS
_STRUCTURE = "extent list"
_TREE = "bmap B+tree block"
_unpack = L.EXTENT.unpack_from


class Window(NamedTuple):
    """Extents that cover the bytes from ``start`` to ``end`` of a file without gaps."""

    start: int
    end: int
    starts: list[int]
    extents: list[Extent]


class ForkData(MappedDevice):
    """The first `size` bytes of a fork: one window that covers it, or windows that `load` makes on demand."""

    def __init__(self, size: int, window: Window, load: Callable[[int], Window] | None = None) -> None:
        self.size = size
        self._window = window
        self._load = load

    def extent(self, offset: int) -> Extent:
        window = self._window
        if self._load is not None and not window.start <= offset < window.end:
            window = self._window = self._load(offset)
        return window.extents[bisect_right(window.starts, offset) - 1]


def open_data(volume: Volume, inode: InodeStat, size: int) -> ForkData:
    """The first `size` bytes that the data fork of `inode` maps. Raises `InvalidFormat`."""
    if inode.form == L.FMT_EXTENTS:
        count = inode.extent_counts[0]
        if count == 1:
            extent = _single(volume, inode, size)
            if extent is not None:
                return ForkData(size, Window(0, size, [0], [extent]))
        return _open_list(volume, inode, inode.data_fork, inode.literal, count, size)
    if inode.form == L.FMT_BTREE:
        return _open_tree(volume, inode, inode.data_fork, inode.literal, size)
    raise _bad(f"di_format is {inode.form}", inode.offset, actual=inode.form)


def open_attributes(volume: Volume, inode: InodeStat, size: int) -> ForkData:
    """The first `size` bytes that the attribute fork of `inode` maps. Raises `InvalidFormat`."""
    start = inode.literal + inode.forkoff * 8
    if inode.attribute_format == L.FMT_EXTENTS:
        return _open_list(volume, inode, inode.attribute_fork, start, inode.extent_counts[1], size)
    if inode.attribute_format == L.FMT_BTREE:
        return _open_tree(volume, inode, inode.attribute_fork, start, size)
    raise _bad(f"di_aformat is {inode.attribute_format}", inode.offset, actual=inode.attribute_format)


def _single(volume: Volume, inode: InodeStat, size: int) -> Extent | None:
    """The extent of a file that lies in one piece, as most do; None for all others, sound or not."""
    high, low = _unpack(inode.data, inode.at + inode.literal)
    count = low & 0x1FFFFF
    if high >> 9 or not count or size > count << volume.block_log or len(inode.data_fork) < L.EXTENT_BYTES:
        return None
    offset = volume.offset((high & 0x1FF) << 43 | low >> 21, count)
    return Extent(0, size, volume.device, offset) if offset > 0 else None


def _open_list(volume: Volume, inode: InodeStat, fork: bytes, start: int, count: int, size: int) -> ForkData:
    offset = inode.offset + start
    if count * L.EXTENT_BYTES > len(fork):
        raise _bad(f"{count} extents in a fork of {len(fork)} bytes", offset, actual=count)
    runs = parse_extents(volume, fork[: count * L.EXTENT_BYTES], 0, _FILE_BLOCKS, _STRUCTURE, offset)
    return ForkData(size, make_window(volume, runs, 0, size))


def _open_tree(volume: Volume, inode: InodeStat, fork: bytes, start: int, size: int) -> ForkData:
    tree = _Tree(volume, fork, inode.offset + start, size)
    return ForkData(size, Window(0, 0, [], []), tree.load)


def parse_extents(
    volume: Volume, records: bytes, lower: int, upper: int, structure: str, offset: int
) -> list[tuple[int, int, int]]:
    """(first block, count, byte offset on the device or -1 where it is unwritten) of each packed extent.

    They must lie between the blocks `lower` and `upper`.
    """
    runs = []
    expected = lower
    place = volume.offset
    for high, low in L.EXTENT.iter_unpack(records):
        block = high >> 9 & _FILE_BLOCKS - 1
        count = low & 0x1FFFFF
        if block < expected or not count:
            message = f"extent of {count} blocks at block {block}, expected one from {expected} on"
            raise InvalidFormat(message, structure=structure, offset=offset)
        expected = block + count
        start = (high & 0x1FF) << 43 | low >> 21
        physical = place(start, count)
        if physical < 0:
            message = f"extent of {count} blocks from {start} on is outside the filesystem"
            raise InvalidFormat(message, structure=structure, offset=offset)
        runs.append((block, count, -1 if high >> 63 else physical))
    if expected > upper:
        message = f"extents up to block {expected}, which must end at {upper}"
        raise InvalidFormat(message, structure=structure, offset=offset)
    return runs


def make_window(volume: Volume, runs: Iterable[tuple[int, int, int]], start: int, end: int) -> Window:
    """A window from `start` to `end` (bytes) of `runs` as `parse_extents` gives them. Holes are filled
    in, and neighbours joined."""
    shift = volume.block_log
    extents: list[Extent] = []
    position = start
    for block, count, physical in runs:
        at = block << shift
        if at > position:
            extents.append(Extent(position, at - position, None))
        length = count << shift
        source, source_offset = (volume.device, physical) if physical >= 0 else (None, 0)
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


class _Tree:
    """A B+tree whose root is in the inode, and whose leaves hold extents."""

    def __init__(self, volume: Volume, root: bytes, offset: int, size: int) -> None:
        self._volume = volume
        self._size = size
        self._header_bytes = L.BMBT_HEADER_V5 if volume.superblock.v5 else L.BMBT_HEADER_V4
        self._magic = L.BMBT_MAGIC_V5 if volume.superblock.v5 else L.BMBT_MAGIC_V4
        self._maximum = (volume.block_size - self._header_bytes) // 16
        level, count = L.BMDR.unpack_from(root) if len(root) >= L.BMDR_BYTES else (0, 0)
        maximum = (len(root) - L.BMDR_BYTES) // 16
        if not 0 < level < L.MAX_BMBT_LEVELS or not 0 < count <= maximum:
            raise _bad(f"bb_level is {level}, bb_numrecs {count}", offset)
        self._level = level
        self._root = self._children(root, L.BMDR_BYTES, maximum, count, 0, _FILE_BLOCKS, offset)

    def load(self, offset: int) -> Window:
        """The leaf that covers `offset`, or the hole where there is none."""
        volume = self._volume
        shift = volume.block_log
        block = offset >> shift
        keys, pointers = self._root
        lower, upper = 0, _FILE_BLOCKS
        for level in range(self._level - 1, -1, -1):
            index = bisect_right(keys, block) - 1
            if index < 0:
                return make_window(volume, (), lower << shift, keys[0] << shift)
            lower = keys[index]
            upper = keys[index + 1] if index + 1 < len(keys) else upper
            node, place, count = self._read(pointers[index], level)
            if level:
                keys, pointers = self._children(node, self._header_bytes, self._maximum, count, lower, upper, place)
        records = node[self._header_bytes : self._header_bytes + count * L.EXTENT_BYTES]
        runs = parse_extents(volume, records, lower, upper, _TREE, place)
        return make_window(volume, runs, lower << shift, min(upper << shift, max(self._size, offset + 1)))

    def _children(
        self, node: bytes, start: int, maximum: int, count: int, lower: int, upper: int, offset: int
    ) -> tuple[list[int], list[int]]:
        """The first block of each child, and where the children are."""
        keys = [key for (key,) in L.BMBT_KEY.iter_unpack(node[start : start + 8 * count])]
        start += 8 * maximum
        pointers = [pointer for (pointer,) in L.BMBT_KEY.iter_unpack(node[start : start + 8 * count])]
        ascending = all(map(int.__lt__, keys, keys[1:]))
        if not ascending or keys[0] < lower or keys[-1] >= upper:
            raise _bad("the keys do not ascend", offset, structure=_TREE)
        return keys, pointers

    def _read(self, pointer: int, level: int) -> tuple[bytes, int, int]:
        offset = self._volume.offset(pointer)
        if offset < 0:
            raise _bad(f"block {pointer} is outside the filesystem", 0, structure=_TREE)
        node = bytes(self._volume.device.read(offset, self._volume.block_size))
        magic, actual, count = L.BLOCK_HEADER.unpack_from(node)
        if magic != self._magic:
            raise _bad(f"bb_magic is {magic!r}", offset, self._magic, magic, structure=_TREE)
        if actual != level or not 0 < count <= self._maximum:
            raise _bad(f"bb_level is {actual}, bb_numrecs {count}", offset, level, actual, structure=_TREE)
        # The owner is not compared: files that swapped their extents may leave the old one behind.
        self._volume.check_self(node, L.BMBT_SELF, None, _TREE, offset)
        return node, offset, count


def _bad(
    message: str, offset: int, expected: object = None, actual: object = None, *, structure: str = _STRUCTURE
) -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset, expected=expected, actual=actual)
