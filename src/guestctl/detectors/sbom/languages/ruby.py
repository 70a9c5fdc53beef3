"""Ruby gems by the specifications that RubyGems writes when it installs them: Ruby, of one known shape."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report.packages import Package

_VALUE = re.compile(
    r'^ *s\.(name|version|homepage|summary) = (?:Gem::Version\.new\()?"((?:[^"\\]|\\.)*)"', re.MULTILINE
)
_LIST = re.compile(r"^ *s\.(licenses|authors) = \[(.*)\]", re.MULTILINE)
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def packages(tree: Tree, path: str) -> Iterator[Package]:
    text = read_config(tree, path) or ""
    values = dict(_VALUE.findall(text))
    lists = {name: _TEXT.findall(items) for name, items in _LIST.findall(text)}
    if values.get("name") and values.get("version"):
        yield Package(
            manager="gem",
            name=values["name"],
            version=values["version"],
            summary=values.get("summary", ""),
            url=values.get("homepage", ""),
            publisher=", ".join(lists.get("authors", ())),
            licenses=lists.get("licenses", []),
            path=path,
        )
