"""Firmware: told by what would boot, not by the partition table alone."""

from __future__ import annotations

from typing import Any

from guestctl.core.errors import GuestctlError
from guestctl.core.types import Firmware
from guestctl.disk.filesystem import FileSystem
from guestctl.machine import Disk, Machine

_ESP_TYPES = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef")
_BOOT_CODE_BYTES = 440
# Names that loaders leave in the boot sector, in their error messages.
_LOADERS = (b"GRUB", b"LILO", b"isolinux", b"SYSLINUX", b"Limine")


def detect_firmware(machine: Machine) -> str | None:
    """``uefi`` where an EFI system partition holds a loader, else ``bios`` where a disk has boot code, else None.

    A disk prepared for both starts under UEFI as well, so that it counts as ``uefi``.
    """
    for device in machine.devices:
        partition = machine.partition(device)
        if partition is not None and partition.type.lower() not in _ESP_TYPES:
            continue
        identity = machine.identity(device)
        if identity is not None and identity.type == "vfat" and _has_loader(machine.filesystem(device)):
            return Firmware.UEFI.value
    if any(_boots_from_bios(machine, disk) for disk in machine.disks):
        return Firmware.BIOS.value
    return None


def _has_loader(filesystem: FileSystem[Any]) -> bool:
    if not filesystem.is_dir("/EFI"):
        return False
    for vendor in filesystem.scandir("/EFI"):
        if vendor.is_dir() and any(name.lower().endswith(".efi") for name in filesystem.listdir(vendor.path)):
            return True
    return False


def _boots_from_bios(machine: Machine, disk: Disk) -> bool:
    """Whether the boot sector holds a loader, or code that starts an active partition."""
    if disk.reader.size < 512:
        return False
    try:
        sector = bytes(disk.reader.read(0, 512))
    except GuestctlError as error:
        machine.warnings.append(f"{disk.name}: boot sector: {error}")
        return False
    code = sector[:_BOOT_CODE_BYTES]
    if not sector.endswith(b"\x55\xaa") or not any(code):
        return False
    active = disk.table is not None and any(partition.bootable for partition in disk.table.partitions)
    return active or any(name in code for name in _LOADERS)
