"""Gentoo's database ``/var/db/pkg`` (Package Manager Specification, "Installed packages"): a directory for each
package in one for its category, with a file for each of its values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from guestctl.detectors.files import Tree, first_line, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_DATABASE = "/var/db/pkg"
_NAME = re.compile(r"([^-].*)-(\d+(?:\.\d+)*[a-z]?(?:_(?:alpha|beta|pre|rc|p)\d*)*)(?:-(r\d+))?", re.ASCII)
_ENTRY = re.compile(r"^(?:obj (?P<file>.+) (?P<md5>[0-9a-f]{32}) (?P<mtime>\d{1,18})|dir (?P<dir>.+)"
                    r"|sym (?P<link>.+) \d+)$", re.MULTILINE)  # fmt: skip
_MAX_CONTENTS_BYTES = 64 << 20


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files."""
    for category in list_directory(tree, _DATABASE):
        for directory in list_directory(tree, f"{_DATABASE}/{category}"):
            match = _NAME.fullmatch(directory)
            if match:  # not "-MERGING-…", which is being installed
                path = f"{_DATABASE}/{category}/{directory}"
                yield _package(tree, path, category, *match.groups("")), _files(tree, path)


def _package(tree: Tree, path: str, category: str, name: str, version: str, revision: str) -> Package:
    def value(key: str) -> str:
        return first_line(tree, f"{path}/{key}") or ""

    built, size, license = value("BUILD_TIME"), value("SIZE"), value("LICENSE")
    return Package(
        manager="portage",
        namespace=category,
        name=name,
        version=version,
        release=revision,
        arch=value("CHOST").partition("-")[0],
        summary=value("DESCRIPTION"),
        url=value("HOMEPAGE").partition(" ")[0],
        licenses=[license] if license else [],
        origin=value("repository"),
        install_time=int(built) if re.fullmatch(r"\d{1,18}", built) else None,
        size=int(size) if re.fullmatch(r"\d{1,18}", size) else None,
    )


def _files(tree: Tree, path: str) -> Iterator[PackageFile]:
    for entry in _ENTRY.finditer(read_config(tree, f"{path}/CONTENTS", limit=_MAX_CONTENTS_BYTES) or ""):
        link, _, target = (entry["link"] or "").rpartition(" -> ")
        yield PackageFile(
            path=entry["file"] or entry["dir"] or link or target,
            algorithm="md5" if entry["md5"] else None,
            digest=entry["md5"],
            mtime=int(entry["mtime"]) if entry["mtime"] else None,
            target=target if link else None,
        )
