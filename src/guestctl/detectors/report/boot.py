"""How a guest boots.

Paths are those of the guest's tree; a file on a device that is not mounted there has GRUB's notation, with the
machine's device: ``(/dev/sda1)/EFI/BOOT/BOOTX64.EFI``.
"""

from __future__ import annotations

import msgspec


class BootLoader(msgspec.Struct, frozen=True, kw_only=True):
    """A program that a firmware can start."""

    name: str  # "grub2", "grub-legacy", "systemd-boot", "shim", "syslinux", "linux" (a kernel), "bootmgr", …
    firmware: str  # "bios", "uefi"
    path: str  # of the .efi file; of a boot sector its disk
    label: str = ""  # of its UEFI boot entry


class BootEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a loader's menu. ``title`` has the titles of its submenus before it, with ``>`` between them."""

    title: str
    loader: str  # "grub2", "grub-legacy", "systemd-boot", "extlinux", "uefi", "bcd"
    kernel: str | None
    command_line: str = ""
    initramfs: list[str] = []
    default: bool = False
    source: str = ""
    device: str | None = None  # that the kernel is on


class BootDriver(msgspec.Struct, frozen=True, kw_only=True):
    """A driver that finds disks or networks while booting. ``ready``: it is there early enough to boot from."""

    name: str  # "virtio_blk", "ahci", "viostor", …
    ready: bool
    where: str  # "built in", "initramfs", "modules", "boot-start service", …


class Boot(msgspec.Struct, kw_only=True):
    """What would start. ``virtio`` tells whether a disk on virtio would be found; None where that is unknown."""

    loaders: list[BootLoader] = []
    entries: list[BootEntry] = []
    kernel: str | None = None  # of the default entry
    command_line: str | None = None
    virtio: bool | None = None
    drivers: list[BootDriver] = []


class InitramfsFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an initial ramfs. ``mode`` is st_mode, ``size`` the bytes that lie here, ``mtime`` in seconds."""

    name: str
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    size: int
