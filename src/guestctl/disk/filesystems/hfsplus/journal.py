"""The journal: transactions of whole blocks, which are to be written to their places before the volume is read.

It lies in a file of the volume as a ring after its header, in the byte order of the machine that wrote it. A
transaction is one or more block lists, each a header and then the blocks that it lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from guestctl.block import BlockDevice, Overlay
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.hfsplus import layout as L
from guestctl.disk.filesystems.hfsplus.header import Header, read_header

# JournalInfoBlock: flags, offset, size
_INFO = Struct(">I32xQQ")
_IN_FILESYSTEM, _NEEDS_INIT = 1, 4
# journal_header: magic, endian, start, end, size, blhdr_size, checksum, jhdr_size
_HEADER = "IIQQQIII"
_HEADER_BYTES, _CHECKSUM = 44, slice(36, 40)
_MAGIC, _ENDIAN = 0x4A4E4C78, 0x12345678
# block_list_header: num_blocks, bytes_used, checksum; block_info: bnum, bsize, next
_LIST = "2xHII4x"
_LIST_BYTES, _LIST_CHECKSUM = 32, slice(8, 12)
_BLOCK = "QII"
_BLOCKS_OFFSET = 16
_SKIPPED = (1 << 64) - 1
_MAX_LIST_BYTES = 1 << 20
_MAX_JOURNAL_BYTES = 1 << 30  # macOS makes them half as large at most


class _Ring(NamedTuple):
    """The journal of ``device`` from ``offset`` on; positions count from there."""

    device: BlockDevice
    offset: int
    order: str
    start: int
    end: int
    size: int
    list_bytes: int  # of the header of a block list
    sector: int  # also the size of the journal's header, at which the ring begins

    @property
    def used(self) -> int:
        return (self.end - self.start) % (self.size - self.sector)

    def read(self, position: int, length: int) -> bytes:
        """`length` bytes that are `position` after the start of the first transaction."""
        ring = self.size - self.sector
        at = self.sector + (self.start - self.sector + position) % ring
        first = min(length, self.size - at)
        data = bytes(self.device.read(self.offset + at, first))
        return data + bytes(self.device.read(self.offset + self.sector, length - first)) if first < length else data


def replayed(header: Header, warnings: list[str]) -> Header:
    """The header of the volume as it is after its journal was replayed, on a device that is only in memory.

    What was not written to the end does not count, and is told in `warnings`.
    """
    ring = _open(header)
    if ring is None or not ring.used:
        return header
    overlay = Overlay(header.device)
    position = count = 0
    while position < ring.used:
        transaction = _read_transaction(ring, position)
        if transaction is None:
            warnings.append("a transaction in the journal is not complete, and is left out with those after it")
            break
        blocks, position = transaction
        for place, block_position, length in blocks:
            overlay.write(place, ring.read(block_position, length))
        count += 1
    warnings.append(f"the volume was not unmounted; {count} transactions of its journal were replayed in memory")
    return read_header(overlay)


def _open(header: Header) -> _Ring | None:
    """The journal, or None where there is none yet. Raises `UnsupportedFeature` where it is on another device."""
    if not header.attributes & L.ATTRIBUTE_JOURNALED or not header.journal_block:
        return None
    device, place = header.device, header.journal_block * header.block_size
    if place + _INFO.size > device.size:
        raise InvalidFormat("outside the device", structure="journal info block", offset=place)
    flags, offset, size = _INFO.unpack(device.read(place, _INFO.size))
    if flags & _NEEDS_INIT:
        return None
    if not flags & _IN_FILESYSTEM:
        raise UnsupportedFeature("a journal on another device", feature="external journal")
    if size > _MAX_JOURNAL_BYTES:
        raise UnsupportedFeature(f"a journal of {size} bytes", feature="journal size")
    if size < _HEADER_BYTES or offset + size > device.size:
        raise InvalidFormat(f"{size} bytes at {offset:#x}", structure="journal info block", offset=place)
    data = bytes(device.read(offset, _HEADER_BYTES))
    for order in "<>":
        magic, endian, start, end, own_size, list_bytes, checksum, sector = Struct(order + _HEADER).unpack(data)
        if (magic, endian) == (_MAGIC, _ENDIAN):
            break
    else:
        raise InvalidFormat(f"magic {data[:8]!r}", structure="journal header", offset=offset)
    if checksum != _checksum(data, _CHECKSUM):
        raise InvalidFormat("its checksum is wrong", structure="journal header", offset=offset)
    if not (
        512 <= sector < own_size <= size
        and sector <= start <= own_size
        and sector <= end <= own_size
        and 512 <= list_bytes <= min(_MAX_LIST_BYTES, own_size - sector)
    ):
        message = f"start {start}, end {end}, size {own_size}, blhdr_size {list_bytes}, jhdr_size {sector}"
        raise InvalidFormat(message, structure="journal header", offset=offset)
    return _Ring(device, offset, order, start, end, own_size, list_bytes, sector)


def _read_transaction(ring: _Ring, position: int) -> tuple[list[tuple[int, int, int]], int] | None:
    """(place on the volume, position in the ring, length) of its blocks, and where it ends; None if it is damaged."""
    blocks: list[tuple[int, int, int]] = []
    while True:
        found = _read_list(ring, position)
        if found is None:
            return None
        more, position, continues = found
        blocks += more
        if not continues:
            return blocks, position


def _read_list(ring: _Ring, position: int) -> tuple[list[tuple[int, int, int]], int, bool] | None:
    """As `_read_transaction`, of one block list; and whether the transaction goes on after it."""
    if position + ring.list_bytes > ring.used:
        return None
    head = ring.read(position, ring.list_bytes)
    count, used, checksum = Struct(ring.order + _LIST).unpack_from(head)
    infos = head[_BLOCKS_OFFSET : _BLOCKS_OFFSET + 16 * count]
    if (
        checksum != _checksum(head[:_LIST_BYTES], _LIST_CHECKSUM)
        or not 0 < 16 * count == len(infos)
        or not ring.list_bytes <= used <= ring.used - position
    ):
        return None
    (_, _, continues), *entries = Struct(ring.order + _BLOCK).iter_unpack(infos)
    blocks = list(_places(ring, entries, position + ring.list_bytes))
    end = blocks[-1][1] + blocks[-1][2] if blocks else position
    if end > position + used or any(place + size > ring.device.size for place, _, size in blocks if place >= 0):
        return None
    return [block for block in blocks if block[0] >= 0], position + used, bool(continues)


def _places(ring: _Ring, entries: list[tuple[int, int, int]], position: int) -> Iterator[tuple[int, int, int]]:
    for number, size, _ in entries:
        yield -1 if number == _SKIPPED else number * ring.sector, position, size
        position += size


def _checksum(data: bytes, field: slice) -> int:
    """Of TN1150, with zeros in the place of the checksum itself."""
    total = 0
    for byte in data[: field.start] + bytes(4) + data[field.stop :]:
        total = (total << 8 ^ total + byte) & 0xFFFFFFFF
    return total ^ 0xFFFFFFFF
