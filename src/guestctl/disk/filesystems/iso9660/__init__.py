"""ISO 9660 (ECMA-119) with Rock Ridge (IEEE P1282), Joliet and El Torito, and files of zisofs.

Read: logical blocks of 512 to 2048 bytes; Rock Ridge (SP, CE, ST, ER, PX, PN, SL, NM, CL, PL, RE, TF, ZF);
Joliet where there is no Rock Ridge, and its names in any case; else names in lower case without
``;1``, as Linux maps them; files of several extents; zisofs 1 and 2; the boot catalogue.
Path tables are not used: directories say everything. Of several sessions the first one is read,
unless the last one overwrote its descriptors, as growing an image does.
Without Rock Ridge all modes are 0555 and all owners root; st_ino is the place of the directory
record in units of 32 bytes. All as in a Linux mount with its default options.
Refused: High Sierra, interleaved files, volume sets without Rock Ridge, unknown zisofs algorithms.
"""

from __future__ import annotations

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import Identity, Options
from guestctl.disk.filesystems.iso9660.filesystem import IsoFileSystem
from guestctl.disk.filesystems.iso9660.layout import DESCRIPTORS_OFFSET, HIGH_SIERRA_LABEL, SECTOR_BYTES
from guestctl.disk.filesystems.iso9660.volume import read_volume


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a volume, or None where `device` holds none."""
    try:
        volume = read_volume(device)
    except UnsupportedFeature:
        label = bytes(device.read(DESCRIPTORS_OFFSET, SECTOR_BYTES))[HIGH_SIERRA_LABEL]
        text = label.partition(b"\0")[0].decode("utf-8", "surrogateescape").rstrip()
        return Identity("iso9660", version="High Sierra", label=text or None)
    except InvalidFormat:
        return None
    version = "Joliet Extension" if volume.joliet else None
    return Identity("iso9660", version=version, label=volume.label, uuid=volume.uuid)


def open_filesystem(device: BlockDevice, options: Options) -> IsoFileSystem:
    """The volume on `device`; raises `InvalidFormat` and `UnsupportedFeature`."""
    return IsoFileSystem(device)
