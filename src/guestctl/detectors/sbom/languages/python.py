"""Python packages by their core metadata (packaging.python.org, "Core metadata specifications").

``NAME.dist-info/METADATA`` of wheels, ``NAME.egg-info/PKG-INFO`` and files ``NAME.egg-info`` of setuptools
and distutils.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.texts import fields


def packages(tree: Tree, path: str) -> Iterator[Package]:
    for name in (f"{path}/METADATA", f"{path}/PKG-INFO", path):
        text = read_config(tree, name)
        if text is not None:
            yield from _parse(text, path)
            return


def _parse(text: str, path: str) -> Iterator[Package]:
    listed = fields(text)
    values = dict(reversed(listed))  # the first of several
    if values.get("name") and values.get("version"):
        yield Package(
            manager="pypi",
            name=values["name"],
            version=values["version"],
            summary=values.get("summary", ""),
            url=values.get("home-page", ""),
            publisher=values.get("author", ""),
            licenses=_licenses(values, [value for name, value in listed if name == "classifier"]),
            path=path,
        )


def _licenses(values: dict[str, str], classifiers: list[str]) -> list[str]:
    for name in ("license-expression", "license"):
        value = values.get(name, "")
        if value and "\n" not in value and value != "UNKNOWN":
            return [value]
    # "License :: OSI Approved :: MIT License"; its last part alone is a name
    parts = [classifier.split(" :: ") for classifier in classifiers if classifier.startswith("License :: ")]
    return [part[-1] for part in parts if part[-1] != "OSI Approved"]
