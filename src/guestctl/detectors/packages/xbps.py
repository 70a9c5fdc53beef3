"""Void's package database: a property list of dictionaries, as xbps-pkgdb(1) keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package, PackageFile

_PATH = "/var/db/xbps/pkgdb-0.38.plist"
_MAX_DATABASE_BYTES = 128 << 20


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages."""
    if tree.is_file(_PATH):
        for package in parse_database(tree.read_bytes(_PATH, limit=_MAX_DATABASE_BYTES)):
            yield package, ()


def parse_database(data: bytes) -> Iterator[Package]:
    """The packages of a database. Raises `InvalidFormat`."""
    import plistlib
    from xml.parsers.expat import ExpatError

    try:
        found = plistlib.loads(data, fmt=plistlib.FMT_XML)
    except (
        ExpatError,
        plistlib.InvalidFileException,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        KeyError,
    ) as error:
        raise InvalidFormat(str(error), structure="xbps database", offset=0) from None
    for key, value in found.items() if isinstance(found, dict) else ():
        # "_XBPS_ALTERNATIVES_" and its like are no packages.
        if isinstance(value, dict) and isinstance(value.get("pkgver"), str):
            yield _package(str(key), value)


def _package(key: str, value: dict[str, Any]) -> Package:
    texts = {name: text for name, text in value.items() if isinstance(text, str)}
    size = value.get("installed_size")
    return Package(
        manager="xbps",
        name=key,
        version=texts["pkgver"].removeprefix(f"{key}-"),  # with the revision: 5.2.021_1
        arch=texts.get("architecture", ""),
        status=texts.get("state", "installed"),
        summary=texts.get("short_desc", ""),
        url=texts.get("homepage", ""),
        publisher=texts.get("maintainer", ""),
        licenses=[texts["license"]] if texts.get("license") else [],
        origin=texts.get("repository", ""),
        size=size if isinstance(size, int) and 0 <= size < 1 << 63 else None,
    )
