"""VHDX, the disk image format of Hyper-V ([MS-VHDX]), version 1.

=====================================  =====================================================
fixed, dynamic, differencing disks     read and written
logical sectors of 512, 4096 bytes     read and written
a log that was not replayed            replayed in memory, with a warning
a damaged header or region table       the other one is read, with a warning
block states                           not present (zeros, or the parent's), undefined, zero
                                       and unmapped (zeros), fully and partially present
parent locators                        relative_path, volume_path, absolute_win32_path read;
                                       the first and the last written
unknown required regions, metadata     refused by name
user metadata                          ignored unless required
=====================================  =====================================================
"""

from __future__ import annotations

from guestctl.block.output import Output
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.formats.vhdx.reader import VhdxReader
from guestctl.disk.reader import DiskReader, ImageFile
from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: VHDX images have no snapshots", feature="snapshot")
    reader = VhdxReader(image)
    if not image.metadata_only:
        try:
            reader.open_parent()
        except BaseException:
            reader.close()
            raise
    return reader


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    from guestctl.disk.formats.vhdx.writer import create

    return create(output, size, options)
