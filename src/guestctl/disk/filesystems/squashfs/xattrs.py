"""Extended attributes (section 3.8): a table of lists, whose values may be stored once for several."""

from __future__ import annotations

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.squashfs import layout as L
from guestctl.disk.filesystems.squashfs.metadata import Cursor, Metadata, Table

# As Linux: the bytes of the names of a file, and of one value. Names have five bytes at least, and their end.
_MAX_NAMES = 65536 // 6
_MAX_VALUE_BYTES = 65536
# Values out of line may be shared, and so cost nothing to name.
_MAX_BYTES = 16 << 20


class XattrTable:
    """All extended attributes of a filesystem."""

    def __init__(self, device: BlockDevice, metadata: Metadata, offset: int) -> None:
        self._metadata = metadata
        self._offset = offset
        head = device.read(offset, L.XATTR_TABLE.size)
        self._start, count = L.XATTR_TABLE.unpack(head)
        self._lists = Table(device, metadata, offset + L.XATTR_TABLE.size, count, L.XATTR_ID)

    def size(self, index: int) -> int:
        """The bytes of the list with this number."""
        return int(self._lists[index][2])

    def read(self, index: int) -> dict[str, bytes]:
        """The list with this number. Raises `InvalidFormat`, and `UnsupportedFeature` for an unknown namespace."""
        place, count, _ = self._lists[index]
        if count > _MAX_NAMES:
            raise self._bad(f"{count} attributes")
        cursor = self._cursor(place)
        found: dict[str, bytes] = {}
        total = 0
        for _ in range(count):
            kind, size = cursor.unpack(L.XATTR_ENTRY)
            prefix = L.XATTR_PREFIXES.get(kind & 0xFF)
            if prefix is None:
                raise UnsupportedFeature(f"extended attributes of type {kind & 0xFF}", feature="namespace")
            name = cursor.take(size).decode("utf-8", "surrogateescape")
            value = self._value(cursor)
            if kind & L.XATTR_OUT_OF_LINE:
                if len(value) != L.POINTER.size:
                    raise self._bad(f"a reference of {len(value)} bytes")
                value = self._value(self._cursor(*L.POINTER.unpack(value)))
            total += len(value)
            if total > _MAX_BYTES:
                raise self._bad(f"more than {_MAX_BYTES} bytes of values")
            found[prefix + name] = value
        return found

    def _cursor(self, place: int) -> Cursor:
        return self._metadata.cursor(self._start + (place >> 16), place & 0xFFFF)

    def _value(self, cursor: Cursor) -> bytes:
        (size,) = cursor.unpack(L.XATTR_VALUE)
        if size > _MAX_VALUE_BYTES:
            raise self._bad(f"a value of {size} bytes")
        return cursor.take(size)

    def _bad(self, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure="xattr table", offset=self._offset)
