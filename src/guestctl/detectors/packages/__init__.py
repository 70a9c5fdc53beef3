"""Package databases: which system a distribution uses, and what is installed."""

from __future__ import annotations

from guestctl.detectors.files import Tree
from guestctl.detectors.packages.apk import apk_applications
from guestctl.detectors.packages.dpkg import dpkg_applications
from guestctl.detectors.packages.rpm import DIRECTORIES, rpm_applications
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
_APPLICATIONS = {"deb": dpkg_applications, "apk": apk_applications, "rpm": rpm_applications}


def package_system(tree: Tree, distro: str | None) -> tuple[str | None, str | None]:
    """The package format and the package manager."""
    if distro in _SYSTEMS:
        return _SYSTEMS[distro]
    for path, system in _DATABASES:
        if tree.exists(path):
            return system
    if any(tree.exists(path) for path in DIRECTORIES):
        return "rpm", "dnf" if tree.exists("/usr/bin/dnf") else "yum"
    return None, None


def applications(tree: Tree, package_format: str | None) -> list[Application] | None:
    """What is installed, sorted by name; None where the database is of a kind that is not read."""
    reader = _APPLICATIONS.get(package_format or "")
    if reader is None:
        return None
    return sorted(reader(tree), key=lambda application: (application.name, application.arch))
