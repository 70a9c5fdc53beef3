"""Differencing VHDs, built from the specification (qemu-img has none), and one made by other people."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from disk.formats.vhd.build import BLOCK, differencing, footer
from guestctl.core.errors import InvalidFormat, LocationRefused
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
PARENT_ID = b"the parent's id."
SIZE = 3 * BLOCK - 512
EPOCH = 946684800


@pytest.fixture
def parent(tmp_path: Path) -> bytes:
    """The disk of the fixed VHD ``parent.vhd``."""
    disk = random.Random(1).randbytes(SIZE)
    (tmp_path / "parent.vhd").write_bytes(disk + footer(SIZE, 2, unique_id=PARENT_ID, time_stamp=77))
    return disk


def utf16(name: str) -> bytes:
    return name.encode("utf-16-le")


def child(tmp_path: Path, blocks: dict[int, tuple[bytes, bytes]], *, name: str = "child.vhd", **options: Any) -> Path:
    options.setdefault("parent_id", PARENT_ID)
    if not options.get("locators"):
        options.setdefault("parent_name", "parent.vhd")
    path = tmp_path / name
    path.write_bytes(differencing(SIZE, blocks, **options))
    return path


def bitmap_of(sectors: set[int]) -> bytes:
    bits = bytearray(512)
    for sector in sectors:
        bits[sector // 8] |= 0x80 >> sector % 8
    return bytes(bits)


@pytest.mark.parametrize("kind", ["none", "all", "random", "runs", "ends", "alternating"])
def test_sector_bitmaps(tmp_path: Path, parent: bytes, kind: str) -> None:
    generator = random.Random(kind)
    sectors = {
        "none": set[int](),
        "all": set(range(4096)),
        "random": {sector for sector in range(4096) if generator.random() < 0.3},
        "runs": {sector for start in range(0, 4096, 500) for sector in range(start + 7, start + 300) if sector < 4096},
        "ends": {0, 4095},
        "alternating": set(range(0, 4096, 2)),
    }[kind]
    data = generator.randbytes(BLOCK)
    path = child(tmp_path, {1: (bitmap_of(sectors), data), 2: (bitmap_of({4094}), b"\1" * BLOCK)})
    expected = bytearray(parent)
    for sector in sectors:
        expected[BLOCK + sector * 512 : BLOCK + sector * 512 + 512] = data[sector * 512 : sector * 512 + 512]
    expected[2 * BLOCK + 4094 * 512 : SIZE] = b"\1" * 512
    with DiskReader.open(path) as reader:
        check_device(reader, bytes(expected), rounds=100)
        assert list(reader.warnings) == []
        entries = list(reader.map())
        assert sum(entry.length for entry in entries) == SIZE
        assert sum(entry.length for entry in entries if entry.depth == 0) == 512 * (len(sectors) + 1)
        for entry in entries[:50]:
            file = Path(entry.filename or "").read_bytes()
            assert entry.offset is not None and entry.filename == str(
                tmp_path / ("parent.vhd" if entry.depth else "child.vhd")
            )
            assert file[entry.offset : entry.offset + entry.length] == expected[entry.start :][: entry.length]


def test_chain_and_info(tmp_path: Path, parent: bytes) -> None:
    child(tmp_path, {0: (bitmap_of({0, 1}), b"\1" * BLOCK)}, name="middle.vhd", unique_id=b"m" * 16)
    path = child(
        tmp_path, {0: (bitmap_of({1, 2}), b"\2" * BLOCK)}, name="top.vhd", parent_id=b"m" * 16, parent_name="middle.vhd"
    )
    with DiskReader.open(path) as reader:
        check_device(reader, b"\1" * 512 + b"\2" * 1024 + parent[1536:], rounds=50)
        assert [entry.depth for entry in reader.map()] == [1, 0, 2]
        info = reader.info()
        assert len(reader.files) == 3
        assert reader.backing is not None and reader.backing.backing is not None
    assert info["backing-filename"] == "middle.vhd"
    assert info["full-backing-filename"] == str(tmp_path / "middle.vhd")
    assert info["backing-filename-format"] == "vpc"


@pytest.mark.parametrize(
    "locators",
    [
        [(b"W2ru", utf16(".\\parent.vhd"))],
        [(b"W2ru", utf16("..\\here\\parent.vhd\0\0"))],
        [(b"W2ku", utf16("C:\\Users\\J\\parent.vhd"))],
        [(b"MacX", b"file://localhost/ignored/parent.vhd"), (b"W2ru", utf16("parent.vhd"))],
        [(b"W2ku", utf16("C:\\gone.vhd")), (b"W2ru", utf16("gone.vhd")), (b"W2ru", utf16("parent.vhd"))],
        [(b"Wi2k", b"garbage\xff"), (b"W2ru", utf16("other.vhd")), (b"W2ku", utf16("\\\\host\\share\\parent.vhd"))],
    ],
)
def test_locators(tmp_path: Path, parent: bytes, locators: list[tuple[bytes, bytes]]) -> None:
    here = tmp_path / "here"
    here.mkdir()
    shutil.move(tmp_path / "parent.vhd", here)
    (here / "other.vhd").write_bytes(bytes(SIZE) + footer(SIZE, 2, unique_id=b"somebody else's."))
    path = child(here, {}, locators=locators)
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, SIZE) == parent
        assert reader.backing is not None and os.path.samefile(reader.backing.path, here / "parent.vhd")
        assert len(reader.files) == 2


def test_mac_url(tmp_path: Path, parent: bytes) -> None:
    (tmp_path / "parent.vhd").rename(tmp_path / "the parent.vhd")
    url = f"file://localhost{tmp_path}/the%20parent.vhd".encode()
    with DiskReader.open(child(tmp_path, {}, locators=[(b"MacX", url)])) as reader:
        assert reader.read_exact_at(0, SIZE) == parent


def test_parents_elsewhere_are_refused(tmp_path: Path, parent: bytes) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for locators in ([(b"W2ru", utf16("..\\parent.vhd"))], [(b"W2ku", utf16(str(tmp_path / "parent.vhd")))]):
        path = child(inner, {}, locators=locators)
        with pytest.raises(LocationRefused):
            DiskReader.open(path)
        with DiskReader.open(path, allow_dirs=[tmp_path]) as reader:
            assert reader.read_exact_at(0, SIZE) == parent


def test_wrong_parent(tmp_path: Path, parent: bytes) -> None:
    with pytest.raises(InvalidFormat, match="not the parent") as caught:
        DiskReader.open(child(tmp_path, {}, parent_id=b"somebody else's."))
    assert caught.value.offset == 40
    path = child(tmp_path, {}, parent_name="missing.vhd")
    with pytest.raises(FileNotFoundError):
        DiskReader.open(path)
    with DiskReader.open(path, metadata_only=True) as reader:
        assert reader.info()["backing-filename"] == "missing.vhd"
    with pytest.raises(InvalidFormat):
        DiskReader.open(child(tmp_path, {}, parent_name="child.vhd", parent_id=b"the child's id.."))
    (tmp_path / "plain.vhd").write_bytes(bytes(4096))
    with pytest.raises(InvalidFormat):
        DiskReader.open(child(tmp_path, {}, parent_name="plain.vhd"))


def test_time_stamp(tmp_path: Path, parent: bytes) -> None:
    os.utime(tmp_path / "parent.vhd", (EPOCH + 1000, EPOCH + 1000))
    for stamp, warnings in ((0, 0), (77, 0), (1000, 0), (1001, 1)):
        with DiskReader.open(child(tmp_path, {}, parent_time=stamp)) as reader:
            assert len(reader.warnings) == warnings


def test_smaller_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.vhd").write_bytes(b"\1" * 1024 + footer(1024, 2, unique_id=PARENT_ID))
    with DiskReader.open(child(tmp_path, {0: (bitmap_of({5}), b"\2" * BLOCK)})) as reader:
        check_device(reader, (b"\1" * 1024 + bytes(1536) + b"\2" * 512).ljust(SIZE, b"\0"), rounds=50)


def test_many_names_in_a_long_chain(tmp_path: Path) -> None:
    """Nine names at each of many levels, and nothing at the end: no exponential search."""
    for level in range(60):
        names = [(b"W2ru", utf16(".\\" * n + f"{level + 1}.vhd")) for n in range(1, 9)]
        child(tmp_path, {}, name=f"{level}.vhd", parent_id=b"x" * 16, unique_id=b"x" * 16, locators=names)
    with pytest.raises(FileNotFoundError):
        DiskReader.open(tmp_path / "0.vhd")


def test_made_by_other_people(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "images" / "dfvfs-image.vhd", tmp_path / "image.vhd")
    shutil.copy(shared / "images" / "dfvfs-image-differential.vhd", tmp_path)
    with DiskReader.open(tmp_path / "dfvfs-image-differential.vhd") as reader:
        assert reader.backing is not None
        disk, below = reader.read_exact_at(0, reader.size), reader.backing.read_exact_at(0, reader.size)
        # Edited by hand without correcting the checksums: of both copies of the footer here and there, and the header.
        assert len(reader.warnings) == 3
    top = (tmp_path / "dfvfs-image-differential.vhd").read_bytes()
    bottom = (tmp_path / "image.vhd").read_bytes()
    assert below == bottom[2560:][: len(below)]
    assert disk == top[2560:][: len(disk)]  # its bitmap is all ones
