"""VHDX files that qemu-img made, or that were built from the specification: bytes, info, map, damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from disk.formats.vhdx.build import (
    BAT_OFFSET,
    METADATA_OFFSET,
    MIB,
    NOT_PRESENT,
    PARTIAL,
    PRESENT,
    UNDEFINED,
    UNMAPPED,
    ZERO,
    Disk,
    guid,
    with_crc,
)
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
UNKNOWN = guid("12345678-1234-1234-1234-123456789012")


def write(tmp_path: Path, content: bytes, name: str = "built.vhdx") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def read(path: Path) -> bytes:
    with DiskReader.open(path) as reader:
        assert reader.format == "vhdx"
        return reader.read_exact_at(0, reader.size)


def qemu_info(run: Run, path: Path) -> Any:
    return json.loads(run("qemu-img", "info", "--output=json", path))


@pytest.mark.parametrize(
    "options",
    [
        "subformat=dynamic",
        "subformat=fixed",
        "block_size=1M",
        "block_size=2M,log_size=3M",
        "block_size=256M",
        "block_size=1M,subformat=fixed",
    ],
)
def test_made_by_qemu(run: Run, tmp_path: Path, source: Path, content: bytes, flat: Flat, options: str) -> None:
    path = tmp_path / "disk.vhdx"
    run("qemu-img", "convert", "-O", "vhdx", "-o", options, source, path)
    expected = flat(path)
    assert expected == content
    with DiskReader.open(path) as reader:
        check_device(reader, expected, rounds=100)
        assert reader.info() == qemu_info(run, path)
        assert list(reader.warnings) == []
        theirs = json.loads(run("qemu-img", "check", "--output=json", path))
        assert reader.check() == theirs
        whole = path.read_bytes()
        for entry in reader.map():
            part = content[entry.start : entry.start + entry.length]
            if entry.offset is not None:
                assert entry.data and whole[entry.offset : entry.offset + entry.length] == part
            else:
                assert entry.zero and not any(part)


@pytest.mark.parametrize("options", ["block_state_zero=on", "block_state_zero=off", "subformat=fixed"])
@pytest.mark.parametrize("size", ["512", "1M", "10M"])
def test_empty(run: Run, tmp_path: Path, options: str, size: str) -> None:
    path = tmp_path / "empty.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, path, size)
    with DiskReader.open(path) as reader:
        assert reader.info() == qemu_info(run, path)
        assert not any(reader.read_exact_at(0, reader.size))


@pytest.mark.parametrize("size", ["3T", "64T"])
def test_large(run: Run, tmp_path: Path, size: str) -> None:
    path = tmp_path / "large.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", path, size)
    end = int(size[:-1]) << 40
    offsets = (0, 1 << 40, (4 << 30) - 32768, end - 65536)
    for offset in offsets:
        run("qemu-io", "-f", "vhdx", "-c", f"write -P 7 {offset} 64k", path)
    with DiskReader.open(path) as reader:
        assert reader.info() == qemu_info(run, path)
        for offset in offsets:
            before = min(offset, 5)
            assert reader.read_exact_at(offset - before, before + 65536) == bytes(before) + b"\7" * 65536
        data = [(entry.start, entry.length) for entry in reader.map() if entry.data]
        assert sum(length for _, length in data) <= 5 * reader.info()["cluster-size"]
        assert "corruptions" not in reader.check()


def test_block_states(tmp_path: Path) -> None:
    states = {0: NOT_PRESENT, 1: UNDEFINED, 2: ZERO, 3: UNMAPPED, 4: 5, 5: PRESENT, 7: PRESENT}
    blocks = {number: (state, bytes([number]) * MIB, ()) for number, state in states.items()}
    path = write(tmp_path, Disk(7 * MIB + 512, blocks).build())
    with DiskReader.open(path) as reader:
        check_device(reader, bytes(5 * MIB) + b"\5" * MIB + bytes(MIB) + b"\7" * 512, rounds=100)


def test_sectors_of_4096_bytes(tmp_path: Path, run: Run) -> None:
    blocks = {0: (PRESENT, b"\1" * MIB, ()), 3: (PRESENT, b"\2" * MIB, ())}
    path = write(tmp_path, Disk(4 * MIB, blocks, sector_size=4096).build())
    with DiskReader.open(path) as reader:
        assert reader.sector_size == 4096
        check_device(reader, b"\1" * MIB + bytes(2 * MIB) + b"\2" * MIB, rounds=50)


def test_chunks(tmp_path: Path) -> None:
    """A sector bitmap's entry follows each 4 GiB: block 16 of 256 MiB lies behind it in the table."""
    image = bytearray(Disk(6 << 30, {0: (PRESENT, b"", ())}, block_size=256 * MIB).build())
    place = struct.unpack_from("<Q", image, BAT_OFFSET)[0]
    for index in range(17, 24):  # all at one place: what is read tells
        struct.pack_into("<Q", image, BAT_OFFSET + 8 * index, place)
    struct.pack_into("<Q", image, BAT_OFFSET, 0)
    image[place & -MIB : (place & -MIB) + 5] = b"hello"
    with DiskReader.open(write(tmp_path, bytes(image))) as reader:
        for block in range(24):
            expected = b"hello" if 16 <= block < 23 else bytes(5)
            assert reader.read_exact_at(block << 28, 5) == expected, block
        entries = list(reader.map())
    assert entries[0].length == 4 << 30 and entries[0].zero


@pytest.fixture
def disk() -> Disk:
    return Disk(3 * MIB, {0: (PRESENT, b"\1" * MIB, ()), 2: (PRESENT, b"\3" * MIB, ())})


EXPECTED = b"\1" * MIB + bytes(MIB) + b"\3" * MIB


def test_newer_header(tmp_path: Path, disk: Disk) -> None:
    image = bytearray(disk.build())
    newer = bytearray(image[65536 : 65536 + 4096])
    newer[8:16] = struct.pack("<Q", 99)
    newer[32:48] = b"N" * 16
    image[65536 : 65536 + 4096] = with_crc(bytes(newer))
    with DiskReader.open(write(tmp_path, bytes(image))) as reader:
        assert reader.header.data_write_guid.bytes_le == b"N" * 16  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [65536 + 20, 131072 + 20, 192 * 1024 + 20])
def test_second_copies(tmp_path: Path, disk: Disk, place: int) -> None:
    image = bytearray(disk.build())
    image[place] ^= 1
    path = write(tmp_path, bytes(image))
    assert read(path) == EXPECTED
    with DiskReader.open(path) as reader:
        assert len(reader.warnings) == 1
        assert reader.check()["corruptions"] == 1


@pytest.mark.parametrize(
    ("places", "structure"), [([65536 + 20, 131072 + 20], "header"), ([196608 + 9, 262144 + 9], "region table")]
)
def test_no_copy_left(tmp_path: Path, disk: Disk, places: list[int], structure: str) -> None:
    image = bytearray(disk.build())
    for place in places:
        image[place] ^= 1
    with pytest.raises(InvalidFormat) as caught:
        read(write(tmp_path, bytes(image)))
    assert (caught.value.structure, caught.value.offset) == (structure, places[0] & -65536)


def test_unknown_regions_and_items(tmp_path: Path, disk: Disk) -> None:
    disk.extra_regions = [struct.pack("<16sQII", UNKNOWN, 4 * MIB, MIB, 0)]
    disk.extra_items = [
        struct.pack("<16sIIII", UNKNOWN, 65536, 4, 0, 0),
        struct.pack("<16sIIII", UNKNOWN, 65536, 4, 1, 0),
    ]
    assert read(write(tmp_path, disk.build())) == EXPECTED
    disk.extra_items = [struct.pack("<16sIIII", UNKNOWN, 65536, 4, 4, 0)]
    with pytest.raises(UnsupportedFeature, match="12345678-1234"):
        read(write(tmp_path, disk.build()))
    disk.extra_regions, disk.extra_items = [struct.pack("<16sQII", UNKNOWN, 4 * MIB, MIB, 1)], []
    with pytest.raises(UnsupportedFeature, match="12345678-1234"):
        read(write(tmp_path, disk.build()))


ITEMS = METADATA_OFFSET + 65536


@pytest.mark.parametrize(
    ("place", "kind", "value", "structure"),
    [
        (BAT_OFFSET, "Q", 4, "BAT"),
        (BAT_OFFSET, "Q", 6, "BAT"),
        (BAT_OFFSET, "Q", 1 << 50 | 6, "BAT"),
        (BAT_OFFSET, "Q", (1 << 64) - 2, "BAT"),
        (BAT_OFFSET, "Q", 4 * MIB | PARTIAL, "BAT"),
        (METADATA_OFFSET, "B", 0, "metadata table"),
        (METADATA_OFFSET + 10, "H", 2048, "metadata table"),
        (METADATA_OFFSET + 10, "H", 4, "metadata table"),
        (METADATA_OFFSET + 32 + 16, "I", 100, "metadata table"),
        (METADATA_OFFSET + 32 + 16, "I", 0xFFFFFFFF, "metadata table"),
        (METADATA_OFFSET + 32 + 20, "I", 0, "file parameters"),
        (METADATA_OFFSET + 64 + 20, "I", 7, "virtual disk size"),
        (ITEMS, "I", 3 * MIB, "file parameters"),
        (ITEMS, "I", 0, "file parameters"),
        (ITEMS, "I", 512 * MIB, "file parameters"),
        (ITEMS + 4, "I", 2, "metadata table"),  # a parent, and no locator
        (ITEMS + 8, "Q", 1 << 60, "virtual disk size"),
        (ITEMS + 8, "Q", 1000, "virtual disk size"),
        (ITEMS + 8, "Q", 60 << 40, "BAT"),
        (ITEMS + 32, "I", 1024, "logical sector size"),
        (ITEMS + 36, "I", 0, "physical sector size"),
    ],
)
def test_damage(tmp_path: Path, disk: Disk, place: int, kind: str, value: int, structure: str) -> None:
    image = bytearray(disk.build())
    struct.pack_into("<" + kind, image, place, value)
    with pytest.raises(InvalidFormat) as caught:
        read(write(tmp_path, bytes(image)))
    assert caught.value.structure == structure


@pytest.mark.parametrize("length", [8, 65536, 200000, 300000, 2 * MIB, 3 * MIB + 100, 5 * MIB])
def test_truncated(tmp_path: Path, disk: Disk, length: int) -> None:
    with pytest.raises(GuestctlError):
        read(write(tmp_path, disk.build()[:length]))


def test_check_counts_overlaps(tmp_path: Path, disk: Disk) -> None:
    image = bytearray(disk.build())
    for value, corruptions in ((5 * MIB | 6, 1), (2 * MIB | 6, 1), (1 << 40 | 6, 1), (4, 1), (4 * MIB | 7, 1)):
        struct.pack_into("<Q", image, BAT_OFFSET, value)
        with DiskReader.open(write(tmp_path, bytes(image))) as reader:
            assert reader.check()["corruptions"] == corruptions, hex(value)


def test_snapshot(tmp_path: Path, disk: Disk) -> None:
    with pytest.raises(UnsupportedFeature):
        DiskReader.open(write(tmp_path, disk.build()), snapshot="one")
