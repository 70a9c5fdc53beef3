"""FreeBSD's and DragonFly's database of pkg(8), ``/var/db/pkg/local.sqlite``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree
from guestctl.detectors.packages.sqlite import rows
from guestctl.detectors.report.packages import Package, PackageFile

_PATH = "/var/db/pkg/local.sqlite"
_MAX_DATABASE_BYTES = 1 << 30
_PACKAGES = "SELECT id, origin, name, version, comment, desc, arch, maintainer, www, flatsize, time FROM packages"
_LICENSES = "SELECT package_id, license FROM pkg_licenses, licenses WHERE license_id = licenses.id"
_FILES = "SELECT package_id, path, sha256 FROM files"


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files."""
    database = _Database(tree.read_bytes(_PATH, limit=_MAX_DATABASE_BYTES))
    licenses = defaultdict(list)
    for number, license in rows(database.data, _LICENSES):
        licenses[number].append(str(license))
    for number, origin, name, version, comment, desc, arch, maintainer, www, size, time in rows(
        database.data, _PACKAGES
    ):
        if not isinstance(name, str):
            raise InvalidFormat("a package without a name", structure="pkg database", offset=0)
        package = Package(
            manager="pkg",
            name=name,
            version=_text(version),
            arch=_text(arch).rpartition(":")[2],  # "FreeBSD:14:amd64"
            summary=_text(comment),
            description=_text(desc),
            url=_text(www),
            publisher=_text(maintainer),
            licenses=licenses[number],
            source=_text(origin),
            install_time=time if isinstance(time, int) else None,
            size=size if isinstance(size, int) else None,
        )
        yield package, database.files_of(number)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


class _Database:
    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def _files(self) -> dict[Any, list[tuple[str, str]]]:
        found = defaultdict(list)
        for number, path, digest in rows(self.data, _FILES):
            found[number].append((_text(path), _text(digest)))
        return found

    def files_of(self, number: Any) -> Iterator[PackageFile]:
        for path, checksum in self._files.get(number, ()):
            kind, _, digest = checksum.rpartition("$")  # "1$" before one of SHA-256, or nothing
            known = digest if kind in ("", "1") else ""
            yield PackageFile(path=path, algorithm="sha256" if known else None, digest=known or None)
