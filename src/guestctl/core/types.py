"""The words that several rooms share. Values are those of libguestfs and qemu-img where they have them."""

from __future__ import annotations

from enum import StrEnum


class DiskFormat(StrEnum):
    """Disk image formats, as ``qemu-img -f`` names them."""

    RAW = "raw"
    QCOW2 = "qcow2"


class GuestType(StrEnum):
    """Operating system families, as libguestfs's ``inspect_get_type`` names them."""

    LINUX = "linux"
    WINDOWS = "windows"
    FREEBSD = "freebsd"
    NETBSD = "netbsd"
    OPENBSD = "openbsd"
    UNKNOWN = "unknown"


class Firmware(StrEnum):
    """What starts a guest."""

    BIOS = "bios"
    UEFI = "uefi"
