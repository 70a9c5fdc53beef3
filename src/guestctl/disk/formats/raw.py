"""Raw images: the file is the disk, with zeros up to a whole number of sectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice
from guestctl.block.output import Output
from guestctl.core.errors import UnsupportedFeature
from guestctl.core.types import DiskFormat
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry
from guestctl.disk.writer import ImageWriter, Options, Placement, write_zeros

_SECTOR_BYTES = 512  # qemu's, whatever the host's device has


def open_reader(image: ImageFile) -> DiskReader:
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: raw images have no snapshots", feature="snapshot")
    return RawReader(image.device, image.path)


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    """``preallocation``: ``off`` leaves holes, ``falloc`` has the host reserve their space, ``full`` writes zeros."""
    mode = options.choice("preallocation", {mode: mode for mode in ("off", "falloc", "full")}, "off")
    size = -(-size // _SECTOR_BYTES) * _SECTOR_BYTES
    if mode != "off" and size:
        output.main.reserve(0, size)
    return RawWriter(output, size, fill=mode == "full")


class RawReader(DiskReader, MappedDevice):
    """A raw image. The holes of its file are zeros that need not be read."""

    format = DiskFormat.RAW

    def __init__(self, device: BlockDevice, path: str) -> None:
        self.path = path
        self.size = -(-device.size // _SECTOR_BYTES) * _SECTOR_BYTES
        self.sector_size = device.sector_size
        self._device = device

    def read(self, offset: int, length: int) -> Buffer:
        if offset + length <= self._device.size:
            return self._device.read(offset, length)
        return super().read(offset, length)

    def extent(self, offset: int) -> Extent:
        end = self._device.size
        return Extent(0, end, self._device) if offset < end else Extent(end, self.size - end, None)

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
            place = self._device.host_offset(run.offset)
            yield MapEntry(run.offset, run.length, 0, True, hole, not hole, False, place, self.path)


class RawWriter(ImageWriter):
    """A raw image: everything has the place it has on the disk, and what was not written is a hole.

    `fill` writes the zeros too.
    """

    format = DiskFormat.RAW
    unit = 4096

    def __init__(self, output: Output, size: int, *, fill: bool) -> None:
        self.size = size
        self._file = output.main
        self._fill = fill
        self._next = 0  # up to where the file is filled

    def place(self, start: int, length: int) -> Iterable[Placement]:
        self._fill_up_to(start)
        self._next = start + length
        return (Placement(start, length, self._file, start),)

    def finish(self) -> None:
        self._fill_up_to(self.size)
        self._file.truncate(self.size)

    def _fill_up_to(self, offset: int) -> None:
        if self._fill and offset > self._next:
            write_zeros(self._file, self._next, offset - self._next)
