"""Documents by the validators of their formats; package URLs by the examples of their specification."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from spdx_tools.spdx.parser.json import json_parser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from conftest import Run
from guestctl.cli import main
from guestctl.detectors.packages.rpm import sqlite
from guestctl.detectors.packages.rpm.header import Header
from guestctl.detectors.report import Guest
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom import Component, Inventory, clean
from guestctl.detectors.sbom.copyright import debian_licenses
from guestctl.detectors.sbom.cyclonedx import to_cyclonedx
from guestctl.detectors.sbom.purl import Distribution, package_url
from guestctl.detectors.sbom.spdx import to_spdx
from guestctl.machine import Machine
from memory_filesystem import MemoryFileSystem

IMAGE = Path(__file__).parents[2] / "data" / "debian-12.qcow2"


def sbom(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(["sbom", str(IMAGE), *words])
    return capsys.readouterr().out


def check_cyclonedx(text: str) -> dict[str, Any]:
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(text) is None
    document: dict[str, Any] = json.loads(text)
    refs = [component["bom-ref"] for component in document["components"]]
    assert sorted(next(one["dependsOn"] for one in document["dependencies"] if one["ref"] == "os")) == sorted(set(refs))
    return document


def check_spdx(text: str, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "document.spdx.json"
    path.write_text(text)
    assert validate_full_spdx_document(json_parser.parse_from_file(str(path))) == []
    document: dict[str, Any] = json.loads(text)
    return document


def test_the_debian_guest_has_exactly_the_packages_of_dpkg(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Machine.open(IMAGE) as machine:
        (tmp_path / "status").write_bytes(machine.guests()[0].tree.read_bytes("/var/lib/dpkg/status"))
    expected = sorted(
        line.partition(" ")[2]
        for line in run(
            "dpkg-query",
            "--admindir",
            tmp_path,
            "-W",
            "-f",
            "${db:Status-Status} ${Package} ${Version} ${Architecture}\\n",
        ).splitlines()
        if not line.startswith("config-files ")
    )
    document = check_cyclonedx(sbom(capsys, "--format", "cyclonedx"))
    urls = [PackageURL.from_string(one["purl"]) for one in document["components"]]
    assert {(url.type, url.namespace, url.qualifiers["distro"]) for url in urls} == {("deb", "debian", "debian-12")}
    assert sorted(f"{url.name} {url.version} {url.qualifiers['arch']}" for url in urls) == expected
    assert document["metadata"]["component"]["type"] == "operating-system"

    spdx = check_spdx(sbom(capsys, "--format", "spdx"), tmp_path)
    assert spdx["documentDescribes"] == ["SPDXRef-OperatingSystem"]
    listed = [one["externalRefs"][0]["referenceLocator"] for one in spdx["packages"] if "externalRefs" in one]
    assert sorted(listed) == sorted(map(str, urls))


@pytest.mark.parametrize("document_format", ["cyclonedx", "spdx"])
def test_reproducible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, document_format: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = (sbom(capsys, "--format", document_format) for _ in range(2))
    assert first == second
    assert "2023-11-14T22:13:20" in first
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert sbom(capsys, "--format", document_format) != sbom(capsys, "--format", document_format)


def test_without_the_libraries(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("packageurl", "guestctl.detectors.sbom"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "packageurl", None)
    with pytest.raises(SystemExit, match="1"):
        main(["sbom", str(IMAGE)])
    assert "packageurl: pip install 'guestctl[sbom]'" in capsys.readouterr().err


def test_an_unknown_root(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["sbom", str(IMAGE), "--root", "/dev/sdz9"])
    assert "/dev/sdz9" in capsys.readouterr().err


def test_windows_as_virt_inspector_says(
    run: Run, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mkntfs", "ntfs-3g", "hivexregedit", "sfdisk"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    root = Path(__file__).parents[3]
    data, image = root / "tests" / "data" / "windows", tmp_path / "windows.raw"
    run(root / "tools" / "make-windows-image", shared / "registry" / "hivex-minimal", data, image)
    said = ElementTree.parse(data / "virt-inspector.xml").iter("application")
    expected = {(one.findtext("display_name"), one.findtext("version") or "") for one in said}
    with pytest.raises(SystemExit, match="0"):
        main(["sbom", str(image)])
    document = check_cyclonedx(capsys.readouterr().out)
    assert {(one["name"], one.get("version", "")) for one in document["components"]} == expected


@pytest.mark.parametrize(
    ("package", "distribution", "expected"),
    [
        # Examples of the specification's definitions of types, and a distribution where it is known.
        (Package(manager="dpkg", name="curl", version="7.50.3", release="1", arch="i386"), ("debian", "8"),
         "pkg:deb/debian/curl@7.50.3-1?arch=i386&distro=debian-8"),
        (Package(manager="dpkg", name="attr", epoch=1, version="2.4.47", release="2", arch="source"), ("debian", ""),
         "pkg:deb/debian/attr@1:2.4.47-2?arch=source&distro=debian"),
        (Package(manager="rpm", name="curl", version="7.50.3", release="1.fc25", arch="i386"), ("fedora", "25"),
         "pkg:rpm/fedora/curl@7.50.3-1.fc25?arch=i386&distro=fedora-25"),
        (Package(manager="rpm", name="centerim", epoch=1, version="4.22.10", release="1.el6", arch="i686"),
         ("fedora", ""), "pkg:rpm/fedora/centerim@4.22.10-1.el6?arch=i686&distro=fedora&epoch=1"),
        (Package(manager="rpm", name="bash", version="4.4", release="9", arch="x86_64"), ("opensuse-leap", "15.5"),
         "pkg:rpm/opensuse/bash@4.4-9?arch=x86_64&distro=opensuse-leap-15.5"),
        (Package(manager="apk", name="curl", version="7.83.0", release="r0", arch="x86"), ("alpine", "3.15.4"),
         "pkg:apk/alpine/curl@7.83.0-r0?arch=x86&distro=alpine-3.15.4"),
        (Package(manager="pacman", name="containers-common", epoch=1, version="0.47.4", release="4", arch="x86_64"),
         ("arch", ""), "pkg:alpm/arch/containers-common@1:0.47.4-4?arch=x86_64&distro=arch"),
        (Package(manager="pypi", name="Django_Rest", version="1.11.1"), ("x", ""), "pkg:pypi/django-rest@1.11.1"),
        (Package(manager="npm", name="animation", namespace="@angular", version="12.3.1"), ("x", ""),
         "pkg:npm/%40angular/animation@12.3.1"),
        (Package(manager="maven", namespace="org.apache.commons", name="io", version="1.3.4"), ("x", ""),
         "pkg:maven/org.apache.commons/io@1.3.4"),
        (Package(manager="golang", namespace="google.golang.org", name="genproto", version="v1.2+incompatible"),
         ("x", ""), "pkg:golang/google.golang.org/genproto@v1.2%2Bincompatible"),
        (Package(manager="snap", name="core22", version="1"), ("x", ""), "pkg:generic/core22@1"),
    ],
)  # fmt: skip
def test_package_urls(package: Package, distribution: tuple[str, str], expected: str) -> None:
    found = package_url(package, Distribution(*distribution))
    assert found == expected
    PackageURL.from_string(found)


def _inventory(packages: list[Package]) -> Inventory:
    distribution = Distribution("mariner", "2.0")
    components = [Component(package_url(package, distribution), package, []) for package in map(clean, packages)]
    return Inventory("mariner", "2.0", Guest(root="/dev/sda1"), components, datetime(2024, 1, 1, tzinfo=UTC), True)


def test_an_rpm_guest_with_its_licenses(shared: Path, tmp_path: Path) -> None:
    database = lzma.decompress((shared / "rpmdb" / "cbl-mariner-2.0.rpmdb.sqlite.xz").read_bytes())
    packages = [Header(blob).package() for blob in sqlite.headers(database)]
    inventory = _inventory([package for package in packages if package.name != "gpg-pubkey"])
    document = check_cyclonedx(to_cyclonedx(inventory))
    licenses = {one["name"]: one["licenses"][0] for one in document["components"] if one.get("licenses")}
    assert licenses["audit-libs"] == {"license": {"name": "LGPLv2+"}}
    spdx = check_spdx(to_spdx(inventory), tmp_path)
    declared = {one["name"]: one.get("licenseDeclared") for one in spdx["packages"]}
    texts = {one["licenseId"]: one["extractedText"] for one in spdx["hasExtractedLicensingInfos"]}
    assert texts[declared["audit-libs"]] == "LGPLv2+"
    assert declared["zlib"] == "Zlib" or texts[declared["zlib"]] == "zlib"


def test_what_a_hostile_guest_may_say(tmp_path: Path) -> None:
    texts = ["a/b@c?d#e", "x" * 3000, "\x01\x1b[2J", "../../etc", "ü�", "MIT", "GPL-2.0-or-later OR (MIT", "<b>", "-"]
    packages = [
        Package(
            manager="npm", name=text, namespace=text, version=text, url=f"http://{text}", publisher=text, path=text,
            summary=text, licenses=texts, source=text, digests={"sha1": "0" * 40, "sha256": "0" * 64},
        )
        for text in texts
    ]  # fmt: skip
    check_cyclonedx(to_cyclonedx(_inventory(packages)))
    check_spdx(to_spdx(_inventory(packages)), tmp_path)


COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Contact: chet@po.cwru.edu

Files: *
Copyright: (C) 1987-2022 Free Software Foundation, Inc.
License: GPL-3+

Files: lib/sh/inet_aton.c
Copyright: 1983, 1990, 1993 The Regents of the University of California.
License: BSD-4-clause-UC and MIT-like

Files: doc/*
Copyright: 2004-2011 Free Software Foundation, Inc.
License: GFDL-1.3 or Expat

License: GPL-3+
 On Debian systems, the full text is in /usr/share/common-licenses.
"""


def test_licenses_of_debian() -> None:
    """A text after that of Debian's bash."""
    tree = MemoryFileSystem(
        {
            "/usr/share/doc/bash/copyright": COPYRIGHT,
            "/usr/share/doc/prose/copyright": "This package is under the GPL.\nLicense: see below\n",
            "/usr/share/doc/huge/copyright": bytes(5 << 20),
        }
    )
    assert debian_licenses(tree, "bash") == [
        "BSD-4-clause-UC AND MIT-like", "GFDL-1.3-only OR MIT", "GPL-3.0-or-later"
    ]  # fmt: skip
    for name in ("prose", "huge", "none"):
        assert debian_licenses(tree, name) == []
