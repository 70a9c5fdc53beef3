"""Package directories with a ``+CONTENTS``, as pkg_create(1) of OpenBSD and of NetBSD's pkgsrc describes it, and
FreeBSD's before pkg: ``NAME-VERSION/+CONTENTS``, a packing list of files and lines that begin with ``@``."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

from guestctl.detectors.files import Tree, assignments, first_line, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_DATABASES = ("/var/db/pkg", "/usr/pkg/pkgdb", "/usr/pkg/.pkgdb")
_MAX_CONTENTS_BYTES = 64 << 20
_ORIGIN = re.compile(r"^@comment (?:ORIGIN:|pkgpath=)(\S+)", re.MULTILINE)
_ARCH = re.compile(r"^@arch (\S+)", re.MULTILINE)
_MD5 = re.compile(r"@comment MD5:([0-9a-f]{32})")


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files."""
    for database in _DATABASES:
        for directory in list_directory(tree, database):
            path = f"{database}/{directory}"
            contents = read_config(tree, f"{path}/+CONTENTS", limit=_MAX_CONTENTS_BYTES)
            if contents is not None:
                yield _package(tree, path, directory, contents), _files(contents)


def _package(tree: Tree, path: str, directory: str, contents: str) -> Package:
    build = read_config(tree, f"{path}/+BUILD_INFO")  # pkgsrc's
    values = dict(assignments(build or ""))
    origin, arch = _ORIGIN.search(contents), _ARCH.search(contents)
    name, _, version = directory.rpartition("-")
    if not version[:1].isdecimal():  # OpenBSD's flavours come after the version: vim-9.0-no_x11
        match = re.fullmatch(r"(.+?)-(\d.*)", directory)
        name, version = (match[1], match[2]) if match else (directory, "")
    return Package(
        manager="pkg_add" if build is None else "pkgsrc",
        name=name,
        version=version,
        arch=values.get("MACHINE_ARCH", "") or (arch[1] if arch else ""),
        summary=first_line(tree, f"{path}/+COMMENT") or first_line(tree, f"{path}/+DESC") or "",
        url=values.get("HOMEPAGE", ""),
        publisher=values.get("MAINTAINER", ""),
        licenses=[values["LICENSE"]] if values.get("LICENSE") else [],
        source=values.get("PKGPATH", "") or (origin[1] if origin else ""),
    )


def _files(contents: str) -> Iterator[PackageFile]:
    """A line about a file comes after it, and ``@cwd`` before those that are below it."""
    directory, path, digest, algorithm = "", "", "", ""
    for line in [*contents.split("\n"), "@end"]:
        md5 = _MD5.fullmatch(line)
        if md5:
            algorithm, digest = "md5", md5[1]
        elif line.startswith("@sha "):
            algorithm, digest = "sha256", _hexadecimal(line[5:])
        elif line.startswith("@cwd ") or not line.startswith("@") or line == "@end":
            if path:
                yield PackageFile(path=path, algorithm=algorithm if digest else None, digest=digest or None)
            path = digest = ""
            if line.startswith("@cwd "):
                directory = line[5:].rstrip("/")
            elif line and not line.startswith("@") and not line.startswith("+"):
                path = f"{directory}/{line}".rstrip("/")


def _hexadecimal(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).hex()
    except (binascii.Error, ValueError):
        return ""
