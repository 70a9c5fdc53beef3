"""The journaling log (chapter "Journaling Log"): its head, its tail, and the transactions between them.

The log is a ring of sectors of 512 bytes, whatever the device's. Each begins with the number of the
cycle in which it was written, in place of four bytes that the header of its record keeps; the head
is where the numbers fall. Logs of version 1 and 2 are read, the records of version 5 filesystems
with their checksums. Items of a transaction are in the order of the host that wrote them: those
of little-endian Linux are read, others refused by name.

The paper says that a header keeps the words of 256 sectors; it is those of 64.

Damage is met as the kernel's recovery meets it: a record at the head that was not written to its
end, with one of those before it that were in flight at the same time, is left out; any other that
fails its checksum is `ChecksumMismatch`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from google_crc32c import extend, value

from guestctl.block import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature

SECTOR_BYTES = 512
_WORDS = SECTOR_BYTES // 4

# "Log Records": h_magicno h_cycle h_version h_len h_lsn h_tail_lsn, h_crc (little-endian), h_num_logops
_RECORD = struct.Struct(">4I2Q4s4xI")
_MAGIC = 0xFEEDBABE
_CRC = 32
_CYCLE_DATA = 44
_CYCLE_WORDS = 64  # in each header sector
_FORMAT = struct.Struct(">300xI16sI")  # h_fmt h_fs_uuid h_size
_FORMAT_LINUX_LE = 1
_FORMAT_NAMES = {2: "big-endian Linux", 3: "big-endian Irix"}
# What the checksum covers of the header and its extensions: the structures as 64-bit compilers pad
# them; a log that was written by a 32-bit kernel has four bytes less.
_HEADER_SIZES = (328, 324)
_EXTENSION_BYTES = 260
_HEADER_DATA_BYTES = _CYCLE_WORDS * SECTOR_BYTES
_MAX_RECORD_BYTES = 256 << 10
# At most eight records are in flight at a time.
_IN_FLIGHT = 8
_WINDOW = _IN_FLIGHT * _MAX_RECORD_BYTES // SECTOR_BYTES

# "Log Operations": oh_tid oh_len oh_clientid oh_flags
_OPERATION = struct.Struct(">IIBB2x")
_START, _COMMIT, _CONTINUE, _WAS_CONTINUED, _UNMOUNT = 1, 2, 4, 8, 0x20
_CLIENTS = (0x69, 0x2, 0xAA)
_TRANSACTION_HEADER = struct.Struct("<IIiI")  # th_magic th_type th_tid th_num_items
_TRANSACTION_MAGIC = 0x5452414E
# The kernel writes a checkpoint well before it has an eighth of the log, which is at most 2 GiB.
_MAX_TRANSACTION_BYTES = 256 << 20
_STRUCTURE = "log record"


class Record(NamedTuple):
    """The header of a log record that begins in sector ``position``."""

    position: int
    sectors: int  # with its headers
    headers: int  # sectors
    lsn: int
    tail_lsn: int
    length: int
    operations: int
    crc: int
    raw: bytes  # the header sectors


class Transaction(NamedTuple):
    """The regions of a committed transaction, which began in the record at ``lsn``."""

    lsn: int
    regions: list[bytes]


class Log:
    """The log in `size` bytes of `device` from `offset` on. ``head`` and ``tail`` are sectors of it."""

    def __init__(self, device: BlockDevice, offset: int, size: int, *, uuid: bytes, has_checksums: bool) -> None:
        self._device = device
        self._offset = offset
        self._count = size // SECTOR_BYTES
        self._uuid = uuid
        self._has_checksums = has_checksums
        self.warnings: list[str] = []
        self.head = self.tail = 0
        self.is_dirty = False
        if self._count < 2 or offset + size > device.size:
            raise InvalidFormat(f"a log of {size} bytes", structure="superblock", offset=0, actual=size)
        self._find_ends()

    # Head and tail

    def _find_ends(self) -> None:
        head = self._find_head()
        if head is None:
            return
        last = self._last_record(head)
        if last is None:
            raise self._bad("the log has no record before its head", head % self._count)
        position = (last.position + last.sectors) % self._count
        if last.operations == 1 and position == head % self._count:
            payload = self._payload(last)
            if len(payload) >= _OPERATION.size and _OPERATION.unpack_from(payload)[3] & _UNMOUNT:
                return
        self.head = position
        self.tail = last.tail_lsn & 0xFFFFFFFF
        if self.tail >= self._count:
            raise self._bad(f"h_tail_lsn is {last.tail_lsn:#x}", last.position)
        # A whole log of records has its tail at its head.
        self.is_dirty = self.tail != self.head or last.tail_lsn >> 32 < last.lsn >> 32

    def _find_head(self) -> int | None:
        """The sector after the last one that was written; None where nothing ever was."""
        count = self._count
        first, last = self._cycles(0, 1)[0], self._cycles(count - 1, 1)[0]
        if not first:
            return None
        if first == last:
            # The cycle ends with the log, unless its last sectors were not written.
            return self._first_of(max(0, count - _WINDOW), count, first - 1, count)
        low, high = 0, count - 1  # cycle `first` is at low, cycle `last` at high
        while high - low > 1:
            middle = (low + high) // 2
            if self._cycles(middle, 1)[0] == last:
                high = middle
            else:
                low = middle
        head = self._first_of(max(0, high - _WINDOW), high, last, high)
        if head == high and high < _WINDOW:
            head = self._first_of(max(high, count - (_WINDOW - high)), count, last - 1, head)
        return head

    def _first_of(self, start: int, end: int, cycle: int, default: int) -> int:
        """The first sector of `cycle` from `start` to `end`."""
        try:
            return start + self._cycles(start, end - start).index(cycle)
        except ValueError:
            return default

    def _cycles(self, start: int, count: int) -> list[int]:
        words = self._words(start, count)
        pairs = zip(words[::_WORDS], words[1::_WORDS], strict=True)
        return [second if first == _MAGIC else first for first, second in pairs]

    def _words(self, start: int, count: int) -> array[int]:
        words = array("I", self._read(start, count))
        if sys.byteorder == "little":
            words.byteswap()
        return words

    def _last_record(self, head: int) -> Record | None:
        """The last sound record before `head`: of those that were in flight, up to the first that is not."""
        start = max(0, head - _WINDOW)
        places = [(start, head)]
        if head < _WINDOW:
            places.insert(0, (max(head, self._count - (_WINDOW - head)), self._count))
        positions: list[int] = []
        for first, end in places:
            marks = self._words(first, end - first)[::_WORDS] if end > first else ()
            positions += [first + index for index, word in enumerate(marks) if word == _MAGIC]
        sound: Record | None = None
        previous = 0
        for position, following in pairwise([*positions[-_IN_FLIGHT - 1 :], head % self._count]):
            try:
                record = self.read_record(position)
                if (record.position + record.sectors) % self._count != following % self._count:
                    # Behind the record before the first one here there may be an older one.
                    raise self._bad("the record does not end where the next one begins", position)
                if record.lsn <= previous:
                    raise self._bad("h_lsn does not ascend", position)
                self._check(record, self._read(position + record.headers, record.sectors - record.headers))
            except InvalidFormat as error:
                if sound is None and following != head % self._count:
                    continue
                self.warnings.append(f"the end of the log is left out: {error}")
                break
            previous = record.lsn
            sound = record
        return sound

    # Records

    def read_record(self, position: int) -> Record:
        """The header of the record in this sector."""
        raw = self._read(position, 1)
        magic, _cycle, version, length, lsn, tail_lsn, crc, operations = _RECORD.unpack_from(raw)
        form, uuid, size = _FORMAT.unpack_from(raw)
        if magic != _MAGIC:
            raise self._bad(f"h_magicno is {magic:#x}", position)
        if version not in (1, 2) or not 0 < length <= _MAX_RECORD_BYTES or lsn & 0xFFFFFFFF != position:
            raise self._bad(f"h_version is {version}, h_len {length}, h_lsn {lsn:#x}", position)
        if form != _FORMAT_LINUX_LE:
            name = f"log of {_FORMAT_NAMES.get(form, f'format {form}')}"
            raise UnsupportedFeature(f"cannot replay a {name}", feature=name)
        if any(uuid) and uuid != self._uuid:
            raise self._bad("belongs to another filesystem", position)
        if operations == 1:
            size = max(size, length)  # mkfs.xfs once left h_size at its default where records were longer
        headers = max(1, -(-min(size, _MAX_RECORD_BYTES) // _HEADER_DATA_BYTES)) if version == 2 else 1
        sectors = headers - (-length // SECTOR_BYTES)
        if sectors >= self._count or sectors - headers > headers * _CYCLE_WORDS:
            raise self._bad(f"h_len is {length}, h_size {size}", position)
        if headers > 1:
            raw = self._read(position, headers)
        stored = int.from_bytes(crc, "little")
        return Record(position, sectors, headers, lsn, tail_lsn, length, operations, stored, raw)

    def _check(self, record: Record, data: bytes) -> None:
        if not self._has_checksums or not record.crc:
            return  # mkfs.xfs writes its record without
        rest = [record.raw[SECTOR_BYTES * number :][:_EXTENSION_BYTES] for number in range(1, record.headers)]
        computed = 0
        for size in _HEADER_SIZES:
            crc = value(record.raw[:_CRC] + bytes(4) + record.raw[_CRC + 4 : size])
            for part in (*rest, data[: record.length]):
                crc = extend(crc, part)
            if crc == record.crc:
                return
            computed = computed or crc
        offset = self._offset + record.position * SECTOR_BYTES
        raise ChecksumMismatch(structure=_STRUCTURE, offset=offset, expected=computed, actual=record.crc)

    def _payload(self, record: Record) -> bytes:
        """The operations of a record, with the first word of each sector put back."""
        data = self._read(record.position + record.headers, record.sectors - record.headers)
        self._check(record, data)
        payload = bytearray(data)
        for number in range(record.sectors - record.headers):
            header, index = divmod(number, _CYCLE_WORDS)
            start = header * SECTOR_BYTES + (4 if header else _CYCLE_DATA) + 4 * index
            payload[number * SECTOR_BYTES : number * SECTOR_BYTES + 4] = record.raw[start : start + 4]
        return bytes(payload[: record.length])

    def _records(self) -> Iterator[Record]:
        position, done = self.tail, 0
        total = (self.head - self.tail) % self._count or self._count
        previous = 0
        while done < total:
            record = self.read_record(position)
            done += record.sectors
            if record.lsn <= previous or done > total:
                raise self._bad(f"h_lsn is {record.lsn:#x} after {previous:#x}", position)
            yield record
            previous = record.lsn
            position = (position + record.sectors) % self._count

    # Transactions

    def transactions(self) -> Iterator[Transaction]:
        """All that were committed between the tail and the head, in the order of their commits."""
        pending: dict[int, tuple[int, list[bytearray]]] = {}  # LSN and regions, which may come in pieces
        held = 0
        for record in self._records():
            payload = self._payload(record)
            position = 0
            for _ in range(record.operations):
                if position + _OPERATION.size > len(payload):
                    raise self._bad(f"{record.operations} operations do not fit", record.position)
                tid, length, client, flags = _OPERATION.unpack_from(payload, position)
                position += _OPERATION.size
                if client not in _CLIENTS or position + length > len(payload):
                    raise self._bad(f"oh_clientid is {client:#x}, oh_len {length}", record.position)
                data = payload[position : position + length]
                position += length
                if flags & _START:
                    pending[tid] = record.lsn, [bytearray(data)] if data else []
                    held += length
                    continue
                if tid not in pending:
                    continue  # it began before the tail, and so is on the disk
                lsn, regions = pending[tid]
                if flags & _COMMIT:
                    del pending[tid]
                    held -= sum(map(len, regions))
                    yield Transaction(lsn, list(map(bytes, regions)))
                elif flags & _UNMOUNT:
                    del pending[tid]
                elif flags & _WAS_CONTINUED and regions:
                    regions[-1] += data
                    held += length
                elif data or flags & _CONTINUE:
                    regions.append(bytearray(data))
                    held += length
                if held > _MAX_TRANSACTION_BYTES:
                    message = f"a transaction of more than {_MAX_TRANSACTION_BYTES} bytes"
                    raise UnsupportedFeature(message, feature="large log")

    def _read(self, start: int, count: int) -> bytes:
        """Sectors from `start` on, which may be past the end, around the ring."""
        start %= self._count
        first = min(count, self._count - start)
        data = bytes(self._device.read(self._offset + start * SECTOR_BYTES, first * SECTOR_BYTES))
        if first < count:
            data += bytes(self._device.read(self._offset, (count - first) * SECTOR_BYTES))
        return data

    def _bad(self, message: str, position: int) -> InvalidFormat:
        return InvalidFormat(message, structure=_STRUCTURE, offset=self._offset + position * SECTOR_BYTES)


def items(transaction: Transaction) -> Iterator[list[bytes]]:
    """The items of a transaction (section "Log Items"), each as its regions."""
    regions = transaction.regions
    if not regions or len(regions[0]) < _TRANSACTION_HEADER.size:
        raise InvalidFormat("a transaction without a header", structure="log transaction", offset=transaction.lsn)
    (magic, _type, _tid, _count) = _TRANSACTION_HEADER.unpack_from(regions[0])
    if magic != _TRANSACTION_MAGIC:
        raise InvalidFormat(f"th_magic is {magic:#x}", structure="log transaction", offset=transaction.lsn)
    position = 1
    while position < len(regions):
        head = regions[position]
        size = int.from_bytes(head[2:4], "little")
        if len(head) < 4 or not size or position + size > len(regions):
            raise InvalidFormat(f"an item of {size} regions", structure="log item", offset=transaction.lsn)
        yield regions[position : position + size]
        position += size
