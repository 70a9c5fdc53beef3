"""pacman's local database: for each package a directory with files ``desc`` and ``files`` of ``%FIELD%`` paragraphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_DATABASE = "/var/lib/pacman/local"
_MAX_FILES_BYTES = 64 << 20


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files."""
    for name in list_directory(tree, _DATABASE):
        text = read_config(tree, f"{_DATABASE}/{name}/desc")
        package = parse_desc(text) if text is not None else None
        if package is not None:
            yield package, _files(tree, f"{_DATABASE}/{name}/files")


def _paragraphs(text: str) -> dict[str, list[str]]:
    found = {}
    for paragraph in text.split("\n\n"):
        name, *values = paragraph.strip("\n").split("\n")
        found[name.strip("%")] = values
    return found


def parse_desc(text: str) -> Package | None:
    """The package of a ``desc`` file; None where it has no name or version."""
    paragraphs = _paragraphs(text)
    fields = {name: values[0] for name, values in paragraphs.items() if values}
    if not fields.get("NAME") or not fields.get("VERSION"):
        return None
    # [epoch:]version-release
    epoch, colon, rest = fields["VERSION"].partition(":")
    if not (colon and epoch.isdecimal() and len(epoch) < 10):
        epoch, rest = "0", fields["VERSION"]
    version, _, release = rest.rpartition("-")
    return Package(
        manager="pacman",
        name=fields["NAME"],
        epoch=int(epoch),
        version=version,
        release=release,
        arch=fields.get("ARCH", ""),
        summary=fields.get("DESC", ""),
        url=fields.get("URL", ""),
        publisher=fields.get("PACKAGER", ""),
        licenses=paragraphs.get("LICENSE", []),
        source=fields.get("BASE", ""),
        install_time=_number(fields.get("INSTALLDATE", "")),
        size=_number(fields.get("SIZE", "")),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _files(tree: Tree, path: str) -> Iterator[PackageFile]:
    paragraphs = _paragraphs(read_config(tree, path, limit=_MAX_FILES_BYTES) or "")
    backup = dict(line.split("\t", 1) for line in paragraphs.get("BACKUP", ()) if "\t" in line)
    for name in paragraphs.get("FILES", ()):
        digest = backup.get(name)
        yield PackageFile(
            path="/" + name.rstrip("/"), algorithm="md5" if digest else None, digest=digest, config=name in backup
        )
