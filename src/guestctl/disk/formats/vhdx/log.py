"""The log of a VHDX file, replayed in memory ([MS-VHDX] 2.3).

The log is a ring of entries; each says what is to be written where, in sectors of 4 KiB. The active
sequence is that of consecutive valid entries which ends with the greatest sequence number and holds
the entry that its last one calls the tail. From that tail on its entries are applied, to an overlay:
the file itself is never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block.device import CHUNK_BYTES, BlockDevice, Extent, MappedDevice
from guestctl.block.overlay import Overlay
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.vhdx import layout
from guestctl.disk.formats.vhdx.header import Header

_SECTOR = layout.LOG_SECTOR_BYTES
# Known writers make entries of at most a few MiB, in logs of 1 MiB; these bound memory and time.
_MAX_ENTRY_BYTES = 64 << 20
_MAX_CHECKED_BYTES = 1 << 30
_MAX_FILE_BYTES = 1 << 62


class LogEntry(NamedTuple):
    """A valid entry: where it lies in the log, and its fields under the specification's names."""

    position: int
    entry_length: int
    tail: int
    sequence_number: int
    descriptor_count: int
    flushed_file_offset: int
    last_file_offset: int


def replay(device: BlockDevice, header: Header) -> Overlay | None:
    """`device` as it is after replaying the log; None where the log holds no sequence to replay, as when it is new."""
    offset, length = header.log_offset, header.log_length
    if offset % layout.MIB or offset < layout.MIB or length % layout.MIB or offset + length > device.size:
        message = f"{length} bytes at {offset:#x} are not in the file of {device.size} bytes"
        raise InvalidFormat(message, structure="log", offset=offset)
    log = _Log(device, header)
    sequence = log.active_sequence()
    if not sequence:
        return None
    head = sequence[-1]
    if device.size < head.flushed_file_offset:
        message = f"the file has {device.size} bytes, and had {head.flushed_file_offset} when the log was written"
        raise InvalidFormat(message, structure="log entry", offset=offset + head.position)
    size = max(device.size, head.last_file_offset)
    if size > _MAX_FILE_BYTES:
        raise InvalidFormat(f"a file of {size} bytes", structure="log entry", offset=offset + head.position)
    overlay = Overlay(device if size == device.size else _Extended(device, size))
    try:
        for entry in sequence:
            log.apply(entry, overlay)
    except BaseException:
        overlay.close()
        raise
    return overlay


class _Extended(MappedDevice):
    """`base` with zeros behind it."""

    def __init__(self, base: BlockDevice, size: int) -> None:
        self.base = base
        self.size = size

    def extent(self, offset: int) -> Extent:
        end = self.base.size
        return Extent(0, end, self.base) if offset < end else Extent(end, self.size - end, None)


class _Log:
    def __init__(self, device: BlockDevice, header: Header) -> None:
        self._device = device
        self._offset = header.log_offset
        self._length = header.log_length
        self._guid = header.log_guid.bytes_le
        self._entries: dict[int, LogEntry | None] = {}
        self._checked_bytes = 0

    def active_sequence(self) -> list[LogEntry]:
        """The entries to apply, in order; none where no sequence is valid."""
        best: list[LogEntry] = []
        end = -1
        for position in self._candidates():
            if position < end:
                continue
            sequence, end = self._sequence_from(position)
            if not sequence or (best and sequence[-1].sequence_number <= best[-1].sequence_number):
                continue
            positions = [entry.position for entry in sequence]
            if sequence[-1].tail in positions:
                best = sequence[positions.index(sequence[-1].tail) :]
        return best

    def _sequence_from(self, start: int) -> tuple[list[LogEntry], int]:
        """Consecutive valid entries from position `start` on, and where they end, or the log where they go round."""
        sequence: list[LogEntry] = []
        position = start
        while position < start + self._length:
            entry = self._entry_at(position % self._length)
            if entry is None or (sequence and entry.sequence_number != sequence[-1].sequence_number + 1):
                break
            sequence.append(entry)
            position += entry.entry_length
        return sequence, position

    def _candidates(self) -> Iterator[int]:
        """Positions of sectors that begin like an entry."""
        done = 0
        for run in self._device.runs(self._offset, self._length):
            if run.source is None:
                continue
            start = max(done, (run.offset - self._offset) // _SECTOR * _SECTOR)
            done = min(self._length, -(-(run.offset + run.length - self._offset) // _SECTOR) * _SECTOR)
            for first in range(start, done, CHUNK_BYTES):
                content = self._device.read(self._offset + first, min(CHUNK_BYTES, done - first))
                for at in range(0, len(content), _SECTOR):
                    if content[at : at + 4] == layout.LOG_ENTRY_SIGNATURE:
                        yield first + at

    def _entry_at(self, position: int) -> LogEntry | None:
        if position not in self._entries:
            self._entries[position] = self._read_entry(position)
        return self._entries[position]

    def _read_entry(self, position: int) -> LogEntry | None:
        """The entry at `position`, if it is valid ("Log Entry", its fields' requirements)."""
        fields = layout.LOG_ENTRY.unpack(self._device.read(self._offset + position, layout.LOG_ENTRY.size))
        signature, checksum, length, tail, sequence_number, descriptor_count, _, guid, flushed, last = fields
        if signature != layout.LOG_ENTRY_SIGNATURE or guid != self._guid or not sequence_number:
            return None
        if length % _SECTOR or not _SECTOR <= length <= self._length or tail % _SECTOR or tail >= self._length:
            return None
        if _descriptor_bytes(descriptor_count) > length:
            return None
        self._checked_bytes += length
        if length > _MAX_ENTRY_BYTES or self._checked_bytes > _MAX_CHECKED_BYTES:
            message = f"an entry of {length} bytes, {self._checked_bytes} with those before"
            raise InvalidFormat(message, structure="log", offset=self._offset + position)
        entry = LogEntry(position, length, tail, sequence_number, descriptor_count, flushed, last)
        content = self._content(entry)
        if layout.checksum(content) != checksum or not _is_consistent(entry, content):
            return None
        return entry

    def _content(self, entry: LogEntry) -> bytes:
        """The bytes of an entry, which may go round the end of the log."""
        first = min(entry.entry_length, self._length - entry.position)
        content = bytes(self._device.read(self._offset + entry.position, first))
        if first < entry.entry_length:
            content += self._device.read(self._offset, entry.entry_length - first)
        return content

    def apply(self, entry: LogEntry, overlay: Overlay) -> None:
        """Do what `entry` says."""
        content = self._content(entry)
        sectors = memoryview(content)[_descriptor_bytes(entry.descriptor_count) :]
        for signature, trailing, leading, file_offset, _ in _descriptors(entry, content):
            is_zero = signature == layout.ZERO_SIGNATURE
            length = int.from_bytes(leading, "little") if is_zero else _SECTOR
            if file_offset % _SECTOR or length % _SECTOR or file_offset + length > overlay.size:
                message = f"it changes {length} bytes at {file_offset:#x} of a file of {overlay.size} bytes"
                raise InvalidFormat(message, structure="log entry", offset=self._offset + entry.position)
            if is_zero:
                _discard(overlay, file_offset, length)
            else:
                _, _, data, _ = layout.DATA_SECTOR.unpack_from(sectors)
                overlay.write(file_offset, leading + data + trailing)
                sectors = sectors[_SECTOR:]


def _descriptor_bytes(descriptor_count: int) -> int:
    """What the header and the descriptors of an entry take."""
    length = layout.LOG_ENTRY.size + descriptor_count * layout.DESCRIPTOR.size
    return -(-length // _SECTOR) * _SECTOR


def _descriptors(entry: LogEntry, content: bytes) -> Iterator[tuple[bytes, bytes, bytes, int, int]]:
    start = layout.LOG_ENTRY.size
    view = memoryview(content)[start : start + entry.descriptor_count * layout.DESCRIPTOR.size]
    return layout.DESCRIPTOR.iter_unpack(view)


def _is_consistent(entry: LogEntry, content: bytes) -> bool:
    """Whether descriptors and data sectors are those of this entry, and fill it."""
    data_sectors = 0
    for signature, _, _, _, sequence_number in _descriptors(entry, content):
        if sequence_number != entry.sequence_number or signature not in (layout.ZERO_SIGNATURE, layout.DATA_SIGNATURE):
            return False
        data_sectors += signature == layout.DATA_SIGNATURE
    start = _descriptor_bytes(entry.descriptor_count)
    if start + data_sectors * _SECTOR != entry.entry_length:
        return False
    high, low = divmod(entry.sequence_number, 1 << 32)
    return all(
        (signature, sequence_high, sequence_low) == (layout.DATA_SECTOR_SIGNATURE, high, low)
        for signature, sequence_high, _, sequence_low in layout.DATA_SECTOR.iter_unpack(memoryview(content)[start:])
    )


def _discard(overlay: Overlay, offset: int, length: int) -> None:
    """Zero a range, however long, at the cost of what is not zeros in it."""
    for run in [run for run in overlay.runs(offset, length) if run.source is not None]:
        overlay.discard(run.offset, run.length)
