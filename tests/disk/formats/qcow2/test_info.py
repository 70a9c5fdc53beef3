"""``DiskReader.info`` against ``qemu-img info --output=json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.disk.reader import DiskReader

Run = Callable[..., str]


def qemu_info(run: Run, path: Path | str) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(run("qemu-img", "info", "-f", "qcow2", "--output=json", path))
    # qemu 8 and later say more: the nodes below, and that the LUKS header is not detached.
    info.pop("children", None)
    return info


def our_info(path: Path | str) -> dict[str, Any]:
    with DiskReader.open(path) as reader:
        return reader.info()


def metadata_info(path: Path) -> dict[str, Any]:
    """The info of an image whose other files are missing or refused."""
    with DiskReader.open(path, metadata_only=True) as reader:
        return reader.info()


def test_every_kind(image: Path, run: Run) -> None:
    assert our_info(image) == qemu_info(run, image)


@pytest.mark.parametrize("cipher", ["luks", "aes"])
def test_encryption(run: Run, tmp_path: Path, cipher: str, encrypted: Callable[[Path, str], None]) -> None:
    path = tmp_path / "encrypted.qcow2"
    encrypted(path, cipher)
    assert our_info(path) == qemu_info(run, path)


def test_snapshots_and_bitmaps(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rich.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "10M")
    run("qemu-img", "snapshot", "-c", "before résumé", path)
    run("qemu-img", "resize", "-q", path, "20M")
    run("qemu-img", "snapshot", "-c", "2", path)
    run("qemu-img", "bitmap", "--add", "-g", "64k", path, "on")
    run("qemu-img", "bitmap", "--add", "--disable", "-g", "512", path, "off")
    info = our_info(path)
    assert info == qemu_info(run, path)
    assert [snapshot["name"] for snapshot in info["snapshots"]] == ["before résumé", "2"]
    assert [bitmap["name"] for bitmap in info["format-specific"]["data"]["bitmaps"]] == ["on", "off"]


def test_relative_names(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    run("qemu-img", "create", "-q", "-f", "qcow2", "sub/base.qcow2", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "sub/top.qcow2")
    assert our_info("sub/top.qcow2") == qemu_info(run, "sub/top.qcow2")


@pytest.mark.parametrize("name", ["missing.qcow2", "/etc/passwd", "nbd://host/export", 'json:{"driver":"nbd"}'])
def test_backing_files_that_cannot_be_opened(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", path, "1M")
    assert metadata_info(path) == qemu_info(run, path)


def test_dirty_and_corrupt(run: Run, tmp_path: Path, patch: Any) -> None:
    path = tmp_path / "marked.qcow2"
    path.write_bytes(patch.with_((72, "Q", 3)))
    info = our_info(path)
    assert info == qemu_info(run, path)
    assert info["dirty-flag"] and info["format-specific"]["data"]["corrupt"]
    with DiskReader.open(path) as reader:
        assert len(reader.warnings) == 2
        assert all("\n" not in warning and str(path) in warning for warning in reader.warnings)


def test_inconsistent_bitmaps_are_not_listed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bitmaps.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-img", "bitmap", "--add", path, "one")
    content = bytearray(path.read_bytes())
    content[88:96] = bytes(8)
    path.write_bytes(content)
    assert our_info(path) == qemu_info(run, path)
    with DiskReader.open(path) as reader:
        assert len(reader.warnings) == 1


def test_a_disk_of_no_whole_number_of_sectors(run: Run, tmp_path: Path, patch: Any) -> None:
    path = tmp_path / "odd.qcow2"
    path.write_bytes(patch.with_((24, "Q", 1000)))
    assert our_info(path) == qemu_info(run, path)
