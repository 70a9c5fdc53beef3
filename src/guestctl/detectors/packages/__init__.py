"""Package databases: which system a distribution uses, and what is installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from guestctl.detectors.files import Tree
from guestctl.detectors.report import Application

# distribution -> (package format, package management), libguestfs's words
_SYSTEMS = {
    "alpinelinux": ("apk", "apk"),
    "altlinux": ("rpm", "apt"),
    "archlinux": ("pacman", "pacman"),
    "gentoo": ("ebuild", "portage"),
    "mageia": ("rpm", "urpmi"),
    "mandriva": ("rpm", "urpmi"),
    "opensuse": ("rpm", "zypper"),
    "sles": ("rpm", "zypper"),
    "suse-based": ("rpm", "zypper"),
    "pardus": ("pisi", "pisi"),
    "slackware": ("pkgtool", None),
    "voidlinux": ("xbps", "xbps"),
}

# What the database's presence tells of a distribution that is not in the table.
_DATABASES = (
    ("/var/lib/dpkg/status", ("deb", "apt")),
    ("/var/lib/dpkg/status.d", ("deb", None)),
    ("/lib/apk/db/installed", ("apk", "apk")),
    ("/usr/lib/apk/db/installed", ("apk", "apk")),
    ("/var/lib/pacman/local", ("pacman", "pacman")),
)
_RPM_DATABASES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm")

# package format -> the room that reads its database
_ROOMS = {"deb": "dpkg", "apk": "apk", "rpm": "rpm", "pacman": "pacman"}


def package_system(tree: Tree, distro: str | None) -> tuple[str | None, str | None]:
    """The package format and the package manager."""
    if distro in _SYSTEMS:
        return _SYSTEMS[distro]
    for path, system in _DATABASES:
        if tree.exists(path):
            return system
    if any(tree.exists(path) for path in _RPM_DATABASES):
        return "rpm", "dnf" if tree.exists("/usr/bin/dnf") else "yum"
    return None, None


def applications(tree: Tree, package_format: str | None) -> list[Application] | None:
    """What is installed, sorted by name; None where the database is of a kind that is not read."""
    room = _ROOMS.get(package_format or "")
    if room is None:
        return None
    found: Iterator[Application] = importlib.import_module(f"guestctl.detectors.packages.{room}").applications(tree)
    return sorted(found, key=lambda application: (application.name, application.arch))
