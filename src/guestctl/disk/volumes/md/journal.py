"""The write journal of RAID4, RAID5 and RAID6 (``r5l_…`` in include/uapi/linux/raid/md_p.h).

A log of meta blocks, each followed by the pages of data and parity that it describes. Arrays that were
stopped still have entries there. They are not replayed: what they say must be on the members already.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from google_crc32c import extend, value

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.md.superblock import Superblock

_META_BLOCK = struct.Struct("<IIB3xIQQ")  # magic, checksum, version, meta_size, seq, position
_PAYLOAD = struct.Struct("<H2xIQ")  # type, size, location
_MAGIC = 0x6433C509
_VERSION = 1
_TYPE_DATA, _TYPE_PARITY, _TYPE_FLUSH = range(3)
_FLUSH_HEADER_BYTES = 8
_PAGE_BYTES = 4096
_SECTOR_BYTES = 512


def check_journal(journal: BlockDevice, superblock: Superblock, array: BlockDevice, *, degraded: bool) -> None:
    """Raise `UnsupportedFeature` where the journal may hold what the array does not have yet."""
    uuid = bytes.fromhex(superblock.uuid.replace("-", ""))
    seed = value(uuid)
    for location, checksums in _data(journal, superblock, seed):
        if degraded:
            raise UnsupportedFeature("the journal has entries, and members are missing", feature="md journal")
        for number, stored in enumerate(checksums):
            offset = location + number * _PAGE_BYTES
            if offset + _PAGE_BYTES > array.size:
                raise InvalidFormat(f"it writes to {offset:#x}", structure="md journal", offset=0)
            if extend(seed, bytes(array.read(offset, _PAGE_BYTES))) ^ 0xFFFFFFFF != stored:
                raise UnsupportedFeature("the journal has data that was not written yet", feature="md journal")


def _data(journal: BlockDevice, superblock: Superblock, seed: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Of each entry for data since the last checkpoint: its offset in the array, and the checksums of its pages."""
    start, size = superblock.data_offset, superblock.data_bytes // _PAGE_BYTES * _PAGE_BYTES
    position, expected = superblock.journal_tail, None
    done = 0
    while done < size and start + position + _PAGE_BYTES <= journal.size:
        block = bytes(journal.read(start + position, _PAGE_BYTES))
        magic, stored, version, meta_bytes, sequence, own_position = _META_BLOCK.unpack_from(block)
        computed = extend(seed, block[:4] + bytes(4) + block[8:]) ^ 0xFFFFFFFF
        if magic != _MAGIC or version != _VERSION or computed != stored or own_position * _SECTOR_BYTES != position:
            return
        if expected not in (None, sequence):
            return
        expected = sequence + 1
        entries = list(_entries(block[: min(meta_bytes, _PAGE_BYTES)], start + position))
        yield from ((location, checksums) for type_, location, checksums in entries if type_ == _TYPE_DATA)
        used = _PAGE_BYTES * (1 + sum(len(checksums) for _, _, checksums in entries))
        position = (position + used) % size
        done += used


def _entries(block: bytes, offset: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(type, offset, checksums of pages) of what a meta block describes; `offset` is where that lies."""
    at = _META_BLOCK.size
    while at + _PAYLOAD.size <= len(block):
        type_, length, location = _PAYLOAD.unpack_from(block, at)
        if type_ == _TYPE_FLUSH:
            at += _FLUSH_HEADER_BYTES + length
            continue
        page_count = length * _SECTOR_BYTES // _PAGE_BYTES
        end = at + _PAYLOAD.size + 4 * page_count
        if type_ not in (_TYPE_DATA, _TYPE_PARITY) or not page_count or end > len(block):
            message = f"payload type {type_} of {length} sectors"
            raise InvalidFormat(message, structure="md journal", offset=offset + at)
        yield type_, location * _SECTOR_BYTES, struct.unpack_from(f"<{page_count}I", block, at + _PAYLOAD.size)
        at = end
