"""Databases of which no manager is at hand: the texts and tables are those that the managers write."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from conftest import Run
from guestctl.core.errors import InvalidFormat
from guestctl.detectors import packages
from guestctl.detectors.packages import applications
from guestctl.detectors.packages.sqlite import rows
from guestctl.detectors.report.packages import Package, PackageFile
from guestctl.detectors.system import System
from memory_filesystem import Link, MemoryFileSystem

MD5 = "0123456789abcdef0123456789abcdef"
Files = dict[str, str | bytes | None]


def _system(files: Files) -> System:
    return cast(System, SimpleNamespace(tree=MemoryFileSystem(files), warnings=[]))


def _only(files: Files) -> tuple[Package, list[PackageFile]]:
    system = _system(files)
    found = packages.packages(system)
    assert (len(found), system.warnings) == (1, [])
    return found[0], list(packages.files(system, found[0].name))


def _database(path: Path, script: str) -> bytes:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()
    return path.read_bytes()


def test_portage() -> None:
    directory = "/var/db/pkg/sys-libs/glibc-2.38-r10"
    files: Files = {
        f"{directory}/{name}": text
        for name, text in {
            "CATEGORY": "sys-libs\n",
            "PF": "glibc-2.38-r10\n",
            "SLOT": "2.2\n",
            "repository": "gentoo\n",
            "DESCRIPTION": "GNU libc C library\n",
            "HOMEPAGE": "https://www.gnu.org/software/libc/\n",
            "LICENSE": "LGPL-2.1+ BSD HPND ISC inner-net rc PCRE\n",
            "CHOST": "x86_64-pc-linux-gnu\n",
            "BUILD_TIME": "1706000000\n",
            "SIZE": "45000000\n",
            "CONTENTS": f"dir /lib64\nobj /lib64/a b.so {MD5} 1705999999\nsym /lib64/x -> a b.so 1705999999\n",
        }.items()
    }
    package, found = _only(files | {"/var/db/pkg/sys-libs/-MERGING-zlib-1.3/PF": "zlib-1.3\n"})
    assert (package.namespace, package.name, package.full_version, package.arch, package.origin) == (
        "sys-libs", "glibc", "2.38-r10", "x86_64", "gentoo",
    )  # fmt: skip
    assert (package.install_time, package.size, package.licenses[0][:9]) == (1706000000, 45000000, "LGPL-2.1+")
    assert [(file.path, file.digest, file.target) for file in found] == [
        ("/lib64", None, None),
        ("/lib64/a b.so", MD5, None),
        ("/lib64/x", None, "a b.so"),
    ]
    assert [item.name for item in applications(MemoryFileSystem(files), "ebuild") or ()] == ["glibc"]


@pytest.mark.parametrize(
    ("directory", "parts"),
    [
        ("gtk+-2.24.33-r3", ("gtk+", "2.24.33", "r3")),
        ("openssl-3.0.13", ("openssl", "3.0.13", "")),
        ("foo-1a-2.0_rc1_p3", ("foo-1a", "2.0_rc1_p3", "")),
        ("tzdata-2024a", ("tzdata", "2024a", "")),
    ],
)
def test_portage_versions(directory: str, parts: tuple[str, str, str]) -> None:
    """Package Manager Specification, "Names and versions"."""
    package, _ = _only({f"/var/db/pkg/x/{directory}/SLOT": "0\n"})
    assert (package.name, package.version, package.release) == parts


@pytest.mark.parametrize("database", ["/var/lib/pkgtools/packages", "/var/log/packages"])
def test_slackware(database: str) -> None:
    record = (
        "PACKAGE NAME:     aaa_base-15.0-x86_64-4\nCOMPRESSED PACKAGE SIZE:     12K\n"
        "UNCOMPRESSED PACKAGE SIZE:     90K\nPACKAGE LOCATION: /var/cache/aaa_base-15.0-x86_64-4.txz\n"
        "PACKAGE DESCRIPTION:\naaa_base: aaa_base (Basic Linux filesystem package)\naaa_base:\n"
        "FILE LIST:\n./\nbin/\netc/slackware-version\n"
    )
    package, files = _only({f"{database}/aaa_base-15.0-x86_64-4": record, f"{database}/README": ""})
    assert (package.name, package.version, package.arch, package.release) == ("aaa_base", "15.0", "x86_64", "4")
    assert package.summary == "aaa_base (Basic Linux filesystem package)"
    assert [file.path for file in files] == ["/bin", "/etc/slackware-version"]


def test_void() -> None:
    import plistlib

    entry = {
        "architecture": "x86_64", "homepage": "https://zlib.net/", "install-date": "2024-01-01 00:00 UTC",
        "installed_size": 220000, "license": "Zlib", "maintainer": "Orphaned <orphan@voidlinux.org>",
        "pkgver": "zlib-devel-1.3.1_1", "repository": "https://repo-default.voidlinux.org/current",
        "short_desc": "Compression/decompression Library", "state": "installed",
    }  # fmt: skip
    data = plistlib.dumps({"_XBPS_ALTERNATIVES_": {}, "zlib-devel": entry})
    package, _ = _only({"/var/db/xbps/pkgdb-0.38.plist": data})
    assert (package.name, package.version, package.arch) == ("zlib-devel", "1.3.1_1", "x86_64")
    assert (package.licenses, package.size, package.status) == (["Zlib"], 220000, "installed")
    for damaged in (
        data[:200],
        b"",
        b"<plist><dict><key>a</key></dict></plist>",
        b"<plist><integer>x</integer></plist>",
    ):
        system = _system({"/var/db/xbps/pkgdb-0.38.plist": damaged})
        assert packages.packages(system) == [] and system.warnings[0].startswith("xbps: xbps database")


def test_freebsd(tmp_path: Path) -> None:
    script = """
        CREATE TABLE packages (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
            comment TEXT NOT NULL, desc TEXT NOT NULL, mtree_id INTEGER, message TEXT, arch TEXT NOT NULL,
            maintainer TEXT NOT NULL, www TEXT, prefix TEXT NOT NULL, flatsize INTEGER NOT NULL,
            automatic INTEGER NOT NULL, locked INTEGER NOT NULL DEFAULT 0, licenselogic INTEGER NOT NULL, time INTEGER);
        CREATE TABLE files (path TEXT PRIMARY KEY, sha256 TEXT, package_id INTEGER);
        CREATE TABLE licenses (id INTEGER PRIMARY KEY, license TEXT NOT NULL UNIQUE);
        CREATE TABLE pkg_licenses (package_id INTEGER, license_id INTEGER);
        INSERT INTO packages VALUES (7, 'shells/bash', 'bash', '5.2.26_1', 'GNU Bourne Again Shell', 'About',
            NULL, NULL, 'FreeBSD:14:amd64', 'ehaupt@FreeBSD.org', 'https://www.gnu.org/software/bash/',
            '/usr/local', 7700000, 0, 0, 1,
            1706000000);
        INSERT INTO licenses VALUES (3, 'GPLv3+');
        INSERT INTO pkg_licenses VALUES (7, 3);
        INSERT INTO files VALUES ('/usr/local/bin/bash', '1$00ff', 7), ('/usr/local/share/doc', '-', 8);
    """
    data = _database(tmp_path / "local.sqlite", script)
    package, files = _only({"/var/db/pkg/local.sqlite": data})
    assert (package.manager, package.name, package.version, package.arch) == ("pkg", "bash", "5.2.26_1", "amd64")
    assert (package.licenses, package.source, package.install_time) == (["GPLv3+"], "shells/bash", 1706000000)
    assert [(file.path, file.algorithm, file.digest) for file in files] == [("/usr/local/bin/bash", "sha256", "00ff")]


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ("WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT sum(n) AS blob FROM x", "interrupted"),
        ("SELECT zeroblob(900000000) AS blob", "too big"),
    ],
)
def test_a_hostile_view_in_place_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, reason: str
) -> None:
    monkeypatch.setattr("guestctl.detectors.packages.sqlite._MAX_CALLS", 5)
    data = _database(tmp_path / "x", f"CREATE VIEW Packages AS {view};")
    with pytest.raises(InvalidFormat, match=reason):
        list(rows(data, "SELECT blob FROM Packages"))


def test_openbsd() -> None:
    contents = (
        "@comment pkgpath=shells/bash ftp=yes\n@arch amd64\n+DESC\n@sha aaaa\n@size 500\n@cwd /usr/local\n"
        "bin/bash\n@sha AP8=\n@size 900\n@ts 1706000000\ninfo/\n@extra /etc/x\n"
    )
    package, files = _only(
        {"/var/db/pkg/vim-9.0.1-no_x11/+CONTENTS": contents, "/var/db/pkg/vim-9.0.1-no_x11/+DESC": "vi clone\nMore\n"}
    )
    assert (package.manager, package.name, package.version, package.arch) == ("pkg_add", "vim", "9.0.1-no_x11", "amd64")
    assert (package.summary, package.source) == ("vi clone", "shells/bash")
    assert [(file.path, file.digest) for file in files] == [("/usr/local/bin/bash", "00ff"), ("/usr/local/info", None)]


def test_pkgsrc() -> None:
    contents = "@name p5-x-1.2nb3\n@cwd /usr/pkg\nbin/x\n@comment MD5:0123456789abcdef0123456789abcdef\nbin/y\n"
    build = "OPSYS=NetBSD\nMACHINE_ARCH=x86_64\nLICENSE=gnu-gpl-v2\nPKGPATH=devel/p5-x\n"
    package, files = _only(
        {
            "/usr/pkg/pkgdb/p5-x-1.2nb3/+CONTENTS": contents,
            "/usr/pkg/pkgdb/p5-x-1.2nb3/+BUILD_INFO": build,
            "/usr/pkg/pkgdb/p5-x-1.2nb3/+COMMENT": "An example\n",
            "/usr/pkg/pkgdb/pkgdb.byfile.db": b"",
        }
    )
    assert (package.manager, package.name, package.version, package.arch) == ("pkgsrc", "p5-x", "1.2nb3", "x86_64")
    assert (package.licenses, package.source, package.summary) == (["gnu-gpl-v2"], "devel/p5-x", "An example")
    assert [(file.path, file.algorithm) for file in files] == [("/usr/pkg/bin/x", "md5"), ("/usr/pkg/bin/y", None)]


def test_macports(tmp_path: Path) -> None:
    script = """
        CREATE TABLE ports (id INTEGER PRIMARY KEY, name TEXT, portfile TEXT, location TEXT, epoch INTEGER,
            version TEXT, revision INTEGER, variants TEXT, state TEXT, date DATETIME, archs TEXT);
        CREATE TABLE files (id INTEGER, path TEXT, actual_path TEXT, active INT, binary BOOL);
        INSERT INTO ports VALUES (4, 'zlib', NULL, NULL, 0, '1.3.1', 0, '', 'installed', 1706000000, 'arm64');
        INSERT INTO ports VALUES (3, 'zlib', NULL, NULL, 0, '1.3', 1, '', 'imaged', 1700000000, 'arm64');
        INSERT INTO files VALUES (4, '/opt/local/lib/libz.dylib', '', 1, 1), (3, '/opt/local/old', '', 0, 0);
    """
    path = "/opt/local/var/macports/registry/registry.db"
    package, files = _only({path: _database(tmp_path / "registry.db", script)})
    assert (package.name, package.full_version, package.arch) == ("zlib", "1.3.1-0", "arm64")
    assert [file.path for file in files] == ["/opt/local/lib/libz.dylib"]


def test_opkg() -> None:
    status = (
        "Package: busybox\nVersion: 1.36.1-r1\nStatus: install user installed\nArchitecture: mipsel_24kc\n"
        "Installed-Time: 1706000000\n\n"
    )
    package, files = _only(
        {"/usr/lib/opkg/status": status, "/usr/lib/opkg/info/busybox.list": "/bin/ash\n/bin/busybox\n"}
    )
    assert (package.manager, package.name, package.full_version, package.arch) == (
        "opkg", "busybox", "1.36.1-r1", "mipsel_24kc"
    )  # fmt: skip
    assert [file.path for file in files] == ["/bin/ash", "/bin/busybox"]


def test_snap(run: Run, tmp_path: Path) -> None:
    """An image by mksquashfs with a snap.yaml as snapcraft writes it."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "snap.yaml").write_text(
        "name: hello\nversion: '2.10'\nsummary: GNU Hello\ndescription: |\n  It greets.\narchitectures:\n- amd64\n"
        "license: GPL-3.0-only\nbase: core22\n"
    )
    run("mksquashfs", tmp_path / "meta", tmp_path / "hello.snap", "-keep-as-directory", "-comp", "xz", "-quiet")
    state = {"data": {"snaps": {
        "hello": {"type": "app", "sequence": [{"revision": "41"}], "current": "42", "channel": "stable"},
        "gone": {"current": "7", "channel": "latest/edge"},
    }}}  # fmt: skip
    image = (tmp_path / "hello.snap").read_bytes()
    system = _system(
        {
            "/var/lib/snapd/state.json": json.dumps(state),
            "/var/lib/snapd/snaps/hello_42.snap": image,
            "/var/lib/snapd/snaps/hello_41.snap": b"",
        }
    )
    gone, hello = packages.packages(system)
    assert (gone.name, gone.version, gone.release) == ("gone", "", "7")
    assert (hello.name, hello.version, hello.release, hello.arch) == ("hello", "2.10", "42", "amd64")
    assert (hello.licenses, hello.origin, hello.summary) == (["GPL-3.0-only"], "stable", "GNU Hello")
    system = _system(
        {
            "/var/lib/snapd/state.json": json.dumps(state).replace("gone", "bad"),
            "/var/lib/snapd/snaps/hello_42.snap": image,
            "/var/lib/snapd/snaps/bad_7.snap": image[:200],
        }
    )
    assert [item.name for item in packages.packages(system)] == ["hello"] and len(system.warnings) == 1
    for damaged in ("[]", "{", '{"data": {"snaps": {"x": {}}}}'):
        system = _system({"/var/lib/snapd/state.json": damaged})
        assert packages.packages(system) == [] and len(system.warnings) == 1


@pytest.mark.parametrize("root", ["/var/lib/flatpak", "/home/u/.local/share/flatpak"])
def test_flatpak(root: str) -> None:
    name = "org.gnome.Calculator"
    commit = f"{root}/app/{name}/x86_64/stable/7a1e"
    appstream = (
        '<?xml version="1.0"?>\n<component type="desktop-application">\n<summary>Perform calculations</summary>\n'
        "<project_license>GPL-3.0-or-later</project_license>\n"
        '<releases>\n<release date="2023-09-15" version="45.0.2"/>\n<release version="45.0"/></releases></component>'
    )
    package, _ = _only(
        {
            f"{commit}/metadata": f"[Application]\nname={name}\n",
            f"{commit}/files/share/metainfo/{name}.metainfo.xml": appstream,
            f"{root}/app/{name}/x86_64/stable/active": Link("7a1e"),
            f"{root}/app/{name}/current": Link("x86_64/stable"),
        }
    )
    assert (package.name, package.version, package.arch, package.origin) == (name, "45.0.2", "x86_64", "stable")
    assert (package.summary, package.licenses) == ("Perform calculations", ["GPL-3.0-or-later"])


def test_homebrew() -> None:
    receipt = {
        "homebrew_version": "4.2.4", "installed_on_request": True, "time": 1706000000, "arch": "x86_64",
        "source": {"tap": "homebrew/core", "spec": "stable", "versions": {"stable": "1.7.1"}},
    }  # fmt: skip
    cellar = "/home/linuxbrew/.linuxbrew/Cellar"
    package, _ = _only({f"{cellar}/jq/1.7.1/INSTALL_RECEIPT.json": json.dumps(receipt), f"{cellar}/jq/old/README": ""})
    assert (package.name, package.version, package.arch, package.origin) == ("jq", "1.7.1", "x86_64", "homebrew/core")
    system = _system({f"{cellar}/jq/1.7.1/INSTALL_RECEIPT.json": "["})
    assert packages.packages(system) == [] and len(system.warnings) == 1
