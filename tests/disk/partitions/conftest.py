"""Disks to partition, and what other tools say about the result."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import FileDevice
from guestctl.disk.partition import Partition, PartitionTable

Run = Callable[..., str]


class Disk:
    """An image file on which tools make tables."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def detect(self) -> PartitionTable | None:
        with FileDevice.open(self.path) as device:
            return PartitionTable.detect(device)

    @property
    def table(self) -> PartitionTable:
        table = self.detect()
        assert table is not None
        return table

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def flip(self, offset: int) -> None:
        """Invert one byte."""
        self.write(offset, bytes([self.read(offset, 1)[0] ^ 0xFF]))

    def resize(self, size: int) -> None:
        with self.path.open("r+b") as file:
            file.truncate(size)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A disk of 64 MiB."""
    path = tmp_path / "disk.img"
    path.touch()
    disk = Disk(path)
    disk.resize(64 << 20)
    return disk


@pytest.fixture(scope="session")
def partx(run: Run) -> Callable[..., list[tuple[object, ...]]]:
    """The partitions that partx, that is libblkid, lists: the tuples that `rows` makes of ours."""

    def _partx(disk: Disk, sector_size: int = 512) -> list[tuple[object, ...]]:
        columns = "NR,START,SECTORS,TYPE,UUID,FLAGS,NAME"
        rows: list[tuple[object, ...]] = []
        for line in run("partx", "-P", "-S", str(sector_size), "-o", columns, disk.path).splitlines():
            row = dict(re.findall(r'(\w+)="(.*?)"(?= |$)', line))
            # partx counts in 512 bytes, whatever the sector size
            numbers = (int(row["NR"]), int(row["START"]) * 512 // sector_size, int(row["SECTORS"]) * 512 // sector_size)
            rows.append((*numbers, row["TYPE"], row["UUID"], int(row["FLAGS"], 16), row["NAME"]))
        return rows

    return _partx


@pytest.fixture(scope="session")
def rows() -> Callable[[PartitionTable], list[tuple[object, ...]]]:
    return lambda table: [_row(partition) for partition in table.partitions]


def _row(partition: Partition) -> tuple[object, ...]:
    if partition.type.startswith("0x"):
        kind, flags = f"{int(partition.type, 16):#x}", 0x80 if partition.bootable else 0
    else:
        kind, flags = partition.type, partition.attributes
    numbers = (partition.number, partition.start_lba, partition.size_sectors)
    return (*numbers, kind, partition.uuid or "", flags, partition.name or "")


@pytest.fixture(scope="session")
def blkid() -> Callable[[Disk], dict[str, str]]:
    """What ``blkid -p`` says of a disk; nothing where it finds nothing."""
    if shutil.which("blkid") is None:
        pytest.skip("needs blkid")

    def _blkid(disk: Disk) -> dict[str, str]:
        done = subprocess.run(["blkid", "-p", disk.path], capture_output=True, text=True)
        assert done.returncode in (0, 2), done.stderr
        return dict(word.split("=", 1) for word in shlex.split(done.stdout) if "=" in word)

    return _blkid


@pytest.fixture(scope="session")
def sfdisk(run: Run) -> Callable[[Disk], dict[str, Any]]:
    """What ``sfdisk --json`` says of a disk."""

    def _sfdisk(disk: Disk) -> dict[str, Any]:
        table: dict[str, Any] = json.loads(run("sfdisk", "--json", disk.path))["partitiontable"]
        return table

    return _sfdisk
