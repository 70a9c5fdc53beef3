"""A page cache for devices whose every read is expensive."""

from __future__ import annotations

import threading
from collections import OrderedDict

from guestctl.block.device import BlockDevice, Buffer


class CachedDevice(BlockDevice):
    """Keeps the last used pages of `parent`, 16 MiB of them unless told otherwise."""

    def __init__(self, parent: BlockDevice, *, page_count: int = 256, page_bytes: int = 64 << 10) -> None:
        self.parent = parent
        self.size = parent.size
        self.sector_size = parent.sector_size
        self._page_count = page_count
        self._page_bytes = page_bytes
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        if not length:
            return b""
        first, skip = divmod(offset, self._page_bytes)
        last = (offset + length - 1) // self._page_bytes
        if last - first >= self._page_count:
            return self.parent.read(offset, length)
        if first == last:
            return memoryview(self._page(first))[skip : skip + length]
        joined = b"".join(self._page(page) for page in range(first, last + 1))
        return memoryview(joined)[skip : skip + length]

    def _page(self, number: int) -> bytes:
        with self._lock:
            page = self._pages.get(number)
            if page is not None:
                self._pages.move_to_end(number)
                return page
        start = number * self._page_bytes
        page = bytes(self.parent.read(start, min(self._page_bytes, self.size - start)))
        with self._lock:
            self._pages[number] = page
            while len(self._pages) > self._page_count:
                self._pages.popitem(last=False)
        return page
