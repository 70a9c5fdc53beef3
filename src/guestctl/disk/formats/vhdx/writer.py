"""``VhdxWriter``: a new VHDX image. Blocks lie in the file in the order in which they are first needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid4

from guestctl.block.file import FileDevice
from guestctl.block.output import Output
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vhdx import layout
from guestctl.disk.formats.vhdx.header import (
    Header,
    Region,
    Regions,
    build_header,
    build_regions,
    read_header,
    read_regions,
)
from guestctl.disk.formats.vhdx.layout import KIB, MIB, State
from guestctl.disk.formats.vhdx.metadata import Metadata, build_metadata, read_metadata
from guestctl.disk.formats.vhdx.table import NewTable
from guestctl.disk.writer import ImageWriter, Options, Placement

_UNIT_BYTES = 64 * KIB
_DEFAULT_LOG_BYTES = MIB
_MAX_LOG_BYTES = (1 << 32) - MIB
# The block size by the disk's size, as qemu-img chooses it: up to so many bytes, blocks of so many MiB.
_BLOCK_SIZES = ((1 << 30, 8), (100 << 30, 16), (32 << 40, 32))
_LARGEST_BLOCK_SIZE = 64 * MIB


class _Parent(NamedTuple):
    locator: Mapping[str, str]
    logical_sector_size: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the options ask for."""

    metadata: Metadata
    log_length: int
    absent: int  # the state of blocks that are not in the file


def create(output: Output, size: int, options: Options) -> VhdxWriter:
    """``subformat``: dynamic or fixed; ``block_size``, ``log_size``, ``block_state_zero``: as in qemu-img.

    ``logical_sector_size``: 512 or 4096; ``backing_file``: another VHDX, below this one.
    """
    fixed = options.choice("subformat", {"dynamic": False, "fixed": True}, "dynamic")
    block_size = options.size("block_size", 0) or _block_size_for(size)
    log_length = -(-max(options.size("log_size", _DEFAULT_LOG_BYTES), MIB) // MIB) * MIB
    block_state_zero = options.flag("block_state_zero", True)
    sector_size = options.size("logical_sector_size", 0)
    backing_file, backing_format = options.text("backing_file"), options.text("backing_fmt")
    if block_size & block_size - 1 or not layout.MIN_BLOCK_BYTES <= block_size <= layout.MAX_BLOCK_BYTES:
        raise ConversionError(f"vhdx: block_size={block_size}: expected a power of two from 1M to 256M")
    if log_length > _MAX_LOG_BYTES:
        raise ConversionError(f"vhdx: log_size={log_length}: expected less than 4G")
    if sector_size not in (0, 512, 4096):
        raise ConversionError(f"vhdx: logical_sector_size={sector_size}: expected 512 or 4096")
    if backing_format not in (None, DiskFormat.VHDX):
        raise ConversionError(f"vhdx: the parent of a VHDX is a VHDX, not {backing_format}")
    parent = None if backing_file is None else _read_parent(output.path, backing_file)
    if parent is not None:
        if fixed:
            raise ConversionError("vhdx: subformat=fixed and backing_file exclude each other")
        if sector_size not in (0, parent.logical_sector_size):
            raise ConversionError(f"vhdx: the parent's logical_sector_size is {parent.logical_sector_size}")
        sector_size = parent.logical_sector_size
    sector_size = sector_size or 512
    size = -(-size // sector_size) * sector_size
    if size > layout.MAX_DISK_BYTES:
        raise ConversionError(f"vhdx: a disk of {size} bytes; VHDX images hold at most {layout.MAX_DISK_BYTES}")
    if not size:
        raise ConversionError("vhdx: a disk of no size, which qemu does not open")
    metadata = Metadata(
        block_size,
        fixed,
        size,
        uuid4(),
        sector_size,
        sector_size,
        None if parent is None else parent.locator,
    )
    absent = State.ZERO if block_state_zero and parent is None else State.NOT_PRESENT
    return VhdxWriter(output, _Plan(metadata, log_length, absent))


def _block_size_for(size: int) -> int:
    return next((block_mib * MIB for limit, block_mib in _BLOCK_SIZES if size <= limit), _LARGEST_BLOCK_SIZE)


def _read_parent(output_path: str, name: str) -> _Parent:
    path = os.path.join(os.path.dirname(output_path), name)
    with FileDevice.open(path) as device:
        header, _ = read_header(device)
        if header.has_log:
            raise ConversionError(f"vhdx: {path} has a log that was not replayed: it cannot become a parent before")
        regions, _ = read_regions(device)
        metadata = read_metadata(device, regions.metadata)
    locator = {"parent_linkage": f"{{{header.data_write_guid}}}"}
    directory = os.path.dirname(os.path.realpath(output_path))
    try:
        relative = os.path.relpath(os.path.join(directory, name), directory)
    except ValueError:
        pass  # another drive of Windows
    else:
        locator["relative_path"] = _to_windows(relative if relative.startswith("..") else f".{os.sep}{relative}")
    locator["absolute_win32_path"] = _to_windows(os.path.abspath(path))
    return _Parent(locator, metadata.logical_sector_size)


def _to_windows(path: str) -> str:
    problem = "a backslash in a name" if os.sep == "/" and "\\" in path else ""
    try:
        path.encode("utf-16-le")
    except UnicodeEncodeError as error:
        problem = error.reason
    if problem:
        raise ConversionError(f"vhdx: a VHDX cannot name {path!r} as its parent: {problem}")
    return path.replace("/", "\\")


class VhdxWriter(ImageWriter):
    """Gives each block a place when the first range in it is placed; the rest of it is a hole of the file."""

    format = DiskFormat.VHDX
    unit = _UNIT_BYTES

    def __init__(self, output: Output, plan: _Plan) -> None:
        metadata = plan.metadata
        self.size = metadata.virtual_disk_size
        self._file = output.main
        self._metadata = metadata
        self._log = Region(MIB, plan.log_length)
        bat = Region(MIB + plan.log_length, max(MIB, -(-metadata.bat_entries * 8 // MIB) * MIB))
        self._regions = Regions(bat, Region(bat.offset + bat.length, MIB))
        self._data_offset = self._end = bat.offset + bat.length + MIB
        self._table = NewTable(metadata, plan.absent)
        self._last_block = -1  # that has a place; its end is `_end`
        # Of a differencing disk: what is in its touched blocks, as one bit for each unit, and where their data is.
        self._units: dict[int, int] = {}
        self._places: dict[int, int] = {}
        if metadata.leave_blocks_allocated:
            self._allocate(0, metadata.block_count)

    def place(self, start: int, length: int) -> list[Placement]:
        block_size = self._metadata.block_size
        if self._metadata.leave_blocks_allocated:
            return [Placement(start, length, self._file, self._data_offset + start)]
        first, stop = start // block_size, -(-(start + length) // block_size)
        # Ranges come in ascending order: of these blocks only the first may have its place, and then it is the last
        # block of the file, so that all are in one piece.
        shared = first == self._last_block
        place = self._end - block_size if shared else self._end
        self._allocate(first + shared, stop)
        if self._metadata.parent_locator is not None:
            self._note(start, length)
        return [Placement(start, length, self._file, place + start % block_size)]

    def zero(self, start: int, length: int) -> None:
        if self._metadata.parent_locator is not None:
            self._note(start, length)

    def _allocate(self, first: int, stop: int) -> None:
        """Give places at the end of the file to blocks."""
        if first >= stop:
            return
        block_size = self._metadata.block_size
        self._table.set_blocks(first, stop, State.FULLY_PRESENT, self._end, block_size)
        if self._metadata.parent_locator is not None:
            self._places.update((block, self._end + (block - first) * block_size) for block in range(first, stop))
        self._end += (stop - first) * block_size
        self._last_block = stop - 1

    def _note(self, start: int, length: int) -> None:
        """Remember which units are not the parent's."""
        block_size = self._metadata.block_size
        end = start + length
        while start < end:
            block, skip = divmod(start, block_size)
            part = min(end - start, block_size - skip)
            first, stop = skip // _UNIT_BYTES, -(-(skip + part) // _UNIT_BYTES)
            self._units[block] = self._units.get(block, 0) | (1 << stop) - (1 << first)
            start += part

    def finish(self) -> None:
        bitmaps = self._finish_blocks()
        file = self._file
        file.truncate(self._end)
        for offset, content in bitmaps:
            file.write_at(offset, content)
        for offset, content in self._table.pieces():
            file.write_at(self._regions.bat.offset + offset, content)
        file.write_at(self._regions.metadata.offset, build_metadata(self._metadata))
        for offset in layout.REGION_TABLE_OFFSETS:
            file.write_at(offset, build_regions(self._regions))
        file_write_guid, data_write_guid = uuid4(), uuid4()
        for number, offset in enumerate(layout.HEADER_OFFSETS):
            header = Header(
                number + 1,
                file_write_guid,
                data_write_guid,
                UUID(int=0),
                layout.LOG_VERSION,
                layout.VERSION,
                self._log.length,
                self._log.offset,
            )
            file.write_at(offset, build_header(header))
        creator = "guestctl".encode("utf-16-le")
        file.write_at(0, layout.FILE_IDENTIFIER.pack(layout.FILE_SIGNATURE, creator))

    def _finish_blocks(self) -> list[tuple[int, bytes]]:
        """Set the states of a differencing disk's blocks; the parts of sector bitmaps, and where they go."""
        metadata = self._metadata
        block_sectors = metadata.block_size // metadata.logical_sector_size
        bitmap_offsets: dict[int, int] = {}
        bitmaps = []
        for block, units in self._units.items():
            in_disk = min(metadata.block_size, self.size - block * metadata.block_size)
            is_whole = units == (1 << -(-in_disk // _UNIT_BYTES)) - 1
            if is_whole and block not in self._places:
                self._table.set_blocks(block, block + 1, State.ZERO, 0, 0)
            if is_whole:
                continue
            if block not in self._places:
                self._allocate(block, block + 1)
            self._table.set_blocks(block, block + 1, State.PARTIALLY_PRESENT, self._places[block], 0)
            chunk, within = divmod(block, metadata.chunk_ratio)
            if chunk not in bitmap_offsets:
                bitmap_offsets[chunk] = self._end
                self._table.set_bitmap(chunk, self._end | layout.BITMAP_PRESENT)
                self._end += layout.BITMAP_BLOCK_BYTES
            offset = bitmap_offsets[chunk] + within * block_sectors // 8
            bitmaps.append((offset, _bitmap(units, metadata)))
        return bitmaps


def _bitmap(units: int, metadata: Metadata) -> bytes:
    """The bits of the sectors of a block whose units have these bits."""
    unit_bytes = _UNIT_BYTES // metadata.logical_sector_size // 8
    sectors = (b"\0" * unit_bytes, b"\xff" * unit_bytes)
    return b"".join(sectors[units >> number & 1] for number in range(metadata.block_size // _UNIT_BYTES))
