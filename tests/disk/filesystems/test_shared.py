"""Images that other people's tools made or damaged: what blkid says of them, or a typed error, soon."""

from __future__ import annotations

import gzip
import lzma
import time
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError

_READ = ("ext2", "ext3", "ext4", "jbd", "vfat", "xfs")
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


def test_identities_are_those_of_blkid(shared: Path) -> None:
    folder = shared / "blkid" / "images-fs"
    compared = 0
    for image in sorted(folder.glob("*.img.xz")):
        expected_file = folder / image.name.replace(".img.xz", ".expected")
        expected = _expected(expected_file) if expected_file.exists() else {}
        if expected.get("ID_FS_TYPE") not in _READ:
            continue
        identity = FileSystem.identify(MemoryDevice(lzma.decompress(image.read_bytes())))
        assert identity is not None, image.name
        # udev's form of a label has an underscore for a space.
        label = identity.label.replace(" ", "_") if identity.label else None
        assert (identity.type, identity.version, label, identity.uuid, identity.usage) == (
            expected["ID_FS_TYPE"],
            expected.get("ID_FS_VERSION"),
            expected.get("ID_FS_LABEL"),
            expected.get("ID_FS_UUID"),
            expected["ID_FS_USAGE"],
        ), image.name
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("length", [0, 1, 511, 512, 1023, 1024, 1500, 2048, 4096])
def test_truncated(shared: Path, length: int) -> None:
    for name in ("ext4", "fat", "fat32_label_64MB", "xfs", "xfs-v5"):
        data = lzma.decompress((shared / "blkid" / "images-fs" / f"{name}.img.xz").read_bytes())
        with pytest.raises(GuestctlError):
            _read_everything(data[:length])
