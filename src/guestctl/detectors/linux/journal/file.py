"""``JournalFile``: one journal file, read-only, online, archived or damaged.

Entries come in bulk from chains of ENTRY_ARRAY objects. Those of one value (a unit, a boot) come from the chain
of its own DATA object, which is found in the list of its FIELD. Arrays and the list of a field only grow, so an
array lies after the one that leads to it, and a field's value before the one that leads to it; a chain that goes
the other way is damaged. Seals (TAG objects) are not verified, and hashes not needed.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator

from guestctl.block.cache import CachedDevice
from guestctl.block.device import BlockDevice
from guestctl.core.errors import EndOfDevice, InvalidFormat, UnsupportedFeature
from guestctl.detectors.linux.journal import layout
from guestctl.detectors.linux.journal.payload import MAX_BYTES, decompress

_PAGE_BYTES = 256 << 10
_PAGE_COUNT = 64
_FIRST_BYTES = 512  # most objects are smaller
_MAX_ITEMS = 1 << 14  # fields of one entry
_MAX_CACHED_FIELDS = 1 << 15
_MAX_CACHED_BYTES = 4096
_MAX_HASH_ITEMS = 1 << 16
_MAX_FIELDS = 1 << 16  # names, and values of one

Field = tuple[bytes, bytes]


class Entry:
    """An entry. Its times are microseconds; its fields are read when they are asked for."""

    __slots__ = ("_items", "boot_id", "file", "monotonic", "realtime", "seqnum", "xor_hash")

    def __init__(self, file: JournalFile, header: tuple[int, int, int, bytes, int], items: tuple[int, ...]) -> None:
        self.file = file
        self.seqnum, self.realtime, self.monotonic, self.boot_id, self.xor_hash = header
        self._items = items

    def fields(self) -> list[Field]:
        """(name, value) of each field in the order of the file; one that is damaged is left out."""
        found = []
        budget = MAX_BYTES
        for offset in self._items:
            try:
                field = self.file.field(offset)
            except InvalidFormat as error:
                self.file.damaged(error)
                continue
            budget -= len(field[1])
            if budget < 0:
                self.file.damaged(_invalid(f"an entry of more than {MAX_BYTES} bytes", offset))
                break
            found.append(field)
        return found


class JournalFile:
    """Raises `InvalidFormat` where `device` is no journal file, `UnsupportedFeature` where it is of a later kind."""

    def __init__(self, device: BlockDevice, path: str, warnings: list[str]) -> None:
        self.path = path
        self._warnings = warnings
        self._damages = 0
        self._device = CachedDevice(device, page_count=_PAGE_COUNT, page_bytes=_PAGE_BYTES)
        if device.size < layout.HEADER_MIN_BYTES:
            raise InvalidFormat(f"{device.size} bytes are no journal file", structure="journal header", offset=0)
        fields = layout.HEADER.unpack_from(self._device.read(0, layout.HEADER.size))
        signature, _, incompatible, self.state, self.file_id, self.machine_id, _, self.seqnum_id = fields[:8]
        if signature != layout.SIGNATURE:
            raise InvalidFormat("no signature", structure="journal header", offset=0)
        if incompatible & ~layout.INCOMPATIBLE_KNOWN:
            unknown = f"{incompatible & ~layout.INCOMPATIBLE_KNOWN:#x}"
            raise UnsupportedFeature(f"journal file with incompatible flags {unknown}", feature=unknown)
        self.compact = bool(incompatible & layout.INCOMPATIBLE_COMPACT)
        self._field_table, self._field_table_bytes = fields[12:14]
        self.n_entries, self.tail_seqnum, self.head_seqnum, self._entry_array = fields[16:20]
        self._payload = layout.COMPACT_DATA_PAYLOAD if self.compact else layout.DATA_PAYLOAD
        self._cache: dict[int, Field] = {}

    def damaged(self, error: Exception) -> None:
        """Note what is wrong, once for a file."""
        self._damages += 1
        if self._damages == 1:
            self._warnings.append(f"{self.path}: {error}")

    def offsets(self) -> array[int]:
        """Where the entries lie, in the order in which they were written."""
        return self._chain(self._entry_array, self.n_entries)

    def matching(self, name: bytes, values: frozenset[bytes]) -> list[int]:
        """Where the entries lie that have one of `values` in the field `name`, sorted."""
        found: set[int] = set()
        for _, value, first, chain, count in self.values(name):
            if value in values:
                found.update(self.entries_of(first, chain, count))
        return sorted(found)

    def entries_of(self, first: int, chain: int, count: int) -> array[int]:
        """The entries of a data object: the first lies in the object, the others in its chain."""
        found = array("Q", [first] if first and count else [])
        found.extend(self._chain(chain, count - 1) if count > 1 else ())
        return found

    def values(self, name: bytes) -> Iterator[tuple[bytes, bytes, int, int, int]]:
        """(name, value, entry_offset, entry_array_offset, n_entries) of each short value of a field.

        A value that is long or compressed is no unit, boot or priority, which is what is asked for.
        """
        offset = self._head_data_offset(name)
        # An entry takes 64 bytes, and may have one field some times.
        budget = self._device.size // 8
        for _ in range(_MAX_FIELDS):
            if not offset:
                return
            try:
                head = self._object(offset, layout.OBJECT_DATA, self._payload, self._payload)
                _, flags, length = layout.OBJECT.unpack_from(head)
                _, _, following, first, chain, count = layout.DATA.unpack_from(head)
                found, value = (b"", b"") if flags or length > _MAX_CACHED_BYTES else self.field(offset)
            except InvalidFormat as error:
                return self.damaged(error)
            budget -= count
            if budget < 0:
                return self.damaged(_invalid("more entries than the file has room for", offset))
            if found == name:
                yield found, value, first, chain, count
            if following >= offset:
                return self.damaged(_invalid("the list of a field goes round", offset))
            offset = following

    def entry(self, offset: int) -> Entry:
        """The entry at `offset`."""
        data = self._object(offset, layout.OBJECT_ENTRY, layout.ENTRY_ITEMS)
        item = layout.COMPACT_ENTRY_ITEM_BYTES if self.compact else layout.ENTRY_ITEM_BYTES
        count = (len(data) - layout.ENTRY_ITEMS) // item
        if not 0 < count <= _MAX_ITEMS:
            raise _invalid(f"an entry of {count} fields", offset)
        if self.compact:
            items = struct.unpack_from(f"<{count}I", data, layout.ENTRY_ITEMS)
        else:
            items = struct.unpack_from(f"<{2 * count}Q", data, layout.ENTRY_ITEMS)[::2]
        return Entry(self, layout.ENTRY.unpack_from(data), items)

    def field(self, offset: int) -> Field:
        """The name and the value in the data object at `offset`."""
        known = self._cache.get(offset)
        if known is not None:
            return known
        data = self._object(offset, layout.OBJECT_DATA, self._payload)
        flags = data[1]
        payload = decompress(flags, data[self._payload :], offset) if flags else bytes(data[self._payload :])
        name, equals, value = payload.partition(b"=")
        if not equals:
            raise _invalid("a field without a name", offset)
        if len(payload) <= _MAX_CACHED_BYTES:
            if len(self._cache) >= _MAX_CACHED_FIELDS:
                self._cache.clear()
            self._cache[offset] = name, value
        return name, value

    def _object(self, offset: int, kind: int, least: int, most: int | None = None) -> memoryview:
        """The object at `offset`, of which only the first `most` bytes are wanted."""
        size = self._device.size
        if offset % 8 or not layout.HEADER_MIN_BYTES <= offset <= size - layout.OBJECT.size:
            raise _invalid("no object can lie here", offset)
        data = memoryview(self._device.read(offset, min(_FIRST_BYTES, size - offset)))
        found, _, length = layout.OBJECT.unpack_from(data)
        if found != kind:
            raise InvalidFormat(
                "another type of object", structure="journal object", offset=offset, expected=kind, actual=found
            )
        if not least <= length <= size - offset or (most is None and length > MAX_BYTES):
            raise _invalid(f"an object of {length} bytes", offset)
        length = min(length, most or length)
        return data[:length] if length <= len(data) else memoryview(self._device.read(offset, length))

    def _chain(self, offset: int, count: int) -> array[int]:
        """The first `count` offsets in a chain of entry arrays, as far as it can be read."""
        found = array("Q")
        item = 4 if self.compact else 8
        while offset and len(found) < count:
            try:
                head = self._object(offset, layout.OBJECT_ENTRY_ARRAY, layout.ENTRY_ARRAY_ITEMS, 24)
                _, _, length = layout.OBJECT.unpack_from(head)
                (following,) = layout.ENTRY_ARRAY.unpack_from(head)
                take = min((length - layout.ENTRY_ARRAY_ITEMS) // item, count - len(found))
                part = array("I" if self.compact else "Q")  # of 4 and 8 bytes wherever Python runs
                part.frombytes(self._device.read(offset + layout.ENTRY_ARRAY_ITEMS, take * item))
            except (InvalidFormat, EndOfDevice) as error:
                self.damaged(error)
                break
            if sys.byteorder == "big":
                part.byteswap()
            found.extend(part.tolist() if self.compact else part)
            if following and following <= offset:
                self.damaged(_invalid("a chain of entry arrays goes back", offset))
                break
            offset = following
        # What was not yet written when the file was copied is zero.
        while found and not found[-1]:
            found.pop()
        return found

    def _head_data_offset(self, name: bytes) -> int:
        """Where the list of the values of a field begins; 0 where there is no such field."""
        count = self._field_table_bytes // layout.HASH_ITEM.size
        if count > _MAX_HASH_ITEMS:
            raise _invalid(f"{count} buckets of fields", self._field_table)
        table = self._device.read(self._field_table, count * layout.HASH_ITEM.size)
        seen = 0
        for offset, _ in layout.HASH_ITEM.iter_unpack(table):
            while offset and seen < _MAX_FIELDS:
                seen += 1
                most = layout.FIELD_PAYLOAD + len(name) + 1
                data = self._object(offset, layout.OBJECT_FIELD, layout.FIELD_PAYLOAD, most)
                _, following, head = layout.FIELD.unpack_from(data)
                if data[layout.FIELD_PAYLOAD :] == name:
                    return int(head)
                offset = following
        return 0


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="journal object", offset=offset)
