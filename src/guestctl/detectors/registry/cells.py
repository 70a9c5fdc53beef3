"""The cells of a hive: reading one by its offset, lists of subkeys, data of values."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.registry import layout as L

# No value is larger: Windows itself keeps them under 1 MiB, and key names under 512 bytes.
_MAX_DATA_BYTES = 64 << 20
_MAX_CELL_BYTES = 64 << 20
_WINDOW_BITS = 16
_WINDOW_MASK = (1 << _WINDOW_BITS) - 1
_WINDOW_BYTES = (1 << _WINDOW_BITS) + (8 << 10)
_MAX_WINDOWS = 256
_CELL_SIZE = L.CELL_SIZE.unpack_from
# Of the keys of one list, and of the lists of one root.
_MAX_ELEMENTS = 1 << 20


class Cells:
    """Random access to the cells of `device`; offsets as the hive has them.

    What was read last is kept in windows, which overlap, so that few cells reach over the end of theirs.
    """

    def __init__(self, device: BlockDevice, bins_bytes: int, minor: int) -> None:
        self._device = device
        self.bins_bytes = min(bins_bytes, device.size - L.BASE_BLOCK_BYTES)
        self._minor = minor
        self._windows: dict[int, bytes] = {}

    def read(self, offset: int, least: int, structure: str) -> bytes:
        """The content of the cell at `offset`, which has `least` bytes or more. Raises `InvalidFormat`."""
        window = self._windows.get(offset >> _WINDOW_BITS)
        if window is None:
            window = self._window(offset >> _WINDOW_BITS)
        start = (offset & _WINDOW_MASK) + 4
        if offset & 7 or start > len(window):
            raise bad(f"a cell at {offset:#x} of {self.bins_bytes:#x}", offset, structure)
        size = abs(_CELL_SIZE(window, start - 4)[0])
        end = start - 4 + size
        if least <= size - 4 and end <= len(window):
            return window[start:end]
        if not least <= size - 4 <= min(_MAX_CELL_BYTES, self.bins_bytes - offset - 4):
            raise bad(f"a cell of {size} bytes", offset, structure)
        return bytes(self._device.read(L.BASE_BLOCK_BYTES + offset + 4, size - 4))

    def _window(self, number: int) -> bytes:
        offset = number << _WINDOW_BITS
        length = max(0, min(_WINDOW_BYTES, self.bins_bytes - offset))
        while len(self._windows) >= _MAX_WINDOWS:
            del self._windows[next(iter(self._windows))]
        window = bytes(self._device.read(L.BASE_BLOCK_BYTES + offset, length)) if length else b""
        self._windows[number] = window
        return window

    def offsets(self, offset: int, count: int, structure: str) -> tuple[int, ...]:
        """A list of `count` offsets of cells."""
        if count > _MAX_ELEMENTS:
            raise bad(f"{count} elements", offset, structure)
        cell = self.read(offset, 4 * count, structure)
        return unpack_from(f"<{count}I", cell)

    def subkeys(self, offset: int) -> Iterator[int]:
        """The offsets of the keys in a list of subkeys, of whichever kind."""
        signature, cell, count = self._list(offset)
        if signature != L.ROOT_LIST:
            return iter(self._leaf(signature, cell, count, offset))
        if L.LIST.size + 4 * count > len(cell):
            raise bad(f"{count} elements in {len(cell)} bytes", offset, "subkeys list")
        return self._of_root(unpack_from(f"<{count}I", cell, L.LIST.size))

    def _of_root(self, leaves: tuple[int, ...]) -> Iterator[int]:
        left = self.bins_bytes // L.KEY.size
        for leaf in leaves:
            found = self._leaf(*self._list(leaf), leaf)
            left -= len(found)
            if left < 0:
                raise bad("more keys than the hive has room for", leaf, "subkeys list")
            yield from found

    def _list(self, offset: int) -> tuple[bytes, bytes, int]:
        cell = self.read(offset, L.LIST.size, "subkeys list")
        signature, count = L.LIST.unpack_from(cell)
        return signature, cell, count

    def _leaf(self, signature: bytes, cell: bytes, count: int, offset: int) -> tuple[int, ...]:
        step = L.LEAVES.get(signature)
        if step is None or L.LIST.size + step * count > len(cell):
            raise bad(f"signature is {signature!r}, {count} elements", offset, "subkeys list")
        return unpack_from(f"<{step * count // 4}I", cell, L.LIST.size)[:: step // 4]

    def data(self, offset: int, size: int) -> bytes:
        """The `size` bytes of a value's data that are not in the value itself."""
        if size > _MAX_DATA_BYTES:
            raise bad(f"a value of {size} bytes", offset, "value data")
        if size > L.SEGMENT_BYTES and self._minor >= L.BIG_DATA_MINOR:
            cell = self.read(offset, L.BIG_DATA.size, "big data")
            signature, count, segments = L.BIG_DATA.unpack_from(cell)
            if signature == L.BIG_DATA_MAGIC:
                return self._segments(offset, size, count, segments)
        return self.read(offset, size, "value data")[:size]

    def _segments(self, offset: int, size: int, count: int, segments: int) -> bytes:
        if count != -(-size // L.SEGMENT_BYTES):
            raise bad(f"{count} segments of {size} bytes", offset, "big data")
        parts = []
        for segment in self.offsets(segments, count, "big data"):
            length = min(size, L.SEGMENT_BYTES)
            parts.append(self.read(segment, length, "big data")[:length])
            size -= length
        return b"".join(parts)


def bad(message: str, offset: int, structure: str) -> InvalidFormat:
    """An error at the offset of a cell."""
    return InvalidFormat(message, structure=structure, offset=L.BASE_BLOCK_BYTES + offset)
