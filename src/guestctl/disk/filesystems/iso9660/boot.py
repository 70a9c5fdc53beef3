"""The boot catalogue of El Torito (section 2.0 of its specification, version 1.0)."""

from __future__ import annotations

from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.iso9660 import layout as L

# A catalogue is longer than a sector only where it has more than 62 entries.
_MAX_BYTES = 16 * L.SECTOR_BYTES
_PLATFORMS = {0: "x86", 1: "PowerPC", 2: "Mac", 0xEF: "UEFI"}
_MEDIA_TYPE = 0x0F
_CONTINUES = 0x20


class BootEntry(NamedTuple):
    """What firmware may boot. ``lba`` counts sectors of 2048 bytes, ``size`` is in bytes; ``emulation`` is 0 for none,
    1 to 3 for a floppy, 4 for a hard disk."""

    platform: str
    bootable: bool
    lba: int
    size: int
    emulation: int


def read_catalog(device: BlockDevice, block: int) -> list[BootEntry]:
    """The default entry, and those of all sections."""
    offset = block * L.SECTOR_BYTES
    if not 0 < offset < device.size:
        raise InvalidFormat(f"at sector {block}, outside the device", structure="boot catalog", offset=offset)
    data = bytes(device.read(offset, min(_MAX_BYTES, device.size - offset)))
    total = sum(int.from_bytes(data[at : at + 2], "little") for at in range(0, L.CATALOG_ENTRY_BYTES, 2))
    if data[0] != 1 or data[30:32] != b"\x55\xaa" or total & 0xFFFF:
        raise InvalidFormat("a wrong validation entry", structure="boot catalog", offset=offset)
    entries = [_entry(data, L.CATALOG_ENTRY_BYTES, data[1])]
    at, last = 2 * L.CATALOG_ENTRY_BYTES, False
    while not last and at + L.CATALOG_ENTRY_BYTES <= len(data) and data[at] in (L.MORE_HEADERS, L.LAST_HEADER):
        indicator, platform, count = L.SECTION_HEADER.unpack_from(data, at)
        last = indicator == L.LAST_HEADER
        at += L.CATALOG_ENTRY_BYTES
        for _ in range(count):
            if at + L.CATALOG_ENTRY_BYTES > len(data):
                raise InvalidFormat("it ends early", structure="boot catalog", offset=offset + len(data))
            entries.append(_entry(data, at, platform))
            continues = data[at + 1] & _CONTINUES
            at += L.CATALOG_ENTRY_BYTES
            while continues and at + L.CATALOG_ENTRY_BYTES <= len(data) and data[at] == L.EXTENSION:
                continues = data[at + 1] & _CONTINUES
                at += L.CATALOG_ENTRY_BYTES
    return entries


def _entry(data: bytes, at: int, platform: int) -> BootEntry:
    indicator, media, _, count, lba = L.BOOT_ENTRY.unpack_from(data, at)
    name = _PLATFORMS.get(platform, f"{platform:#x}")
    return BootEntry(name, indicator == L.BOOTABLE, lba, count * 512, media & _MEDIA_TYPE)
