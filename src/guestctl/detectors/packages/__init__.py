"""Package databases: which system a distribution uses, and what is installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import Tree
from guestctl.detectors.report import Application
from guestctl.detectors.report.packages import Package, PackageFile

if TYPE_CHECKING:
    from guestctl.detectors.system import System

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
    ("/var/lib/pisi", ("pisi", "pisi")),
    ("/var/db/pkg/local.sqlite", ("pkg", "pkg")),
    ("/usr/pkg/pkgdb", ("pkgsrc", None)),
)
_RPM_DATABASES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm")

# package format, libguestfs's word -> the room that reads its database
_FORMATS = {
    "deb": "dpkg",
    "apk": "apk",
    "rpm": "rpm",
    "pacman": "pacman",
    "ebuild": "portage",
    "pkgtool": "pkgtool",
    "xbps": "xbps",
    "pkg": "freebsd",
    "pkgsrc": "pkg_install",
}

# the room that reads a database -> one of these is there where there is such a database
_MANAGERS = {
    "dpkg": ("/var/lib/dpkg/status", "/var/lib/dpkg/status.d"),
    "apk": ("/lib/apk/db/installed", "/usr/lib/apk/db/installed"),
    "rpm": _RPM_DATABASES,
    "pacman": ("/var/lib/pacman/local",),
    "portage": ("/var/db/pkg",),
    "pkgtool": ("/var/lib/pkgtools/packages", "/var/log/packages"),
    "xbps": ("/var/db/xbps/pkgdb-0.38.plist",),
    "opkg": ("/usr/lib/opkg/status", "/var/lib/opkg/status"),
    "freebsd": ("/var/db/pkg/local.sqlite",),
    "pkg_install": ("/var/db/pkg", "/usr/pkg/pkgdb", "/usr/pkg/.pkgdb"),
    "macports": ("/opt/local/var/macports/registry/registry.db",),
    "homebrew": ("/home/linuxbrew/.linuxbrew/Cellar", "/opt/homebrew/Cellar", "/usr/local/Cellar"),
    "snap": ("/var/lib/snapd/state.json",),
    "flatpak": ("/var/lib/flatpak", "/home", "/root/.local/share/flatpak"),
}

# What a room's ``installed(tree)`` yields; the files are read when they are gone through.
Installed = Iterator[tuple[Package, Iterable[PackageFile]]]


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
    room = _FORMATS.get(package_format or "")
    if room is None:
        return None
    found = [_application(package) for package, _ in _installed(tree, room) if package.status == "installed"]
    return sorted(found, key=lambda application: (application.name, application.arch))


def _installed(tree: Tree, room: str) -> Installed:
    found: Installed = importlib.import_module(f"guestctl.detectors.packages.{room}").installed(tree)
    return found


def _application(package: Package) -> Application:
    return Application(
        name=package.name,
        epoch=package.epoch,
        version=package.version,
        release=package.release,
        arch=package.arch,
        summary=package.summary,
        description=package.description,
        url=package.url,
        publisher=package.publisher,
        source=package.source,
    )


def packages(system: System) -> list[Package]:
    """The packages of every package manager that there is, sorted; those of languages are not among them."""
    found = [package for package, _ in _all_installed(system)]
    return sorted(found, key=lambda package: (package.manager, package.name, package.arch, package.full_version))


def _all_installed(system: System) -> Installed:
    """A database that cannot be read is a warning."""
    for manager, paths in _MANAGERS.items():
        try:
            if any(system.tree.exists(path) for path in paths):
                yield from _installed(system.tree, manager)
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{manager}: {error}")


def files(system: System, name: str) -> Iterator[PackageFile]:
    """The files of the packages called `name`, or ``name:arch``."""
    for package, contents in _all_installed(system):
        if name in (package.name, f"{package.name}:{package.arch}"):
            try:
                yield from contents
            except (GuestctlError, OSError) as error:
                system.warnings.append(f"{package.name}: {error}")


def owners(system: System, path: str) -> Iterator[Package]:
    """The packages that `path` belongs to, also under another name of its directory, such as /bin for /usr/bin."""
    tree = system.tree
    directory, _, name = path.rpartition("/")
    real = tree.realpath(directory or "/") if tree.is_dir(directory or "/") else directory
    for package, contents in _all_installed(system):
        try:
            parents = {parent for parent, _, last in (file.path.rpartition("/") for file in contents) if last == name}
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{package.name}: {error}")
            continue
        if any(parent == directory or (tree.is_dir(parent) and tree.realpath(parent) == real) for parent in parents):
            yield package
