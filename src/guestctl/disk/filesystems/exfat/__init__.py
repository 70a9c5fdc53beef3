"""exFAT, as in Microsoft's "exFAT file system specification" of 2019 (revision 1.00).

Read: sectors of 512 to 4096 bytes; files with and without a FAT chain; the valid data length, with
zeros after it (Linux before 6.8 ends the file there); times with 10 ms and their offset from UTC;
names compared by the volume's own up-case table. Checksums of the boot region, entry sets, the
up-case table and hashes of names are verified. Where the main boot region is damaged the backup is used.
Reported: that, and volumes that were not unmounted cleanly or are longer than their device.
Modes, owners and link counts are those of a Linux mount with umask 022; there are no symbolic links.
st_ino is the place of the file's first entry on the device in units of 32 bytes, and 1 for the root.
Refused: TexFAT, revisions other than 1.x, critical directory entries that are not known.
"""

from __future__ import annotations

from guestctl.block.device import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk.filesystem import Identity, Options
from guestctl.disk.filesystems.exfat.boot_region import read_boot_region
from guestctl.disk.filesystems.exfat.filesystem import ExfatFileSystem


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of an exFAT volume, or None where `device` holds none."""
    try:
        region, _ = read_boot_region(device)
    except InvalidFormat:
        return None
    try:
        label = ExfatFileSystem(device, Options()).label
    except GuestctlError:
        label = None
    return Identity("exfat", version=region.version, label=label, uuid=region.uuid)


def open_filesystem(device: BlockDevice, options: Options) -> ExfatFileSystem:
    """The volume on `device`; raises `InvalidFormat` and `UnsupportedFeature`."""
    return ExfatFileSystem(device, options)
