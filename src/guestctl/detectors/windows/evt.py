"""Event logs of Windows NT 4 to 2003.

Specification: "Event Log File Format" of Microsoft's documentation (``ELF_LOGFILE_HEADER``, ``EVENTLOGRECORD``,
``ELF_EOF_RECORD``). A log that is full goes on at its beginning; of one that was open while its machine stopped the
header is stale, and the record of its end tells where it begins. Texts of messages lie in libraries, and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.detectors.windows.evtx import Event

_MAGIC = b"LfLe"
_HEADER = Struct("<I4sIIII")  # bytes, magic, major and minor version, offsets of the oldest record and of the end
_HEADER_BYTES = 48
# bytes, magic, number, time, time written, identifier, type, strings, category, flags, closing record, offset of the
# strings, then bytes and offsets of the user's SID and of data
_RECORD = Struct("<I4sIIIIHHHHIIIIII")
_LENGTH = Struct("<I")
# bytes, four patterns, offset of the oldest record
_END_MAGIC = b"".join(bytes([one]) * 4 for one in (0x11, 0x22, 0x33, 0x44))
_END = Struct("<4x16sI")
_PADDING = 0x27  # where no record fits in the end of the file
_LEVELS = {1: 2, 2: 3, 4: 4, 8: 0, 16: 0}  # error, warning, information, audits -> level as Windows Vista has it
_MAX_BYTES = 256 << 20
_MAX_STRINGS = 64


class OldEventLog:
    """The records of a log, the oldest first. What is damaged ends it, and is said in ``errors``."""

    def __init__(self, device: BlockDevice) -> None:
        data = bytes(device.read(0, min(device.size, _MAX_BYTES)))
        if len(data) < _HEADER_BYTES or data[4:8] != _MAGIC:
            raise InvalidFormat("no event log", structure="file header", offset=0)
        _, _, major, minor, start, _ = _HEADER.unpack_from(data)
        if (major, minor) != (1, 1):
            raise UnsupportedFeature(f"event log of version {major}.{minor}", feature="event log version")
        self.errors: list[GuestctlError] = []
        end = data.find(_END_MAGIC, _HEADER_BYTES) - 4
        if end >= 0 and end + _END.size <= len(data):
            start = _END.unpack_from(data, end)[1]
        if not _HEADER_BYTES <= start <= len(data):
            raise InvalidFormat(f"the oldest record at {start:#x}", structure="file header", offset=16)
        self._start = start
        self._ring = data[start:] + data[_HEADER_BYTES:start]

    def events(self) -> Iterator[Event]:
        """Every event up to the end of the log, or to damage."""
        at, ring = 0, self._ring
        while at + _RECORD.size <= len(ring) and ring[at + 4 : at + 20] != _END_MAGIC:
            length, magic = _HEADER.unpack_from(ring, at)[:2]
            if length == _PADDING:
                at += 4
                continue
            end = at + length
            if magic != _MAGIC or length < _RECORD.size + 4 or end > len(ring):
                if any(ring[at:end]):
                    self.errors.append(_bad("no record", self._start + at))
                return
            if _LENGTH.unpack_from(ring, end - 4)[0] != length:
                self.errors.append(_bad("its lengths differ", self._start + at))
                return
            yield _event(ring[at:end])
            at = end


def _event(record: bytes) -> Event:
    _, _, number, seconds, _, identifier, kind, count, _, _, _, strings, *_ = _RECORD.unpack_from(record)
    source, computer, *_ = [*_strings(record[_RECORD.size :], 2), "", ""]
    texts = _strings(record[strings:-4], min(count, _MAX_STRINGS)) if count else []
    data = [("", text) for text in texts]
    return Event(number, seconds * 10**9, source, identifier & 0xFFFF, _LEVELS.get(kind), computer, data)


def _strings(data: bytes, count: int) -> list[str]:
    """The first `count` strings, which NULs end."""
    text = data[: len(data) & ~1].decode("utf-16-le", "replace")
    return text.split("\0", count)[:count]


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="event log record", offset=offset)
