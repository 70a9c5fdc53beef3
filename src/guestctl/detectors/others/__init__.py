"""DOS, GNU/Hurd, MINIX and Solaris, by the files that name their release; ``macos`` and ``haiku``; and installation
media (``media``)."""

from __future__ import annotations

import re
from collections.abc import Callable

from guestctl.detectors.files import Tree, assignments, first_line, read_config
from guestctl.detectors.linux.architecture import detect_architecture
from guestctl.detectors.linux.distribution import detect_distribution, split_version
from guestctl.detectors.linux.settings import detect_hostname
from guestctl.detectors.osinfo import osinfo_id
from guestctl.detectors.report import Guest

_MAX_DOS_BYTES = 256 << 10
# COMMAND.COM and the kernels answer VER with these texts; where a compressor hid them, the version stays unknown.
_MS_DOS = re.compile(rb"MS-DOS(?:\(R\))? Version (\d)\.(\d\d)")
_NO_ELF = ("macos", "haiku")  # whose programs are other files, or in packages
_FREEDOS_FILES = ("/FDOS/VERSION.FDI", "/FREEDOS/VERSION.FDI")


def detect_release(tree: Tree, guest: Guest) -> None:
    """Distribution, product name and version."""
    _RELEASES[guest.type](tree, guest)
    if guest.distro is not None and guest.osinfo is None:
        guest.osinfo = osinfo_id(guest.distro, guest.major_version, guest.minor_version)


def _dos(tree: Tree, guest: Guest) -> None:
    guest.arch = "i386"  # there is no other DOS
    if tree.is_file("/KERNEL.SYS"):
        guest.distro, guest.product_name = "freedos", "FreeDOS"
        values = (dict(assignments(read_config(tree, path) or "")) for path in _FREEDOS_FILES)
        text = next((value["VERSION"] for value in values if "VERSION" in value), None)
    else:
        guest.distro, guest.product_name = "msdos", "MS-DOS"
        command = tree.device("/COMMAND.COM")
        match = _MS_DOS.search(bytes(command.read(0, min(command.size, _MAX_DOS_BYTES))))
        text = match and f"{int(match[1])}.{match[2].decode()}"
    if text:
        guest.product_name += f" {text}"
    guest.major_version, guest.minor_version = split_version(text)


def _hurd(tree: Tree, guest: Guest) -> None:
    detect_distribution(tree, guest)  # Debian's and Guix's files are those that they have with Linux


def _minix(tree: Tree, guest: Guest) -> None:
    line = first_line(tree, "/etc/version")
    guest.product_name = f"MINIX {line}" if line else "MINIX"
    guest.major_version, guest.minor_version = split_version(line)


def _solaris(tree: Tree, guest: Guest) -> None:
    """The first line of release(5): ``Oracle Solaris 11.4 X86``, ``OpenIndiana Hipster 2023.10``."""
    line = first_line(tree, "/etc/release") or ""
    guest.product_name = line or None
    found = re.search(r"(Solaris|OpenIndiana|OmniOS|SmartOS)\D*(\d+(?:\.\d+)?)?", line)
    if found:
        guest.distro = found[1].lower()
        guest.major_version, guest.minor_version = split_version(found[2])


def _macos(tree: Tree, guest: Guest) -> None:
    from guestctl.detectors.others.macos import detect_macos

    detect_macos(tree, guest)


def _haiku(tree: Tree, guest: Guest) -> None:
    from guestctl.detectors.others.haiku import detect_haiku

    detect_haiku(tree, guest)


_RELEASES: dict[str, Callable[[Tree, Guest], None]] = {
    "dos": _dos,
    "hurd": _hurd,
    "macos": _macos,
    "haiku": _haiku,
    "minix": _minix,
    "solaris": _solaris,
}


def _hostname(tree: Tree, guest: Guest) -> None:
    if guest.type == "macos":
        from guestctl.detectors.others import macos

        macos.detect_hostname(tree, guest)
        return
    if guest.hostname is not None:
        return
    guest.hostname = first_line(tree, "/etc/hostname.file") or first_line(tree, "/etc/nodename")
    if guest.hostname is None:
        detect_hostname(tree, guest)


def _architecture(tree: Tree, guest: Guest) -> None:
    if guest.arch is None and guest.type not in _NO_ELF:
        detect_architecture(tree, guest)


DETECTORS: dict[str, Callable[[Tree, Guest], None]] = {
    "release": detect_release,
    "architecture": _architecture,
    "hostname": _hostname,
}
