"""The data of files (section "EXTENT_DATA").

Read: inline extents (compressed too), regular extents, preallocated ones (zeros), and holes, both
those with an item and those without. An extent that is not compressed maps to logical addresses,
and through the chunks to the devices: its checksums are not verified, since then every byte would
have to be read before it can be mapped. A compressed extent is verified by the checksum tree before
it is decompressed, from its other copies too, and kept in a bounded cache. Extents are loaded one
leaf at a time, when a read comes their way.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import NamedTuple

from guestctl.block import MemoryDevice
from guestctl.block.device import Buffer, Extent, MappedDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import Checksum
from guestctl.disk.filesystems.btrfs.chunks import LogicalSpace, MissingDevice
from guestctl.disk.filesystems.btrfs.compression import MAX_EXTENT_BYTES, decompress
from guestctl.disk.filesystems.btrfs.tree import Item, Tree

_STRUCTURE = "EXTENT_DATA"
_MAX_CACHED_BYTES = 16 << 20
_head = L.FILE_EXTENT.unpack_from
_disk = L.FILE_EXTENT_DISK.unpack_from


class Compressed(NamedTuple):
    """A compressed extent: logical address, bytes on disk, bytes decompressed, method, and whether it has checksums."""

    bytenr: int
    disk_bytes: int
    ram_bytes: int
    method: int
    checked: bool


class ExtentCache:
    """Decompressed extents."""

    def __init__(
        self, space: LogicalSpace, sectorsize: int, checksum: Checksum | None, checksum_tree: Callable[[], Tree | None]
    ) -> None:
        self.space = space
        self.sectorsize = sectorsize
        self._checksum = checksum
        self._checksum_tree = checksum_tree
        self._contents: dict[Compressed, bytes] = {}
        self._bytes = 0

    def read(self, extent: Compressed) -> bytes:
        """The decompressed bytes of `extent`."""
        try:
            return self._contents[extent]
        except KeyError:
            pass
        content = decompress(
            extent.method, self._stored(extent), extent.ram_bytes, self.sectorsize, offset=extent.bytenr
        )
        self._bytes += len(content)
        if self._bytes > _MAX_CACHED_BYTES:
            self._contents, self._bytes = {}, len(content)
        self._contents[extent] = content
        return content

    def _stored(self, extent: Compressed) -> bytes:
        sums = self._sums(extent) if extent.checked else []
        failure: Exception | None = None
        for number in range(self.space.copy_count(extent.bytenr)):
            try:
                data = self.space.copy(extent.bytenr, extent.disk_bytes, number)
                self._verify(data, sums, extent.bytenr)
            except (ChecksumMismatch, MissingDevice) as error:
                failure = failure or error
                continue
            return data
        assert failure is not None  # there is at least one copy
        raise failure

    def _verify(self, data: bytes, sums: list[bytes], bytenr: int) -> None:
        if self._checksum is None:
            return
        for index, stored in enumerate(sums):
            at = index * self.sectorsize
            computed = self._checksum(data[at : at + self.sectorsize])
            if computed != stored:
                raise ChecksumMismatch(
                    structure="data extent",
                    offset=self.space.physical(bytenr + at),
                    expected=int.from_bytes(stored, "little"),
                    actual=int.from_bytes(computed, "little"),
                )

    def _sums(self, extent: Compressed) -> list[bytes]:
        """The stored checksums of the sectors of `extent`; none where one is missing."""
        tree = self._checksum_tree() if self._checksum is not None else None
        if tree is None or self._checksum is None:
            return []
        size = len(self._checksum(b""))
        end = extent.bytenr + extent.disk_bytes
        found: dict[int, bytes] = {}
        # An item may begin up to a leaf's worth of checksums before the extent.
        first = max(0, extent.bytenr - (64 << 10) // size * self.sectorsize)
        for (_, _, start), data in tree.items(
            (L.EXTENT_CSUM_OBJECT, L.EXTENT_CSUM_KEY, first), (L.EXTENT_CSUM_OBJECT, L.EXTENT_CSUM_KEY, end - 1)
        ):
            begin = max(0, (extent.bytenr - start) // self.sectorsize)
            for index in range(begin, min(len(data) // size, -(-(end - start) // self.sectorsize))):
                found[start + index * self.sectorsize] = data[index * size : index * size + size]
        places = range(extent.bytenr, end, self.sectorsize)
        return [found[place] for place in places] if all(place in found for place in places) else []


class _Window(NamedTuple):
    """Extents that cover the bytes from ``start`` to ``end`` without gaps; where computed, (extent, offset in it)."""

    start: int
    end: int
    starts: list[int]
    extents: list[Extent]
    compressed: dict[int, tuple[Compressed, int]]


class FileData(MappedDevice):
    """The `size` bytes of the file `ino` of `tree`."""

    def __init__(self, tree: Tree, ino: int, size: int, cache: ExtentCache, *, checked: bool) -> None:
        self.size = size
        self._tree = tree
        self._ino = ino
        self._cache = cache
        self._checked = checked
        self._window = _Window(0, 0, [], [], {})

    def extent(self, offset: int) -> Extent:
        window = self._window_at(offset)
        return window.extents[bisect_right(window.starts, offset) - 1]

    def _window_at(self, offset: int) -> _Window:
        window = self._window
        if not window.start <= offset < window.end:
            window = self._window = self._load(offset)
        return window

    def compute(self, offset: int, length: int) -> Buffer:
        parts: list[Buffer] = []
        while length:
            window = self._window_at(offset)
            start, extent_length, _, _ = window.extents[bisect_right(window.starts, offset) - 1]
            if start not in window.compressed:
                raise _bad("overlaps the extent of another leaf", start)
            extent, skip = window.compressed[start]
            part = min(length, start + extent_length - offset)
            at = skip + offset - start
            parts.append(memoryview(self._cache.read(extent))[at : at + part])
            offset += part
            length -= part
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _load(self, offset: int) -> _Window:
        """What one leaf says about the extents around `offset`."""
        ino = self._ino
        leaf, lower, upper = self._tree.find((ino, L.EXTENT_DATA_KEY, offset))
        start = lower[2] if lower[:2] == (ino, L.EXTENT_DATA_KEY) else 0
        end = upper[2] if upper[:2] == (ino, L.EXTENT_DATA_KEY) else max(self.size, offset + 1)
        first = bisect_left(leaf.items, (ino, L.EXTENT_DATA_KEY, 0))
        last = bisect_left(leaf.items, (ino, L.EXTENT_DATA_KEY + 1, 0))
        items = [(leaf.data, item) for item in leaf.items[first:last]]
        if start and (not items or items[0][1][2] > start):
            # A log took the first item away: what covers it now may be in a leaf before.
            items = self._before(start) + items
            start = min(start, items[0][1][2]) if items else start
        builder = _Builder(self, self._cache, self._checked, start)
        for data, item in items:
            builder.add(data, item)
        return builder.window(end)

    def _before(self, offset: int) -> list[tuple[bytes, Item]]:
        """The last item that begins before `offset`, with its leaf's data; none where there is none."""
        while offset:
            leaf, lower, _ = self._tree.find((self._ino, L.EXTENT_DATA_KEY, offset - 1))
            index = bisect_left(leaf.items, (self._ino, L.EXTENT_DATA_KEY, offset)) - 1
            if index >= 0 and leaf.items[index][:2] == (self._ino, L.EXTENT_DATA_KEY):
                return [(leaf.data, leaf.items[index])]
            offset = lower[2] if lower[:2] == (self._ino, L.EXTENT_DATA_KEY) else 0
        return []


class _Builder:
    def __init__(self, device: FileData, cache: ExtentCache, checked: bool, start: int) -> None:
        self._device = device
        self._cache = cache
        self._checked = checked
        self._start = self._position = start
        self._extents: list[Extent] = []
        self._compressed: dict[int, tuple[Compressed, int]] = {}

    def window(self, end: int) -> _Window:
        # Extents before the end of the file may be said to reach past it, and the last leaf's end is the file's.
        self._hole(end)
        starts = [extent.start for extent in self._extents]
        return _Window(self._start, self._position, starts, self._extents, self._compressed)

    def _hole(self, end: int) -> None:
        if end > self._position:
            self._extents.append(Extent(self._position, end - self._position, None))
            self._position = end

    def add(self, data: bytes, item: Item) -> None:
        _, _, start, at, size = item
        if size < L.INLINE_AT:
            raise _bad(f"{size} bytes", start)
        _, ram_bytes, compression, encryption, encoding, kind = _head(data, at)
        if start < self._position:
            raise _bad(f"begins at {start}, within the extent before it, which ends at {self._position}", start)
        if encryption or encoding or compression > L.COMPRESS_ZSTD:
            feature = f"compression {compression}, encryption {encryption}, encoding {encoding}"
            raise UnsupportedFeature(f"a Btrfs extent with {feature}", feature=feature)
        self._hole(start)
        if kind == L.EXTENT_INLINE:
            self._inline(data[at + L.INLINE_AT : at + size], start, ram_bytes, compression)
            return
        if kind > L.EXTENT_PREALLOC or size < L.INLINE_AT + L.FILE_EXTENT_DISK.size:
            raise _bad(f"type {kind} in {size} bytes", start)
        bytenr, disk_bytes, skip, length = _disk(data, at + L.INLINE_AT)
        if not length or length > L.MAX_U64 - start:
            raise _bad(f"num_bytes is {length}", start)
        if not bytenr or kind == L.EXTENT_PREALLOC:
            self._hole(start + length)
            return
        if compression:
            extent = Compressed(bytenr, disk_bytes, ram_bytes, compression, self._checked)
            self._add_compressed(start, length, skip, extent)
            return
        if skip + length > disk_bytes:
            raise _bad(f"{length} bytes from {skip} on, of an extent of {disk_bytes}", start)
        self._map(Extent(start, length, self._cache.space, bytenr + skip))

    def _map(self, extent: Extent) -> None:
        if self._extents:
            last = self._extents[-1]
            if last.source is extent.source and last.source_offset + last.length == extent.source_offset:
                self._extents.pop()
                extent = Extent(last.start, last.length + extent.length, last.source, last.source_offset)
        self._extents.append(extent)
        self._position = extent.start + extent.length

    def _add_compressed(self, start: int, length: int, skip: int, extent: Compressed) -> None:
        if skip + length > extent.ram_bytes or max(extent.ram_bytes, extent.disk_bytes) > MAX_EXTENT_BYTES:
            message = f"{length} bytes from {skip} on, of {extent.ram_bytes} compressed to {extent.disk_bytes}"
            raise _bad(message, start)
        self._compressed[start] = extent, skip
        self._extents.append(Extent(start, length, self._device, start))
        self._position = start + length

    def _inline(self, content: bytes, start: int, ram_bytes: int, compression: int) -> None:
        if start or not ram_bytes or ram_bytes > MAX_EXTENT_BYTES:
            raise _bad(f"inline extent of {ram_bytes} bytes", start)
        if compression:
            content = decompress(compression, content, ram_bytes, self._cache.sectorsize, offset=start)
        if len(content) < ram_bytes:
            raise _bad(f"inline extent of {ram_bytes} bytes in {len(content)}", start)
        self._extents.append(Extent(start, ram_bytes, MemoryDevice(content), 0))
        self._position = start + ram_bytes


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset)
