"""Partitions on arrays, and arrays on partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

import volume_images
from conftest import Run
from guestctl.machine import Machine

MIB = 1 << 20


def _label(run: Run, image: Path, size: int) -> None:
    """A partition of a MiB, in a table for a disk of that size."""
    run("sfdisk", "--quiet", image, input="label: dos\nstart=1024, size=2048, type=83\n")
    assert image.stat().st_size == size


@pytest.fixture
def members(run: Run, tmp_path: Path) -> list[Path]:
    """A RAID1 whose content begins where its members do, with a partition table that both show."""
    content = tmp_path / "content"
    content.write_bytes(bytes(2 * MIB))
    _label(run, content, 2 * MIB)
    found = []
    for number, image in enumerate(volume_images.images("raid1-1.0")[:2]):
        path = tmp_path / f"member-{number}"
        path.write_bytes(content.read_bytes()[:512] + image[512:])
        found.append(path)
    return found


def test_partitions_on_an_array(members: list[Path]) -> None:
    """The disks are members, though each shows the partition table, too; the partitions are the array's."""
    with Machine.open(*members) as machine:
        assert list(machine.devices) == ["/dev/sda", "/dev/sdb", "/dev/md127p1"]
        assert list(machine.partitioned) == ["/dev/md127"]
        assert machine.parents("/dev/md127p1") == ("/dev/md127",)
        assert machine.parents("/dev/md127") == ("/dev/sda", "/dev/sdb")
        assert machine.devices["/dev/md127p1"].size == MIB
        assert machine.partition("/dev/md127p1") is not None


def test_an_array_on_the_last_partition(run: Run, members: list[Path], tmp_path: Path) -> None:
    """Its superblock near the end of the disk is the partition's."""
    member = members[0].read_bytes()
    member = bytes(512) + member[512:]
    disk = tmp_path / "disk"
    with disk.open("wb") as stream:
        stream.seek(MIB)
        stream.write(member)
    run("sfdisk", "--quiet", disk, input=f"label: dos\nstart=2048, size={len(member) // 512}, type=fd\n")
    with Machine.open(disk) as machine:
        assert list(machine.devices) == ["/dev/sda1", "/dev/md127"]
        assert list(machine.partitioned) == ["/dev/sda"]
        assert machine.parents("/dev/md127") == ("/dev/sda1",)
