"""Filesystems on several devices, whole and with devices missing, beside the kernel's mount."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import combinations
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount
from btrfs_images import make, mounted, opened
from guestctl.block import MemoryDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.btrfs import MissingDevice, layout
from guestctl.disk.filesystems.btrfs.chunks import Chunk, LogicalSpace

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]

# profile -> devices, how many may be missing whatever they are
PROFILES = {
    "single": (2, 0),
    "raid0": (3, 0),
    "raid1": (3, 1),
    "raid1c3": (3, 2),
    "raid1c4": (4, 3),
    "raid10": (4, 1),
    "raid5": (3, 1),
    "raid6": (4, 2),
}


def _fill(top: Path) -> None:
    numbers = b"".join(b"%07d\n" % number for number in range(400_000))
    (top / "long").write_bytes(numbers)
    (top / "sparse").touch()
    with (top / "sparse").open("r+b") as stream:
        stream.seek(1_234_567)
        stream.write(numbers[:100_000])
    for number in range(400):
        (top / f"small-{number}").write_bytes(numbers[number * 8 : number * 20])
    os.sync()


@pytest.mark.parametrize("profile", PROFILES)
def test_profile(run: Run, mount: Mount, tmp_path: Path, profile: str) -> None:
    count, spare = PROFILES[profile]
    images = [tmp_path / f"image-{number}" for number in range(count)]
    metadata = "raid1" if profile == "single" else profile
    make(run, images, f"-d {profile} -m {metadata}", 400 << 20)
    with mounted(run, mount, images, "rw") as target:
        _fill(target)
    with mounted(run, mount, images, "ro") as target:
        expected = from_mount(target)
        usage = os.statvfs(target)
    with opened(*images[1:], images[0]) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.warnings == []
        ours = filesystem.usage()
        assert abs(ours.size - usage.f_blocks * usage.f_frsize) < 4096
        assert 0 <= (usage.f_blocks - usage.f_bfree) * usage.f_frsize - ours.used < 10 << 20
    for missing in range(1, spare + 1):
        for gone in combinations(range(count), missing):
            present = [image for number, image in enumerate(images) if number not in gone]
            with opened(*present) as filesystem:
                assert from_guestctl(filesystem) == expected, gone
                assert filesystem.warnings[0].startswith("degraded: device")
    for image in images:
        image.unlink()


def test_a_missing_device_is_named(run: Run, mount: Mount, tmp_path: Path) -> None:
    images = [tmp_path / "one", tmp_path / "two"]
    make(run, images, "-d raid0 -m raid1", 400 << 20)
    with mounted(run, mount, images, "rw") as target:
        _fill(target)
    with opened(images[0]) as filesystem:
        assert filesystem.stat("/long").st_size == 3_200_000
        assert filesystem.read_bytes("/small-1") == b"0000001\n0000"
        with pytest.raises(MissingDevice, match=r"device 2 \([0-9a-f-]{36}\) is missing") as caught:
            filesystem.read_bytes("/long")
        assert caught.value.devids == (2,)
        assert filesystem.warnings == ["degraded: device 2 is missing"]
    make(run, images, "-d raid0 -m raid0", 400 << 20)
    with pytest.raises(MissingDevice), opened(images[1]):
        pass


def test_a_foreign_device_is_left_out(run: Run, tmp_path: Path) -> None:
    images = [tmp_path / "one", tmp_path / "two"]
    make(run, images, "-d raid1 -m raid1", 400 << 20)
    make(run, tmp_path / "other")
    (tmp_path / "empty").write_bytes(bytes(1 << 20))
    with opened(images[0], tmp_path / "other", tmp_path / "empty") as filesystem:
        assert filesystem.warnings == ["degraded: device 2 is missing"]
        assert filesystem.listdir("/") == []


def test_a_block_over_the_end_of_its_chunk() -> None:
    """The chunk behind it has fewer copies."""
    space = LogicalSpace({1: MemoryDevice(bytes(1 << 20))})
    space.add([Chunk(0, 65536, layout.DUP, ((1, 0), (1, 65536)), 0), Chunk(65536, 65536, 0, ((1, 131072),), 0)])
    with pytest.raises(InvalidFormat, match="end of a chunk"):
        space.copy(65536 - 4096, 16384, 1)
