"""Slackware's package records: a file ``NAME-VERSION-ARCH-BUILD`` for each, as pkgtool(8) writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_DATABASES = ("/var/lib/pkgtools/packages", "/var/log/packages")  # since Slackware 15 the second is a link
_MAX_RECORD_BYTES = 64 << 20


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files."""
    database = next((path for path in _DATABASES if tree.is_dir(path)), _DATABASES[0])
    for record in list_directory(tree, database):
        parts = record.rsplit("-", 3)
        if len(parts) == 4 and tree.is_file(f"{database}/{record}"):
            text = read_config(tree, f"{database}/{record}", limit=_MAX_RECORD_BYTES) or ""
            head, _, files = text.partition("\nFILE LIST:\n")
            name, version, arch, build = parts
            description = head.partition("\nPACKAGE DESCRIPTION:\n")[2].partition("\n")[0]
            package = Package(
                manager="pkgtool",
                name=name,
                version=version,
                release=build,
                arch=arch,
                summary=description.removeprefix(f"{name}:").strip(),
            )
            yield package, _files(files)


def _files(text: str) -> Iterator[PackageFile]:
    for line in text.split("\n"):
        if line not in ("", "./"):
            yield PackageFile(path="/" + line.rstrip("/"))
