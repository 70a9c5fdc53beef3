"""Which volumes are FAT, and what they are called: compared with blkid."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import DetectionError, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Identity
from guestctl.disk.filesystems.fat import identify
from guestctl.disk.filesystems.fat.boot_sector import BootSector, parse_boot_sector

Run = Callable[..., str]


def unpack(run: Run, source: Path, target: Path) -> Path:
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", source, target)
    return target


def blkid(image: Path) -> dict[str, str] | None:
    """What blkid says of a FAT volume, or None where it sees none."""
    if shutil.which("blkid") is None:
        pytest.skip("needs blkid")
    done = subprocess.run(["blkid", "-p", "-n", "vfat", "-o", "export", image], capture_output=True)
    told = done.stdout.decode("cp437")
    values = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    return values if values.get("TYPE") == "vfat" else None


FAT_IMAGES = [
    "fat",
    "fat32_label_64MB",
    "fat32_mkdosfs_label1",
    "fat32_mkdosfs_label1_dosfslabel_label2",
    "fat32_mkdosfs_label1_mlabel_NO_NAME",
    "fat32_mkdosfs_label1_mlabel_erase",
    "fat32_mkdosfs_label1_xp_label2",
    "fat32_mkdosfs_none",
    "fat32_mkdosfs_none_xp_label1_dosfslabel_label2",
    "fat32_xp_label1",
    "fat32_xp_none_dosfslabel_label1",
    "small-fat32",
]


@pytest.mark.parametrize("name", FAT_IMAGES)
def test_images_of_others(shared: Path, run: Run, tmp_path: Path, name: str) -> None:
    folder = shared / "blkid" / "images-fs"
    told = dict(line.split("=", 1) for line in (folder / f"{name}.expected").read_text().splitlines())
    image = unpack(run, folder / f"{name}.img.xz", tmp_path / "image")
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity == Identity(
            type=told["ID_FS_TYPE"],
            usage=told["ID_FS_USAGE"],
            version=told["ID_FS_VERSION"],
            label=told.get("ID_FS_LABEL_ENC", "").replace("\\x20", " ") or None,
            uuid=told["ID_FS_UUID"],
        )
        filesystem = FileSystem.detect(device)
        assert identity is not None
        assert (filesystem.type, filesystem.version, filesystem.label, filesystem.uuid) == (
            *identity[:1],
            *identity[2:],
        )
        assert getattr(filesystem, "boot_label") == told.get("ID_FS_LABEL_FATBOOT")  # noqa: B009 - not FileSystem's
        assert filesystem.size == int(told["ID_FS_FSSIZE"])
        assert filesystem.block_size == int(told["ID_FS_FSBLOCKSIZE"])
        assert filesystem.listdir() is not None


def test_images_that_hold_something_else(shared: Path, run: Run, tmp_path: Path) -> None:
    sources = sorted((shared / "blkid").glob("images-*/*.img.xz"))
    others = [source for source in sources if source.name.removesuffix(".img.xz") not in FAT_IMAGES]
    assert len(others) > 60
    for source in others:
        image = unpack(run, source, tmp_path / "image")
        with FileDevice.open(image) as device:
            assert identify(device) is None, source.name


@pytest.mark.parametrize("seed", range(3))
def test_changed_boot_sectors(make_volume: Any, tmp_path: Path, seed: int) -> None:
    """Bytes of the BPB and of FSInfo changed at random: identified if blkid does, with the same values."""
    chance = random.Random(seed)
    bits = ("12", "16", "32")[seed]
    volume = make_volume(
        "-F", bits, "-n", "LABEL", "-s", "1", kilobytes=40960 if bits == "32" else 2000 if bits == "12" else 8192
    )
    good = volume.read(0, 1024)
    offsets = [*range(11, 92), 510, 511]
    if bits == "32":
        # blkid looks for the label as if there were no BPB_RootEntCnt, which Linux adds; its sizes wrap around
        offsets = [offset for offset in offsets if offset not in (17, 18, 39)] + [512, 513, 996, 997]
    seen = 0
    for _ in range(150):
        changed = bytearray(good)
        for _ in range(chance.choice((1, 1, 2))):
            changed[chance.choice(offsets)] = chance.choice(
                (0, 1, 2, 8, 0x28, 0x29, 0xF0, 0xF8, 0xFF, chance.randrange(256))
            )
        volume.write(0, changed)
        boot = parse_boot_sector(bytes(changed))
        if boot is not None and boot.cluster_count == 4084:
            continue  # which blkid takes for FAT16
        told = blkid(volume.path)
        with FileDevice.open(volume.path) as device:
            identity = identify(device)
        if told is None:
            assert identity is None, changed[:92].hex()
            continue
        seen += 1
        expected = (told.get("VERSION"), told.get("LABEL"), told.get("UUID"))
        assert identity is not None, changed[:92].hex()
        assert identity[2:] == expected, changed[:92].hex()
    assert 20 < seen < 149


def boot_sector(clusters: int, *, fat_sectors: int = 256, fat_sectors32: int = 0, **changes: int) -> bytes:
    """The boot sector of a volume of so many clusters of a sector, from the specification."""
    sector = bytearray(512)
    total = 1 + (fat_sectors or fat_sectors32) + 1 + clusters
    struct.pack_into("<HBHBHHBH", sector, 11, 512, 1, 1, 1, 16, 0, 0xF8, fat_sectors)
    struct.pack_into("<I", sector, 32, total)
    if fat_sectors32:
        struct.pack_into("<I", sector, 36, fat_sectors32)
    sector[510:512] = b"\x55\xaa"
    for name, value in changes.items():
        sector[int(name.removeprefix("at"))] = value
    return bytes(sector)


def parsed(sector: bytes) -> BootSector:
    boot = parse_boot_sector(sector)
    assert boot is not None
    return boot


def test_type_by_count_of_clusters() -> None:
    """ "FAT Type Determination": below 4085 FAT12, below 65525 FAT16."""
    assert [parsed(boot_sector(count)).bits for count in (1, 4084, 4085, 65524)] == [12, 12, 16, 16]
    assert parse_boot_sector(boot_sector(65525)) is None
    assert parsed(boot_sector(100, fat_sectors=0, fat_sectors32=1)).bits == 32
    assert parse_boot_sector(boot_sector(0)) is None
    assert parse_boot_sector(boot_sector(100, fat_sectors=0)) is None


def test_table_shorter_than_the_volume() -> None:
    assert parsed(boot_sector(60000, fat_sectors=1)).cluster_count == 254
    assert parsed(boot_sector(4000, fat_sectors=2)).cluster_count == 1024 * 8 // 12 - 2


@pytest.mark.parametrize(
    ("offset", "value"),
    [(12, 1), (12, 0), (12, 32), (11, 1), (13, 0), (13, 3), (14, 0), (16, 0), (21, 0xF1), (21, 0), (510, 0)],
)
def test_refused(offset: int, value: int) -> None:
    assert parse_boot_sector(boot_sector(5000, **{f"at{offset}": value})) is None


def test_other_systems_that_look_like_fat() -> None:
    sector = bytearray(boot_sector(5000))
    for word, is_fat in ((b"JFS     ", False), (b"HPFS    ", False), (b"FAT     ", True), (b"whatever", True)):
        sector[54:62] = word
        assert (parse_boot_sector(bytes(sector)) is not None) == is_fat


def test_small_devices() -> None:
    sector = boot_sector(100)
    for size in (0, 1, 511):
        assert identify(MemoryDevice(sector[:size])) is None
        assert FileSystem.identify(MemoryDevice(sector[:size])) is None
    identity = FileSystem.identify(MemoryDevice(sector))
    assert identity is not None
    assert (identity.type, identity.label) == ("vfat", None)


def test_unknown_version(make_volume: Any) -> None:
    volume = make_volume("-F", "32", "-s", "1", kilobytes=40960)
    volume.write(42, b"\x00\x01")
    with pytest.raises(UnsupportedFeature) as raised, volume.open():
        pass
    assert raised.value.feature == "FAT32 version 1.0"


def test_nothing() -> None:
    with pytest.raises(DetectionError):
        FileSystem.detect(MemoryDevice(bytes(4096)))
