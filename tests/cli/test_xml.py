"""``inspect --xml`` beside virt-inspector: its recorded output, its schema, and itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from guestctl.cli.inspect_xml import to_xml
from guestctl.detectors import inspect
from guestctl.detectors.report import Application, Guest, Report
from guestctl.machine import Machine

DATA = Path(__file__).resolve().parents[1] / "data"
DEMO = DATA / "debian-12.qcow2"
Run = Callable[..., str]


def _xml(image: Path) -> str:
    with Machine.open(image) as machine:
        return to_xml(inspect(machine))


def _fields(text: str) -> Iterator[tuple[str, dict[str, str], str]]:
    for element in ElementTree.fromstring(text).iter():
        yield element.tag, element.attrib, (element.text or "").strip()


def test_every_field_is_virt_inspectors() -> None:
    assert list(_fields(_xml(DEMO))) == list(_fields((DATA / "virt-inspector.xml").read_text()))


@pytest.mark.long
def test_every_field_beside_virt_inspector(run: Run, tmp_path: Path) -> None:
    for tool in ("virt-inspector", "qemu-system-x86_64"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if not any(os.access(kernel, os.R_OK) for kernel in Path("/boot").glob("vmlinuz-*")):
        pytest.skip("needs a kernel in /boot that may be read")
    image = shutil.copy(DEMO, tmp_path)
    emulated = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(tmp_path),
    }
    words = ("virt-inspector", "--no-icon", "-a", image)
    done = subprocess.run(words, env={**os.environ, **emulated}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(_fields(_xml(DEMO))) == list(_fields(done.stdout))


def _validate(run: Run, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    run("xmllint", "--noout", "--relaxng", DATA / "virt-inspector.rng", path)


def test_schema(run: Run, tmp_path: Path) -> None:
    _validate(run, tmp_path / "demo.xml", _xml(DEMO))


def test_schema_has_no_place_for_what_is_unknown(run: Run, tmp_path: Path) -> None:
    guest = Guest(
        root="/dev/sda1",
        type="linux",
        distro="nixos",
        package_format="nix",
        package_management="nix",
        hostname="a\0b\udcff<&\"'",
        mountpoints={"/": "/dev/sda1"},
        filesystems=["/dev/sda1"],
        applications=[Application(name="]]><x/>", epoch=0, version="1", release="\x1b[0m", arch="")],
    )
    text = to_xml(Report(guests=[guest]))
    _validate(run, tmp_path / "unknown.xml", text)
    words = {tag: value for tag, _, value in _fields(text)}
    assert not words.keys() & {"distro", "package_format", "package_management", "x"}
    assert (words["major_version"], words["minor_version"]) == ("0", "0")
    assert words["hostname"] == "a\ufffdb\ufffd<&\"'"


def test_debian_versions_end_where_libguestfs_ends_them() -> None:
    guest = Guest(
        root="/dev/sda1",
        type="linux",
        distro="debian",
        product_name="Debian GNU/Linux trixie/sid",
        package_format="deb",
        applications=[Application(name="libedit2", epoch=0, version="3.1-20221030", release="2", arch="amd64")],
    )
    words = {tag: value for tag, _, value in _fields(to_xml(Report(guests=[guest])))}
    assert (words["version"], words["release"]) == ("3.1", "20221030-2")
    assert words["product_name"] == "Debian GNU/Linux trixie/sid"
