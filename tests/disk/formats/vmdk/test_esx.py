"""COWD and seSparse extents, built from their description alone, against what qemu-img reads."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.reader import DiskReader
from vmdk_images import descriptor, our_map, qemu_info, qemu_map

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
SECTOR = 512


def cowd(sectors: int, grain_sectors: int, grains: dict[int, int], *, data_sector: int, unclean: int = 0) -> bytes:
    """A COWD extent: ``grains`` says which grain lies where, in grains from ``data_sector`` on."""
    tables = sorted({grain // 4096 for grain in grains})
    directory = [0] * -(-sectors // (grain_sectors * 4096))
    content = bytearray((data_sector + (max(grains.values()) + 1) * grain_sectors) * SECTOR)
    struct.pack_into("<4s7I", content, 0, b"COWD", 1, 3, sectors, grain_sectors, 4, len(directory), 0)
    struct.pack_into("<I", content, 1648, unclean)
    for number, table in enumerate(tables):
        directory[table] = 4 + -(-len(directory) * 4 // SECTOR) + number * 32
    struct.pack_into(f"<{len(directory)}I", content, 4 * SECTOR, *directory)
    for grain, place in grains.items():
        sector = data_sector + place * grain_sectors
        struct.pack_into("<I", content, directory[grain // 4096] * SECTOR + grain % 4096 * 4, sector)
        content[sector * SECTOR : (sector + grain_sectors) * SECTOR] = _pattern(grain, grain_sectors * SECTOR)
    return bytes(content)


SE_TABLES, SE_GRAINS = 16, 400  # sectors


def sesparse(sectors: int, entries: dict[int, int], *, tables: dict[int, int], replay: int = 0) -> bytes:
    """An seSparse extent: which entry each grain has, and in which place each grain table lies."""
    stored = [number(entry) for entry in entries.values() if entry >> 60 == 3]
    content = bytearray((SE_GRAINS + (max(stored, default=0) + 1) * 8) * SECTOR)
    header = [0xCAFEBABE, 0x200000001, sectors, 8, 64, 0, 0, 0, 0, 0]
    header += [1, 1, 2, 4, 6, 2, 8, 1, SE_TABLES, 64 * 4, 300, 8, 308, 8, SE_GRAINS, 8 * 100]
    struct.pack_into("<26Q", content, 0, *header)
    struct.pack_into("<4Q", content, SECTOR, 0xCAFECAFE, 3, 1, replay)
    for table, place in tables.items():
        struct.pack_into("<Q", content, 8 * SECTOR + table * 8, 0x1000000000000000 | place)
    for grain, entry in entries.items():
        table = SE_TABLES * SECTOR + tables[grain // 4096] * 4096 * 8
        struct.pack_into("<Q", content, table + grain % 4096 * 8, entry)
        if entry >> 60 == 3:
            at = SE_GRAINS * SECTOR + number(entry) * 4096
            content[at : at + 4096] = _pattern(grain, 4096)
    return bytes(content)


def stored(number: int) -> int:
    """A grain table entry: stored as the grain of this number."""
    return 3 << 60 | (number & 0xFFF) << 48 | number >> 12


def number(entry: int) -> int:
    return entry >> 48 & 0xFFF | (entry & 0xFFFFFFFFFFFF) << 12


def _pattern(grain: int, length: int) -> bytes:
    return random.Random(grain).randbytes(length)


def disk(tmp_path: Path, type: str, extent: bytes, sectors: int) -> Path:
    path = tmp_path / "disk.vmdk"
    (tmp_path / "disk-delta.vmdk").write_bytes(extent)
    create_type = {"VMFSSPARSE": "vmfsSparse", "SESPARSE": "seSparse"}[type]
    path.write_text(descriptor(f'RW {sectors} {type} "disk-delta.vmdk"', create_type=create_type))
    return path


@pytest.mark.parametrize(("sectors", "grain_sectors"), [(4096 * 2 + 5, 1), (100_000, 8), (3_000_000, 128)])
def test_cowd(run: Run, tmp_path: Path, flat: Flat, sectors: int, grain_sectors: int) -> None:
    last = (sectors - 1) // grain_sectors
    grains = {0: 0, 1: 1, 2: 2, 4: 3, 5: 5, last: 6, last - 1: 4}
    path = disk(tmp_path, "VMFSSPARSE", cowd(sectors, grain_sectors, grains, data_sector=200), sectors)
    with DiskReader.open(path) as reader:
        if reader.size < 64 << 20:
            check_device(reader, flat(path), rounds=50)
        for grain in grains:
            start = grain * grain_sectors * SECTOR
            length = min(grain_sectors * SECTOR, reader.size - start)
            assert bytes(reader.read(start, length)) == _pattern(grain, grain_sectors * SECTOR)[:length]
        if sectors % grain_sectors == 0:  # qemu-img counts the last grain as a whole one
            assert our_map(reader.map()) == qemu_map(run, path)
        assert reader.info() == qemu_info(run, path)
        assert reader.check() == {"filename": str(path), "format": "vmdk", "check-errors": 0}


def test_sesparse(run: Run, tmp_path: Path, flat: Flat) -> None:
    sectors = 4096 * 8 * 3 + 24
    entries = {0: stored(0), 1: stored(1), 2: stored(4), 3: 1 << 60, 4: 2 << 60, 6: stored(5), 4095: stored(6)}
    entries |= {4096: stored(7), 4096 * 3 + 2: stored(9)}
    extent = sesparse(sectors, entries, tables={0: 2, 1: 0, 3: 1})
    path = disk(tmp_path, "SESPARSE", extent, sectors)
    with DiskReader.open(path) as reader:
        check_device(reader, flat(path), rounds=50)
        assert our_map(reader.map()) == qemu_map(run, path)
        assert reader.info() == qemu_info(run, path)
        assert reader.check()["check-errors"] == 0


def test_sesparse_grain_numbers_of_more_than_12_bits(run: Run, tmp_path: Path, flat: Flat) -> None:
    entries = {grain: stored(4094 + grain) for grain in range(5)}
    path = disk(tmp_path, "SESPARSE", sesparse(4096 * 8, entries, tables={0: 0}), 4096 * 8)
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, reader.size)) == flat(path)
        (data, _) = reader.runs(0, reader.size)
        assert data.length == 5 * 4096


def test_unclean_cowd(tmp_path: Path) -> None:
    path = disk(tmp_path, "VMFSSPARSE", cowd(5000, 1, {0: 0}, data_sector=100, unclean=1), 5000)
    with DiskReader.open(path) as reader:
        assert len(reader.warnings) == 1


def test_sesparse_journal(tmp_path: Path) -> None:
    path = disk(tmp_path, "SESPARSE", sesparse(4096 * 8, {}, tables={}, replay=1), 4096 * 8)
    with pytest.raises(UnsupportedFeature, match="journal"):
        DiskReader.open(path)


@pytest.mark.parametrize("entry", [4 << 60, 1, 0xF << 60, stored(1 << 40)])
def test_sesparse_entries_that_cannot_be(tmp_path: Path, entry: int) -> None:
    extent = bytearray(sesparse(4096 * 8, {1: stored(0)}, tables={0: 0}))
    struct.pack_into("<Q", extent, SE_TABLES * SECTOR, entry)
    with DiskReader.open(disk(tmp_path, "SESPARSE", bytes(extent), 4096 * 8)) as reader:
        with pytest.raises(InvalidFormat):
            reader.read(0, 512)
        assert bytes(reader.read(4096, 4096)) == _pattern(1, 4096)
        assert reader.check()["corruptions"] == 1


@pytest.mark.parametrize("entry", [5, 0x2000000000000000, 0x1000000000000004, 0x10000000FFFFFFFF])
def test_sesparse_tables_that_cannot_be(tmp_path: Path, entry: int) -> None:
    extent = bytearray(sesparse(4096 * 16, {4096: stored(0)}, tables={0: 1, 1: 0}))
    struct.pack_into("<Q", extent, 8 * SECTOR, entry)
    with DiskReader.open(disk(tmp_path, "SESPARSE", bytes(extent), 4096 * 16)) as reader:
        with pytest.raises(InvalidFormat):
            reader.read(0, 512)
        assert bytes(reader.read(4096 * 4096, 4096)) == _pattern(4096, 4096)
        assert reader.check()["corruptions"] == 1


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 1), (24, 16), (32, 32), (40, 1), (48, 1)],  # version, grain size, table size, flags, reserved
)
def test_sesparse_headers_we_do_not_know(tmp_path: Path, offset: int, value: int) -> None:
    extent = bytearray(sesparse(4096 * 8, {}, tables={}))
    struct.pack_into("<Q", extent, offset, value)
    with pytest.raises(UnsupportedFeature):
        DiskReader.open(disk(tmp_path, "SESPARSE", bytes(extent), 4096 * 8))


def test_an_extent_without_its_descriptor(run: Run, tmp_path: Path, source: Path) -> None:
    """A delta alone would read as zeros what its parent holds."""
    extents = {
        "a.vmdk": cowd(5000, 1, {0: 0}, data_sector=100),
        "b.vmdk": sesparse(4096 * 8, {}, tables={}),
    }
    for name, extent in extents.items():
        (tmp_path / name).write_bytes(extent)
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", source, tmp_path / "c.vmdk")
    for name in ("a.vmdk", "b.vmdk", "c-s001.vmdk"):
        with pytest.raises(UnsupportedFeature, match="descriptor"):
            DiskReader.open(tmp_path / name)
