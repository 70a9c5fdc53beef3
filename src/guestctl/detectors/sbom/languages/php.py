"""PHP packages by Composer's ``installed.json``: an array of packages, since Composer 2 in an object."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.texts import members, read_json, words


def packages(tree: Tree, path: str) -> Iterator[Package]:
    found = read_json(tree, path)
    found = found.get("packages") if isinstance(found, dict) else found
    for one in found if isinstance(found, list) else ():
        values = members(one, "name", "version", "description", "homepage")
        if values["name"] and values["version"]:
            vendor, _, name = values["name"].rpartition("/")
            yield Package(
                manager="composer",
                namespace=vendor,
                name=name,
                version=values["version"],
                summary=values["description"],
                url=values["homepage"],
                licenses=words(one.get("license")),
                path=path,
            )
