"""Tables of other machines, made by parted: beside what partx and parted list of them."""

from __future__ import annotations

import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.disk.partition import PartitionTable

Run = Callable[..., str]
Rows = Callable[..., list[tuple[Any, ...]]]


class Disk(Protocol):
    path: Any
    table: PartitionTable

    def detect(self) -> PartitionTable | None: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def flip(self, offset: int) -> None: ...


# What comes before the start in parted's mkpart.
WORDS = {"sun": (), "dvh": ("primary",), "mac": ("one",), "amiga": ("one",), "atari": ("primary",)}


def _ours(table: PartitionTable) -> list[tuple[int, int, int]]:
    return [(item.number, item.start_lba, item.size_sectors) for item in table.partitions]


def _make(run: Run, disk: Disk, label: str) -> None:
    run("parted", "-s", disk.path, "mklabel", label)
    for start, end in (("4MiB", "10MiB"), ("20MiB", "40MiB"), ("40MiB", "63MiB")):
        run("parted", "-s", disk.path, "mkpart", *WORDS[label], start, end)


def _parted(run: Run, disk: Disk) -> list[tuple[int, int, int]]:
    rows = [line.split(":") for line in run("parted", "-m", "-s", disk.path, "unit", "s", "print").splitlines()[2:]]
    return [(int(row[0]), int(row[1][:-1]), int(row[3][:-1])) for row in rows]


@pytest.mark.parametrize("label", ["sun", "dvh", "mac", "atari"])
def test_partitions_are_those_of_partx(run: Run, disk: Disk, partx: Rows, label: str) -> None:
    _make(run, disk, label)
    table = disk.table
    assert (table.type, table.warnings) == (label, ())
    rows = partx(disk)
    assert _ours(table) == [row[:3] for row in rows]
    assert set(_parted(run, disk)) <= set(_ours(table))
    for item, (*_, kind, _uuid, _flags, name) in zip(table.partitions, rows, strict=True):
        assert item.name == (name or None)
        if label != "atari":  # whose type blkid calls otherwise
            assert item.type == kind or int(item.type, 16) == int(kind, 16)


def test_amiga_partitions_are_those_of_parted(run: Run, disk: Disk) -> None:
    _make(run, disk, "amiga")
    table = disk.table
    assert (table.type, table.warnings) == ("amiga", ())
    assert _ours(table) == _parted(run, disk)
    assert {item.name for item in table.partitions} == {"one"}


@pytest.mark.parametrize(("name", "kind"), [("atari-xgm", "atari"), ("dasd-ldl", "dasd")])
def test_images_of_blkid(shared: Path, name: str, kind: str) -> None:
    folder = shared / "blkid" / "images-pt"
    table = PartitionTable.parse(MemoryDevice(lzma.decompress((folder / f"{name}.img.xz").read_bytes())))
    head, _, *lines = (folder / f"{name}.expected").read_text().splitlines()
    assert f"PT: {table.type}," in head and table.type == kind
    assert head.rpartition("id=")[2] == (table.uuid or "(null)")
    expected = [line.split()[:3] for line in lines]
    assert _ours(table) == [(int(number[1:-1]), int(start), int(size)) for number, start, size in expected]


@pytest.mark.parametrize("identifier", ["VOL1", "CMS1"])
def test_other_layouts_of_dasd_are_refused(shared: Path, identifier: str) -> None:
    data = bytearray(lzma.decompress((shared / "blkid" / "images-pt" / "dasd-ldl.img.xz").read_bytes()))
    at = data.index("LNX1".encode("cp037"))
    data[at : at + 4] = identifier.encode("cp037")
    with pytest.raises(UnsupportedFeature, match=identifier):
        PartitionTable.detect(MemoryDevice(data))


@pytest.mark.parametrize(("label", "magic"), [("sun", b""), ("dvh", b""), ("amiga", b"RDSK")])
def test_wrong_checksum_is_no_table(run: Run, disk: Disk, label: str, magic: bytes) -> None:
    _make(run, disk, label)
    disk.flip(disk.read(0, 8192).index(magic) + 200)
    assert disk.detect() is None


def test_chains_that_break_off(run: Run, disk: Disk) -> None:
    _make(run, disk, "amiga")
    disk.flip(disk.read(0, 1 << 16).rindex(b"PART") + 40)
    assert len(disk.table.partitions) == 2
    assert "breaks off" in disk.table.warnings[0]
    _make(run, disk, "mac")
    disk.flip(512 * 3)
    assert len(disk.table.partitions) == 2
    assert "no entry in block 3" in disk.table.warnings[0]


@pytest.mark.parametrize("label", WORDS)
def test_mutants(run: Run, disk: Disk, label: str) -> None:
    _make(run, disk, label)
    data = disk.read(0, 64 << 10)
    chance = random.Random(1)
    size = len(data)
    for _ in range(800):
        image = bytearray(data)
        for _ in range(chance.choice((1, 2, 8))):
            image[chance.randrange(chance.choice((16, 512, 4096)))] = chance.choice((0, 0xFF, chance.randrange(256)))
        length = chance.choice((0, 3, 511, 512, 1024, 5000, size))
        try:
            table = PartitionTable.detect(MemoryDevice(image[:length]))
        except GuestctlError:
            continue
        assert table is None or len(table.partitions) < 300
