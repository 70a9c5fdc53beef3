"""Whole disks, maps and descriptions against qemu-img's."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from guestctl.disk.reader import DiskReader
from vmdk_images import descriptor, our_map, qemu_info, qemu_map

Run = Callable[..., str]
Flat = Callable[[Path], bytes]


def test_every_kind(image: Path, flat: Flat) -> None:
    expected = flat(image)
    with DiskReader.open(image) as reader:
        assert reader.format == "vmdk"
        assert reader.warnings == []
        check_device(reader, expected)


def test_map(image: Path, run: Run) -> None:
    with DiskReader.open(image) as reader:
        entries = list(reader.map())
    assert our_map(entries) == qemu_map(run, image)
    assert all((entry.offset is None) == (entry.filename is None) for entry in entries)


def test_bytes_lie_where_the_map_says(image: Path) -> None:
    with DiskReader.open(image) as reader:
        for entry in reader.map():
            part = min(entry.length, 70_000)
            content = bytes(reader.read(entry.start, part))
            if entry.zero:
                assert content.count(0) == part
            elif entry.filename is not None and entry.offset is not None:
                with Path(entry.filename).open("rb") as file:
                    file.seek(entry.offset)
                    assert file.read(part).ljust(part, b"\0") == content
            else:
                assert entry.compressed


def test_info(image: Path, run: Run) -> None:
    with DiskReader.open(image) as reader:
        assert reader.info() == qemu_info(run, image)


def test_check(image: Path, run: Run) -> None:
    with DiskReader.open(image) as reader:
        assert reader.check() == json.loads(run("qemu-img", "check", "--output=json", image))


def test_relative_names(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    create = ("qemu-img", "create", "-q", "-f", "vmdk")
    run(*create, "-o", "subformat=twoGbMaxExtentFlat", "sub/base.vmdk", "1M")
    run(*create, "-b", "base.vmdk", "-F", "vmdk", "sub/top.vmdk")
    for name in ("sub/base.vmdk", "sub/top.vmdk"):
        with DiskReader.open(name) as reader:
            assert reader.info() == qemu_info(run, Path(name))


def test_image_of_others(run: Run, shared: Path, flat: Flat) -> None:
    path = shared / "images" / "dfvfs-ext2.vmdk"
    expected = flat(path)
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, reader.size)) == expected
        assert our_map(reader.map()) == qemu_map(run, path)
        assert reader.info() == qemu_info(run, path)


def test_extents_in_an_embedded_descriptor(run: Run, tmp_path: Path, flat: Flat) -> None:
    """A header without capacity: the descriptor in the file counts, as if it were a file of its own."""
    (tmp_path / "data.raw").write_bytes(b"data" * 128 * 512)
    text = descriptor('RW 512 FLAT "data.raw" 0', create_type="monolithicFlat").encode()
    header = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 1, 3, 0, 128, 1, 20, 512, 21, 26, 128, 0, b"\n \r\n", 0)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(header.ljust(512, b"\0") + text.ljust(127 * 512, b"\0"))
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, reader.size)) == flat(path)
        assert reader.info() == qemu_info(run, path)


@pytest.mark.parametrize(("grain_sectors", "entries"), [(8, 512), (128, 100), (16, 7), (2048, 512)])
def test_other_geometries(run: Run, tmp_path: Path, flat: Flat, grain_sectors: int, entries: int) -> None:
    """Grains and grain tables of sizes that VMware allows and nobody writes; tables in no order, some absent."""
    generator = random.Random(entries)
    grain_bytes, sectors = grain_sectors * 512, grain_sectors * entries * 5 - 3
    tables = [40, 0, 60, 50, 70]  # sectors
    content = bytearray(100 * 512 + 40 * grain_bytes)
    struct.pack_into("<4sIIQQQQI", content, 0, b"KDMV", 1, 1, sectors, grain_sectors, 1, 20, entries)
    struct.pack_into("<QQQB4sH", content, 48, 0, 30, 100, 0, b"\n \r\n", 0)
    struct.pack_into("<5I", content, 30 * 512, *tables)
    text = descriptor(f'RW {sectors} SPARSE "disk.vmdk"', create_type="monolithicSparse").encode()
    content[512 : 512 + len(text)] = text
    for place in range(40):
        grain = generator.randrange(entries * 5)
        table = tables[grain // entries]
        if table:
            struct.pack_into("<I", content, table * 512 + grain % entries * 4, 100 + place * grain_sectors)
        start = 100 * 512 + place * grain_bytes
        content[start : start + grain_bytes] = generator.randbytes(grain_bytes)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(content)
    with DiskReader.open(path) as reader:
        if reader.size < 64 << 20:
            check_device(reader, flat(path), rounds=50)
        assert our_map(reader.map())[:-1] == qemu_map(run, path)[:-1]
        assert reader.info() == qemu_info(run, path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions_of_streams(run: Run, source: Path, tmp_path: Path, flat: Flat, version: int) -> None:
    path = tmp_path / "stream.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", source, path)
    with path.open("r+b") as file:
        file.seek(4)
        file.write(version.to_bytes(4, "little"))
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, reader.size)) == flat(path) == source.read_bytes()


@pytest.mark.parametrize("size", [512, 1536, 65536 - 512, 65536 + 512, (32 << 20) + 512])
@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized", "twoGbMaxExtentFlat"])
def test_odd_sizes(run: Run, tmp_path: Path, flat: Flat, size: int, subformat: str) -> None:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    with raw.open("wb") as file:
        file.write(b"first")
        file.seek(size - 4)
        file.write(b"last")
    run("qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={subformat}", raw, path)
    with DiskReader.open(path) as reader:
        assert reader.size == size
        assert bytes(reader.read(0, size)) == flat(path) == raw.read_bytes()
        if subformat != "twoGbMaxExtentFlat":  # the holes of small files are not looked for
            assert our_map(reader.map()) == qemu_map(run, path)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_empty_disk(run: Run, tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "empty.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", path, "100M")
    with DiskReader.open(path) as reader:
        assert [run.source for run in reader.runs(0, reader.size)] == [None]
        assert our_map(reader.map()) == qemu_map(run, path)


def test_terabytes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "3T")
    run("qemu-io", "-f", "vmdk", "-c", "write -P 1 1T 2k", "-c", f"write -P 2 {(3 << 40) - 512} 512", path)
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(1 << 40, 2048)) == b"\1" * 2048
        assert bytes(reader.read(reader.size - 513, 513)) == b"\0" + b"\2" * 512
        data = [(entry.start, entry.length) for entry in reader.map() if entry.data]
    assert data == [(1 << 40, 65536), ((3 << 40) - 65536, 65536)]


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_several_extents(run: Run, tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "split.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", path, "5G")
    run("qemu-io", "-f", "vmdk", "-c", "write -P 9 2047M 2M", "-c", "write -P 8 5119M 1M", path)
    raw = tmp_path / "split.raw"
    run("qemu-img", "convert", "-O", "raw", path, raw)
    with DiskReader.open(path) as reader, DiskReader.open(raw, format="raw") as expected:
        assert reader.size == expected.size
        assert bytes(reader.read(2046 << 20, 4 << 20)) == bytes(expected.read(2046 << 20, 4 << 20))
        assert bytes(reader.read(5118 << 20, 2 << 20)) == bytes(expected.read(5118 << 20, 2 << 20))
        assert our_map(reader.map()) == qemu_map(run, path)
        assert reader.info() == qemu_info(run, path)
