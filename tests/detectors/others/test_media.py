"""Installation media that xorriso made of the files that theirs have, beside osinfo-db's word on them.

Its rules go by the volume's identifiers alone, which are those of the real media.
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from conftest import Run
from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.detectors import inspect
from guestctl.detectors.others.windows_media import detect_windows_medium, read_wim_xml
from guestctl.detectors.report import Guest
from guestctl.machine import Machine
from memory_filesystem import MemoryFileSystem

OSINFO = Path("/usr/share/osinfo/os")
SHELL = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 62, 1)
MICROSOFT = "MICROSOFT CORPORATION"


class Medium(NamedTuple):
    volume: str
    files: Mapping[str, str | bytes]
    expected: tuple[object, ...]  # type, distro, product, major, minor, arch, live, netinst, multipart, osinfo
    publisher: str = ""
    system: str = "LINUX"
    application: str = ""


TREEINFO = """[general]
; WARNING.0 = This section provides compatibility with pre-productmd treeinfos.
arch = x86_64
family = {family}
name = {family} {version}
timestamp = 1667925018
totaldiscs = 1
variant = {variant}
version = {version}

[header]
type = productmd.treeinfo
version = 1.2
"""

MEDIA = {
    "debian": Medium(
        "Debian 11.6.0 amd64 n",
        {"/.disk/info": 'Debian GNU/Linux 11.6.0 "Bullseye" - Official amd64 NETINST 20221217-10:42\n'},
        ("linux", "debian", "Debian GNU/Linux 11.6.0", 11, 6, "x86_64", False, True, False, "debian11"),
    ),
    "debian-dvd": Medium(
        "Debian 11.6.0 i386 1",
        {"/.disk/info": 'Debian GNU/Linux 11.6.0 "Bullseye" - Official i386 DVD Binary-1 20221217-10:42\n'},
        ("linux", "debian", "Debian GNU/Linux 11.6.0", 11, 6, "i386", False, False, True, "debian11"),
    ),
    "debian-live": Medium(
        "d-live 11.6.0 gn amd64",
        {
            "/.disk/info": "Official Debian GNU/Linux Live 11.6.0 gnome 2022-12-17T11:46\n",
            "/live/filesystem.squashfs": "",
        },
        ("linux", "debian", "Debian GNU/Linux 11.6.0", 11, 6, None, True, False, False, "debian11"),
    ),
    "ubuntu-server": Medium(
        "Ubuntu-Server 22.04 LTS amd64",
        {
            "/.disk/info": 'Ubuntu-Server 22.04 LTS "Jammy Jellyfish" - Release amd64 (20220421)\n',
            "/casper/vmlinuz": "",
        },
        ("linux", "ubuntu", "Ubuntu-Server 22.04 LTS", 22, 4, "x86_64", True, False, False, "ubuntu22.04"),
    ),
    "fedora": Medium(
        "Fedora-S-dvd-x86_64-37",
        {
            "/.treeinfo": TREEINFO.format(family="Fedora", version="37", variant="Server"),
            "/.discinfo": "1667925018.0\n37\nx86_64\n",
            "/Packages/a/acl-2.3.1-4.fc37.x86_64.rpm": "",
            "/images/install.img": "",
        },
        ("linux", "fedora", "Fedora 37", 37, None, "x86_64", False, False, False, "fedora37"),
    ),
    "fedora-live": Medium(
        "Fedora-WS-Live-37-1-7",
        {"/LiveOS/squashfs.img": ""},
        ("linux", "fedora", "Fedora 37", 37, None, None, True, None, None, "fedora37"),
    ),
    "rhel": Medium(
        "RHEL-9-1-0-BaseOS-x86_64",
        {
            "/.treeinfo": TREEINFO.format(family="Red Hat Enterprise Linux", version="9.1", variant="BaseOS"),
            "/BaseOS/repodata/repomd.xml": "",
        },
        ("linux", "rhel", "Red Hat Enterprise Linux 9.1", 9, 1, "x86_64", False, False, False, "rhel9.1"),
    ),
    "rhel-5": Medium(
        "RHEL/5.8 x86_64 DVD",
        {"/.discinfo": "1328205745.123456\nRed Hat Enterprise Linux Server 5.8\nx86_64\n1,2,3,4,5,6,7\n"},
        ("linux", "rhel", "Red Hat Enterprise Linux Server 5.8", 5, 8, "x86_64", None, None, False, "rhel5.8"),
    ),
    "opensuse": Medium(
        "openSUSE-Leap-15.4-DVD-x86_64",
        {
            "/media.1/media": "openSUSE - openSUSE-Leap-15.4-DVD-x86_64-Build243.2-Media\n"
            "openSUSE-Leap-15.4-DVD-x86_64-Build243.2\n1\n",
            "/media.1/products": "/ openSUSE-Leap 15.4-1\n",
        },
        ("linux", "opensuse", "openSUSE Leap 15.4", 15, 4, "x86_64", False, False, False, "opensuse15.4"),
        publisher="SUSE LINUX GmbH",
    ),
    "sles-12": Medium(
        "SLE-12-SP3-Server-DVD-x86_640453",
        {
            "/content": "CONTENTSTYLE     11\n"
            "DISTRO           cpe:/o:suse:sles:12:sp3,SUSE Linux Enterprise Server 12 SP3\n",
            "/media.1/media": "SUSE - SLE-12-SP3-Server-DVD-x86_64-Build0473-Media\nSLES12-SP3\n2\n",
        },
        ("linux", "sles", "SUSE Linux Enterprise Server 12 SP3", 12, 3, "x86_64", False, False, True, "sles12sp3"),
        publisher="SUSE LINUX GmbH",
    ),
    "arch": Medium(
        "ARCH_202212",
        {"/arch/version": "2022.12.01\n", "/arch/x86_64/airootfs.sfs": ""},
        ("linux", "archlinux", "Arch Linux 2022.12.01", None, None, "x86_64", True, True, False, "archlinux"),
        publisher="ARCH LINUX <HTTPS://ARCHLINUX.ORG>",
        application="ARCH LINUX LIVE/RESCUE CD",
    ),
    "alpine": Medium(
        "alpine-std 3.17.0 x86_64",
        {"/.alpine-release": "alpine-standard-3.17.0 221122\n", "/apks/x86_64/APKINDEX.tar.gz": ""},
        ("linux", "alpinelinux", "Alpine Linux 3.17.0", 3, 17, "x86_64", True, False, False, "alpinelinux3.17"),
    ),
    "freebsd": Medium(
        "13_1_RELEASE_AMD64_CD",
        {
            "/bin/freebsd-version": '#!/bin/sh\nUSERLAND_VERSION="13.1-RELEASE"\n',
            "/bin/sh": SHELL,
            "/boot/cdboot": "",
            "/etc/fstab": "/dev/iso9660/13_1_RELEASE_AMD64_CD / cd9660 ro 0 0\n",
        },
        ("freebsd", "freebsd", "FreeBSD 13.1-RELEASE", 13, 1, "x86_64", None, None, None, "freebsd13.1"),
        system="FreeBSD",
    ),
    "openbsd": Medium(
        "OpenBSD/amd64   7.0 Install CD",
        {"/etc/boot.conf": "set image /7.0/amd64/bsd.rd\n", "/7.0/amd64/bsd.rd": ""},
        ("openbsd", "openbsd", "OpenBSD 7.0", 7, 0, "x86_64", None, None, None, "openbsd7.0"),
        publisher="Copyright (c) 2021 Theo de Raadt, The OpenBSD project",
        system="OpenBSD",
        application="OpenBSD 7.0 amd64 Install CD",
    ),
    "windows-xp": Medium(
        "GRTMPVOL_EN",
        {"/i386/txtsetup.sif": "[SetupData]\nMajorVersion = 5\nMinorVersion = 1\nProductType = 0\n"},
        ("windows", "windows", None, 5, 1, "i386", False, False, False, "winxp"),
        publisher=MICROSOFT,
        system="",
    ),
}

# osinfo-db has no rules for this medium, or they tell it by its size.
NOT_IN_OSINFO = {"debian-live"}


def make_iso(run: Run, folder: Path, medium: Medium) -> Path:
    tree = folder / "tree"
    for path, content in {**medium.files, "/isolinux.bin": bytes(2048)}.items():
        place = tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    image = folder / "medium.iso"
    identifiers = ("-V", medium.volume, "-publisher", medium.publisher, "-sysid", medium.system)
    boot = ("-b", "isolinux.bin", "-no-emul-boot", "-boot-load-size", "4")
    run("xorriso", "-as", "mkisofs", "-quiet", "-R", *identifiers, "-A", medium.application, *boot, "-o", image, tree)
    return image


def told(image: Path) -> Guest:
    with Machine.open(image) as machine:
        report = inspect(machine)
    assert report.warnings == []
    (guest,) = report.guests
    assert guest.format == "installer"
    return guest


@functools.cache
def rules() -> list[tuple[str, str, bool, dict[str, str]]]:
    """(short id, architecture, whether it is live, patterns of identifiers) of every medium in osinfo-db."""
    if not OSINFO.is_dir():
        pytest.skip("needs osinfo-db")
    return [
        (
            found.findtext("short-id", ""),
            medium.get("arch", ""),
            medium.get("live") == "true",
            {one.tag: one.text or "" for one in iso if one.tag.endswith("-id")},
        )
        for path in OSINFO.glob("*/*.xml")
        for found in ElementTree.parse(path).getroot().iter("os")
        for medium in found.findall("media")
        for iso in medium.findall("iso")
    ]


def matching(medium: Medium) -> set[tuple[str, str, bool]]:
    identifiers = {
        "volume-id": medium.volume,
        "publisher-id": medium.publisher,
        "system-id": medium.system,
        "application-id": medium.application,
    }
    return {
        (name, "i386" if arch == "i686" else arch, live)
        for name, arch, live, patterns in rules()
        if all(re.search(pattern, identifiers[tag]) for tag, pattern in patterns.items())
    }


@pytest.mark.parametrize("name", MEDIA)
def test_medium(run: Run, tmp_path: Path, name: str) -> None:
    medium = MEDIA[name]
    image = make_iso(run, tmp_path, medium)
    guest = told(image)
    assert (
        guest.type,
        guest.distro,
        guest.product_name,
        guest.major_version,
        guest.minor_version,
        guest.arch,
        guest.live,
        guest.netinst,
        guest.multipart,
        guest.osinfo,
    ) == medium.expected
    found = {(short_id, arch) for short_id, arch, _ in matching(medium)}
    if name not in NOT_IN_OSINFO:
        assert guest.osinfo in {short_id for short_id, _ in found}
        assert guest.arch is None or (guest.osinfo, guest.arch) in found
        assert guest.live or not all(live for _, _, live in matching(medium))


def _wim(run: Run, folder: Path, editions: Mapping[str, Mapping[str, str]]) -> Path:
    (folder / "files").mkdir()
    wim = folder / "install.wim"
    for index, (name, properties) in enumerate(editions.items(), 1):
        run("wimlib-imagex", "append" if index > 1 else "capture", folder / "files", wim, name)
        words = [f"--image-property=WINDOWS/{key}={value}" for key, value in properties.items()]
        run("wimlib-imagex", "info", wim, str(index), f"--image-property=DISPLAYNAME={name}", *words)
    return wim


@pytest.mark.parametrize(
    ("name", "version", "kind", "osinfo"),
    [
        ("Windows 10", ("10", "0", "19041"), "WinNT", "win10"),
        ("Windows 11", ("10", "0", "22621"), "WinNT", "win11"),
        ("Windows 7", ("6", "1", "7601"), "WinNT", "win7"),
        ("Windows Server 2022", ("10", "0", "20348"), "ServerNT", "win2k22"),
    ],
)
def test_windows(run: Run, tmp_path: Path, name: str, version: tuple[str, ...], kind: str, osinfo: str) -> None:
    properties = {
        "ARCH": "9",
        "PRODUCTTYPE": kind,
        "INSTALLATIONTYPE": "Server" if kind == "ServerNT" else "Client",
        **dict(zip(("VERSION/MAJOR", "VERSION/MINOR", "VERSION/BUILD"), version, strict=True)),
    }
    wim = _wim(run, tmp_path, {f"{name} Home": properties, f"{name} Pro": properties})
    image = make_iso(run, tmp_path, Medium("SSS_X64FREE_EN-US_DV9", {"/sources/install.wim": wim.read_bytes()}, ()))
    guest = told(image)
    assert (guest.type, guest.distro, guest.product_name, guest.arch) == ("windows", "windows", name, "x86_64")
    assert (guest.major_version, guest.minor_version, guest.osinfo) == (int(version[0]), int(version[1]), osinfo)
    assert guest.product_variant == properties["INSTALLATIONTYPE"]


def test_windows_on_udf(run: Run, tmp_path: Path) -> None:
    """As Microsoft makes it since Vista: the ISO 9660 of the disc holds a text, its UDF all the rest."""
    properties = {"ARCH": "9", "PRODUCTTYPE": "WinNT", "VERSION/MAJOR": "10", "VERSION/MINOR": "0"}
    wim = _wim(run, tmp_path, {"Windows 10 Pro": {**properties, "VERSION/BUILD": "19045"}})
    top = tmp_path / "top"
    (top / "sources").mkdir(parents=True)
    wim.rename(top / "sources" / "boot.wim")
    (top / "README.TXT").write_text("This disc contains a UDF file system\n")
    image = tmp_path / "image.iso"
    words = ("-quiet", "-udf", "-V", "CPBA_X64FRE_EN-US_DV9", "-hide", "sources", "-hide", "*.wim")
    run("genisoimage", *words, "-o", image, top)
    assert "sources" not in run("bsdtar", "-tf", image).lower()
    guest = told(image)
    assert (guest.type, guest.distro, guest.format, guest.osinfo) == ("windows", "windows", "installer", "win10")
    assert (guest.product_name, guest.major_version, guest.arch) == ("Windows 10 Pro", 10, "x86_64")


def test_damaged_images(run: Run, tmp_path: Path) -> None:
    """The XML says what it says, or there is a typed error; no entity is expanded."""
    wim = bytearray(_wim(run, tmp_path, {"Windows": {"ARCH": "9"}}).read_bytes())
    assert read_wim_xml(MemoryDevice(wim)).findtext("IMAGE/WINDOWS/ARCH") == "9"
    (offset,) = struct.unpack_from("<Q", wim, 80)
    for place, value in ((0, b"X"), (72, b"\xff" * 7), (80, b"\xff" * 8), (offset + 2, b"X\0")):
        damaged = bytearray(wim)
        damaged[place : place + len(value)] = value
        with pytest.raises(GuestctlError):
            read_wim_xml(MemoryDevice(damaged))
    compressed = bytearray(wim)
    compressed[79] |= 4
    with pytest.raises(UnsupportedFeature):
        read_wim_xml(MemoryDevice(compressed))
    bomb = '\ufeff<!DOCTYPE a [<!ENTITY b "bb">]><WIM>&b;</WIM>'.encode("utf-16-le")
    struct.pack_into("<QQ", wim, 72, len(bomb), len(wim))
    with pytest.raises(GuestctlError, match="declaration"):
        read_wim_xml(MemoryDevice(wim + bomb))


def test_mutated_images(run: Run, tmp_path: Path) -> None:
    wim = _wim(run, tmp_path, {"Windows": {"ARCH": "9", "VERSION/MAJOR": "10", "VERSION/MINOR": "0"}}).read_bytes()
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 4
    rounds = read = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        damaged = bytearray(wim)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(wim))] = chance.randrange(256)
        rounds += 1
        try:
            detect_windows_medium(MemoryFileSystem({"/sources/install.wim": bytes(damaged)}), Guest(root="/dev/sda"))
            read += 1
        except GuestctlError as error:
            assert str(error)
    assert 0 < read < rounds


def test_a_disc_of_data_is_no_guest(run: Run, tmp_path: Path) -> None:
    image = make_iso(run, tmp_path, Medium("PHOTOS", {"/content/photo.jpg": "", "/arch/readme": ""}, ()))
    with Machine.open(image) as machine:
        assert machine.guests() == []
    shutil.rmtree(tmp_path)
