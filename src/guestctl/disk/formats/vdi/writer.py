"""``VdiWriter``: a new VDI image. Blocks lie in the file in the order in which they are first needed."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

from guestctl.block.file import FileDevice
from guestctl.block.output import Output
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vdi import layout
from guestctl.disk.formats.vdi.header import Header, build_header, read_header
from guestctl.disk.formats.vdi.layout import ImageType
from guestctl.disk.writer import ImageWriter, Options, Placement

_UNIT_BYTES = 64 << 10
_ALIGNMENT = 1 << 20  # VirtualBox's, of the block map and of the data
_MAX_BLOCKS = 0x3FFFFFFF  # qemu's limit, below which no entry is `layout.ZERO`
_TABLE_ENTRIES = 1 << 18  # written at once


def create(output: Output, size: int, options: Options) -> VdiWriter:
    """``static``: a fixed image; ``block_size``: a power of two; ``backing_file``: another VDI, below this one."""
    static = options.flag("static")
    block_size = options.size("block_size", layout.DEFAULT_BLOCK_BYTES)
    backing_file, backing_format = options.text("backing_file"), options.text("backing_fmt")
    if block_size & block_size - 1 or not _UNIT_BYTES <= block_size <= layout.MAX_BLOCK_BYTES:
        raise ConversionError(f"vdi: block_size={block_size}: expected a power of two from 64k to 1G")
    if static and backing_file is not None:
        raise ConversionError("vdi: static and backing_file exclude each other")
    if backing_format not in (None, DiskFormat.VDI):
        raise ConversionError(f"vdi: the parent of a VDI is a VDI, not {backing_format}")
    size = -(-size // layout.SECTOR_BYTES) * layout.SECTOR_BYTES
    block_count = -(-size // block_size)
    if block_count > _MAX_BLOCKS:
        raise ConversionError(f"vdi: a disk of {size} bytes is too large for blocks of {block_size}")
    parent = None if backing_file is None else _parent_header(output, backing_file)
    header = Header(
        ImageType.FIXED if static else ImageType.NORMAL if parent is None else ImageType.DIFF,
        blocks_offset=_ALIGNMENT,
        data_offset=_ALIGNMENT + -(-block_count * 4 // _ALIGNMENT) * _ALIGNMENT,
        disk_size=size,
        block_size=block_size,
        block_extra=0,
        block_count=block_count,
        allocated_count=0,
        uuid_create=uuid4().bytes_le,
        uuid_modify=uuid4().bytes_le,
        uuid_linkage=layout.NIL_UUID if parent is None else parent.uuid_create,
        uuid_parent_modify=layout.NIL_UUID if parent is None else parent.uuid_modify,
    )
    return VdiWriter(output, header)


def _parent_header(output: Output, name: str) -> Header:
    with FileDevice.open(os.path.join(os.path.dirname(output.path), name)) as device:
        return read_header(device)


class VdiWriter(ImageWriter):
    """Gives each block a place when the first range in it is placed; the rest of it is a hole of the file."""

    format = DiskFormat.VDI

    def __init__(self, output: Output, header: Header) -> None:
        self.size = header.disk_size
        self.unit = header.block_size if header.image_type is ImageType.DIFF else _UNIT_BYTES
        self._file = output.main
        self._header = header
        # Runs of blocks with a place, which all follow one another in the file, and of zero blocks.
        self._placed: list[range] = []
        self._zeros: list[range] = []
        self._allocated = header.block_count if header.image_type is ImageType.FIXED else 0

    def place(self, start: int, length: int) -> list[Placement]:
        header, block_size = self._header, self._header.block_size
        if header.image_type is ImageType.FIXED:
            return [Placement(start, length, self._file, header.data_offset + start)]
        first, stop = start // block_size, -(-(start + length) // block_size)
        # Nothing lies between the last block that has a place and those that get one now, so that
        # the whole range is in one piece.
        shared = bool(self._placed) and self._placed[-1].stop == first + 1
        _append(self._placed, first + shared, stop)
        place = header.data_offset + (self._allocated - shared) * block_size
        self._allocated += stop - first - shared
        return [Placement(start, length, self._file, place + start % block_size)]

    def zero(self, start: int, length: int) -> None:
        if self._header.image_type is ImageType.DIFF:
            block_size = self._header.block_size
            _append(self._zeros, start // block_size, -(-(start + length) // block_size))

    def finish(self) -> None:
        header = self._header
        for first, entries in self._table():
            if sys.byteorder == "big":
                entries.byteswap()
            self._file.write_at(header.blocks_offset + first * 4, memoryview(entries).cast("B"))
        self._file.truncate(header.data_offset + self._allocated * header.block_size)
        self._file.write_at(0, build_header(replace(header, allocated_count=self._allocated)))

    def _table(self) -> Iterator[tuple[int, array[int]]]:
        """The block map in pieces, each with its first block."""
        header = self._header
        if header.image_type is ImageType.FIXED:
            runs = [(range(header.block_count), 0)]
        else:
            runs, place = [], 0
            for blocks in self._placed:
                runs.append((blocks, place))
                place += len(blocks)
            runs = sorted([*runs, *((blocks, layout.ZERO) for blocks in self._zeros)], key=lambda run: run[0].start)
        number = 0
        for first in range(0, header.block_count, _TABLE_ENTRIES):
            stop = min(first + _TABLE_ENTRIES, header.block_count)
            entries = array("I", (layout.FREE,)) * (stop - first)
            while number < len(runs) and runs[number][0].start < stop:
                blocks, place = runs[number]
                begin, end = max(blocks.start, first), min(blocks.stop, stop)
                count = end - begin
                if place == layout.ZERO:
                    entries[begin - first : end - first] = array("I", (place,)) * count
                else:
                    skip = begin - blocks.start
                    entries[begin - first : end - first] = array("I", range(place + skip, place + skip + count))
                if blocks.stop > stop:
                    break
                number += 1
            yield first, entries


def _append(runs: list[range], first: int, stop: int) -> None:
    """Add blocks that follow all others."""
    if first == stop:
        return
    if runs and runs[-1].stop == first:
        first = runs.pop().start
    runs.append(range(first, stop))
