"""Event logs of Windows Vista and later.

Specification: "Windows XML Event Log (EVTX) format". A file has a header and chunks of 64 KiB, each sound in itself
with two checksums; a log that was open while its machine stopped has a stale header, so that the chunks themselves
are asked what they hold. Versions 3.0 to 3.2 are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.detectors.windows.binxml import BinXml
from guestctl.detectors.windows.filetime import filetime_ns

_FILE_MAGIC = b"ElfFile\0"
_FILE_HEADER = Struct("<8s24xIHHH")  # magic; bytes of the header, minor and major version, bytes of its block
_CHUNK_MAGIC = b"ElfChnk\0"
# magic, first and last record numbers, the same of identifiers, bytes of the header, offsets of the last record and
# of free space, checksum of the records
_CHUNK_HEADER = Struct("<8sQQQQIIII")
_CHUNK_BYTES = 64 << 10
_RECORDS_OFFSET = 512
_CHECKSUM = Struct("<I")
_CHECKSUM_OFFSET = 124
_RECORD = Struct("<4sIQQ")  # magic, bytes, identifier, time
_RECORD_MAGIC = b"**\0\0"
_MAX_CHUNKS = 1 << 14  # 1 GiB
_MAX_DATA = 64
_MAX_ERRORS = 16  # in a chunk


class Event(NamedTuple):
    """One record. ``data`` are the values of EventData or UserData, with their names as far as they have some."""

    id: int
    time_ns: int  # since 1970
    provider: str
    event_id: int | None
    level: int | None
    computer: str
    data: list[tuple[str, str]]


class EventLog:
    """The records of a log, the oldest first. What is damaged is passed over, and said in ``errors``."""

    def __init__(self, device: BlockDevice) -> None:
        header = bytes(device.read(0, min(device.size, 128)))
        if len(header) < 128 or not header.startswith(_FILE_MAGIC):
            raise InvalidFormat("no event log", structure="file header", offset=0)
        _, _, minor, major, block = _FILE_HEADER.unpack_from(header)
        if major != 3 or minor > 2:
            raise UnsupportedFeature(f"event log of version {major}.{minor}", feature="event log version")
        self.errors: list[GuestctlError] = []
        self._device = device
        self._first = block

    def events(self) -> Iterator[Event]:
        """Every event of the sound chunks."""
        for _, offset in sorted(self._chunks()):
            chunk = bytes(self._device.read(offset, _CHUNK_BYTES))
            try:
                yield from self._events(chunk, offset)
            except InvalidFormat as error:
                self.errors.append(error)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """(number of the first record, offset); a log that is full goes on at its beginning."""
        last = min(self._device.size - _CHUNK_BYTES, self._first + _MAX_CHUNKS * _CHUNK_BYTES)
        for offset in range(self._first, last + 1, _CHUNK_BYTES):
            magic, number, *_ = _CHUNK_HEADER.unpack(self._device.read(offset, _CHUNK_HEADER.size))
            if magic == _CHUNK_MAGIC:
                yield number, offset
            elif magic != bytes(8):
                self.errors.append(_bad("no chunk", offset))

    def _events(self, chunk: bytes, offset: int) -> Iterator[Event]:
        *_, free, checksum = _CHUNK_HEADER.unpack_from(chunk)
        if not _RECORDS_OFFSET <= free <= _CHUNK_BYTES:
            raise _bad(f"free space at {free:#x}", offset)
        stored = _CHECKSUM.unpack_from(chunk, _CHECKSUM_OFFSET)[0]
        if crc32(chunk[128:_RECORDS_OFFSET], crc32(chunk[:120])) != stored:
            raise _bad("wrong checksum of its header", offset)
        if crc32(chunk[_RECORDS_OFFSET:free]) != checksum:
            raise _bad("wrong checksum of its records", offset)
        xml, at, before = BinXml(chunk), _RECORDS_OFFSET, len(self.errors)
        while at + _RECORD.size <= free:
            magic, size, record_id, ticks = _RECORD.unpack_from(chunk, at)
            if magic != _RECORD_MAGIC or not _RECORD.size + 4 <= size <= free - at:
                raise _bad(f"no record at {at:#x}", offset)
            try:
                time_ns = filetime_ns(ticks)
                if time_ns is None:
                    raise _bad(f"a time of {ticks:#x}", offset + at)
                texts = xml.texts(at + _RECORD.size, at + size - 4)
                yield _event(record_id, time_ns, texts)
            except InvalidFormat as error:
                self.errors.append(_bad(f"record {record_id}: {error}", offset))
                if len(self.errors) - before > _MAX_ERRORS:
                    raise _bad("too much damage", offset) from error
            at += size


def _event(record_id: int, time_ns: int, texts: Iterator[tuple[str, str]]) -> Event:
    system: dict[str, str] = {}
    data: list[tuple[str, str]] = []
    name = ""
    for path, text in texts:
        if path.startswith("/Event/System/"):
            system[path[14:]] = text
        elif path.endswith("/Data@Name"):
            name = text
        elif "@" not in path and len(data) < _MAX_DATA:
            last = path.rpartition("/")[2]
            data.append((name if last == "Data" else last, text))
            name = ""
    return Event(
        record_id,
        time_ns,
        system.get("Provider@Name", ""),
        _number(system.get("EventID")),
        _number(system.get("Level")),
        system.get("Computer", ""),
        data,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 10 else None


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="chunk of an event log", offset=offset)
