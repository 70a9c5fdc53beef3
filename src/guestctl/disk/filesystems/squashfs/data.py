"""The data of files (section 3.4) and fragments (section 3.5).

A file's blocks lie one after the other from its ``start_block``, each as long as the list after its
inode says: 0 is a hole. What is left at its end may lie in a fragment, a block that files share.
The list is read in windows, as reads come their way. Blocks that are not compressed map to the
device; the others are decompressed, and the last ones kept.
"""

from __future__ import annotations

import sys
import threading
from array import array
from bisect import bisect_right
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.squashfs import layout as L
from guestctl.disk.filesystems.squashfs.compression import Decompress
from guestctl.disk.filesystems.squashfs.metadata import Cursor

_CACHE_BYTES = 16 << 20
_WINDOW_BLOCKS = 16384
_MAX_BLOCK_BYTES = L.DATA_UNCOMPRESSED - 1


class Blocks:
    """Decompresses blocks of the device, and keeps the last ones."""

    def __init__(self, device: BlockDevice, decompress: Decompress, block_size: int) -> None:
        self.device = device
        self.block_size = block_size
        self._decompress = decompress
        self._kept: dict[int, bytes] = {}
        self._kept_count = _CACHE_BYTES // block_size
        self._lock = threading.Lock()

    def content(self, offset: int, length: int) -> bytes:
        """What the `length` compressed bytes at `offset` hold."""
        content = self._kept.get(offset)
        if content is not None:
            return content
        try:
            content = self._decompress(self.device.read(offset, length), self.block_size)
        except ValueError as error:
            raise _bad(f"cannot be decompressed: {error}", offset) from error
        with self._lock:
            self._kept[offset] = content
            while len(self._kept) > self._kept_count:
                del self._kept[next(iter(self._kept))]
        return content


class Fragment(NamedTuple):
    """A file's end: the block of fragments it is in, how that is stored, and its place in it."""

    offset: int
    word: int
    place: int


class _Window(NamedTuple):
    """Consecutive blocks from ``first`` on: where they are on the device, how they are stored, and as extents."""

    first: int
    offsets: array[int]
    words: array[int]
    starts: list[int]
    extents: list[Extent]


class FileData(MappedDevice):
    """The `size` bytes of a file whose list of blocks `rest` reads and whose first block is at `start`."""

    def __init__(self, blocks: Blocks, rest: Cursor, start: int, size: int, fragment: Fragment | None) -> None:
        self.size = size
        self._blocks = blocks
        self._fragment = fragment
        self._block_size = blocks.block_size
        self._count = size // self._block_size if fragment else -(-size // self._block_size)
        self._tail = self._count * self._block_size if fragment else size
        self._rest = rest
        self._windows = {0: (rest.offset, rest.skip, start)}  # where the list and the data of each begin, so far known
        self._window = _Window(0, array("Q"), array("I"), [], [])

    def extent(self, offset: int) -> Extent:
        if offset >= self._tail and self._fragment:
            return self._tail_extent(self._fragment)
        window = self._window_of(offset // self._block_size)
        return window.extents[bisect_right(window.starts, offset) - 1]

    def compute(self, offset: int, length: int) -> Buffer:
        parts: list[Buffer] = []
        while length:
            start, content = self._content(offset)
            part = memoryview(content)[offset - start : offset - start + length]
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _content(self, offset: int) -> tuple[int, Buffer]:
        """The bytes of the block or fragment that `offset` is in, and where they begin."""
        if offset >= self._tail and self._fragment:
            return self._tail, self._tail_content(self._fragment)
        number = offset // self._block_size
        window = self._window_of(number)
        place, word = window.offsets[number - window.first], window.words[number - window.first]
        content = self._blocks.content(place, word)
        expected = min(self._block_size, self.size - number * self._block_size)
        if len(content) != expected:
            raise _bad(f"{len(content)} bytes instead of {expected}", place)
        return number * self._block_size, content

    def _tail_extent(self, fragment: Fragment) -> Extent:
        length = self.size - self._tail
        if not fragment.word & L.DATA_UNCOMPRESSED:
            return Extent(self._tail, length, self, self._tail)
        _check_fragment(fragment, length, fragment.word & _MAX_BLOCK_BYTES)
        return Extent(self._tail, length, self._blocks.device, fragment.offset + fragment.place)

    def _tail_content(self, fragment: Fragment) -> Buffer:
        if fragment.word > self._block_size:
            raise _bad(f"a fragment of {fragment.word} bytes", fragment.offset)
        content = self._blocks.content(fragment.offset, fragment.word)
        length = self.size - self._tail
        _check_fragment(fragment, length, len(content))
        return memoryview(content)[fragment.place : fragment.place + length]

    def _window_of(self, number: int) -> _Window:
        window = self._window
        if not window.first <= number < window.first + len(window.words):
            index = number // _WINDOW_BLOCKS
            # The windows on the way there say where it begins.
            for passed in range(min(index, len(self._windows) - 1), index + 1):
                window = self._load(passed)
            self._window = window
        return window

    def _load(self, index: int) -> _Window:
        first = index * _WINDOW_BLOCKS
        count = min(_WINDOW_BLOCKS, self._count - first)
        list_offset, skip, place = self._windows[index]
        rest = self._rest.copy(list_offset, skip)
        words = array("I")
        words.frombytes(rest.take(4 * count))
        if sys.byteorder == "big":
            words.byteswap()
        offsets = array("Q")
        builder = _ExtentBuilder(self, self._blocks, first)
        for word in words:
            offsets.append(place)
            builder.add(word, place)
            place += word & _MAX_BLOCK_BYTES
        self._windows[index + 1] = rest.offset, rest.skip, place
        extents = builder.extents
        return _Window(first, offsets, words, [extent.start for extent in extents], extents)


class _ExtentBuilder:
    """Joins neighbours of the same kind."""

    def __init__(self, data: FileData, blocks: Blocks, first: int) -> None:
        self._data = data
        self._device = blocks.device
        self._block_size = blocks.block_size
        self._position = first * blocks.block_size
        self.extents: list[Extent] = []

    def add(self, word: int, place: int) -> None:
        position, length = self._position, self._block_size
        stored = word & _MAX_BLOCK_BYTES
        if word > _MAX_BLOCK_BYTES:
            length = min(length, self._data.size - position)
            if word >> 25 or stored != length:
                raise _bad(f"{stored} bytes of {length} that are not compressed", place)
            extent = Extent(position, length, self._device, place)
        elif stored > length:
            raise _bad(f"a block of {stored} bytes", place)
        else:
            extent = Extent(position, length, self._data, position) if word else Extent(position, length, None)
        self._position += self._block_size
        if self.extents:
            last = self.extents[-1]
            if last.source is extent.source and (not word or last.source_offset + last.length == extent.source_offset):
                self.extents[-1] = last._replace(length=last.length + length)
                return
        self.extents.append(extent)


def _check_fragment(fragment: Fragment, length: int, available: int) -> None:
    if fragment.place + length > available:
        raise _bad(f"{length} bytes at {fragment.place} of a fragment of {available}", fragment.offset)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="data block", offset=offset)
