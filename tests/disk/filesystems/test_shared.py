"""Images that other people's tools made or damaged: what blkid says of them, or a typed error, soon."""

from __future__ import annotations

import gzip
import lzma
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.block.device import Buffer
from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError

_MAX_SECONDS = 5  # a second or two here, with room for a machine that is busy with other tests


def _read_everything(image: bytes) -> tuple[int, list[str]]:
    """How many files there are, and what could not be read."""
    count = 0
    errors: list[WalkError] = []
    filesystem = FileSystem.detect(MemoryDevice(image))
    messages = []
    for path, node, status in filesystem.find("/", onerror=errors.append):
        count += 1
        try:
            filesystem.node_xattrs(node)
            if status.is_symlink():
                filesystem.node_target(node)
            elif status.is_file():
                device = filesystem.node_data(node)
                for _ in device.buffers(0, min(device.size, 64 << 20)):
                    pass
        except GuestctlError as error:
            messages.append(f"{path}: {error}")
    filesystem.usage()
    return count, messages + [f"{error.path}: {error.error}" for error in errors]


def test_damaged_ext(shared: Path) -> None:
    images = sorted((shared / "ext-damaged").glob("*.gz"))
    assert len(images) > 50
    listed = 0
    for image in images:
        data = gzip.decompress(image.read_bytes())
        started = time.perf_counter()
        try:
            count, _ = _read_everything(data)
            listed += count > 0
        except GuestctlError:
            pass
        assert time.perf_counter() - started < _MAX_SECONDS, image.name
    assert listed > len(images) * 3 // 4


def test_every_image_of_blkid(shared: Path) -> None:
    """Whatever it holds: an identity, nothing, or a typed error; reading it likewise."""
    for image in sorted((shared / "blkid" / "images-fs").glob("*.img.xz")):
        data = lzma.decompress(image.read_bytes())
        try:
            FileSystem.identify(MemoryDevice(data))
            _read_everything(data)
        except GuestctlError:
            pass


def _expected(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def _images(shared: Path) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Every image that blkid was asked about: its name, what blkid says, and its bytes."""
    for path in sorted((shared / "blkid" / "images-fs").glob("*.expected")):
        yield path.stem, _expected(path), lzma.decompress(path.with_suffix(".img.xz").read_bytes())


def _as_udev(value: str | None) -> str | None:
    """Spaces, and what is no text, as underscores."""
    return value and re.sub("[ \udc80-\udcff]", "_", value)


def test_identities_are_those_of_blkid(shared: Path) -> None:
    compared = 0
    for name, expected, data in _images(shared):
        identity = FileSystem.identify(MemoryDevice(data))
        assert identity is not None, name
        version = expected.get("ID_FS_VERSION")
        assert (identity.type, identity.version, _as_udev(identity.label), _as_udev(identity.uuid), identity.usage) == (
            expected["ID_FS_TYPE"],
            version and version.replace("\\x20", " "),
            expected.get("ID_FS_LABEL"),
            expected.get("ID_FS_UUID"),
            expected["ID_FS_USAGE"],
        ), name
        compared += 1
    assert compared > 70


def test_what_is_not_read_is_refused_by_name(shared: Path) -> None:
    refused = set()
    for _name, expected, data in _images(shared):
        try:
            FileSystem.detect(MemoryDevice(data))
        except UnsupportedFeature as refusal:
            if refusal.feature == expected["ID_FS_TYPE"]:
                refused.add(refusal.feature)
        except GuestctlError:
            pass
    assert refused > {"jfs", "zfs_member", "ocfs2", "apfs", "swap", "isw_raid_member", "ubifs", "VMFS"}


def test_identities_of_truncated_and_mutated_images(shared: Path) -> None:
    """An identity, nothing, or a typed error, in no time."""
    chance = random.Random(3)
    for name, _expected_identity, data in _images(shared):
        image = bytearray(data[: 1 << 20])
        for _ in range(8):
            at = chance.choice((0, 0x400, 0x1000, 0x2000, 0x4000, 0x8000, 0x10000, 0x80000, len(image) - 4096))
            at = max(0, at + chance.randrange(2048))
            if at < len(image):
                image[at] = chance.choice((0, 0xFF, 0x7F, chance.randrange(256)))
            length = chance.choice((len(image), chance.randrange(len(image))))
            started = time.perf_counter()
            try:
                FileSystem.identify(MemoryDevice(image[:length]))
            except GuestctlError:
                pass
            assert time.perf_counter() - started < _MAX_SECONDS, name


def test_an_ordinary_device_is_told_by_few_reads(shared: Path) -> None:
    class Counting(MemoryDevice):
        reads = 0

        def read(self, offset: int, length: int) -> Buffer:
            self.reads += 1
            assert length < 1 << 17
            return super().read(offset, length)

    for name, most in (("ext4", 20), ("xfs", 20), ("btrfs", 24)):
        device = Counting(lzma.decompress((shared / "blkid" / "images-fs" / f"{name}.img.xz").read_bytes()))
        identity = FileSystem.identify(device)
        assert identity is not None and identity.type == name
        assert device.reads <= most, (name, device.reads)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 1023, 1024, 1500, 2048, 4096])
def test_truncated(shared: Path, length: int) -> None:
    for name in ("ext4", "fat", "fat32_label_64MB", "xfs", "xfs-v5"):
        data = lzma.decompress((shared / "blkid" / "images-fs" / f"{name}.img.xz").read_bytes())
        with pytest.raises(GuestctlError):
            _read_everything(data[:length])
