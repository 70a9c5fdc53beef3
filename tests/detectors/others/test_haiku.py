"""Haiku by the names of its packages, which are those of its repositories, beside osinfo-db."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from guestctl.core.types import GuestType
from guestctl.detectors.others.haiku import detect_haiku
from guestctl.detectors.report import Guest
from guestctl.machine.roots import Root, find_root
from memory_filesystem import MemoryFileSystem

OSINFO = Path("/usr/share/osinfo/os/haiku-os.org")


@pytest.mark.parametrize(
    ("packages", "product", "arch", "osinfo"),
    [
        (["haiku-r1~beta4_hrev56578_59-1-x86_64.hpkg"], "Haiku R1/beta4 (hrev56578+59)", "x86_64", None),
        (["haiku-r1~beta3_hrev55182-1-x86_gcc2.hpkg"], "Haiku R1/beta3 (hrev55182)", "i386", "haikur1beta3"),
        (["haiku-r1~alpha4_pm_hrev49856-1-x86_64.hpkg"], "Haiku R1/alpha4 (hrev49856)", "x86_64", None),
        (
            ["haiku-r1~beta1_hrev52295-1-x86_64.hpkg", "haiku-r1~beta2_hrev54154-1-x86_64.hpkg"],
            "Haiku R1/beta2 (hrev54154)",
            "x86_64",
            "haikur1beta2",
        ),
        (["haiku-strange.hpkg"], "Haiku", None, None),
    ],
)
def test_release(packages: list[str], product: str, arch: str | None, osinfo: str | None) -> None:
    others = ("haiku_loader-r1~beta4_hrev56578_59-1-x86_64.hpkg", "bash-5.2.021-2-x86_64.hpkg")
    files = {f"/system/packages/{name}": "" for name in (*packages, *others)}
    tree = MemoryFileSystem({**files, "/system/settings/network/hostname": "shredder\n"})
    assert find_root(tree) == Root(GuestType.HAIKU)
    guest = Guest(root="/dev/sda1", type="haiku")
    detect_haiku(tree, guest)
    assert (guest.distro, guest.product_name, guest.arch, guest.osinfo) == ("haiku", product, arch, osinfo)
    assert guest.hostname == "shredder"
    assert guest.major_version == (None if product == "Haiku" else 1)


def test_ids_of_osinfo() -> None:
    if not OSINFO.is_dir():
        pytest.skip("needs osinfo-db")
    told = set()
    for path in OSINFO.glob("*.xml"):
        (system,) = ElementTree.parse(path).getroot().iter("os")
        version = system.findtext("version", "")
        if version == "nightly":
            continue
        name = version.replace("alpha", "~alpha").replace("beta", "~beta")
        guest = Guest(root="/dev/sda1", type="haiku")
        detect_haiku(MemoryFileSystem({f"/system/packages/haiku-{name}_hrev40000-1-x86_64.hpkg": ""}), guest)
        assert guest.osinfo == system.findtext("short-id")
        told.add(version)
    assert len(told) >= 7


def test_a_directory_of_packages_is_no_haiku() -> None:
    assert find_root(MemoryFileSystem({"/system/packages/bash-5.2.021-2-x86_64.hpkg": ""})) is None
