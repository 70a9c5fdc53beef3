"""OVA and OVF: a virtual machine's descriptor and its disks ("Open Virtualization Format Specification", DSP0243).

====================================  ======================================================
OVA: a tar archive of all files       read in place; written with one streamOptimized VMDK
OVF: the descriptor beside its disks  read
versions 0.9, 1.x and 2.x             read alike, by the names without namespaces; 1.x written
compressed disks                      read as any compressed image
disks without a file                  are empty
the manifest (.mf)                    checked when asked for: SHA1, SHA256, SHA512
chunked files, disks with parents,    refused by name
collections of virtual systems
document type declarations            refused, and with them all entities
====================================  ======================================================

Several disks are one machine; `open_disks` gives them in the order of their controllers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.formats.ova.reader import OvaReader, Package
from guestctl.disk.reader import DiskReader, ImageFile

if TYPE_CHECKING:
    from guestctl.block.output import Output
    from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    """The only disk; for ``metadata_only`` the package itself, of which only `info` and `check` work."""
    package = Package.open(image)
    if image.metadata_only:
        return OvaReader(package)
    if len(package.disks) != 1:
        names = ", ".join(disk.name for disk in package.disks) or "none"
        message = f"{image.path}: a machine of {len(package.disks)} disks ({names}), where one disk is expected"
        raise UnsupportedFeature(message, feature="several disks")
    return package.open_disks()[0]


def open_disks(image: ImageFile) -> list[DiskReader]:
    """All disks of the machine."""
    return Package.open(image).open_disks()


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    from guestctl.disk.formats.ova.writer import create

    return create(output, size, options)
