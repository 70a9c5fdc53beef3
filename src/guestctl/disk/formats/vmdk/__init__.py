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
"""

from __future__ import annotations

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vmdk import layout
from guestctl.disk.formats.vmdk.descriptor import MAX_BYTES, Descriptor, parse_descriptor
from guestctl.disk.formats.vmdk.header import SparseLayout, read_sparse_layout
from guestctl.disk.formats.vmdk.reader import VmdkReader
from guestctl.disk.reader import DiskReader, ImageFile


def open_reader(image: ImageFile) -> DiskReader:
    """The reader of a VMDK image, with its extents and its parents."""
    if image.snapshot is not None:
        raise UnsupportedFeature(f"{image.path}: VMDK files have no snapshots inside", feature="snapshot")
    device = image.device
    magic = bytes(device.read(0, min(8, device.size)))
    if magic[:4] == layout.COWD_MAGIC or magic == layout.SESPARSE_MAGIC_BYTES:
        raise _extent_alone(image)
    found: SparseLayout | None = None
    if magic[:4] == layout.SPARSE_MAGIC:
        found, warnings = read_sparse_layout(device)
        if not found.descriptor_bytes:
            raise _extent_alone(image)
        descriptor = _embedded_descriptor(image, found)
    else:
        descriptor = parse_descriptor(bytes(device.read(0, min(MAX_BYTES + 1, device.size))))
    reader = VmdkReader(image, descriptor)
    try:
        if found is not None and found.capacity:
            reader.open_single(found, warnings)
        else:
            reader.open_extents()
        reader.open_parent()
    except BaseException:
        reader.close()
        raise
    return reader


def _embedded_descriptor(image: ImageFile, found: SparseLayout) -> Descriptor:
    offset, length = found.descriptor_offset, found.descriptor_bytes
    if length > MAX_BYTES or offset + length > image.device.size:
        raise InvalidFormat(
            f"{length} bytes do not lie in the file ({image.device.size} bytes)", structure="descriptor", offset=offset
        )
    return parse_descriptor(bytes(image.device.read(offset, length)), offset)


def _extent_alone(image: ImageFile) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"{image.path} is one extent of a disk: open the disk's descriptor file", feature="extent without descriptor"
    )
