"""NTFS 1.2 to 3.1, from Windows NT 4 to today.

Specification: "NTFS Documentation" by Richard Russon and Yuval Fledel (the Linux-NTFS project),
[MS-FSCC] for reparse points, [MS-XCA] and Microsoft's LZX document for compression, [MS-DTYP] for security
descriptors. Read: every size of sector, cluster, file record and index block; attributes resident or not,
sparse, compressed with LZNT1, in attribute lists; short names, hard links, alternate streams; reparse points;
system files compressed by WOF with XPRESS and LZX. Where the first file records are damaged, their mirror is
read. Refused by name: files that are encrypted with EFS, deduplicated, or in a WIM file (WIMBoot). The log is
not replayed; a dirty or hibernated volume has a warning.
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.ntfs.boot_sector import read_boot_sector
from guestctl.disk.filesystems.ntfs.filesystem import NtfsFileSystem, open_filesystem, read_label
from guestctl.disk.filesystems.ntfs.mft import MasterFileTable

__all__ = ["NtfsFileSystem", "identify", "open_filesystem"]


def identify(device: BlockDevice) -> Identity | None:
    """What `device` holds, as blkid says it; None where the boot sector is none."""
    try:
        boot = read_boot_sector(device)
    except InvalidFormat:
        return None
    try:
        label = read_label(MasterFileTable(device, boot, []))
    except InvalidFormat:
        label = None
    return Identity("ntfs", label=label, uuid=boot.uuid)
