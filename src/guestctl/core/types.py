"""The words that several rooms share. Values are those of libguestfs and qemu-img where they have them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DiskFormat(StrEnum):
    """Disk image formats, as ``qemu-img -f`` names them."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vpc"
    VHDX = "vhdx"
    VDI = "vdi"
    OVA = "ova"  # not qemu-img's: a package of disks


class GuestType(StrEnum):
    """Operating system families, as libguestfs's ``inspect_get_type`` names them."""

    LINUX = "linux"
    WINDOWS = "windows"
    FREEBSD = "freebsd"
    NETBSD = "netbsd"
    OPENBSD = "openbsd"
    HURD = "hurd"
    DOS = "dos"
    MINIX = "minix"
    DRAGONFLY = "dragonfly"  # this one and the next three are not libguestfs's
    SOLARIS = "solaris"
    MACOS = "macos"
    HAIKU = "haiku"
    UNKNOWN = "unknown"


class Firmware(StrEnum):
    """What starts a guest."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class GuestIdentity:
    """Which system a guest is. What is not known is None."""

    os_type: GuestType
    os_name: str | None = None  # as the system calls itself
    os_version: str | None = None
    architecture: str | None = None
    firmware: Firmware | None = None
    init_system: str | None = None
    distro: str | None = None
