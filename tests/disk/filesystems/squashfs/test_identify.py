"""What SquashFS images are, as blkid says."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Identity

Run = Callable[..., str]
Make = Callable[..., Path]


def _blkid(run: Run, image: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", image).splitlines())


@pytest.fixture
def image(run: Run, tmp_path: Path) -> Path:
    source, image = tmp_path / "source", tmp_path / "image"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    run("mksquashfs", source, image, "-quiet", "-no-progress")
    return image


def test_blkid(run: Run, image: Path) -> None:
    said = _blkid(run, image)
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity == Identity(said["ID_FS_TYPE"], said["ID_FS_USAGE"], said["ID_FS_VERSION"])
        with FileSystem.detect(device) as filesystem:
            assert (filesystem.type, filesystem.version) == (said["ID_FS_TYPE"], said["ID_FS_VERSION"])
            assert filesystem.size == struct.unpack_from("<Q", image.read_bytes(), 40)[0]
            assert (filesystem.label, filesystem.uuid, filesystem.warnings) == (None, None, [])


@pytest.mark.parametrize(
    ("magic", "version"),
    [(b"hsqs", "<HH"), (b"sqsh", ">HH")],
    ids=["little-endian", "big-endian"],
)
@pytest.mark.parametrize("number", [(1, 0), (2, 1), (3, 1)])
def test_older_versions_are_refused(run: Run, image: Path, magic: bytes, version: str, number: tuple[int, int]) -> None:
    data = bytearray(image.read_bytes())
    data[:4] = magic
    struct.pack_into(version, data, 28, *number)
    image.write_bytes(data)
    said = _blkid(run, image)
    device = MemoryDevice(data)
    assert FileSystem.identify(device) == Identity(said["ID_FS_TYPE"], said["ID_FS_USAGE"], said["ID_FS_VERSION"])
    with pytest.raises(UnsupportedFeature, match=rf"SquashFS {number[0]}\.{number[1]}"):
        FileSystem.detect(device)


def test_newer_version_and_unknown_compression_are_refused(image: Path) -> None:
    for offset, value, message in ((30, 1, "4.1"), (28, 5, "5.0"), (20, 7, "compression 7")):
        data = bytearray(image.read_bytes())
        struct.pack_into("<H", data, offset, value)
        with pytest.raises(UnsupportedFeature, match=message):
            FileSystem.detect(MemoryDevice(data))


def test_cut_off(image: Path) -> None:
    data = image.read_bytes()
    for size in (0, 3, 4, 31, 95):
        with pytest.raises(GuestctlError):
            FileSystem.detect(MemoryDevice(data[:size]))
    (used,) = struct.unpack_from("<Q", data, 40)
    for size in (96, 150, used - 1):
        with pytest.raises(InvalidFormat, match="bytes_used"):
            FileSystem.detect(MemoryDevice(data[:size]))
    assert FileSystem.detect(MemoryDevice(data[:used])).read_bytes("/file") == b"content"


def test_image_of_util_linux(shared: Path) -> None:
    folder = shared / "blkid" / "images-fs"
    data = lzma.decompress((folder / "squashfs4.img.xz").read_bytes())
    expected = (folder / "squashfs4.expected").read_text()
    identity = FileSystem.identify(MemoryDevice(data))
    assert identity == Identity("squashfs", "filesystem", "4.0")
    assert "ID_FS_TYPE=squashfs\n" in expected and "ID_FS_VERSION=4.0\n" in expected
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert f"ID_FS_FSSIZE={filesystem.size}\n" in expected
        assert list(filesystem.find("/"))
