"""Event logs made from the specification of their format: what the tests know of a log that Windows would write."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

_EPOCH_TICKS = 116_444_736_000_000_000
_SPLIT = 64  # bytes of a record that lie before the end of a file
_GUID = bytes(range(16))
STRING, U8, U16, U64, FILETIME, STRINGS = 0x01, 0x04, 0x06, 0x0A, 0x11, 0x81


class Record(NamedTuple):
    """An event; ``data`` are (name, text), or texts for one value that is an array of strings."""

    id: int
    seconds: int  # since 1970
    provider: str
    event_id: int
    level: int
    data: Sequence[tuple[str, str]] | Sequence[str] = ()


class _Chunk:
    def __init__(self) -> None:
        self.body = bytearray(512)
        self.names: dict[str, int] = {}
        self.templates: dict[object, int] = {}

    def name(self, text: str) -> None:
        """The offset of a name, and behind it the name where it is new."""
        at = len(self.body) + 4
        if text in self.names:
            self.body += struct.pack("<I", self.names[text])
            return
        self.names[text] = at
        code = 0
        for character in text:
            code = (code * 65599 + ord(character)) & 0xFFFFFFFF
        self.body += struct.pack("<IIHH", at, 0, code & 0xFFFF, len(text)) + text.encode("utf-16-le") + bytes(2)

    def element(self, text: str, attributes: Sequence[tuple[str, str | tuple[int, int]]] = ()) -> int:
        start = len(self.body) + 3
        self.body += struct.pack("<BHI", 0x41 if attributes else 0x01, 0xFFFF, 0)
        self.name(text)
        if attributes:
            at = len(self.body)
            self.body += bytes(4)
            for number, (name, value) in enumerate(attributes, 1):
                self.body += b"\x46" if number < len(attributes) else b"\x06"
                self.name(name)
                self.value(value)
            struct.pack_into("<I", self.body, at, len(self.body) - at - 4)
        self.body += b"\x02"
        return start

    def end(self, start: int) -> None:
        self.body += b"\x04"
        struct.pack_into("<I", self.body, start, len(self.body) - start - 4)

    def value(self, value: str | tuple[int, int]) -> None:
        if isinstance(value, str):
            self.body += struct.pack("<BBH", 0x05, STRING, len(value)) + value.encode("utf-16-le")
        else:
            self.body += struct.pack("<BHB", 0x0D, *value)

    def leaf(self, name: str, value: str | tuple[int, int], attributes: Sequence[tuple[str, str]] = ()) -> None:
        start = self.element(name, attributes)
        self.value(value)
        self.end(start)

    def template(self, record: Record) -> None:
        """The event with places for its values: identifier, level, record, time, provider, then the data."""
        body = len(self.body)
        self.body += bytes(4) + _GUID + bytes(4) + b"\x0f\x01\x01\x00"
        event = self.element("Event", [("xmlns", "http://schemas.microsoft.com/win/2004/08/events/event")])
        system = self.element("System")
        start = self.element("Provider", [("Name", (4, STRING))])
        self.end(start)
        self.leaf("EventID", (0, U16))
        self.leaf("Level", (1, U8))
        start = self.element("TimeCreated", [("SystemTime", (3, FILETIME))])
        self.end(start)
        self.leaf("EventRecordID", (2, U64))
        self.leaf("Channel", "System")
        self.leaf("Computer", "WIN-GUEST")
        self.end(system)
        data = self.element("EventData")
        for number, one in enumerate(record.data if _named(record) else record.data[:1]):
            if isinstance(one, str):
                self.leaf("Data", (5, STRINGS))
            else:
                self.leaf("Data", (5 + number, STRING), [("Name", one[0])])
        self.end(data)
        self.end(event)
        self.body += b"\x00"
        struct.pack_into("<I", self.body, body + 20, len(self.body) - body - 24)

    def record(self, record: Record) -> int:
        start = len(self.body)
        ticks = record.seconds * 10_000_000 + _EPOCH_TICKS
        self.body += struct.pack("<4sIQQ", b"**\0\0", 0, record.id, ticks) + b"\x0f\x01\x01\x00"
        shape = tuple(one[0] for one in record.data) if _named(record) else len(record.data[:1])
        self.body += struct.pack("<BBI", 0x0C, 1, 1)
        known = self.templates.get(shape)
        self.body += struct.pack("<I", known or len(self.body) + 4)
        if known is None:
            self.templates[shape] = len(self.body)
            self.template(record)
        values = [
            (U16, struct.pack("<H", record.event_id)),
            (U8, struct.pack("<B", record.level)),
            (U64, struct.pack("<Q", record.id)),
            (FILETIME, struct.pack("<Q", ticks)),
            (STRING, record.provider.encode("utf-16-le")),
        ]
        if _named(record):
            values += [(STRING, one[1].encode("utf-16-le")) for one in record.data]
        elif record.data:
            values.append((STRINGS, "".join(f"{one}\0" for one in record.data).encode("utf-16-le")))
        self.body += struct.pack("<I", len(values))
        for kind, data in values:
            self.body += struct.pack("<HBB", len(data), kind, 0)
        for _, data in values:
            self.body += data
        size = len(self.body) - start + 4
        size += -size % 8
        self.body += bytes(start + size - 4 - len(self.body)) + struct.pack("<I", size)
        struct.pack_into("<I", self.body, start + 4, size)
        return start

    def finish(self, last: int, first_number: int, count: int, ids: tuple[int, int]) -> bytes:
        numbers = (first_number, first_number + count - 1)
        free = len(self.body)
        head = struct.pack("<8sQQQQIII", b"ElfChnk\0", *numbers, *ids, 128, last, free)
        self.body[: len(head) + 4] = head + struct.pack("<I", crc32(self.body[512:]))
        struct.pack_into("<I", self.body, 124, crc32(self.body[128:512], crc32(self.body[:120])))
        return bytes(self.body.ljust(65536, b"\0"))


def _named(record: Record) -> bool:
    return bool(record.data) and not isinstance(record.data[0], str)


def make_log(*chunks: Sequence[Record], dirty: bool = False) -> bytes:
    """A log with these records in its chunks."""
    made, number = b"", 1
    for records in chunks:
        chunk = _Chunk()
        last = [chunk.record(record) for record in records][-1]
        made += chunk.finish(last, number, len(records), (records[0].id, records[-1].id))
        number += len(records)
    count = len(chunks)
    head = struct.pack("<8sQQQIHHHH", b"ElfFile\0", 0, count - 1, number, 128, 1, 3, 4096, count).ljust(120, b"\0")
    return (head + struct.pack("<II", int(dirty), crc32(head))).ljust(4096, b"\0") + made


def make_old_log(records: Sequence[Record], *, start: int = 0, dirty: bool = False) -> bytes:
    """A log of Windows XP; with `start` its oldest record is there, and goes on at the beginning of the file."""
    made = []
    for record in records:
        names = f"{record.provider}\0XP-GUEST\0".encode("utf-16-le")
        texts = [one if isinstance(one, str) else one[1] for one in record.data]
        strings = "".join(f"{text}\0" for text in texts).encode("utf-16-le")
        length = 56 + len(names) + len(strings) + 4
        padding = -length % 4
        kind = {2: 1, 3: 2, 4: 4}[record.level]
        numbers = (record.id, record.seconds, record.seconds, 0x80000000 | record.event_id, kind, len(texts), 0, 0, 0)
        head = struct.pack("<I4sIIIIHHHHI", length + padding, b"LfLe", *numbers)
        head += struct.pack("<IIIII", 56 + len(names), 0, 56 + len(names), 0, 56 + len(names) + len(strings))
        made.append(head + names + strings + bytes(padding) + struct.pack("<I", length + padding))
    body = b"".join(made)
    first, last = (start or 48), 48 + len(body)
    if start:
        body = b"".join((made[0][_SPLIT:], *made[1:]))
        last = 48 + len(body)
    end = struct.pack(
        "<IIIIIIIII", 40, *(0x11111111 * n for n in range(1, 5)), first, last, records[-1].id + 1, records[0].id
    )
    body += end + struct.pack("<I", 40)
    if start:
        body = body.ljust(start - 48, b"\0") + made[0][:_SPLIT]
    size = 48 + len(body)
    values = (
        1,
        1,
        48 if dirty else first,
        48 if dirty else last,
        records[-1].id + 1,
        records[0].id,
        size,
        int(dirty),
        0,
        48,
    )
    return struct.pack("<I4s10I", 48, b"LfLe", *values) + body
