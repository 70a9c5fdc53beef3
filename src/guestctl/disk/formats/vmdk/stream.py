"""``StreamWriter``: a streamOptimized image, which can be read from front to back as well as at random.

Header and descriptor, which stand in front, do not say where the grain directory is (GD_AT_END).
Then come compressed grains, each behind a marker with its place on the disk; a grain table, behind
its marker, after the last of its grains; the grain directory; the footer, which is the header again
with the place of the grain directory; and the end-of-stream marker.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate

from guestctl.block.device import Buffer
from guestctl.block.output import OutputFile
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vmdk import layout
from guestctl.disk.formats.vmdk.compression import compressor
from guestctl.disk.formats.vmdk.descriptor import NewDescriptor
from guestctl.disk.formats.vmdk.header import build_header, to_little_endian
from guestctl.disk.formats.vmdk.layout import SECTOR_BYTES
from guestctl.disk.formats.vmdk.writer import DESCRIPTOR_SECTORS, GRAIN_BYTES, MAX_SECTOR, TABLE_BYTES
from guestctl.disk.writer import ImageWriter, Placement

_OVERHEAD_SECTORS = 128


class StreamWriter(ImageWriter):
    format = DiskFormat.VMDK
    unit = GRAIN_BYTES

    def __init__(self, size: int, descriptor: NewDescriptor, file: OutputFile, *, zeroed_grains: bool) -> None:
        self.size = size
        self._descriptor = descriptor
        self._file = file
        self._zeroed_grains = zeroed_grains
        self._compress = compressor()
        self._next = _OVERHEAD_SECTORS
        self._directory = array("I", bytes(-(-size // TABLE_BYTES) * 4))
        self._tables: dict[int, array[int]] = {}  # those not yet written

    @property
    def packs(self) -> bool:
        return True

    def pack(self, start: int, data: Buffer) -> bytes:
        if len(data) < GRAIN_BYTES:
            data = bytes(data).ljust(GRAIN_BYTES, b"\0")
        packed = self._compress(data)
        used = layout.GRAIN_MARKER.size + len(packed)
        return b"".join(
            (layout.GRAIN_MARKER.pack(start // SECTOR_BYTES, len(packed)), packed, bytes(-used % SECTOR_BYTES))
        )

    def place(self, start: int, length: int) -> Iterable[Placement]:
        raise AssertionError("every grain is compressed")

    def place_packed(self, start: int, sizes: Sequence[int]) -> tuple[OutputFile, int]:
        grain = start // GRAIN_BYTES
        self._write_tables(before=grain // layout.ENTRIES_PER_TABLE)
        first = self._next
        *sectors, self._next = accumulate((size // SECTOR_BYTES for size in sizes), initial=first)
        if self._next > MAX_SECTOR:
            raise ConversionError(f"{self._file.path}: a sparse extent holds no more than 2 TiB of data")
        self._note(grain, sectors)
        return self._file, first * SECTOR_BYTES

    def zero(self, start: int, length: int) -> None:
        if not self._descriptor.has_parent:
            return
        grain, end = start // GRAIN_BYTES, -(-(start + length) // GRAIN_BYTES)
        if self._zeroed_grains:
            self._write_tables(before=grain // layout.ENTRIES_PER_TABLE)
            self._note(grain, [layout.ZEROED_GRAIN] * (end - grain))
            return
        for number in range(grain, end):
            packed = self.pack(number * GRAIN_BYTES, bytes(GRAIN_BYTES))
            file, offset = self.place_packed(number * GRAIN_BYTES, [len(packed)])
            file.write_at(offset, packed)

    def finish(self) -> None:
        self._write_tables(before=len(self._directory))
        directory = self._write_metadata(layout.MARKER_GRAIN_DIRECTORY, to_little_endian(self._directory))
        self._write_metadata(layout.MARKER_FOOTER, self._header(directory))
        self._file.write_at(self._next * SECTOR_BYTES, layout.METADATA_MARKER.pack(0, 0, layout.MARKER_END_OF_STREAM))
        self._file.truncate((self._next + 1) * SECTOR_BYTES)
        self._file.write_at(0, self._header(layout.GD_AT_END))
        self._file.write_at(SECTOR_BYTES, self._descriptor.build())

    def _header(self, directory: int) -> bytes:
        flags = layout.FLAG_NEWLINE_TEST | layout.FLAG_COMPRESSED | layout.FLAG_MARKERS
        return build_header(
            version=layout.MAX_SPARSE_VERSION,
            flags=flags | (layout.FLAG_ZEROED_GRAINS if self._zeroed_grains else 0),
            capacity=self.size // SECTOR_BYTES,
            descriptor_sectors=DESCRIPTOR_SECTORS,
            redundant=0,
            directory=directory,
            overhead=_OVERHEAD_SECTORS,
        )

    def _note(self, grain: int, values: Sequence[int]) -> None:
        """Enter consecutive grains into their tables."""
        done = 0
        while done < len(values):
            table, index = divmod(grain + done, layout.ENTRIES_PER_TABLE)
            entries = self._tables.get(table)
            if entries is None:
                entries = self._tables[table] = array("I", bytes(layout.ENTRIES_PER_TABLE * 4))
            part = values[done : done + layout.ENTRIES_PER_TABLE - index]
            entries[index : index + len(part)] = array("I", part)
            done += len(part)

    def _write_tables(self, *, before: int) -> None:
        """Write the tables whose grains are all placed."""
        for table in [number for number in self._tables if number < before]:
            data = to_little_endian(self._tables.pop(table))
            self._directory[table] = self._write_metadata(layout.MARKER_GRAIN_TABLE, data)

    def _write_metadata(self, type: int, data: bytes) -> int:
        """Write a marker and `data`, in whole sectors; the sector in which `data` begins."""
        sectors = -(-len(data) // SECTOR_BYTES)
        marker = layout.METADATA_MARKER.pack(sectors, 0, type)
        self._file.write_at(self._next * SECTOR_BYTES, marker + data.ljust(sectors * SECTOR_BYTES, b"\0"))
        start = self._next + 1
        self._next = start + sectors
        if self._next > MAX_SECTOR:
            raise ConversionError(f"{self._file.path}: a sparse extent holds no more than 2 TiB of data")
        return start
