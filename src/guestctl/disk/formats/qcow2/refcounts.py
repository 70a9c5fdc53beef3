"""The reference counts of a qcow2 file ("Host cluster management"), widths of 1 to 64 bits."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import InvalidFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.clusters import table_from_bytes
from guestctl.disk.formats.qcow2.header import Header

if TYPE_CHECKING:
    from guestctl.disk.formats.qcow2.reader import Qcow2Reader

_CHUNK_BYTES = 512 << 10
# The array type that holds counts of each refcount_order.
TYPECODES = ("B", "B", "B", "B", "H", "I", "Q")


def read_refcount_table(device: BlockDevice, header: Header) -> array[int]:
    """The refcount table; entries past the end of the file are 0."""
    offset, clusters = header.refcount_table_offset, header.refcount_table_clusters
    length = clusters << header.cluster_bits
    problem = None
    if not clusters:
        problem = "the image has none"
    elif length > layout.MAX_REFCOUNT_TABLE_BYTES:
        problem = f"{length} bytes, more than {layout.MAX_REFCOUNT_TABLE_BYTES}"
    elif offset % header.cluster_size:
        problem = "not aligned to a cluster"
    if problem:
        raise InvalidFormat(problem, structure="refcount table", offset=offset)
    return table_from_bytes(read_padded(device, offset, length))


def iter_table(device: BlockDevice, offset: int, entry_count: int) -> Iterator[int]:
    """The 64-bit values of a table that are not 0; there are none past the end of the file."""
    end = min(offset + entry_count * 8, device.size)
    for start in range(offset, end, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, offset + entry_count * 8 - start)
        yield from filter(None, table_from_bytes(read_padded(device, start, length)))


def read_padded(device: BlockDevice, offset: int, length: int) -> Buffer:
    """`length` bytes; those past the end of the file are 0."""
    if offset + length <= device.size:
        return device.read(offset, length)
    inside = max(0, device.size - offset)
    return (bytes(device.read(offset, inside)) if inside else b"").ljust(length, b"\0")


def counts_per_block(header: Header) -> int:
    return header.cluster_size * 8 >> header.refcount_order


def read_counts(device: BlockDevice, header: Header, offset: int, number: int) -> array[int]:
    """The first `number` counts in the refcount block at `offset`; 0 past the end of the file."""
    length = (number << header.refcount_order) + 7 >> 3
    return parse_block(read_padded(device, offset, length), header.refcount_order)[:number]


def read_count(device: BlockDevice, header: Header, offset: int, index: int) -> int:
    """One count of the refcount block at `offset`."""
    per_word = 64 >> header.refcount_order
    word = read_padded(device, offset + index // per_word * 8, 8)
    return parse_block(word, header.refcount_order)[index % per_word]


def parse_block(data: Buffer, refcount_order: int) -> array[int]:
    if refcount_order < 3:
        data = b"".join(map(_unpacked(refcount_order).__getitem__, data))
    counts = array(TYPECODES[refcount_order])
    counts.frombytes(data)
    if sys.byteorder == "little" and refcount_order > 3:
        counts.byteswap()
    return counts


@cache
def _unpacked(refcount_order: int) -> list[bytes]:
    """For each byte of a block the counts in it, one a byte; the first is in the lowest bits."""
    width = 1 << refcount_order
    mask = (1 << width) - 1
    return [bytes(byte >> shift & mask for shift in range(0, 8, width)) for byte in range(256)]


def is_preallocated(reader: Qcow2Reader) -> bool:
    """Whether the file refers to clearly more clusters than the host has stored of it.

    qemu's test, with its margin of a ninth: only then does ``map`` look for holes among the data.
    """
    header, file = reader.header, reader.file
    stored = reader.measure_file() >> header.cluster_bits
    threshold = max(stored * 10 // 9, stored + 2)
    used = 0
    for counts in _iter_blocks(file, header, -(-file.size >> header.cluster_bits)):
        used += len(counts) - counts.count(0)
        if used >= threshold:
            return True
    return False


def _iter_blocks(device: BlockDevice, header: Header, cluster_count: int) -> Iterator[array[int]]:
    """The counts of the first `cluster_count` clusters, those without a refcount block left out."""
    per_block = counts_per_block(header)
    for index, entry in enumerate(read_refcount_table(device, header)):
        offset = entry & layout.REFCOUNT_TABLE_OFFSET_MASK
        left = cluster_count - index * per_block
        if left <= 0:
            return
        if offset and offset < device.size:
            yield read_counts(device, header, offset, min(left, per_block))
