"""Which Windows: product, edition and version, by the key that ``winver`` shows; architecture, by a program."""

from __future__ import annotations

import struct

from guestctl.detectors.registry import Key
from guestctl.detectors.report import Guest
from guestctl.detectors.windows.system import WindowsSystem

_CURRENT_VERSION = r"Microsoft\Windows NT\CurrentVersion"
# Since when they exist, builds of version 10.0 are called so: osinfo-db's names.
_SERVER_BUILDS = ((26040, "win2k25"), (20348, "win2k22"), (17763, "win2k19"), (0, "win2k16"))
_CLIENT_BUILDS = ((22000, "win11"), (0, "win10"))
# version -> (of a workstation, of a server)
_OSINFO = {
    (4, 0): ("winnt4.0", "winnt4.0"),
    (5, 0): ("win2k", "win2k"),
    (5, 1): ("winxp", "winxp"),
    (5, 2): ("winxp", "win2k3"),
    (6, 0): ("winvista", "win2k8"),
    (6, 1): ("win7", "win2k8r2"),
    (6, 2): ("win8", "win2k12"),
    (6, 3): ("win8.1", "win2k12r2"),
}
_MACHINES = {0x14C: "i386", 0x1C0: "arm", 0x1C4: "arm", 0x200: "ia64", 0x8664: "x86_64", 0xAA64: "aarch64"}
_DOS_HEADER_BYTES = 64
_PE_OFFSET = 0x3C  # e_lfanew


def detect_release(system: WindowsSystem, guest: Guest) -> None:
    """Product name and variant, version, osinfo's id."""
    guest.distro = "windows"
    key = system.software(_CURRENT_VERSION)
    if key is None:
        return
    guest.product_name = _text(key, "ProductName")
    guest.product_variant = _text(key, "InstallationType")
    guest.major_version, guest.minor_version = _version(key)
    build = _text(key, "CurrentBuildNumber") or _text(key, "CurrentBuild") or ""
    is_server = "server" in (guest.product_variant or guest.product_name or "").lower()
    if guest.major_version is not None and guest.minor_version is not None:
        version = (guest.major_version, guest.minor_version)
        guest.osinfo = osinfo_id(version, int(build) if build.isdecimal() and len(build) < 10 else 0, is_server)
        if version == (5, 2) and is_server and "R2" in (guest.product_name or ""):
            guest.osinfo = "win2k3r2"


def osinfo_id(version: tuple[int, int], build: int, is_server: bool) -> str | None:
    """The short id that osinfo-db gives a release; None for one that it does not know."""
    if version == (10, 0):
        builds = _SERVER_BUILDS if is_server else _CLIENT_BUILDS
        return next(name for first, name in builds if build >= first)
    names = _OSINFO.get(version)
    return names[is_server] if names else None


def _version(key: Key) -> tuple[int | None, int | None]:
    """Since Windows 10 two numbers; ``CurrentVersion`` stays "6.3" there."""
    major, minor = key.value("CurrentMajorVersionNumber"), key.value("CurrentMinorVersionNumber")
    if major is not None and minor is not None and len(major.data) == len(minor.data) == 4:
        return major.number, minor.number
    parts = (_text(key, "CurrentVersion") or "").split(".")
    if len(parts) == 2 and all(part.isdecimal() and len(part) < 6 for part in parts):
        return int(parts[0]), int(parts[1])
    return None, None


def _text(key: Key, name: str) -> str | None:
    value = key.value(name)
    return value.text if value is not None and value.text else None


def detect_architecture(system: WindowsSystem, guest: Guest) -> None:
    """The architecture of the command interpreter."""
    path = f"{system.root}/system32/cmd.exe"
    if system.tree.is_file(path):
        device = system.tree.device(path)
        if device.size >= _DOS_HEADER_BYTES:
            header = bytes(device.read(0, _DOS_HEADER_BYTES))
            (offset,) = struct.unpack_from("<I", header, _PE_OFFSET)
            if header[:2] == b"MZ" and offset + 6 <= device.size:
                guest.arch = pe_architecture(bytes(device.read(offset, 6)))


def pe_architecture(header: bytes) -> str | None:
    """The architecture that a PE header names (PE Format, "COFF File Header"), or None."""
    if header[:4] != b"PE\0\0":
        return None
    return _MACHINES.get(struct.unpack_from("<H", header, 4)[0])
