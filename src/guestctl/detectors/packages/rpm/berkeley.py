"""``Packages``, a Berkeley DB database, by the layout of its pages in the documentation of Oracle Berkeley DB.

Hash and B-tree databases of both byte orders are read: all pages are gone through, and of each the
items. An item that does not fit its page lies in a chain of overflow pages. Encrypted databases are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from guestctl.core.errors import InvalidFormat, UnsupportedFeature

_MAGIC_OFFSET = 12
_HASH, _BTREE = 0x00061561, 0x00053162
_META = "8xIIIIB3xII"  # page number, magic, version, page size, encryption; free list, last page
_PAGE = "8xIIIHHBB"  # page number, previous, next, entries, offset of the data's end, level, type
_PAGE_BYTES = 26
_ENCRYPTION_OFFSET = 24
_P_HASH_UNSORTED, _P_LBTREE, _P_OVERFLOW, _P_HASH = 2, 5, 7, 13
_KEYDATA, _OFFPAGE, _OVERFLOW = 1, 3, 3
_MIN_PAGE, _MAX_PAGE = 512, 64 << 10


def headers(database: bytes) -> Iterator[bytes]:
    """The headers in `database`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    yield from _Database(database).values()


class _Database:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = self._byte_order()
        if data[_ENCRYPTION_OFFSET]:
            raise UnsupportedFeature("an encrypted rpm database", feature="encrypted Berkeley DB")
        _, magic, _, self._page_size, _, _, last = Struct(self._order + _META).unpack_from(data)
        self._hash = magic == _HASH
        if not _MIN_PAGE <= self._page_size <= _MAX_PAGE or self._page_size & (self._page_size - 1):
            raise _bad(f"pages of {self._page_size} bytes", 0)
        self._pages = min(last + 1, len(data) // self._page_size)
        self._page = Struct(self._order + _PAGE).unpack_from
        self._large = Struct(self._order + "4xII").unpack_from  # of an item: first overflow page, bytes
        self._short = Struct(self._order + "HB").unpack_from  # of a B-tree's item: bytes, type
        self._left = len(data)  # what values may still take, so that chains are not read without end

    def _byte_order(self) -> str:
        if len(self._data) < _MIN_PAGE:
            raise _bad(f"{len(self._data)} bytes", 0)
        for order in "<>":
            if Struct(f"{order}I").unpack_from(self._data, _MAGIC_OFFSET)[0] in (_HASH, _BTREE):
                return order
        raise _bad("no Berkeley DB database", 0)

    def values(self) -> Iterator[bytes]:
        """The values of all pairs but that of key 0, which counts packages."""
        types = (_P_HASH, _P_HASH_UNSORTED) if self._hash else (_P_LBTREE,)
        item = self._hash_item if self._hash else self._tree_item
        for number in range(1, self._pages):
            at = number * self._page_size
            _, _, _, entries, _, _, kind = self._page(self._data, at)
            if kind not in types:
                continue
            if _PAGE_BYTES + 2 * entries > self._page_size:
                raise _bad(f"{entries} entries", at)
            offsets = Struct(f"{self._order}{entries}H").unpack_from(self._data, at + _PAGE_BYTES)
            for index in range(0, entries - 1, 2):
                key = item(at, offsets, index)
                if key is not None and any(key):
                    value = item(at, offsets, index + 1)
                    if value is not None:
                        yield value

    def _hash_item(self, page: int, offsets: tuple[int, ...], index: int) -> bytes | None:
        """An item reaches up to the one before it."""
        end = offsets[index - 1] if index else self._page_size
        start = offsets[index]
        if not _PAGE_BYTES <= start < end <= self._page_size:
            raise _bad(f"an item from {start} to {end}", page)
        kind = self._data[page + start]
        if kind == _OFFPAGE:
            return self._overflow(page + start)
        return self._data[page + start + 1 : page + end] if kind == _KEYDATA else None

    def _tree_item(self, page: int, offsets: tuple[int, ...], index: int) -> bytes | None:
        start = offsets[index]
        if not _PAGE_BYTES <= start <= self._page_size - 3:
            raise _bad(f"an item at {start}", page)
        length, kind = self._short(self._data, page + start)
        if kind == _OVERFLOW:
            return self._overflow(page + start)
        if kind != _KEYDATA:
            return None  # deleted, or a duplicate
        if start + 3 + length > self._page_size:
            raise _bad(f"an item of {length} bytes at {start}", page)
        return self._data[page + start + 3 : page + start + 3 + length]

    def _overflow(self, at: int) -> bytes:
        if at + 12 > len(self._data):
            raise _bad("an item is cut off", at)
        number, length = self._large(self._data, at)
        self._left -= length
        if self._left < 0:
            raise _bad(f"{length} bytes, and with others more than there are", at)
        parts, found = [], 0
        while number and found < length:
            page = number * self._page_size
            if number >= self._pages:
                raise _bad(f"overflow page {number} of {self._pages}", at)
            _, _, following, _, used, _, kind = self._page(self._data, page)
            if kind != _P_OVERFLOW or not 0 < used <= self._page_size - _PAGE_BYTES:
                raise _bad(f"page {number} has type {kind} and {used} bytes", page)
            parts.append(self._data[page + _PAGE_BYTES : page + _PAGE_BYTES + used])
            found += used
            number = following
        if found != length:
            raise _bad(f"{found} bytes in the overflow pages of {length}", at)
        return b"".join(parts)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="Berkeley DB page", offset=offset)
