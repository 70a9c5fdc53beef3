"""New VHD images: `FixedWriter`, and `DynamicWriter`, which writes differencing disks, too."""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

from guestctl.block.file import FileDevice
from guestctl.block.output import Output
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vhd import layout
from guestctl.disk.formats.vhd.footer import Footer, build_footer, read_footer
from guestctl.disk.formats.vhd.geometry import geometry_with
from guestctl.disk.formats.vhd.header import DynamicHeader, Locator, build_header
from guestctl.disk.formats.vhd.layout import SECTOR_BYTES, DiskType
from guestctl.disk.writer import ImageWriter, Options, Placement

_UNIT_BYTES = 64 << 10
_UNIT_BITMAP_BYTES = _UNIT_BYTES // SECTOR_BYTES // 8
_BLOCK_BYTES = layout.DEFAULT_BLOCK_BYTES
_BITMAP_BYTES = layout.bitmap_bytes(_BLOCK_BYTES)
_BLOCK_UNITS = _BLOCK_BYTES // _UNIT_BYTES
# Data begins at multiples of this, the bitmap right before it: the host's pages are not split.
_ALIGNMENT = 4096
_TABLE_OFFSET = layout.FOOTER_BYTES + layout.HEADER_BYTES
_CREATOR = b"gctl"
# All readers take the current size for a disk of this creator, as of none that is not in qemu's list.
_CURRENT_SIZE_CREATOR = b"qem2"


class _Parent(NamedTuple):
    """What a differencing disk says of its parent; `names` are for the platforms of locators."""

    footer: Footer
    time_stamp: int
    name: str
    names: Sequence[tuple[bytes, str]]


def create(output: Output, size: int, options: Options) -> ImageWriter:
    """``subformat``: dynamic or fixed; ``force_size``: keep the size; ``backing_file``: another VHD, below this one.

    Without ``force_size`` the disk grows to the next size that cylinders, heads and sectors can tell, up to
    some 127 GiB. Azure takes disks of whole MiB with ``subformat=fixed,force_size=on``.
    """
    fixed = options.choice("subformat", {"dynamic": False, "fixed": True}, "dynamic")
    force_size = options.flag("force_size")
    backing_file, backing_format = options.text("backing_file"), options.text("backing_fmt")
    if backing_format not in (None, DiskFormat.VHD):
        raise ConversionError(f"vpc: the parent of a VHD is a VHD, not {backing_format}")
    sectors = -(-size // SECTOR_BYTES)
    if sectors * SECTOR_BYTES > layout.MAX_DISK_BYTES:
        raise ConversionError(f"vpc: a disk of {size} bytes; VHD images hold at most {layout.MAX_DISK_BYTES}")
    geometry = layout.MAX_GEOMETRY if force_size else geometry_with(sectors)
    if geometry != layout.MAX_GEOMETRY:
        cylinders, heads, per_track = geometry
        sectors = cylinders * heads * per_track
    footer = Footer(
        features=layout.FEATURES_RESERVED,
        file_format_version=layout.FILE_FORMAT_VERSION,
        data_offset=layout.NO_OFFSET if fixed else layout.FOOTER_BYTES,
        time_stamp=int(time.time()) - layout.EPOCH,
        creator_application=_CURRENT_SIZE_CREATOR if force_size else _CREATOR,
        creator_version=0x00010000,
        creator_host_os=b"Wi2k",
        original_size=sectors * SECTOR_BYTES,
        current_size=sectors * SECTOR_BYTES,
        cylinders=geometry[0],
        heads=geometry[1],
        sectors_per_track=geometry[2],
        disk_type=DiskType.FIXED if fixed else DiskType.DYNAMIC,
        unique_id=uuid4().bytes,
    )
    if backing_file is None:
        return FixedWriter(output, footer) if fixed else DynamicWriter(output, footer)
    if fixed:
        raise ConversionError("vpc: subformat=fixed and backing_file exclude each other")
    parent = _read_parent(output.path, backing_file)
    return DynamicWriter(output, _with_size_of(parent.footer, footer, size), parent)


def _read_parent(output_path: str, name: str) -> _Parent:
    directory = os.path.dirname(os.path.realpath(output_path))
    path = os.path.join(os.path.dirname(output_path), name)
    with FileDevice.open(path) as device:
        footer = read_footer(device).footer
        modified = int(device.status().st_mtime)
    names = [(layout.PLATFORM_ABSOLUTE, os.path.abspath(path))]
    try:
        relative = os.path.relpath(os.path.join(directory, name), directory)
    except ValueError:
        pass  # another drive of Windows
    else:
        names.insert(0, (layout.PLATFORM_RELATIVE, relative if relative.startswith("..") else f".{os.sep}{relative}"))
    time_stamp = min(max(0, modified - layout.EPOCH), 0xFFFFFFFF)
    return _Parent(footer, time_stamp, os.path.basename(path), [(code, _to_windows(text)) for code, text in names])


def _to_windows(path: str) -> str:
    if os.sep == "/" and "\\" in path:
        raise ConversionError(f"vpc: a VHD cannot name {path!r} as its parent: a backslash in a name")
    return path.replace("/", "\\")


def _with_size_of(parent: Footer, footer: Footer, size: int) -> Footer:
    """`footer` with the size of the parent, which both must have."""
    if parent.disk_size not in (size, footer.current_size):
        message = f"vpc: a disk of {size} bytes and a parent of {parent.disk_size}: both must have the same size"
        raise ConversionError(message)
    current_size = parent.creator_application in layout.CURRENT_SIZE_CREATORS
    return replace(
        footer,
        creator_application=_CURRENT_SIZE_CREATOR if current_size else _CREATOR,
        original_size=parent.disk_size,
        current_size=parent.disk_size,
        cylinders=parent.cylinders,
        heads=parent.heads,
        sectors_per_track=parent.sectors_per_track,
        disk_type=DiskType.DIFFERENCING,
    )


class FixedWriter(ImageWriter):
    """The disk's bytes, then the footer."""

    format = DiskFormat.VHD
    unit = _UNIT_BYTES

    def __init__(self, output: Output, footer: Footer) -> None:
        self.size = footer.current_size
        self._file = output.main
        self._footer = footer

    def place(self, start: int, length: int) -> Iterable[Placement]:
        return [Placement(start, length, self._file, start)]

    def finish(self) -> None:
        self._file.truncate(self.size + layout.FOOTER_BYTES)
        self._file.write_at(self.size, build_footer(self._footer))


class DynamicWriter(ImageWriter):
    """Gives each block a place when the first range in it is placed; the rest of it is a hole of the file."""

    format = DiskFormat.VHD
    unit = _UNIT_BYTES

    def __init__(self, output: Output, footer: Footer, parent: _Parent | None = None) -> None:
        self.size = footer.current_size
        self._file = output.main
        self._footer = footer
        block_count = -(-self.size // _BLOCK_BYTES)
        self._table = array("I", (layout.UNUSED,)) * block_count
        # For each block of a differencing disk, a bit for each of its units that is not the parent's.
        self._units = array("I", (0,)) * (block_count if parent is not None else 0)
        end = _TABLE_OFFSET + _whole_sectors(block_count * 4)
        self._header = DynamicHeader(_TABLE_OFFSET, block_count, _BLOCK_BYTES)
        self._names: list[tuple[int, bytes]] = []
        if parent is not None:
            end = self._describe_parent(parent, end)
        self._end = end
        self._next_data = -(-(end + _BITMAP_BYTES) // _ALIGNMENT) * _ALIGNMENT

    def _describe_parent(self, parent: _Parent, offset: int) -> int:
        """Set what the header says of `parent`; the names lie from `offset` on, and end where this returns."""
        locators = []
        for code, name in parent.names:
            content = _encode(name, "utf-16-le")
            # Windows gives the space in bytes, the specification means sectors: either way this is enough.
            space = _whole_sectors(len(content))
            locators.append(Locator(code, space, len(content), offset))
            self._names.append((offset, content))
            offset += space
        name = parent.name if len(_encode(parent.name, "utf-16-be")) < 512 else ""
        self._header = replace(
            self._header,
            parent_unique_id=parent.footer.unique_id,
            parent_time_stamp=parent.time_stamp,
            parent_unicode_name=name,
            locators=tuple(locators),
        )
        return offset

    def place(self, start: int, length: int) -> list[Placement]:
        placements = []
        end = start + length
        while start < end:
            block, skip = divmod(start, _BLOCK_BYTES)
            part = min(end - start, _BLOCK_BYTES - skip)
            placements.append(Placement(start, part, self._file, self._place(block) + skip))
            if self._units:
                self._units[block] |= _unit_bits(skip, part)
            start += part
        return placements

    def zero(self, start: int, length: int) -> None:
        if self._units:
            self.place(start, length)

    def _place(self, block: int) -> int:
        """Where the data of `block` begins."""
        entry = self._table[block]
        if entry != layout.UNUSED:
            return entry * SECTOR_BYTES + _BITMAP_BYTES
        data = self._next_data
        self._table[block] = (data - _BITMAP_BYTES) // SECTOR_BYTES
        self._end = data + _BLOCK_BYTES
        self._next_data = -(-(self._end + _BITMAP_BYTES) // _ALIGNMENT) * _ALIGNMENT
        return data

    def finish(self) -> None:
        file = self._file
        file.truncate(self._end + layout.FOOTER_BYTES)
        everything = b"\xff" * _BITMAP_BYTES
        for block, entry in enumerate(self._table):
            if entry != layout.UNUSED:
                file.write_at(entry * SECTOR_BYTES, _bitmap(self._units[block]) if self._units else everything)
        for offset, name in self._names:
            file.write_at(offset, name)
        table = self._table[:]
        if sys.byteorder == "little":
            table.byteswap()
        footer = build_footer(self._footer)
        file.write_at(self._end, footer)
        content = table.tobytes()
        file.write_at(_TABLE_OFFSET, content.ljust(_whole_sectors(len(content)), b"\xff"))
        file.write_at(0, footer + build_header(self._header))


def _unit_bits(skip: int, length: int) -> int:
    first, end = skip // _UNIT_BYTES, -(-(skip + length) // _UNIT_BYTES)
    return (1 << end) - (1 << first)


def _bitmap(units: int) -> bytes:
    """The sector bitmap of a block whose units have these bits."""
    sectors = (b"\0" * _UNIT_BITMAP_BYTES, b"\xff" * _UNIT_BITMAP_BYTES)
    return b"".join(sectors[units >> number & 1] for number in range(_BLOCK_UNITS))


def _whole_sectors(length: int) -> int:
    return -(-length // SECTOR_BYTES) * SECTOR_BYTES


def _encode(name: str, encoding: str) -> bytes:
    try:
        return name.encode(encoding)
    except UnicodeEncodeError as error:
        raise ConversionError(f"vpc: a VHD cannot name {name!r} as its parent: {error.reason}") from None
