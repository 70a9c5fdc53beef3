"""VMDK, the image format of VMware ("Virtual Disk Format 5.0").

=========================================  ========================================================
hosted sparse extents, versions 1 to 3     read; several on one disk (``twoGbMaxExtentSparse``) too
zeroed grains                              read
streamOptimized (compressed, markers)      read through the grain directory, wherever that is
redundant grain directory                  read where the primary one is damaged, with a warning
FLAT and VMFS extents, ZERO extents        read
COWD extents (``vmfsSparse``)              read
seSparse extents                           read; refused while their journal is to be replayed
delta chains                               read; refused where CID and parentCID differ
unclean shutdown                           read, with a warning
raw devices and device maps                refused by name
an extent opened without its descriptor    refused by name
=========================================  ========================================================

Written are the five types that qemu-img writes (``subformat``), the sparse ones as deltas too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.formats.vmdk.reader import VmdkReader, read_descriptor
from guestctl.disk.reader import DiskReader, ImageFile

if TYPE_CHECKING:
    from guestctl.block.output import Output
    from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    """The reader of a VMDK image, with its extents. For ``metadata_only``, the parent of a delta is not opened."""
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: VMDK files have no snapshots inside", feature="snapshot")
    descriptor, found, warnings = read_descriptor(image.path, image.device)
    reader = VmdkReader(image, descriptor)
    try:
        if found is not None and found.capacity:
            reader.open_single(found, warnings)
        else:
            reader.open_extents()
        if not image.metadata_only:
            reader.open_parent()
    except BaseException:
        reader.close()
        raise
    return reader


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    """The writer of a new VMDK image; the options are qemu-img's."""
    from guestctl.disk.formats.vmdk.options import create

    return create(output, size, options)
