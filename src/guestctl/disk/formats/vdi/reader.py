"""``VdiReader``: the virtual disk of a VDI file and of the parents below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.block.device import Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vdi import layout
from guestctl.disk.formats.vdi.blocks import BlockMap
from guestctl.disk.formats.vdi.header import Header
from guestctl.disk.formats.vdi.layout import ImageType
from guestctl.disk.formats.vdi.parent import open_parent
from guestctl.disk.map import extent_map, joined
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry


class VdiReader(DiskReader, MappedDevice):
    """A VDI image, read-only."""

    format = DiskFormat.VDI

    def __init__(self, image: ImageFile, header: Header) -> None:
        self.image = image
        self.path = image.path
        self.file = image.device
        self.header = header
        self.size = header.disk_size
        self.blocks = BlockMap(image.device, header)
        self.warnings: list[str] = []
        self._block_size = header.block_size
        self._stride = header.block_extra + header.block_size
        self._data_offset = header.data_offset + header.block_extra

    def open_parent(self) -> None:
        if self.header.image_type is not ImageType.DIFF:
            return
        parent = open_parent(self.image, self.header)
        assert isinstance(parent, VdiReader)
        self.backing = parent
        self.warnings += parent.warnings
        if parent.header.uuid_modify != self.header.uuid_parent_modify:
            self.warnings.append(f"{self.path}: {parent.path} was written after this image was made from it")

    def read(self, offset: int, length: int) -> Buffer:
        block = offset // self._block_size
        skip = offset - block * self._block_size
        if 0 < length <= self._block_size - skip and offset >= 0 and offset + length <= self.size:
            entry = self.blocks.entry(block)
            place = self._data_offset + entry * self._stride + skip
            if entry < layout.ZERO and place + length <= self.file.size:
                return self.file.read(place, length)
        return super().read(offset, length)

    def extent(self, offset: int) -> Extent:
        block = offset // self._block_size
        start = block * self._block_size
        entry, count = self.blocks.run(block)
        length = min(count * self._block_size, self.size - start)
        if entry == layout.ZERO:
            return Extent(start, length, None)
        if entry == layout.FREE:
            return self._below(offset, start, start + length)
        place = self._data_offset + entry * self._stride
        if self._stride != self._block_size:
            length = min(length, self._block_size)
        available = self.file.size - place
        if available < length:
            # Of the last block only what is in the disk must be there.
            length = available // self._block_size * self._block_size
            if length <= 0:
                message = f"block {block} is block {entry} in the file, which ends before it does"
                raise InvalidFormat(message, structure="block map", offset=self.header.blocks_offset + block * 4)
        return Extent(start, length, self.file, place)

    def _below(self, offset: int, start: int, end: int) -> Extent:
        parent = self.backing
        if parent is None or offset >= parent.size:
            return Extent(offset, end - offset, None)
        return Extent(start, min(end, parent.size) - start, parent, start)

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "virtual-size": self.size,
            "filename": self.path,
            "cluster-size": self._block_size,
            "format": self.format.value,
            "actual-size": self.measure_file(),
            "dirty-flag": False,
        }
        if self.backing is not None:
            info["backing-filename"] = info["full-backing-filename"] = self.backing.path
            info["backing-filename-format"] = self.format.value
        return info

    def map(self) -> Iterator[MapEntry]:
        if self.header.image_type is ImageType.FIXED:
            return joined(self._fixed_entries())
        return extent_map(self, self.path, self.backing)

    def _fixed_entries(self) -> Iterator[MapEntry]:
        """The blocks with the holes of the file in them, which qemu-img tells of fixed images alone."""
        offset = 0
        while offset < self.size:
            start, length, source, place = self.extent(offset)
            if source is None:
                yield MapEntry(start, length, 0, True, True, False, False)
            else:
                for run in source.runs(place, length):
                    at, host_offset = start + run.offset - place, source.host_offset(run.offset)
                    yield MapEntry(at, run.length, 0, True, run.source is None, True, False, host_offset, self.path)
            offset = start + length

    def check(self) -> dict[str, Any]:
        from guestctl.disk.formats.vdi.check import check_image

        return check_image(self)

    def close(self) -> None:
        if self.backing is not None:
            self.backing.close()
        self.file.close()
