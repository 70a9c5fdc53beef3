"""Node packages by their ``package.json`` (npm's documentation, "package.json")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.texts import members, read_json


def packages(tree: Tree, path: str) -> Iterator[Package]:
    found = read_json(tree, path)
    values = members(found, "name", "version", "description", "homepage", "author")
    if values["name"] and values["version"]:
        scope, _, name = values["name"].rpartition("/")
        yield Package(
            manager="npm",
            namespace=scope,
            name=name,
            version=values["version"],
            summary=values["description"],
            url=values["homepage"],
            publisher=values["author"] or members(found.get("author"), "name")["name"],
            licenses=_licenses(found.get("license") or found.get("licenses")),
            path=path,
        )


def _licenses(value: Any) -> list[str]:
    """A text; in old packages an object with a type, or an array of such."""
    found = [
        one if isinstance(one, str) else members(one, "type")["type"]
        for one in (value if isinstance(value, list) else [value])
    ]
    return [text for text in found if text]
