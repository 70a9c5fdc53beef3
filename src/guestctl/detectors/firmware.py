"""Firmware: told by what would boot, not by the partition table alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.core.errors import GuestctlError
from guestctl.core.types import Firmware
from guestctl.disk.filesystem import FileSystem
from guestctl.machine import Disk, Machine

_ESP_TYPES = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef")
_BOOT_CODE_BYTES = 440
# Names that loaders leave in a boot sector, in their error messages, and what the loaders are called.
_LOADERS = {b"GRUB": "grub2", b"LILO": "lilo", b"isolinux": "isolinux", b"SYSLINUX": "syslinux", b"Limine": "limine"}
# GRUB legacy has the version of its stage 1 here, GRUB 2 nothing.
_GRUB_LEGACY_OFFSET = 0x3E
_GRUB_LEGACY_VERSION = bytes((3, 2))


def detect_firmware(machine: Machine) -> str | None:
    """``uefi`` where an EFI system partition holds a loader, else ``bios`` where a disk has boot code, else None.

    A disk prepared for both starts under UEFI as well, so that it counts as ``uefi``.
    """
    if any(_has_loader(machine.filesystem(device)) for device in efi_system_partitions(machine)):
        return Firmware.UEFI.value
    if any(_boots_from_bios(machine, disk) for disk in machine.disks):
        return Firmware.BIOS.value
    return None


def efi_system_partitions(machine: Machine) -> Iterator[str]:
    """The devices that a UEFI firmware looks at: FAT in a partition of the right type, or in none."""
    for device in machine.devices:
        partition = machine.partition(device)
        if partition is not None and partition.type.lower() not in _ESP_TYPES:
            continue
        identity = machine.identity(device)
        if identity is not None and identity.type == "vfat":
            yield device


def boot_sector_loader(machine: Machine, disk: Disk) -> str | None:
    """The loader whose name is in a disk's boot sector, or in that of an active partition; None where none is."""
    active = [one for one in disk.table.partitions if one.bootable] if disk.table else []
    for start in (0, *(one.start for one in active)):
        code = _boot_sector(machine, disk, start)
        for name, loader in _LOADERS.items():
            if name in code:
                legacy = code[_GRUB_LEGACY_OFFSET : _GRUB_LEGACY_OFFSET + 2] == _GRUB_LEGACY_VERSION
                return "grub-legacy" if loader == "grub2" and legacy else loader
    return None


def _has_loader(filesystem: FileSystem[Any]) -> bool:
    if not filesystem.is_dir("/EFI"):
        return False
    if filesystem.is_file("/EFI/Microsoft/Boot/bootmgfw.efi"):
        return True
    for vendor in filesystem.scandir("/EFI"):
        if vendor.is_dir() and any(name.lower().endswith(".efi") for name in filesystem.listdir(vendor.path)):
            return True
    return False


def _boots_from_bios(machine: Machine, disk: Disk) -> bool:
    """Whether the boot sector holds a loader, or code that starts an active partition."""
    code = _boot_sector(machine, disk, 0)[:_BOOT_CODE_BYTES]
    active = disk.table is not None and any(partition.bootable for partition in disk.table.partitions)
    return any(code) and (active or any(name in code for name in _LOADERS))


def _boot_sector(machine: Machine, disk: Disk, start: int) -> bytes:
    """A sector of 512 bytes that ends as one with code does, or nothing."""
    if start + 512 > disk.reader.size:
        return b""
    try:
        sector = bytes(disk.reader.read(start, 512))
    except GuestctlError as error:
        machine.warnings.append(f"{disk.name}: boot sector: {error}")
        return b""
    return sector if sector.endswith(b"\x55\xaa") else b""
