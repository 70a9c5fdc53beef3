"""VDI, the disk image format of VirtualBox, version 1.1, as the header of VirtualBox's images describes itself.

=====================================  =====================================================
dynamic and fixed images               read and written
differencing images                    read and written; the parent is the image beside it
                                       whose UUID the header has
free, discarded (zero) and shared      read
blocks
blocks of other sizes than 1 MiB,      read; the extra data is skipped
with extra data before each
undo images, versions 0.1 and 1.0      refused by name
=====================================  =====================================================

Numbers are little-endian, UUIDs are stored with their first three fields little-endian.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.formats.vdi.header import read_header
from guestctl.disk.formats.vdi.reader import VdiReader
from guestctl.disk.reader import DiskReader, ImageFile

if TYPE_CHECKING:
    from guestctl.block.output import Output
    from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: VDI images have no snapshots", feature="snapshot")
    reader = VdiReader(image, read_header(image.device))
    if not image.metadata_only:
        try:
            reader.open_parent()
        except BaseException:
            reader.close()
            raise
    return reader


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    from guestctl.disk.formats.vdi.writer import create

    return create(output, size, options)
