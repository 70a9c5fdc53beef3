"""dpkg's database, as deb-control(5), dpkg-query(1) and dpkg-divert(1) describe it.

===================  ==========================================================================
``status``           a paragraph a package
``updates/NNNN``     paragraphs that are newer, while dpkg runs or where it was stopped
``status.d/``        instead of ``status``, a file a package, in images that have no dpkg
``info/*.list``      the files of a package; ``*.md5sums`` their digests but those of conffiles
``diversions``       three lines for each file that lies elsewhere: where it belongs, where it is,
                     and the package whose own file is not diverted
===================  ==========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_DATABASE = "/var/lib/dpkg"
# A desktop with 5,000 packages has 8 MiB.
_MAX_DATABASE_BYTES = 128 << 20
_FIELD = re.compile(r"^([A-Z][\w-]*): *(.*(?:\n .*)*)", re.MULTILINE)


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Every package that dpkg knows something of, with its files."""
    found = {}
    for path in _status_files(tree):
        for package, conffiles in parse_status(read_config(tree, path, limit=_MAX_DATABASE_BYTES) or ""):
            found[package.name, package.arch] = package, conffiles
    diversions = _Diversions(tree)
    for package, conffiles in found.values():
        if package.status != "not-installed":
            yield package, _files(tree, package, conffiles, diversions)
    for name in list_directory(tree, f"{_DATABASE}/status.d"):
        if not name.endswith(".md5sums"):
            path = f"{_DATABASE}/status.d/{name}"
            for package, _ in parse_status(read_config(tree, path) or "", default_status="installed"):
                yield package, _files_by_digest(tree, f"{path}.md5sums")


def _status_files(tree: Tree) -> Iterator[str]:
    yield f"{_DATABASE}/status"
    for name in list_directory(tree, f"{_DATABASE}/updates"):
        if name.isdecimal():
            yield f"{_DATABASE}/updates/{name}"


def parse_status(text: str, *, default_status: str = "") -> Iterator[tuple[Package, str]]:
    """The packages of a status file with their Conffiles; `default_status` is that of one without a Status."""
    for paragraph in re.split(r"^Package: *", text, flags=re.MULTILINE)[1:]:
        name, _, rest = paragraph.partition("\n")
        fields = dict(_FIELD.findall(rest))
        epoch, version, release = split_version(fields.get("Version", ""))
        source, _, source_version = fields.get("Source", "").partition(" ")
        size = fields.get("Installed-Size", "")
        summary, _, description = fields.get("Description", "").partition("\n")
        yield (
            Package(
                manager="dpkg",
                name=name.strip(),
                epoch=epoch,
                version=version,
                release=release,
                arch=fields.get("Architecture", ""),
                status=fields.get("Status", default_status).rpartition(" ")[2],  # "want flag status"
                summary=summary,
                description=description[1:].replace("\n ", "\n"),  # less the blank that continues a field
                url=fields.get("Homepage", ""),
                publisher=fields.get("Maintainer", ""),
                source=source,
                source_version=source_version.strip("()"),
                origin=fields.get("Origin", ""),
                size=int(size) << 10 if size.isdecimal() and len(size) < 16 else None,
            ),
            fields.get("Conffiles", ""),
        )


def split_version(version: str) -> tuple[int, str, str]:
    """``[epoch:]upstream[-revision]``, deb-version(7)."""
    epoch, colon, rest = version.partition(":")
    if not (colon and epoch.isdecimal() and len(epoch) < 10):
        epoch, rest = "0", version
    upstream, hyphen, revision = rest.rpartition("-")
    return int(epoch), upstream if hyphen else revision, revision if hyphen else ""


class _Diversions:
    """Where files lie that a package has, but that another package or the administrator moved away."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @cached_property
    def _moved(self) -> dict[str, tuple[str, str]]:
        lines = (read_config(self._tree, f"{_DATABASE}/diversions", limit=_MAX_DATABASE_BYTES) or "").split("\n")
        return {path: (to, by) for path, to, by in zip(lines[::3], lines[1::3], lines[2::3], strict=False)}

    def path_of(self, package: Package, path: str) -> str:
        to, by = self._moved.get(path, (path, ""))
        return path if by == package.name else to


def _files(tree: Tree, package: Package, conffiles: str, diversions: _Diversions) -> Iterator[PackageFile]:
    stem = f"{_DATABASE}/info/{package.name}"
    if tree.is_file(f"{stem}:{package.arch}.list"):  # one of several architectures
        stem += f":{package.arch}"
    digests = dict(_digests(tree, f"{stem}.md5sums"))
    config = dict(line.split()[:2] for line in conffiles.split("\n") if " " in line.strip())
    for path in filter(None, (read_config(tree, f"{stem}.list", limit=_MAX_DATABASE_BYTES) or "").split("\n")):
        digest = config.get(path) or digests.get(path)
        at = "/" if path == "/." else diversions.path_of(package, path)
        yield PackageFile(path=at, algorithm="md5" if digest else None, digest=digest, config=path in config)


def _files_by_digest(tree: Tree, path: str) -> Iterator[PackageFile]:
    for name, digest in _digests(tree, path):
        yield PackageFile(path=name, algorithm="md5", digest=digest)


def _digests(tree: Tree, path: str) -> Iterator[tuple[str, str]]:
    """(path, digest) of an md5sums file."""
    for line in (read_config(tree, path, limit=_MAX_DATABASE_BYTES) or "").split("\n"):
        digest, _, name = line.partition("  ")
        if name:
            yield f"/{name.removeprefix('./')}", digest
