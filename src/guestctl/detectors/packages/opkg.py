"""opkg's database, as dpkg's (OpenWrt until 24.10, and embedded Linux)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.packages.dpkg import parse_status
from guestctl.detectors.report.packages import Package, PackageFile

_DATABASES = ("/usr/lib/opkg", "/var/lib/opkg")
_MAX_BYTES = 64 << 20


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Every package that opkg knows something of, with its files."""
    for database in _DATABASES:
        for package, _ in parse_status(read_config(tree, f"{database}/status", limit=_MAX_BYTES) or ""):
            if package.status != "not-installed":
                yield (
                    msgspec.structs.replace(package, manager="opkg"),
                    _files(tree, f"{database}/info/{package.name}.list"),
                )


def _files(tree: Tree, path: str) -> Iterator[PackageFile]:
    for line in (read_config(tree, path, limit=_MAX_BYTES) or "").split("\n"):
        if line:
            yield PackageFile(path=line.partition("\t")[0])
