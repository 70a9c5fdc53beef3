"""FAT12, FAT16 and FAT32 with long names, as in Microsoft's fatgen103 (FAT32 File System Specification 1.03).

Read: sectors of 512 to 4096 bytes; long names, and short names with the case bits of Windows NT, in
the code page of the options; the table in use where mirroring is off; the free count of FSInfo
where it is plausible; volume labels as blkid reports them. Names are found in any case.
Reported: volumes that were not unmounted cleanly, or are longer than their device.
Modes, owners and link counts are those of a Linux mount with umask 022; there are no symbolic links.
st_ino is the place of the directory entry on the device in units of 32 bytes, and 1 for the root.
Refused: FAT32 with a version other than 0.0. Not known: floppies without a BPB (DOS 1), exFAT.
"""

from __future__ import annotations

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import FileSystem, Identity, Options
from guestctl.disk.filesystems.fat.boot_sector import parse_boot_sector
from guestctl.disk.filesystems.fat.filesystem import FatFileSystem, decode_label, read_fsinfo, read_label
from guestctl.disk.filesystems.fat.layout import BOOT_SECTOR_BYTES

# blkid also takes these for the signatures of FSInfo: some volumes have one misspelt, or none.
_LEADS = (b"RRaA", b"RRdA", b"\0\0\0\0")
_STRUCTS = (b"rrAa", b"\0\0\0\0")


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a FAT volume, or None where `device` holds none."""
    boot = parse_boot_sector(device.read(0, min(BOOT_SECTOR_BYTES, device.size)))
    if boot is None:
        return None
    if boot.fsinfo_offset:
        fsinfo = read_fsinfo(device, boot)
        if fsinfo is None or fsinfo[0] not in _LEADS or fsinfo[1] not in _STRUCTS:
            return None
    label = decode_label(read_label(device, boot), Options().codepage)
    return Identity("vfat", version=boot.type, label=label, uuid=boot.uuid)


def open_filesystem(device: BlockDevice, options: Options) -> FileSystem[int]:
    """The FAT volume on `device`; raises `InvalidFormat` and `UnsupportedFeature`."""
    boot = parse_boot_sector(device.read(0, min(BOOT_SECTOR_BYTES, device.size)))
    if boot is None:
        raise InvalidFormat("no FAT boot sector", structure="boot sector", offset=0)
    return FatFileSystem(device, boot, options)
