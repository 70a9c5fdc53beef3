"""Writers of uncompressed images: ``FlatWriter`` and ``SparseWriter``, each of one file or of several of 2 GiB.

A sparse extent has its tables before its grains: header, descriptor, redundant grain directory and
tables, primary ones. Tables without grains are holes of the file. Grains follow one another in the
order in which they are handed over.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TypeVar

from guestctl.block.output import OutputFile
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vmdk import layout
from guestctl.disk.formats.vmdk.descriptor import ExtentLine, NewDescriptor
from guestctl.disk.formats.vmdk.header import build_header, to_little_endian
from guestctl.disk.formats.vmdk.layout import SECTOR_BYTES
from guestctl.disk.writer import ImageWriter, Placement

T = TypeVar("T")

GRAIN_BYTES = layout.GRAIN_SECTORS * SECTOR_BYTES
TABLE_BYTES = layout.ENTRIES_PER_TABLE * GRAIN_BYTES  # of the disk
_TABLE_SECTORS = layout.ENTRIES_PER_TABLE * 4 // SECTOR_BYTES
DESCRIPTOR_SECTORS = 20  # as qemu-img and VMware reserve
MAX_SECTOR = 0xFFFF_FFFF  # that a table can refer to
SPLIT_BYTES = 2 << 30


class FlatWriter(ImageWriter):
    """Extents that are the disk's bytes, and a descriptor beside them."""

    format = DiskFormat.VMDK

    def __init__(
        self, size: int, descriptor: NewDescriptor, descriptor_file: OutputFile, files: Sequence[OutputFile]
    ) -> None:
        self.size = size
        self._descriptor = descriptor
        self._descriptor_file = descriptor_file
        self._files = files
        self._extent_bytes = SPLIT_BYTES if len(files) > 1 else size

    def place(self, start: int, length: int) -> list[Placement]:
        pieces = _split(self._files, self._extent_bytes, start, length)
        return [Placement(at, part, file, inside) for file, inside, at, part in pieces]

    def finish(self) -> None:
        for number, file in enumerate(self._files):
            file.truncate(min(self._extent_bytes, self.size - number * self._extent_bytes))
        self._descriptor_file.write_at(0, self._descriptor.build())


class SparseWriter(ImageWriter):
    """Extents of grains, and a descriptor inside the only one or beside them."""

    format = DiskFormat.VMDK
    unit = GRAIN_BYTES

    def __init__(
        self,
        size: int,
        descriptor: NewDescriptor,
        descriptor_file: OutputFile,
        files: Sequence[OutputFile],
        *,
        zeroed_grains: bool,
    ) -> None:
        self.size = size
        self._descriptor = descriptor
        self._descriptor_file = descriptor_file
        self._files = files
        self._is_single = descriptor_file is files[0]
        self._extent_bytes = size if self._is_single else SPLIT_BYTES
        self._zeroed_grains = zeroed_grains
        self._extents = [
            _SparseExtent(
                file,
                min(self._extent_bytes, size - number * self._extent_bytes),
                DESCRIPTOR_SECTORS if self._is_single else 0,
                zeroed_grains=zeroed_grains,
            )
            for number, file in enumerate(files)
        ]

    def place(self, start: int, length: int) -> list[Placement]:
        pieces = _split(self._extents, self._extent_bytes, start, length)
        return [Placement(at, part, extent.file, extent.allocate(inside, part)) for extent, inside, at, part in pieces]

    def zero(self, start: int, length: int) -> None:
        if not self._descriptor.has_parent:
            return
        for extent, inside, _, part in _split(self._extents, self._extent_bytes, start, length):
            if self._zeroed_grains:
                extent.note(inside, part, layout.ZEROED_GRAIN, step=0)
            else:
                extent.allocate(inside, part)  # grains that nobody fills are holes of the file

    def finish(self) -> None:
        for extent in self._extents:
            extent.finish()
        descriptor = self._descriptor.build()
        self._descriptor_file.write_at(SECTOR_BYTES if self._is_single else 0, descriptor)


class _SparseExtent:
    """One hosted sparse extent. Ranges come in ascending order, so that one grain table at a time is kept."""

    def __init__(self, file: OutputFile, size: int, descriptor_sectors: int, *, zeroed_grains: bool) -> None:
        self.file = file
        self._sectors = size // SECTOR_BYTES
        self._descriptor_sectors = descriptor_sectors
        self._zeroed_grains = zeroed_grains
        self._tables = -(-size // TABLE_BYTES)
        directory_sectors = -(-self._tables * 4 // SECTOR_BYTES)
        self._redundant = 1 + descriptor_sectors
        self._redundant_tables = self._redundant + directory_sectors
        self._primary = self._redundant_tables + self._tables * _TABLE_SECTORS
        self._primary_tables = self._primary + directory_sectors
        end = self._primary_tables + self._tables * _TABLE_SECTORS
        self._overhead = -(-end // layout.GRAIN_SECTORS) * layout.GRAIN_SECTORS
        self._next = self._overhead
        self._table = -1
        self._entries = array("I")

    def allocate(self, offset: int, length: int) -> int:
        """Give the range grains that follow one another; where they are in the file."""
        grains = -(-length // GRAIN_BYTES)
        sector = self._next
        self._next += grains * layout.GRAIN_SECTORS
        if self._next > MAX_SECTOR:
            raise ConversionError(f"{self.file.path}: a sparse extent holds no more than 2 TiB of data")
        self.note(offset, length, sector, step=layout.GRAIN_SECTORS)
        return sector * SECTOR_BYTES

    def note(self, offset: int, length: int, entry: int, *, step: int) -> None:
        """Enter the range into its grain tables: `entry`, then `step` more for each grain."""
        grain, end = offset // GRAIN_BYTES, -(-(offset + length) // GRAIN_BYTES)
        while grain < end:
            table, index = divmod(grain, layout.ENTRIES_PER_TABLE)
            if table != self._table:
                self._write_table()
                self._table, self._entries = table, array("I", bytes(layout.ENTRIES_PER_TABLE * 4))
            part = min(end - grain, layout.ENTRIES_PER_TABLE - index)
            values = range(entry, entry + part * step, step) if step else (entry,) * part
            self._entries[index : index + part] = array("I", values)
            entry += part * step
            grain += part

    def finish(self) -> None:
        self._write_table()
        for directory, tables in (
            (self._redundant, self._redundant_tables),
            (self._primary, self._primary_tables),
        ):
            entries = array("I", range(tables, tables + self._tables * _TABLE_SECTORS, _TABLE_SECTORS))
            self.file.write_at(directory * SECTOR_BYTES, to_little_endian(entries))
        flags = layout.FLAG_NEWLINE_TEST | layout.FLAG_REDUNDANT_TABLES
        header = build_header(
            version=2 if self._zeroed_grains else 1,
            flags=flags | (layout.FLAG_ZEROED_GRAINS if self._zeroed_grains else 0),
            capacity=self._sectors,
            descriptor_sectors=self._descriptor_sectors,
            redundant=self._redundant,
            directory=self._primary,
            overhead=self._overhead,
        )
        self.file.write_at(0, header)
        self.file.truncate(self._next * SECTOR_BYTES)

    def _write_table(self) -> None:
        if self._table < 0:
            return
        data = to_little_endian(self._entries)
        for tables in (self._redundant_tables, self._primary_tables):
            self.file.write_at((tables + self._table * _TABLE_SECTORS) * SECTOR_BYTES, data)


def _split(extents: Sequence[T], extent_bytes: int, start: int, length: int) -> Iterator[tuple[T, int, int, int]]:
    """The range cut at the bounds of extents: each with the offset in it, the offset on the disk and the length."""
    end = start + length
    while start < end:
        number, inside = divmod(start, extent_bytes)
        part = min(end - start, extent_bytes - inside)
        yield extents[number], inside, start, part
        start += part


def extent_lines(type: str, size: int, names: Sequence[str]) -> tuple[ExtentLine, ...]:
    """The descriptor's lines for files of 2 GiB each, or for the only one."""
    extent_bytes = SPLIT_BYTES if len(names) > 1 else size
    sizes = (min(extent_bytes, size - number * extent_bytes) for number in range(len(names)))
    return tuple(ExtentLine(part // SECTOR_BYTES, type, name) for part, name in zip(sizes, names, strict=True))
