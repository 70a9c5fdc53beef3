"""Differencing VHDX files, built from the specification (qemu-img has none)."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from disk.formats.vhdx.build import MIB, NOT_PRESENT, PARTIAL, PRESENT, UNMAPPED, ZERO, Disk
from guestctl.core.errors import InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.disk.reader import DiskReader

LINKAGE = "{00000000-0000-0000-0000-000000000007}"
Blocks = Mapping[int, tuple[int, bytes, Sequence[int]]]


@pytest.fixture(params=[512, 4096])
def sector_size(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture
def parent(tmp_path: Path, sector_size: int) -> bytes:
    disk = random.Random(1).randbytes(5 * MIB)
    blocks = {number: (PRESENT, disk[number * MIB :][:MIB], ()) for number in range(5)}
    (tmp_path / "parent.vhdx").write_bytes(Disk(5 * MIB, blocks, sector_size=sector_size).build())
    return disk


def child(path: Path, blocks: Blocks | None = None, **options: Any) -> Path:
    locator = {"parent_linkage": LINKAGE, "relative_path": ".\\parent.vhdx"}
    options.setdefault("locator", locator)
    path.write_bytes(Disk(5 * MIB, blocks or {}, **options).build())
    return path


@pytest.mark.parametrize("kind", ["none", "all", "random", "ends", "alternating"])
def test_sector_bitmaps(tmp_path: Path, parent: bytes, sector_size: int, kind: str) -> None:
    generator = random.Random(kind)
    count = MIB // sector_size
    sectors = {
        "none": [],
        "all": list(range(count)),
        "random": [sector for sector in range(count) if generator.random() < 0.3],
        "ends": [0, count - 1],
        "alternating": list(range(0, count, 2)),
    }[kind]
    data = generator.randbytes(MIB)
    blocks: Blocks = {
        0: (NOT_PRESENT, b"", ()),
        1: (PARTIAL, data, sectors),
        2: (ZERO, b"", ()),
        3: (UNMAPPED, b"", ()),
        4: (PRESENT, b"\4" * MIB, ()),
    }
    expected = bytearray(parent[: 2 * MIB] + bytes(2 * MIB) + b"\4" * MIB)
    for sector in sectors:
        at = sector * sector_size
        expected[MIB + at : MIB + at + sector_size] = data[at : at + sector_size]
    with DiskReader.open(child(tmp_path / "child.vhdx", blocks, sector_size=sector_size)) as reader:
        check_device(reader, bytes(expected), rounds=100)
        entries = list(reader.map())
        assert sum(entry.length for entry in entries) == 5 * MIB
        assert {entry.depth for entry in entries} == {0, 1}
        for entry in entries[:50]:
            if entry.data:
                assert entry.offset is not None and entry.filename is not None
                content = Path(entry.filename).read_bytes()[entry.offset :][: entry.length]
                assert content == expected[entry.start :][: entry.length]
        assert "corruptions" not in reader.check()
        info = reader.info()
        assert (info["backing-filename"], info["backing-filename-format"]) == ("parent.vhdx", "vhdx")
        assert info["full-backing-filename"] == str(tmp_path / "parent.vhdx")


def test_bitmap_of_a_later_block(tmp_path: Path) -> None:
    """Blocks of one chunk share a bitmap block; those of the next have their own."""
    disk = Disk(5 << 30, {0: (PRESENT, b"", ())}, block_size=32 * MIB)
    (tmp_path / "parent.vhdx").write_bytes(disk.build())
    blocks = {number: (PARTIAL, bytes([number]) * 4096, (1, number % 50)) for number in (0, 127, 128, 129)}
    locator = {"parent_linkage": LINKAGE, "relative_path": "parent.vhdx"}
    path = tmp_path / "child.vhdx"
    path.write_bytes(Disk(5 << 30, blocks, block_size=32 * MIB, locator=locator).build())
    with DiskReader.open(path) as reader:
        for number, (_, data, sectors) in blocks.items():
            expected = bytearray(32768)
            for sector in sectors:
                content = data[sector * 512 :][:512].ljust(512, b"\0")
                expected[sector * 512 : sector * 512 + 512] = content
            assert reader.read_exact_at(number << 25, 32768) == expected[:32768]
        assert reader.read_exact_at(126 << 25, 100) == bytes(100)


@pytest.mark.parametrize("sector_size", [512], indirect=True)
@pytest.mark.parametrize(
    "locator",
    [
        {"relative_path": "parent.vhdx"},
        {"relative_path": ".\\gone.vhdx", "absolute_win32_path": "C:\\VMs\\parent.vhdx"},
        {"volume_path": "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\VMs\\parent.vhdx"},
        {"absolute_win32_path": "\\\\?\\C:\\VMs\\parent.vhdx"},
        {"relative_path": "..\\here\\parent.vhdx", "parent_linkage": "{22222222-0000-0000-0000-000000000000}"},
    ],
)
def test_locators(tmp_path: Path, parent: bytes, locator: dict[str, str]) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "parent.vhdx").rename(here / "parent.vhdx")
    locator = {"parent_linkage": LINKAGE, "parent_linkage2": LINKAGE.upper(), **locator}
    with DiskReader.open(child(here / "child.vhdx", locator=locator)) as reader:
        assert reader.read_exact_at(0, 5 * MIB) == parent
        assert reader.backing is not None and os.path.samefile(reader.backing.path, here / "parent.vhdx")
        assert len(reader.files) == 2


@pytest.mark.parametrize("sector_size", [512], indirect=True)
def test_refusals(tmp_path: Path, parent: bytes) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "child.vhdx"
    child(path, locator={"parent_linkage": LINKAGE, "relative_path": "..\\parent.vhdx"})
    with pytest.raises(LocationRefused):
        DiskReader.open(path)
    with DiskReader.open(path, allow_dirs=[tmp_path]) as reader:
        assert reader.read_exact_at(0, 5 * MIB) == parent
    path = tmp_path / "child.vhdx"
    child(path, locator={"parent_linkage": "{00000000-0000-0000-0000-000000000008}", "relative_path": "parent.vhdx"})
    with pytest.raises(InvalidFormat, match="not the parent"):
        DiskReader.open(path)
    for locator in ({"relative_path": "parent.vhdx"}, {"parent_linkage": LINKAGE}, {}):
        with pytest.raises(InvalidFormat):
            DiskReader.open(child(path, locator=locator))
    child(path, locator={"parent_linkage": LINKAGE, "relative_path": "gone.vhdx"})
    with pytest.raises(FileNotFoundError):
        DiskReader.open(path)
    with DiskReader.open(path, metadata_only=True) as reader:
        assert reader.info()["backing-filename"] == "gone.vhdx"
    child(path, locator={"parent_linkage": LINKAGE, "relative_path": "child.vhdx"})
    with pytest.raises(InvalidFormat):
        DiskReader.open(path)
    content = child(path).read_bytes()
    path.write_bytes(content.replace(bytes.fromhex("b7ef4ab0"), bytes(4)))  # another type of locator
    with pytest.raises(UnsupportedFeature, match="parent locator"):
        DiskReader.open(path)


@pytest.mark.parametrize("sector_size", [512], indirect=True)
def test_chain(tmp_path: Path, parent: bytes) -> None:
    child(tmp_path / "middle.vhdx", {0: (PARTIAL, b"\1" * MIB, (0, 1))})
    locator = {"parent_linkage": LINKAGE, "relative_path": "middle.vhdx"}
    path = child(tmp_path / "top.vhdx", {0: (PARTIAL, b"\2" * MIB, (1, 2))}, locator=locator)
    with DiskReader.open(path) as reader:
        check_device(reader, b"\1" * 512 + b"\2" * 1024 + parent[1536:], rounds=50)
        assert [entry.depth for entry in reader.map()] == [1, 0, 2]


def test_smaller_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.vhdx").write_bytes(Disk(MIB, {0: (PRESENT, b"\1" * MIB, ())}).build())
    with DiskReader.open(child(tmp_path / "child.vhdx", {2: (PARTIAL, b"\2" * MIB, (7,))})) as reader:
        check_device(reader, b"\1" * MIB + (bytes(MIB + 7 * 512) + b"\2" * 512).ljust(4 * MIB, b"\0"), rounds=50)
