"""Alpine's database of installed packages, as apk-tools' documentation of it (apk-v2 index fields) has it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report import Application

_MAX_DATABASE_BYTES = 128 << 20
_FIELD = re.compile(r"^([PVATUom]):(.*)$", re.MULTILINE)


def applications(tree: Tree) -> Iterator[Application]:
    """Installed packages."""
    for path in ("/lib/apk/db/installed", "/usr/lib/apk/db/installed"):
        text = read_config(tree, path, limit=_MAX_DATABASE_BYTES)
        if text is not None:
            yield from parse_installed(text)
            return


def parse_installed(text: str) -> Iterator[Application]:
    """The packages of an ``installed`` file: paragraphs of one-letter fields."""
    for paragraph in text.split("\n\n"):
        # The package's own fields come before those of its directories and files.
        fields = dict(_FIELD.findall(paragraph.partition("\nF:")[0]))
        if not fields.get("P") or not fields.get("V"):
            continue
        version, _, release = fields["V"].partition("-r")
        yield Application(
            name=fields["P"],
            epoch=0,
            version=version,
            release=f"r{release}" if release else "",
            arch=fields.get("A", ""),
            summary=fields.get("T", ""),
            url=fields.get("U", ""),
            publisher=fields.get("m", ""),
            source=fields.get("o", ""),
        )
