"""Homebrew's cellar: ``NAME/VERSION`` for each keg, with what its ``INSTALL_RECEIPT.json`` says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_CELLARS = ("/home/linuxbrew/.linuxbrew/Cellar", "/opt/homebrew/Cellar", "/usr/local/Cellar")


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed kegs; of a formula there may be several versions."""
    for cellar in _CELLARS:
        for name in list_directory(tree, cellar):
            for version in list_directory(tree, f"{cellar}/{name}"):
                path = f"{cellar}/{name}/{version}"
                text = read_config(tree, f"{path}/INSTALL_RECEIPT.json")
                if text is not None:
                    yield _package(name, version, path, text), ()


def _package(name: str, version: str, path: str, text: str) -> Package:
    try:
        receipt = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFormat(f"{path}: {error}", structure="INSTALL_RECEIPT.json", offset=0) from None
    found = receipt if isinstance(receipt, dict) else {}
    source = found.get("source")
    tap = source.get("tap") if isinstance(source, dict) else None
    arch, time = found.get("arch"), found.get("time")
    return Package(
        manager="homebrew",
        name=name,
        version=version,
        arch=arch if isinstance(arch, str) else "",
        origin=tap if isinstance(tap, str) else "",
        install_time=time if isinstance(time, int) and 0 <= time < 1 << 63 else None,
        path=path,
    )
