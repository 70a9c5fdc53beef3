"""``Overlay``: writes on top of a device that is never written."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import IO

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice, zeros
from guestctl.core.errors import EndOfDevice

_PAGE_BYTES = 4096
_SEGMENT_PAGES = 256
_DISCARDED = -1


class Overlay(MappedDevice):
    """Copy-on-write over `base`, in memory, and past `memory_limit` bytes in a sparse temporary file."""

    def __init__(self, base: BlockDevice, *, memory_limit: int = 64 << 20) -> None:
        self.base = base
        self.size = base.size
        self.sector_size = base.sector_size
        self._store = _PageStore(memory_limit)
        self._slots: dict[int, int] = {}  # page number -> slot in the store, or _DISCARDED
        self._sorted: list[int] | None = []

    def write(self, offset: int, data: Buffer) -> None:
        """Put `data` at `offset`; raises `EndOfDevice` past the end."""
        view = memoryview(data).cast("B")
        self.check_range(offset, len(view))
        done = 0
        while done < len(view):
            page, skip = divmod(offset + done, _PAGE_BYTES)
            part = min(_PAGE_BYTES - skip, len(view) - done)
            slot = self._slots.get(page)
            if part == _PAGE_BYTES or (page * _PAGE_BYTES + skip + part == self.size and not skip):
                content = bytearray(view[done : done + part])
            else:
                content = bytearray(self._page(page, slot))
                content[skip : skip + part] = view[done : done + part]
            if slot is None or slot == _DISCARDED:
                slot = self._store.allocate()
                self._assign(page, slot)
            self._store.put(slot, content)
            done += part

    def discard(self, offset: int, length: int) -> None:
        """Make the range read as zeros."""
        self.check_range(offset, length)
        first = -(-offset // _PAGE_BYTES)
        end = offset + length
        last = -(-end // _PAGE_BYTES) if end == self.size else end // _PAGE_BYTES
        if first >= last:
            self.write(offset, zeros(length))
            return
        self.write(offset, zeros(first * _PAGE_BYTES - offset))
        for page in range(first, last):
            self._assign(page, _DISCARDED)
        if last * _PAGE_BYTES < end:
            self.write(last * _PAGE_BYTES, zeros(end - last * _PAGE_BYTES))

    def extent(self, offset: int) -> Extent:
        page = offset // _PAGE_BYTES
        start = page * _PAGE_BYTES
        slot = self._slots.get(page)
        if slot is None:
            if self._sorted is None:
                self._sorted = sorted(self._slots)
            index = bisect_left(self._sorted, page)
            end = self._sorted[index] * _PAGE_BYTES if index < len(self._sorted) else self.size
            return Extent(start, end - start, self.base, start)
        step = 0 if slot == _DISCARDED else 1
        count = 1
        while self._slots.get(page + count) == slot + count * step:
            count += 1
        length = min(count * _PAGE_BYTES, self.size - start)
        if slot == _DISCARDED:
            return Extent(start, length, None)
        return Extent(start, length, self._store, slot * _PAGE_BYTES)

    def close(self) -> None:
        self._store.close()

    def _page(self, page: int, slot: int | None) -> Buffer:
        start = page * _PAGE_BYTES
        if slot is None:
            return self.base.read(start, min(_PAGE_BYTES, self.size - start))
        if slot == _DISCARDED:
            return zeros(_PAGE_BYTES)
        return self._store.read(slot * _PAGE_BYTES, _PAGE_BYTES)

    def _assign(self, page: int, slot: int) -> None:
        if page not in self._slots:
            self._sorted = None
        self._slots[page] = slot


class _PageStore(BlockDevice):
    """Pages in the order they were allocated: segments of memory, then a file."""

    def __init__(self, memory_limit: int) -> None:
        self.size = 0
        self._memory_limit = memory_limit
        self._segments: list[bytearray] = []
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()  # the file has one cursor

    def allocate(self) -> int:
        slot = self.size // _PAGE_BYTES
        if self._file is None and self.size >= self._memory_limit:
            import tempfile

            self._file = tempfile.TemporaryFile(prefix="guestctl-overlay-")
            for segment in self._segments:
                self._file.write(segment)
            self._segments.clear()
        elif self._file is None and slot % _SEGMENT_PAGES == 0:
            self._segments.append(bytearray(_SEGMENT_PAGES * _PAGE_BYTES))
        self.size += _PAGE_BYTES
        return slot

    def put(self, slot: int, content: bytearray) -> None:
        if self._file is not None:
            with self._lock:
                self._file.seek(slot * _PAGE_BYTES)
                self._file.write(content)
            return
        segment, page = divmod(slot, _SEGMENT_PAGES)
        start = page * _PAGE_BYTES
        self._segments[segment][start : start + len(content)] = content

    def read(self, offset: int, length: int) -> Buffer:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise EndOfDevice(offset=offset, length=length, size=self.size)
        if self._file is not None:
            with self._lock:
                self._file.seek(offset)
                return self._file.read(length).ljust(length, b"\0")
        parts = []
        while length:
            segment, start = divmod(offset, _SEGMENT_PAGES * _PAGE_BYTES)
            part = bytes(memoryview(self._segments[segment])[start : start + length])
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._segments.clear()
