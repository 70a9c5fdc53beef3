"""``VhdxReader``: the virtual disk of a VHDX file and its parents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.block.device import BlockDevice, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vhdx.blocks import BlockTable
from guestctl.disk.formats.vhdx.header import read_header, read_regions
from guestctl.disk.formats.vhdx.layout import State
from guestctl.disk.formats.vhdx.log import replay
from guestctl.disk.formats.vhdx.metadata import read_metadata
from guestctl.disk.formats.vhdx.parent import open_parent, parent_names
from guestctl.disk.map import extent_map, joined
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry


class VhdxReader(DiskReader, MappedDevice):
    """A VHDX image, read-only. `open_parent` belongs to opening a differencing disk."""

    format = DiskFormat.VHDX

    def __init__(self, image: ImageFile) -> None:
        self.image = image
        self.path = image.path
        self.file: BlockDevice = image.device
        self.header, problems = read_header(image.device)
        self.damaged_structures = len(problems)
        if self.header.has_log:
            replayed = replay(image.device, self.header)
            if replayed is None:
                problems.append("the log has no valid entries: nothing was replayed")
            else:
                problems.append("the log was replayed, in memory: the disk was not detached cleanly")
                self.file = replayed
        try:
            self.regions, more_problems = read_regions(self.file)
            self.metadata = read_metadata(self.file, self.regions.metadata)
            self.table = BlockTable(self.file, self.regions.bat, self.metadata)
        except BaseException:
            self.file.close()
            raise
        self.damaged_structures += len(more_problems)
        self.warnings: list[str] = [f"{self.path}: {problem}" for problem in (*problems, *more_problems)]
        self.size = self.metadata.virtual_disk_size
        self.sector_size = self.metadata.logical_sector_size
        self._block_bits = self.metadata.block_size.bit_length() - 1
        self.parent_name: str | None = None

    def open_parent(self) -> None:
        if self.metadata.parent_locator is not None:
            self.backing, self.parent_name = open_parent(self.image, self.metadata.parent_locator)
            self.warnings.extend(self.backing.warnings)

    def extent(self, offset: int) -> Extent:
        bits = self._block_bits
        block = offset >> bits
        start = block << bits
        state, block_count, place = self.table.locate(block)
        length = block_count << bits
        if state == State.FULLY_PRESENT:
            return Extent(start, length, self.file, place)
        if state == State.NOT_PRESENT:
            return self._below(offset, start, start + length)
        if state != State.PARTIALLY_PRESENT:
            return Extent(start, length, None)
        run = self.table.sectors(block).at((offset - start) // self.sector_size)
        skip, end = run.start * self.sector_size, start + run.end * self.sector_size
        if not run.is_set:
            return self._below(offset, start + skip, end)
        if place + min(end, self.size) - start > self.file.size:
            raise InvalidFormat(f"block {block} ends after the file", structure="payload block", offset=place)
        return Extent(start + skip, end - start - skip, self.file, place + skip)

    def _below(self, offset: int, start: int, end: int) -> Extent:
        """A range that is not in this file."""
        parent = self.backing
        if parent is None or offset >= parent.size:
            return Extent(offset, end - offset, None)
        return Extent(start, min(end, parent.size) - start, parent, start)

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "virtual-size": self.size,
            "filename": self.path,
            "cluster-size": self.metadata.block_size,
            "format": self.format.value,
            "actual-size": self.measure_file(),
            "dirty-flag": False,
        }
        if self.metadata.parent_locator is not None:
            name = self.parent_name or next(iter(parent_names(self.metadata.parent_locator)), "")
            info["backing-filename"] = name
            info["full-backing-filename"] = self.image.resolve(name)
            info["backing-filename-format"] = self.format.value
        return info

    def map(self) -> Iterator[MapEntry]:
        """As `DiskReader.map`; qemu-img takes the whole disk of a VHDX image for data."""
        entries = extent_map(self, self.path, self.backing)
        if self.file is self.image.device:
            return entries
        # After a replay the file's own bytes may not be the disk's.
        return joined(entry if entry.depth else entry._replace(offset=None, filename=None) for entry in entries)

    def check(self) -> dict[str, Any]:
        from guestctl.disk.formats.vhdx.check import check_image

        return check_image(self)

    def close(self) -> None:
        if self.backing is not None:
            self.backing.close()
        self.file.close()
        self.image.device.close()
