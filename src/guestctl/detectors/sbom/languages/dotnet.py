""".NET packages by an application's ``deps.json``: its libraries of the type "package" are NuGet's."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.texts import members, read_json


def packages(tree: Tree, path: str) -> Iterator[Package]:
    found = read_json(tree, path)
    libraries = found.get("libraries") if isinstance(found, dict) else None
    for key, value in libraries.items() if isinstance(libraries, dict) else ():
        name, _, version = key.rpartition("/")
        if name and version and members(value, "type")["type"] == "package":
            yield Package(manager="nuget", name=name, version=version, path=path)
