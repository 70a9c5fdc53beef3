"""Small files that would cost much, of each kind that a room once did not bound: an answer comes in a few seconds."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from guestctl.cli.output import name_for_output, time_text
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.network import network
from guestctl.detectors.linux.storage import storage
from guestctl.detectors.linux.sudoers import sudoers
from guestctl.detectors.linux.systemd import parse_unit
from guestctl.detectors.linux.users import users
from guestctl.detectors.packages import flatpak, portage
from guestctl.detectors.sbom.copyright import debian_licenses
from guestctl.detectors.sbom.languages import java
from guestctl.detectors.sbom.languages.sections import read_sections
from guestctl.detectors.views import view
from guestctl.machine import Machine
from host_system import memory_system
from memory_filesystem import MemoryFileSystem


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < 10


def test_continued_lines() -> None:
    assert parse_unit("[Service]\nExecStart=" + "a\\\n" * 300_000 + "b\n")["Service", "ExecStart"][0].endswith("a a b")


def test_blank_lines_of_lvm() -> None:
    system = memory_system({"/etc/lvm/lvm.conf": "\n" * (3 << 20)})
    system.machine = cast(Machine, SimpleNamespace(found=lambda: ()))
    assert storage(system).lvm == {}


def test_unclosed_lists_of_cloud_init() -> None:
    text = "datasource_list: [\n" * 50_000
    assert view("cloud_init", memory_system({"/etc/cloud/cloud.cfg": text})).datasource_list == []


def test_links_and_releases_of_packages() -> None:
    tree = MemoryFileSystem(
        {
            "/var/db/pkg/a/b-1/CONTENTS": "sym " + "a -> " * 200_000 + "\nsym /a -> /b 5\n",
            "/root/.local/share/flatpak/app/a/b/c/active/metadata": "",
            "/root/.local/share/flatpak/app/a/b/c/active/files/share/metainfo/a.metainfo.xml": "<release " * 200_000,
        }
    )
    ((_, files),) = portage.installed(tree)
    assert [(file.path, file.target) for file in files] == [("/a", "/b")]
    ((package, _),) = flatpak.installed(tree)
    assert package.version == "c"


def test_accounts_that_share_groups_and_rules() -> None:
    system = memory_system(
        {
            "/etc/passwd": "a:x:0:0::/:/bin/sh\n" * 16_000,
            "/etc/group": "".join(f"g{number}:x:{number}:a\n" for number in range(30_000)),
            "/etc/sudoers": "ALL ALL = /bin/ls" + ", /bin/ls" * 10_000 + "\n",
        }
    )
    found = users(system)
    assert 0 < len(found) < 100
    assert system.warnings == [f"users: only the first {len(found)} accounts are shown: there is too much of them"]


def test_blanks() -> None:
    system = memory_system(
        {
            "/etc/sudoers": "a" + " " * 500_000 + "b , c = d\n",
            "/usr/share/doc/a/copyright": "Format: x\nLicense: MIT" + " " * 500_000 + "x\nLicense: GPL-2+  \n",
        }
    )
    found = sudoers(system)
    assert found is not None
    assert [(rule.users, rule.hosts) for rule in found.rules] == [(["a"], ["b", "c"])]
    assert "GPL-2.0-or-later" in debian_licenses(system.tree, "a")


def test_values_of_netplan() -> None:
    text = "network:\n  ethernets:\n    a: &a {dhcp4: Yes, addresses: [" + "x, " * 8000 + "]}\n"
    text += "    ? 0x" + "f" * 5000 + "\n    : *a\n" + "".join(f"    b{number}: *a\n" for number in range(2000))
    found = network(memory_system({"/etc/netplan/a.yaml": text}))
    assert len(found) == 2002
    assert (found[0].method, len(found[0].addresses)) == ("dhcp", 256)


def test_archives_in_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_MAX_READ_BYTES", 64 << 20)
    data = b""
    for _ in range(4):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(100 if data else 0):
                archive.writestr(f"{number}.jar", data)
        data = stream.getvalue()
    with pytest.raises(InvalidFormat, match="more than 67108864 bytes"):
        list(java.packages(MemoryFileSystem({"/a.jar": data}), "/a.jar"))


def test_names_of_sections() -> None:
    sections = 60_000
    header = b"\x7fELF\2\1" + bytes(34) + (64).to_bytes(8, "little") + bytes(10)
    header += (64).to_bytes(2, "little") + sections.to_bytes(2, "little") + bytes(2)
    row = bytes(4) + (1).to_bytes(4, "little") + bytes(24) + (8 << 20).to_bytes(8, "little") + bytes(24)
    tree = MemoryFileSystem({"/program": header.ljust(64, b"\0") + row * sections + b"x" * (8 << 20)})
    image = read_sections(tree.device("/program"))
    assert image is not None
    assert max(len(section.name) for section in image.sections) <= 64


def test_times_and_names_that_nothing_prints() -> None:
    assert time_text(2**64 * 1000) == "18446744073709.551616000"
    assert name_for_output("a\ud800\udc80").encode("utf-8", "surrogateescape") == "a\ufffd".encode() + b"\x80"
