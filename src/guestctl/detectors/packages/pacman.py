"""pacman's local database: a directory for each package, with a file ``desc`` of ``%FIELD%`` paragraphs."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report import Application

_DATABASE = "/var/lib/pacman/local"


def applications(tree: Tree) -> Iterator[Application]:
    """Installed packages."""
    for name in list_directory(tree, _DATABASE):
        text = read_config(tree, f"{_DATABASE}/{name}/desc")
        application = parse_desc(text) if text is not None else None
        if application is not None:
            yield application


def parse_desc(text: str) -> Application | None:
    """The package of a ``desc`` file; None where it has no name or version."""
    fields: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        name, _, values = paragraph.strip("\n").partition("\n")
        fields[name.strip("%")] = values.partition("\n")[0]
    if not fields.get("NAME") or not fields.get("VERSION"):
        return None
    # [epoch:]version-release
    epoch, colon, rest = fields["VERSION"].partition(":")
    if not (colon and epoch.isdecimal() and len(epoch) < 10):
        epoch, rest = "0", fields["VERSION"]
    version, _, release = rest.rpartition("-")
    return Application(
        name=fields["NAME"],
        epoch=int(epoch),
        version=version,
        release=release,
        arch=fields.get("ARCH", ""),
        summary=fields.get("DESC", ""),
        url=fields.get("URL", ""),
        publisher=fields.get("PACKAGER", ""),
        source=fields.get("BASE", ""),
    )
