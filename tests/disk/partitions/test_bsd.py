"""BSD disklabels, made by parted and fdisk, or built from <sys/disklabel.h>, beside what partx lists of them."""

from __future__ import annotations

import lzma
import random
from collections.abc import Callable
from pathlib import Path
from struct import iter_unpack, pack
from typing import Any, Protocol

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk import FileSystem
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


def label(*entries: tuple[int, int, int]) -> bytes:
    """A disklabel with these entries: start, size, type."""
    data = bytearray(pack("<I36xI", 0x82564557, 512).ljust(148, b"\0"))
    data[132:136] = data[:4]
    data[138:140] = pack("<H", len(entries))
    for start, size, kind in entries:
        data += pack("<III BBH", size, start, 1024, kind, 8, 16)
    checksum = 0
    for (word,) in iter_unpack("<H", data):
        checksum ^= word
    data[136:138] = pack("<H", checksum)
    return bytes(data)


def _places(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[:3] for row in rows]


def _ours(table: PartitionTable) -> list[tuple[int, int, int]]:
    return [(item.number, item.start_lba, item.size_sectors) for item in table.partitions]


def test_image_of_blkid(shared: Path) -> None:
    folder = shared / "blkid" / "images-pt"
    table = PartitionTable.parse(MemoryDevice(lzma.decompress((folder / "bsd.img.xz").read_bytes())))
    assert table.type == "bsd"
    lines = (folder / "bsd.expected").read_text().splitlines()[2:]
    assert [f"#{number}: {start:10} {size:10}" for number, start, size in _ours(table)] == [
        line.rpartition("  ")[0] for line in lines
    ]
    assert {item.type for item in table.partitions} == {"0x07"}


def test_label_of_parted(run: Run, disk: Disk, partx: Rows) -> None:
    run("parted", "-s", disk.path, "mklabel", "bsd")
    for start, end in (("1MiB", "10MiB"), ("10MiB", "30MiB"), ("40MiB", "60MiB")):
        run("parted", "-s", disk.path, "mkpart", start, end)
    assert disk.table.type == "bsd"
    assert _ours(disk.table) == _places(partx(disk))
    assert len(disk.table.partitions) == 3


@pytest.mark.parametrize("kind", ["a5", "a6", "a9"])
def test_label_in_a_slice(run: Run, disk: Disk, partx: Rows, kind: str) -> None:
    """Behind the logical partitions; starts count from the disk."""
    script = (
        f"label: dos\nlabel-id: 0x11223344\nstart=2048, size=20000, type={kind}\nstart=30000, size=40000, type=5\n"
        "start=80000, size=8000, type=83\nstart=32048, size=8000, type=83\n"
    )
    run("sfdisk", "-q", disk.path, input=script)
    entries = [(2048, 5000, 7), (8000, 2000, 1), (2048, 20000, 0), (2048, 20000, 7), (10_000, 3000, 27), (100, 50, 7)]
    disk.write(2049 * 512, label(*entries))
    table = disk.table
    assert _ours(table) == _places(partx(disk))
    assert [item.number for item in table.partitions] == [1, 2, 3, 5, 6, 7, 8]
    assert [item.extended for item in table.partitions[:3]] == [True, True, False]
    assert [item.type_name for item in table.partitions[4:]] == ["4.2BSD", "swap", "ZFS"]
    assert len(table.warnings) == 1 and "partition f of the disklabel" in table.warnings[0]
    assert not any("checksum" in warning for warning in table.warnings)
    disk.flip(2049 * 512 + 200)
    assert any("checksum" in warning for warning in disk.table.warnings)
    disk.flip(2049 * 512)
    assert _ours(disk.table) == _places(partx(disk))
    assert [item.number for item in disk.table.partitions] == [1, 2, 3, 5]


def test_starts_that_count_from_the_slice(run: Run, disk: Disk, partx: Rows) -> None:
    """As FreeBSD writes them, whose partition c starts at 0."""
    run("sfdisk", "-q", disk.path, input="label: dos\nstart=2048, size=20000, type=a5\n")
    disk.write(2049 * 512, label((16, 5000, 7), (6000, 2000, 1), (0, 20000, 0), (9000, 3000, 7)))
    assert _ours(disk.table) == _places(partx(disk))
    assert [item.start_lba for item in disk.table.partitions] == [2048, 2064, 8048, 11048]


def test_filesystem_in_a_label_in_a_slice(run: Run, disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    run("makefs", "-t", "ffs", "-s", "4m", tmp_path / "ufs", tmp_path / "tree")
    run("sfdisk", "-q", disk.path, input="label: dos\nstart=2048, size=40000, type=a5\n")
    disk.write(2049 * 512, label((1000, 8192, 7), (0, 0, 0), (0, 40000, 0)))
    disk.write(3048 * 512, (tmp_path / "ufs").read_bytes())
    with FileDevice.open(disk.path) as device:
        _, partition = PartitionTable.parse(device).partitions
        with FileSystem.detect(device, partition) as filesystem:
            assert (partition.number, filesystem.type) == (5, "ufs")
            assert filesystem.read_text("/file") == "content"


def test_label_in_a_gpt_partition(run: Run, disk: Disk) -> None:
    """Linux looks for none there: numbers follow those of the table."""
    freebsd = "516E7CB4-6ECF-11D6-8FF8-00022D09712B"
    run("sfdisk", "-q", disk.path, input=f"label: gpt\nstart=2048, size=20000, type={freebsd}\nstart=30000, size=999\n")
    disk.write(2049 * 512, label((16, 5000, 7), (6000, 2000, 1), (0, 20000, 0)))
    assert _ours(disk.table) == [(1, 2048, 20000), (2, 30000, 999), (3, 2064, 5000), (4, 8048, 2000)]


def test_mutants(run: Run, disk: Disk) -> None:
    run("sfdisk", "-q", disk.path, input="label: dos\nstart=64, size=1000, type=a5\n")
    disk.write(65 * 512, label((64, 500, 7), (600, 200, 1), (0, 1000, 0)))
    data = disk.read(0, 1 << 20)
    chance = random.Random(1)
    for _ in range(2000):
        image = bytearray(data)
        image[chance.choice((446, 450, 454, 458, 512, 65 * 512, 65 * 512 + 132)) + chance.randrange(20)] = (
            chance.randrange(256)
        )
        try:
            table = PartitionTable.detect(MemoryDevice(image[: chance.choice((512, 600, 65 * 512 + 149, 1 << 20))]))
        except GuestctlError:
            continue
        assert table is None or len(table.partitions) < 30
