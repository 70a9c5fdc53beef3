"""Flatpak's deployments (flatpak documentation, "Under the hood"): ``KIND/ID/ARCH/BRANCH/active`` is what runs, of
the system and of users; its version is the newest release of its AppStream metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report.packages import Package, PackageFile

_SYSTEM = "/var/lib/flatpak"
_OF_USERS = ".local/share/flatpak"
_METADATA = ("metainfo/{}.metainfo.xml", "metainfo/{}.appdata.xml", "appdata/{}.appdata.xml")
_RELEASE = re.compile(r"<release\b[^<>]*?\bversion=[\"']([^\"'<>]*)[\"']")
_SUMMARY = re.compile(r"<summary>([^<]*)</summary>")
_LICENSE = re.compile(r"<project_license>([^<]*)</project_license>")


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Applications and runtimes that are deployed."""
    homes = [f"/home/{name}" for name in list_directory(tree, "/home")] + ["/root"]
    for root in (_SYSTEM, *(f"{home}/{_OF_USERS}" for home in homes)):
        for kind in ("app", "runtime"):
            for name in list_directory(tree, f"{root}/{kind}"):
                for arch in list_directory(tree, f"{root}/{kind}/{name}"):
                    if arch != "current":
                        yield from _branches(tree, f"{root}/{kind}/{name}/{arch}", name, arch)


def _branches(tree: Tree, path: str, name: str, arch: str) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    for branch in list_directory(tree, path):
        active = f"{path}/{branch}/active"
        if tree.is_file(f"{active}/metadata"):
            names = (f"{active}/files/share/{place.format(name)}" for place in _METADATA)
            text = next((found for one in names if (found := read_config(tree, one)) is not None), "")
            release, summary, license = _RELEASE.search(text), _SUMMARY.search(text), _LICENSE.search(text)
            package = Package(
                manager="flatpak",
                name=name,
                version=release[1] if release else branch,
                arch=arch,
                summary=summary[1].strip() if summary else "",
                licenses=[license[1].strip()] if license else [],
                origin=branch,
                path=f"{path}/{branch}",
            )
            yield package, ()
