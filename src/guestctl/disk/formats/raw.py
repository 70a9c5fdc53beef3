"""Raw images: the file is the disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.block.device import BlockDevice, Buffer, Run
from guestctl.core.errors import UnsupportedFeature
from guestctl.core.types import DiskFormat
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry


def open_reader(image: ImageFile) -> DiskReader:
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: raw images have no snapshots", feature="snapshot")
    return RawReader(image.device, image.path)


class RawReader(DiskReader):
    """A raw image. The holes of its file are zeros that need not be read."""

    format = DiskFormat.RAW

    def __init__(self, device: BlockDevice, path: str) -> None:
        self.path = path
        self.size = device.size
        self.sector_size = device.sector_size
        self._device = device

    def read(self, offset: int, length: int) -> Buffer:
        return self._device.read(offset, length)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        return self._device.runs(offset, length)

    def close(self) -> None:
        self._device.close()

    def info(self) -> dict[str, Any]:
        return {
            "virtual-size": self.size,
            "filename": self.path,
            "format": self.format.value,
            "actual-size": self.measure_file(),
            "dirty-flag": False,
        }

    def map(self) -> Iterator[MapEntry]:
        for run in self.runs(0, self.size):
            hole = run.source is None
            yield MapEntry(run.offset, run.length, 0, True, hole, not hole, False, run.offset, self.path)
