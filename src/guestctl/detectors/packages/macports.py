"""MacPorts' registry, a SQLite database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from guestctl.detectors.files import Tree
from guestctl.detectors.packages.sqlite import rows
from guestctl.detectors.report.packages import Package, PackageFile

_PATH = "/opt/local/var/macports/registry/registry.db"
_MAX_DATABASE_BYTES = 1 << 30
_PORTS = "SELECT id, name, version, revision, archs, date FROM ports WHERE state = 'installed' ORDER BY name"


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Active ports with their files."""
    database = tree.read_bytes(_PATH, limit=_MAX_DATABASE_BYTES)
    for number, name, version, revision, archs, date in rows(database, _PORTS):
        package = Package(
            manager="macports",
            name=str(name),
            version=str(version),
            release=str(revision),
            arch=str(archs or ""),
            install_time=date if isinstance(date, int) else None,
        )
        yield package, _files(database, number)


def _files(database: bytes, number: Any) -> Iterator[PackageFile]:
    if isinstance(number, int):
        for (path,) in rows(database, f"SELECT path FROM files WHERE id = {number} ORDER BY path"):
            yield PackageFile(path=str(path))
