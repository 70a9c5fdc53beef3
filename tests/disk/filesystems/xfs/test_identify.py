"""Type, label and UUID as blkid reports them, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest

from guestctl.block import FileDevice, Overlay
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Identity, Options

Run = Callable[..., str]
UUID = "6e7a9d0c-52f7-4a5b-9b1e-0a3c5d7e9f01"
KINDS = {
    "plain": "",
    "label": "-L a-label",
    "longest label": "-L twelve-bytes",
    "label that is no ASCII": "-L Ünïcode",
    "version 4": "-m crc=0 -L old",
    "version 4, small blocks": "-m crc=0 -b size=512 -i size=256",
    "case-insensitive": "-n version=ci",
    "64k blocks": "-b size=65536",
    "4k sectors": "-s size=4096",
}


@pytest.fixture(scope="module")
def image(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xfs") / "image"
    _make(run, path, "")
    return path


def _make(run: Run, path: Path, arguments: str) -> None:
    with path.open("wb") as stream:
        stream.truncate(320 << 20)
    run("mkfs.xfs", "-q", "-m", f"uuid={UUID}", *arguments.split(), path)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_blkids(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    _make(run, path, KINDS[kind])
    fields = {
        name: run("blkid", "-p", "-o", "value", "-s", name, path).removesuffix("\n") or None
        for name in ("TYPE", "USAGE", "VERSION", "LABEL", "UUID")
    }
    assert fields["TYPE"] == "xfs" and fields["USAGE"] == "filesystem" and fields["UUID"] == UUID
    with FileDevice.open(path) as device:
        identity = FileSystem.identify(device)
        assert identity == Identity("xfs", "filesystem", fields["VERSION"], fields["LABEL"], fields["UUID"])
        filesystem = FileSystem.detect(device)
        assert (filesystem.type, filesystem.version, filesystem.label, filesystem.uuid) == (
            "xfs",
            fields["VERSION"],
            fields["LABEL"],
            UUID,
        )
        assert filesystem.listdir("/") == []


def test_uuid_that_was_changed(run: Run, tmp_path: Path) -> None:
    """Metadata goes on carrying the first one."""
    path = tmp_path / "image"
    _make(run, path, "")
    other = UUID[::-1].replace("-", "", 4)
    other = "-".join((other[:8], other[8:12], other[12:16], other[16:20], other[20:]))
    run("xfs_admin", "-U", other, path)
    with FileDevice.open(path) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.uuid == other
        assert filesystem.listdir("/") == []
        assert filesystem.stat("/").st_nlink == 2


def _patched(image: Path, offset: int, content: bytes, *, right_checksum: bool = True) -> Overlay:
    overlay = Overlay(FileDevice.open(image))
    data = bytearray(overlay.read(0, 512))
    assert data[offset : offset + len(content)] != content
    data[offset : offset + len(content)] = content
    if right_checksum:
        data[224:228] = bytes(4)
        data[224:228] = google_crc32c.value(bytes(data)).to_bytes(4, "little")
    overlay.write(0, bytes(data))
    return overlay


def _incompat(image: Path) -> int:
    with image.open("rb") as stream:
        return int.from_bytes(stream.read(220)[216:], "big")


@pytest.mark.parametrize(
    ("bit", "name"),
    [(0x100, "metadir"), (0x200, "zoned"), (0x80000000, "incompat 0x80000000"), (0x300, "metadir, zoned")],
)
def test_unknown_features_are_refused_by_name(image: Path, bit: int, name: str) -> None:
    known = _incompat(image)
    with pytest.raises(UnsupportedFeature, match=name) as caught:
        FileSystem.detect(_patched(image, 216, (known | bit).to_bytes(4, "big")))
    assert caught.value.feature == name


def test_unknown_read_only_features_do_not_matter(image: Path) -> None:
    device = _patched(image, 212, b"\x80\0\0\0")
    assert FileSystem.detect(device).type == "xfs"


@pytest.mark.parametrize(
    ("offset", "content", "name"),
    [
        (100, b"\xb4\xa3", "version 3"),
        (100, b"\x94\xa5", "version 1 directories"),
        (48, bytes(8), "external log"),
    ],
)
def test_refused_by_name(image: Path, offset: int, content: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        FileSystem.detect(_patched(image, offset, content))
    assert caught.value.feature == name


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (4, b"\0\0\x10\x01"),  # sb_blocksize
        (120, b"\x11"),  # sb_blocklog
        (102, b"\x02\x01"),  # sb_sectsize
        (104, b"\x01\x01"),  # sb_inodesize
        (106, b"\0\x09"),  # sb_inopblock
        (84, b"\0\0\0\0"),  # sb_agblocks
        (88, b"\0\0\0\0"),  # sb_agcount
        (88, b"\xff\xff\xff\xff"),
        (8, b"\xff" * 8),  # sb_dblocks
        (124, b"\x1f"),  # sb_agblklog
        (192, b"\x05"),  # sb_dirblklog
        (126, b"\x01"),  # sb_inprogress
        (127, b"\x65"),  # sb_imax_pct
        (56, b"\xff" * 8),  # sb_rootino
    ],
)
def test_impossible_geometry(image: Path, offset: int, content: bytes) -> None:
    device = _patched(image, offset, content)
    with pytest.raises(InvalidFormat) as caught:
        from guestctl.disk.filesystems.xfs import open_filesystem

        open_filesystem(device)
    assert (caught.value.structure, caught.value.offset) == ("superblock", 0)
    assert FileSystem.identify(device) is None


def test_checksum(image: Path) -> None:
    device = _patched(image, 108, b"changed", right_checksum=False)
    with pytest.raises(ChecksumMismatch) as caught:
        FileSystem.detect(device)
    assert (caught.value.structure, caught.value.offset) == ("superblock", 0)
    assert FileSystem.detect(device, options=Options(ignore_checksums=True)).label == "changed"


def test_marked_as_needing_repair(image: Path) -> None:
    known = _incompat(image)
    filesystem = FileSystem.detect(_patched(image, 216, (known | 0x10).to_bytes(4, "big")))
    assert "the filesystem is marked as needing xfs_repair" in filesystem.warnings
