"""Short ids beside those of osinfo-db itself, release by release."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from guestctl.detectors.osinfo import osinfo_id

DATABASE = Path("/usr/share/osinfo/os")
# osinfo-db's word for a distribution -> libguestfs's, or os-release's
DISTROS = {
    "alt": "altlinux",
    "ol": "oraclelinux",
    "popos": "pop",
    "clearlinux": "clear-linux-os",
    "osx": "macos",
}
SAME = re.compile(
    "almalinux|alpinelinux|altlinux|archlinux|asianux|centos|debian|fedora|freebsd|freedos|gentoo|mageia|manjaro|"
    "mandriva|msdos|netbsd|nixos|openbsd|opensuse|pureos|rhel|rocky|scientificlinux|slackware|sles|solaris|trisquel|"
    "ubuntu|voidlinux"
)
# Editions with ids of their own, minor releases of Rocky, and CentOS 8 beside its Stream of no minor version.
OTHER_IDS = re.compile(r"silverblue|rhel-atomic|rocky\d\.\d|centos8$")


def test_every_release() -> None:
    if not DATABASE.is_dir():
        pytest.skip("needs osinfo-db")
    compared = 0
    for path in sorted(DATABASE.glob("*/*.xml")):
        for found in ElementTree.parse(path).getroot().iter("os"):
            name, short_id = found.findtext("distro", ""), found.findtext("short-id", "")
            distro = DISTROS.get(name) or (name if SAME.fullmatch(name) else None)
            version = re.fullmatch(r"(\d+)(?:\.(\d+))?", found.findtext("version", ""))
            if distro is None or version is None or OTHER_IDS.match(short_id):
                continue
            major, minor = int(version[1]), int(version[2]) if version[2] else None
            assert osinfo_id(distro, major, minor) == short_id
            compared += 1
    assert compared > 300


@pytest.mark.parametrize(
    ("distro", "major", "minor", "short_id"),
    [
        ("archlinux", None, None, "archlinux"),
        ("gentoo", 2, 14, "gentoo"),
        ("centos", 8, 5, "centos8"),
        ("opensuse", 20231111, None, "opensusetumbleweed"),
        ("debian", None, None, None),
        ("macos", 10, 14, None),
        ("macos", 11, 6, None),
        ("amzn", 2, None, None),
    ],
)
def test_ids(distro: str, major: int | None, minor: int | None, short_id: str | None) -> None:
    assert osinfo_id(distro, major, minor) == short_id
