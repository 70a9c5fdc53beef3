"""Every distribution that libguestfs names, by the files of releases (``releases.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guestctl.detectors.linux.distribution import detect_distribution
from guestctl.detectors.packages import package_system
from guestctl.detectors.report import Guest
from memory_filesystem import MemoryFileSystem
from releases import LINUX

RECORDED = json.loads((Path(__file__).resolve().parents[2] / "data/inspection/libguestfs.json").read_text())

# distribution, major and minor version, osinfo's id
EXPECTED: dict[str, tuple[str, int | None, int | None, str | None]] = {
    "almalinux-9.3": ("almalinux", 9, 3, "almalinux9"),
    "alpine-3.18": ("alpinelinux", 3, 18, "alpinelinux3.18"),
    "alpine-2.7": ("alpinelinux", 2, 7, "alpinelinux2.7"),
    "alt-p10": ("altlinux", 10, None, "alt10.0"),
    "alt-workstation-9.1": ("altlinux", 9, 1, "alt9.1"),
    "alt-5.0": ("altlinux", 5, 0, "altlinux5.0"),
    "amazon-2": ("amzn", 2, None, None),
    "arch": ("archlinux", None, None, "archlinux"),
    "arch-old": ("archlinux", None, None, "archlinux"),
    "asianux-7.2": ("asianux", 7, 2, "asianux7.2"),
    "buildroot-2021.02": ("buildroot", 2021, 2, None),
    "buildroot-2012.05": ("buildroot", 2012, 5, None),
    "centos-8.5": ("centos", 8, 5, "centos8"),
    "centos-stream-9": ("centos", 9, None, "centos-stream9"),
    "centos-7.9": ("centos", 7, 9, "centos7.0"),
    "centos-6.10": ("centos", 6, 10, "centos6.10"),
    "centos-4.9": ("centos", 4, 9, "centos4.9"),
    "cirros-0.5.2": ("cirros", 0, 5, None),
    "cirros-0.6": ("cirros", 0, 6, None),
    "coreos-1855": ("coreos", 1855, 4, None),
    "coreos-607": ("coreos", 607, 0, None),
    "debian-12": ("debian", 12, 5, "debian12"),
    "debian-sid": ("debian", None, None, None),
    "debian-6": ("debian", 6, 0, "debian6"),
    "debian-7": ("debian", 7, 11, "debian7"),
    "fedora-39": ("fedora", 39, None, "fedora39"),
    "fedora-21": ("fedora", 21, None, "fedora21"),
    "fedora-14": ("fedora", 14, None, "fedora14"),
    "frugalware-1.9": ("frugalware", 1, 9, None),
    "gentoo": ("gentoo", None, None, "gentoo"),
    "gentoo-old": ("gentoo", 2, 2, "gentoo"),
    "kali-2022.4": ("kalilinux", 2022, 4, None),
    "kylin-v10": ("kylin", 10, None, None),
    "linuxmint-21": ("linuxmint", 21, None, None),
    "linuxmint-13": ("linuxmint", 13, None, None),
    "mageia-8": ("mageia", 8, None, "mageia8"),
    "mageia-1": ("mageia", 1, None, "mageia1"),
    "mandriva-2010.2": ("mandriva", 2010, 2, "mandriva2010.2"),
    "meego-1.1": ("meego", 1, 1, None),
    "neokylin-7": ("neokylin", 7, None, None),
    "nixos-22.11": ("nixos", 22, 11, "nixos-22.11"),
    "openeuler-22.03": ("openeuler", 22, 3, None),
    "openmandriva-4.2": ("openmandriva", 4, 2, None),
    "opensuse-leap-15.5": ("opensuse", 15, 5, "opensuse15.5"),
    "opensuse-tumbleweed": ("opensuse", 20231111, None, "opensusetumbleweed"),
    "opensuse-13.2": ("opensuse", 13, 2, "opensuse13.2"),
    "opensuse-11.4": ("opensuse", 11, 4, "opensuse11.4"),
    "suse-10.0": ("suse-based", 10, 0, None),
    "oracle-8.6": ("oraclelinux", 8, 6, "ol8.6"),
    "oracle-6.9": ("oraclelinux", 6, 9, "ol6.9"),
    "pardus-2011": ("pardus", 2011, 2, None),
    "pardus-21": ("pardus", 21, 0, None),
    "pld-3.0": ("pldlinux", 3, 0, None),
    "pld-th": ("pldlinux", 3, 0, None),
    "rhel-9.3": ("rhel", 9, 3, "rhel9.3"),
    "rhel-7.9": ("rhel", 7, 9, "rhel7.9"),
    "rhel-5.11": ("rhel", 5, 11, "rhel5.11"),
    "rhel-4": ("rhel", 4, 8, "rhel4.8"),
    "red-hat-9": ("redhat-based", 9, None, None),
    "rocky-9.2": ("rocky", 9, 2, "rocky9"),
    "scientific-7.9": ("scientificlinux", 7, 9, "scientificlinux7.9"),
    "scientific-6.10": ("scientificlinux", 6, 10, "scientificlinux6.10"),
    "slackware-15": ("slackware", 15, 0, "slackware15.0"),
    "slackware-13.37": ("slackware", 13, 37, "slackware13.37"),
    "sles-15.5": ("sles", 15, 5, "sles15sp5"),
    "sled-12.3": ("sles", 12, 3, "sles12sp3"),
    "sles-11.3": ("sles", 11, 3, "sles11sp3"),
    "sles-15": ("sles", 15, None, "sles15"),
    "ttylinux-12": ("ttylinux", 12, 5, None),
    "ubuntu-22.04": ("ubuntu", 22, 4, "ubuntu22.04"),
    "ubuntu-8.04": ("ubuntu", 8, 4, "ubuntu8.04"),
    "void": ("voidlinux", None, None, "voidlinux"),
    "flatcar-3510": ("flatcar", 3510, 2, None),
    "fedora-coreos-38": ("fedora", 38, None, "fedora38"),
}


def detect(name: str) -> Guest:
    guest = Guest(root="/dev/sda1")
    tree = MemoryFileSystem(LINUX[name])
    detect_distribution(tree, guest)
    guest.package_format, guest.package_management = package_system(tree, guest.distro)
    return guest


@pytest.mark.parametrize("name", LINUX)
def test_release(name: str) -> None:
    guest = detect(name)
    assert (guest.distro, guest.major_version, guest.minor_version, guest.osinfo) == EXPECTED[name]
    assert guest.product_name


@pytest.mark.parametrize("name", [name for name in RECORDED if name in LINUX])
def test_beside_libguestfs(name: str) -> None:
    """What libguestfs 1.48 knows of a tree is known here, in the same words, but for what ``DIFFERENT`` tells."""
    guest = detect(name)
    recorded: dict[str, Any] = RECORDED[name]
    for field in ("distro", "major_version", "minor_version", "osinfo"):
        unknown = recorded[field] in ("unknown", 0)
        if not unknown and (name, field) not in DIFFERENT:
            assert getattr(guest, field) == recorded[field], field


# Distributions that came after libguestfs 1.48, and ids of its making that osinfo-db does not have.
DIFFERENT = {
    ("almalinux-9.3", "distro"),
    ("almalinux-9.3", "osinfo"),
    ("centos-stream-9", "osinfo"),
    ("cirros-0.5.2", "osinfo"),
    ("kali-2022.4", "osinfo"),
    ("kylin-v10", "osinfo"),
    ("openmandriva-4.2", "osinfo"),
    ("opensuse-tumbleweed", "osinfo"),
    ("oracle-8.6", "osinfo"),
}
