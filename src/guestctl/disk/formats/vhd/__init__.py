"""VHD, the disk image format of Virtual PC, which qemu-img calls ``vpc`` ("Virtual Hard Disk Image Format
Specification", October 2006), version 1.0.

=====================================  =====================================================
fixed, dynamic, differencing disks     read and written
footers of 511 bytes                   read
a damaged footer                       its copy at the start is read, with a warning
wrong checksum of the dynamic header   read, with a warning; so are two copies of a footer
                                       that agree in all but their checksum
size by geometry or current size       as the creator application means it, with qemu's list
parent locators W2ru, W2ku, MacX       read, and the parent's plain name; W2ru, W2ku written
other locators (Wi2r, Wi2k, Mac)       ignored: deprecated
sector bitmaps                         those of differencing disks decide per sector
split disks (.v01, ...)                refused: no footer
=====================================  =====================================================
"""

from __future__ import annotations

from guestctl.block.output import Output
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.formats.vhd.footer import read_footer
from guestctl.disk.formats.vhd.layout import DiskType
from guestctl.disk.formats.vhd.reader import DynamicReader, FixedReader
from guestctl.disk.reader import DiskReader, ImageFile
from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: VHD images have no snapshots", feature="snapshot")
    found = read_footer(image.device)
    if found.footer.disk_type is DiskType.FIXED:
        return FixedReader(image, found)
    reader = DynamicReader(image, found)
    if image.metadata_only:
        return reader
    try:
        reader.open_parent()
    except BaseException:
        reader.close()
        raise
    return reader


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    from guestctl.disk.formats.vhd.writer import create

    return create(output, size, options)
