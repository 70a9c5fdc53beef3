"""Alpine's database of installed packages, as apk-tools' documentation of it has it (apk-v2 index fields, and
those of the directories and files of a package)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_MAX_DATABASE_BYTES = 128 << 20
_FIELD = re.compile(r"^([PVATULoImt]):(.*)$", re.MULTILINE)
_DIGESTS = {"Q1": "sha1", "Q2": "sha256"}  # what comes before their base64


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files."""
    for path in ("/lib/apk/db/installed", "/usr/lib/apk/db/installed"):
        text = read_config(tree, path, limit=_MAX_DATABASE_BYTES)
        if text is not None:
            yield from parse_installed(text)
            return


def parse_installed(text: str) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """The packages of an ``installed`` file: paragraphs of one-letter fields, of which those of files come last."""
    for paragraph in text.split("\n\n"):
        about, _, files = paragraph.partition("\nF:")
        fields = dict(_FIELD.findall(about))
        if not fields.get("P") or not fields.get("V"):
            continue
        version, _, release = fields["V"].partition("-r")
        license = fields.get("L", "")
        package = Package(
            manager="apk",
            name=fields["P"],
            version=version,
            release=f"r{release}" if release else "",
            arch=fields.get("A", ""),
            summary=fields.get("T", ""),
            url=fields.get("U", ""),
            publisher=fields.get("m", ""),
            licenses=[license] if license else [],
            source=fields.get("o", ""),
            size=int(fields["I"]) if re.fullmatch(r"\d{1,18}", fields.get("I", "")) else None,
        )
        yield package, _files("F:" + files if files else "")


def _files(text: str) -> Iterator[PackageFile]:
    """Directories (F) with their files (R); each is followed by its owner and mode (M, a) and digest (Z)."""
    directory = ""
    fields: dict[str, str] = {}
    for line in [*text.split("\n"), "F:"]:
        letter, _, value = line.partition(":")
        if letter in ("F", "R") and fields:
            yield _file(directory, fields)
            fields = {}
        if letter == "F":
            directory = value
        fields[letter] = value


def _file(directory: str, fields: dict[str, str]) -> PackageFile:
    path = "/".join(part for part in (directory, fields.get("R", "")) if part)
    owner, _, rest = (fields.get("a") or fields.get("M") or "").partition(":")
    group, _, mode = rest.partition(":")
    checksum = fields.get("Z", "")
    algorithm = _DIGESTS.get(checksum[:2])
    try:
        digest = base64.b64decode(checksum[2:], validate=True).hex() if algorithm else None
    except (binascii.Error, ValueError):
        algorithm = digest = None
    return PackageFile(
        path=f"/{path}",
        algorithm=algorithm,
        digest=digest,
        mode=int(mode, 8) if re.fullmatch("[0-7]{1,6}", mode) else None,
        owner=owner or None,
        group=group or None,
    )
