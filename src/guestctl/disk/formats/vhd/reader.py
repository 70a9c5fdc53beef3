"""The virtual disk of a VHD file: `FixedReader`, and `DynamicReader` with the parents of a differencing disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.block.device import Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vhd import layout
from guestctl.disk.formats.vhd.blocks import BlockTable, Unallocated
from guestctl.disk.formats.vhd.footer import FoundFooter
from guestctl.disk.formats.vhd.header import read_header
from guestctl.disk.formats.vhd.layout import DiskType
from guestctl.disk.formats.vhd.parent import open_parent, parent_names, timestamp_warning
from guestctl.disk.map import extent_map, joined
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry


class VhdReader(DiskReader, MappedDevice):
    """A VHD image, read-only."""

    format = DiskFormat.VHD

    def __init__(self, image: ImageFile, found: FoundFooter) -> None:
        self.image = image
        self.path = image.path
        self.file = image.device
        self.footer = found.footer
        self.end_offset = found.end_offset
        self.warnings: list[str] = [f"{self.path}: {problem}" for problem in found.problems]
        self.damaged_structures = len(found.problems)

    def info(self) -> dict[str, Any]:
        return {
            "virtual-size": self.size,
            "filename": self.path,
            "format": self.format.value,
            "actual-size": self.measure_file(),
            "dirty-flag": False,
        }

    def check(self) -> dict[str, Any]:
        from guestctl.disk.formats.vhd.check import check_image

        return check_image(self)

    def close(self) -> None:
        if self.backing is not None:
            self.backing.close()
        self.file.close()

    def _size_within(self, available: int, structure: str) -> int:
        """The disk's size, for which the file has `available` bytes."""
        size = self.footer.disk_size
        if size <= available:
            return size
        current = self.footer.current_size & -layout.SECTOR_BYTES
        if size == current or current > available:
            message = f"it has room for {available} bytes of a disk of {size}"
            raise InvalidFormat(message, structure=structure, offset=self.end_offset)
        self.warnings.append(f"{self.path}: the geometry's {size} bytes are not in the file, the size is {current}")
        return current


class FixedReader(VhdReader):
    """A fixed disk: its bytes, then the footer."""

    def __init__(self, image: ImageFile, found: FoundFooter) -> None:
        super().__init__(image, found)
        self.size = self._size_within(self.end_offset, "fixed disk")

    def extent(self, offset: int) -> Extent:
        return Extent(0, self.size, self.file)

    def map(self) -> Iterator[MapEntry]:
        return joined(
            MapEntry(run.offset, run.length, 0, True, run.source is None, True, False, place, self.path)
            for run in self.runs(0, self.size)
            for place in [self.file.host_offset(run.offset)]
        )


class DynamicReader(VhdReader):
    """A dynamic or differencing disk; `open_parent` belongs to opening the latter."""

    def __init__(self, image: ImageFile, found: FoundFooter) -> None:
        super().__init__(image, found)
        self.header, problem = read_header(self.file, self.footer.data_offset)
        if problem is not None:
            self.warnings.append(f"{self.path}: {problem}")
            self.damaged_structures += 1
        self._block_bits = self.header.block_size.bit_length() - 1
        self.size = self._size_within(self.header.max_table_entries << self._block_bits, "block allocation table")
        self.table = BlockTable(self.file, self.header, self.size)
        self._data_skip = self.table.bitmap_bytes
        self._differencing = self.footer.disk_type is DiskType.DIFFERENCING
        self.parent_name: str | None = None

    def open_parent(self) -> None:
        if not self._differencing:
            return
        parent, self.parent_name = open_parent(self.image, self.header)
        self.backing = parent
        assert isinstance(parent, VhdReader)
        self.warnings.extend(parent.warnings)
        warning = timestamp_warning(self.header, parent)
        if warning is not None:
            self.warnings.append(f"{self.path}: {warning}")

    def extent(self, offset: int) -> Extent:
        bits = self._block_bits
        block = offset >> bits
        start = block << bits
        place = self.table.locate(block)
        if isinstance(place, Unallocated):
            return self._below(offset, start, start + (place.block_count << bits))
        # The bits of a dynamic disk's bitmap do not matter: what was never written is zeros in the file, too.
        if not self._differencing:
            return Extent(start, 1 << bits, self.file, place + self._data_skip)
        run = self.table.sectors(place).at((offset - start) // layout.SECTOR_BYTES)
        skip, end = run.start * layout.SECTOR_BYTES, start + run.end * layout.SECTOR_BYTES
        if not run.is_set:
            return self._below(offset, start + skip, end)
        data_offset = place + self._data_skip + skip
        if data_offset + min(end, self.size) - start - skip > self.file.size:
            message = f"block {block} ends after the file"
            raise InvalidFormat(message, structure="data block", offset=data_offset)
        return Extent(start + skip, end - start - skip, self.file, data_offset)

    def _below(self, offset: int, start: int, end: int) -> Extent:
        """A range that is not in this file."""
        parent = self.backing
        if parent is None or offset >= parent.size:
            return Extent(offset, end - offset, None)
        return Extent(start, min(end, parent.size) - start, parent, start)

    def info(self) -> dict[str, Any]:
        info = super().info()
        info["cluster-size"] = self.header.block_size
        if self._differencing:
            name = self.parent_name or next(iter(parent_names(self.file, self.header)), "")
            info["backing-filename"] = name
            info["full-backing-filename"] = self.image.resolve(name)
            info["backing-filename-format"] = self.format.value
        return info

    def map(self) -> Iterator[MapEntry]:
        return extent_map(self, self.path, self.backing)
