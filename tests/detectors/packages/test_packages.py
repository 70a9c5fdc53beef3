"""Package databases: the texts are dpkg's and apk's own, versions taken apart by deb-version(7)."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from guestctl.detectors.packages import applications, package_system
from guestctl.detectors.packages.apk import parse_installed
from guestctl.detectors.packages.dpkg import split_version
from memory_filesystem import MemoryFileSystem

STATUS = """\
Package: adduser
Status: install ok installed
Priority: important
Maintainer: Debian Adduser Developers
Architecture: all
Version: 3.134
Description: add and remove users and groups
 This package includes the 'adduser' and 'deluser' commands.
 Version: 9 (not a field)

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: vim-common
Status: hold ok installed
Architecture: all
Source: vim (2:9.0.1378-2)
Version: 2:9.0.1378-2
Homepage: https://www.vim.org/
Description: Vi IMproved - Common files
"""


def test_dpkg() -> None:
    found = applications(MemoryFileSystem({"/var/lib/dpkg/status": STATUS}), "deb") or []
    assert [(item.name, item.epoch, item.version, item.release, item.arch) for item in found] == [
        ("adduser", 0, "3.134", "", "all"),
        ("vim-common", 2, "9.0.1378", "2", "all"),
    ]
    assert found[0].summary == "add and remove users and groups"
    assert (found[1].source, found[1].url) == ("vim", "https://www.vim.org/")


@pytest.mark.parametrize(
    ("version", "parts"),
    [
        ("1.2", (0, "1.2", "")),
        ("1:1.2-3", (1, "1.2", "3")),
        ("2.0-rc1-4ubuntu1", (0, "2.0-rc1", "4ubuntu1")),
        ("x:1", (0, "x:1", "")),
    ],
)
def test_deb_version(version: str, parts: tuple[int, str, str]) -> None:
    assert split_version(version) == parts


def test_distroless() -> None:
    tree = MemoryFileSystem(
        {
            "/var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n",
            "/var/lib/dpkg/status.d/base.md5sums": "Package: not-one\nVersion: 1\n",
        }
    )
    assert package_system(tree, "debian") == ("deb", None)
    assert [item.name for item in applications(tree, "deb") or []] == ["base-files"]


def test_apk(shared: Path) -> None:
    """The database of a real Alpine 3.11; `apk info -v` names its packages NAME-VERSION-rRELEASE."""
    with tarfile.open(shared / "rootfs" / "alpine-3.11.docker.tar.gz") as outer:
        layer = next(member for member in outer.getmembers() if member.name.endswith("layer.tar"))
        stream = outer.extractfile(layer)
        assert stream is not None
        with tarfile.open(fileobj=stream) as inner:
            database = inner.extractfile("lib/apk/db/installed")
            assert database is not None
            text = database.read().decode()
    found = {item.name: item for item, _ in parse_installed(text)}
    assert len(found) == text.count("\nP:") + text.startswith("P:")
    assert found["musl"].version == "1.1.24"
    assert found["musl"].release.startswith("r")
    assert found["musl"].arch == "x86_64"
    assert found["busybox"].summary == "Size optimized toolbox of many common UNIX utilities"


@pytest.mark.parametrize(
    ("files", "distro", "system"),
    [
        ({"/var/lib/dpkg/status": ""}, "ubuntu", ("deb", "apt")),
        ({"/lib/apk/db/installed": ""}, "alpinelinux", ("apk", "apk")),
        ({"/var/lib/rpm/Packages": "", "/usr/bin/dnf": ""}, "fedora", ("rpm", "dnf")),
        ({"/var/lib/rpm/Packages": ""}, "centos", ("rpm", "yum")),
        ({"/var/lib/rpm/Packages": ""}, "sles", ("rpm", "zypper")),
        ({}, "archlinux", ("pacman", "pacman")),
        ({}, None, (None, None)),
    ],
)
def test_package_system(files: dict[str, str], distro: str | None, system: tuple[str | None, str | None]) -> None:
    assert package_system(MemoryFileSystem(files), distro) == system


def test_a_database_that_is_not_read_is_unknown_not_empty() -> None:
    assert applications(MemoryFileSystem({}), "pisi") is None
    assert applications(MemoryFileSystem({}), "deb") == []


def test_a_report_with_a_name_that_is_no_utf8_is_json_all_the_same() -> None:
    import json

    from guestctl.detectors.report import Report

    for name in ("plain é", "stray \udcff"):
        assert json.loads(Report(warnings=[name]).to_json())["warnings"] == [name]
