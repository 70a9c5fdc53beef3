"""Installed programs: what Windows lists to be uninstalled, in both views of SOFTWARE, as libguestfs does."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.registry import Key
from guestctl.detectors.report import Application
from guestctl.detectors.windows.system import WindowsSystem

_KEYS = (
    r"Microsoft\Windows\CurrentVersion\Uninstall",
    r"WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall",  # of 32-bit programs
)


def detect_applications(system: WindowsSystem) -> list[Application]:
    """Programs with a display name, under the names of their keys, sorted by them."""
    found = [application for path in _KEYS for application in programs_of(system.software(path))]
    return sorted(found, key=lambda application: application.name)


def programs_of(key: Key | None) -> Iterator[Application]:
    """The programs below a key Uninstall."""
    for program in key.subkeys() if key else ():
        texts = {value.name.casefold(): value.text for value in program.values()}
        if texts.get("displayname"):
            yield Application(
                name=program.name,
                epoch=0,
                version=texts.get("displayversion", ""),
                release="",
                arch="",
                display_name=texts["displayname"],
                description=texts.get("comments", ""),
                url=texts.get("urlinfoabout", ""),
                publisher=texts.get("publisher", ""),
                install_path=texts.get("installlocation", ""),
            )
