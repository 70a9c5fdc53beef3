"""macOS, Mac OS X and what one installs them from: SystemVersion.plist, the preferences of SystemConfiguration, and
the kernel, which is a Mach-O file (``mach-o/loader.h``, ``mach-o/fat.h``)."""

from __future__ import annotations

import plistlib
import struct
from typing import Any
from xml.parsers.expat import ExpatError

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree
from guestctl.detectors.linux.distribution import split_version
from guestctl.detectors.osinfo import osinfo_id
from guestctl.detectors.report import Guest

_VERSION = "/System/Library/CoreServices/SystemVersion.plist"
_PREFERENCES = "/Library/Preferences/SystemConfiguration/preferences.plist"
_KERNELS = ("/System/Library/Kernels/kernel", "/mach_kernel")
_MAX_PLIST_BYTES = 1 << 20  # preferences with hundreds of network services have some 100 KiB
# What plistlib lets through where a list is no list, a date no date, or one leads into itself.
_PLIST_ERRORS = (ExpatError, ValueError, AttributeError, LookupError, TypeError, OverflowError, RecursionError)

_FAT_MAGIC = 0xCAFEBABE
_FAT_ENTRY = struct.Struct(">I16x")
_MAX_FAT_ENTRIES = 16
_MAGICS = {b"\xfe\xed\xfa\xce": ">", b"\xfe\xed\xfa\xcf": ">", b"\xce\xfa\xed\xfe": "<", b"\xcf\xfa\xed\xfe": "<"}
# CPU_TYPE_…, the first that there is
_ARCHITECTURES = {0x01000007: "x86_64", 0x0100000C: "aarch64", 7: "i386", 0x01000012: "ppc64", 18: "ppc"}


def detect_macos(tree: Tree, guest: Guest) -> None:
    """Product, version and build, as the system shows them, host name and architecture."""
    guest.distro = "macos"
    version = read_plist(tree, _VERSION)
    name, number, build = (_text(version, key) for key in ("ProductName", "ProductVersion", "ProductBuildVersion"))
    guest.product_name = " ".join(word for word in (name, number, build and f"({build})") if word) or None
    guest.major_version, guest.minor_version = split_version(number)
    guest.osinfo = osinfo_id("macos", guest.major_version, guest.minor_version)
    guest.arch = _architecture(tree)


def detect_hostname(tree: Tree, guest: Guest) -> None:
    """As scutil(8) has it: the host name that was set, or the one on the local network, or the computer's."""
    system = read_plist(tree, _PREFERENCES).get("System")
    own = _within(system, "System")
    guest.hostname = (
        _text(own, "HostName")
        or _text(_within(_within(system, "Network"), "HostNames"), "LocalHostName")
        or _text(own, "ComputerName")
    )


def read_plist(tree: Tree, path: str) -> dict[str, Any]:
    """The dictionary in a property list; an empty one where there is no such file. Raises `InvalidFormat`."""
    if not tree.is_file(path):
        return {}
    data = tree.read_bytes(path, limit=_MAX_PLIST_BYTES)
    try:
        found = plistlib.loads(data)
    except _PLIST_ERRORS as error:
        raise InvalidFormat(f"{path}: {error}", structure="property list", offset=0) from error
    return found if isinstance(found, dict) else {}


def _within(values: Any, key: str) -> dict[str, Any]:
    found = values.get(key) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}


def _text(values: dict[str, Any], key: str) -> str | None:
    found = values.get(key)
    return found if isinstance(found, str) and found else None


def _architecture(tree: Tree) -> str | None:
    path = next((path for path in _KERNELS if tree.is_file(path)), None)
    if path is None:
        return None
    kernel = tree.device(path)
    data = bytes(kernel.read(0, min(kernel.size, 8 + _MAX_FAT_ENTRIES * _FAT_ENTRY.size)))
    if len(data) < 8:
        return None
    order = _MAGICS.get(data[:4])
    if order is not None:
        return _ARCHITECTURES.get(struct.unpack_from(order + "4xI", data)[0])
    magic, count = struct.unpack_from(">II", data)
    if magic != _FAT_MAGIC:
        return None
    entries = data[8 : 8 + count * _FAT_ENTRY.size] if count <= _MAX_FAT_ENTRIES else b""
    whole = len(entries) // _FAT_ENTRY.size * _FAT_ENTRY.size
    types = {kind for (kind,) in _FAT_ENTRY.iter_unpack(entries[:whole])}
    return next((arch for kind, arch in _ARCHITECTURES.items() if kind in types), None)
