"""One byte changed, one exact error; and mutants."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from mutants import check_mutants, read_everything

pytestmark = pytest.mark.root
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    top = tmp_path_factory.mktemp("source")
    (top / "file").write_bytes(b"words of text " * 2000)
    (top / "small").write_bytes(b"tail")
    (top / "noise").write_bytes(os.urandom(20_000))
    os.setxattr(top / "file", "user.name", b"value")
    os.setxattr(top / "small", "user.long", b"a value of many bytes, shared " * 3)
    os.setxattr(top / "noise", "user.long", b"a value of many bytes, shared " * 3)
    (top / "link").symlink_to("target")
    os.mknod(top / "null", 0o20600, os.makedev(1, 3))
    (top / "many").mkdir()
    for number in range(700):
        (top / "many" / f"name-{number:030}").touch()
    with (top / "holes").open("wb") as stream:
        stream.seek(100_000)
        stream.write(b"end")
    return top


class Image:
    """An image whose tables are not compressed, with the offsets of its tables."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        tables = struct.unpack_from("<8Q", self.data, 32)
        self.root, self.used, self.ids, self.xattrs, self.inodes, self.directories, self.fragments, self.exports = (
            tables
        )

    def inode(self, path: str) -> int:
        """Where the inode of `path` is."""
        with self.open() as filesystem:
            node: int = filesystem.resolve(path, follow=False)
        return int(self.inodes + (node >> 16) + 2 + (node & 0xFFFF))

    def put(self, at: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.data, at, *values)

    def open(self) -> FileSystem[int]:
        return FileSystem.detect(MemoryDevice(self.data))


@pytest.fixture
def image(make: Make, source: Path) -> Image:
    return Image(make(source, "-noI", "-noF", "-noX", "-b", "8192"))


def test_sound(image: Image) -> None:
    count, errors = read_everything(MemoryDevice(image.data))
    assert (count, errors) == (708, [])


def _all_errors(image: Image) -> list[str]:
    try:
        _, errors = read_everything(MemoryDevice(image.data))
    except GuestctlError as error:
        return [str(error)]
    return sorted({str(error) for error in errors})


def test_superblock(image: Image) -> None:
    for at, form, value, message in (
        (12, "<I", 8191, "block_size is 8191, block_log 13"),
        (22, "<H", 14, "block_size is 8192, block_log 14"),
        (22, "<H", 31, "block_size is 8192, block_log 31"),
        (40, "<Q", 1 << 40, "bytes_used"),
        (64, "<Q", 1 << 40, "tables at"),
        (72, "<Q", 0, "tables at"),
        (48, "<Q", 1 << 40, "do not fit"),
        (32, "<Q", 1 << 60, "past the end"),
        (32, "<Q", 0xFFFF, "inode"),
    ):
        kept = bytes(image.data[at : at + 8])
        image.put(at, form, value)
        with pytest.raises(InvalidFormat, match=message):
            image.open()
        image.data[at : at + 8] = kept


def test_metadata_block(image: Image) -> None:
    for length, message in ((0, "a block of 0 bytes"), (0x2001, "a block of 8193 bytes"), (0x8000, "a block of 0")):
        image.put(image.inodes, "<H", length)
        errors = _all_errors(image)
        assert any(message in error for error in errors)
    image.put(image.inodes, "<H", 0x2000)
    assert any("cannot be decompressed" in error for error in _all_errors(image))


def test_inode(image: Image) -> None:
    at = image.inode("/null")
    for offset, form, value, message in (
        (0, "<H", 0, "type 0"),
        (0, "<H", 15, "type 15"),
        (2, "<H", 0o170600, "mode 0o170600"),
        (4, "<H", 9, "ids 9"),
    ):
        kept = bytes(image.data[at : at + 8])
        image.put(at + offset, form, value)
        count, errors = read_everything(MemoryDevice(image.data))
        assert count == 707
        (error,) = errors
        assert isinstance(error, InvalidFormat) and message in str(error) and error.structure == "inode"
        assert error.offset < at < error.offset + 8194
        image.data[at : at + 8] = kept


def test_link(image: Image) -> None:
    at = image.inode("/link")
    for size in (0, 1 << 20):
        image.put(at + 20, "<I", size)
        with image.open() as filesystem, pytest.raises(InvalidFormat, match=f"a target of {size} bytes"):
            filesystem.readlink("/link")


def test_directory(image: Image) -> None:
    at = image.directories + 2
    for offset, form, value, message in (
        (0, "<I", 256, "a header of 257 entries"),
        (16, "<H", 0, "type 0"),
        (16, "<H", 8, "type 8"),
        (18, "<H", 256, "257 bytes"),
    ):
        kept = bytes(image.data[at : at + 24])
        image.put(at + offset, form, value)
        assert any(message in error for error in _all_errors(image)), message
        image.data[at : at + 24] = kept


def test_directory_index(image: Image) -> None:
    at = image.inode("/many")
    (count,) = struct.unpack_from("<H", image.data, at + 32)
    assert count >= 2
    image.put(at + 40, "<I", 1 << 30)
    with image.open() as filesystem:
        assert len(filesystem.listdir("/many")) == 700
        with pytest.raises(InvalidFormat, match="directory index"):
            filesystem.exists("/many/name-0")
    image.put(at + 20, "<I", (1 << 32) - 1)
    with image.open() as filesystem, pytest.raises(InvalidFormat, match="4294967292 bytes"):
        filesystem.listdir("/many")


def test_blocks(image: Image) -> None:
    """The list of a file's blocks lies after its inode."""
    at = image.inode("/file") + 56
    (word,) = struct.unpack_from("<I", image.data, at)
    for value, message in (
        (8193, "a block of 8193 bytes"),
        (word | 1 << 24, "not compressed"),
        (word | 1 << 25, "not compressed"),
        (word - 1, "cannot be decompressed"),
    ):
        image.put(at, "<I", value)
        with image.open() as filesystem:
            with pytest.raises(InvalidFormat, match=message) as caught:
                filesystem.read_bytes("/file")
            assert caught.value.structure == "data block"
            assert filesystem.read_bytes("/small") == b"tail"


def test_start_block(image: Image) -> None:
    at = image.inode("/file")
    for start in ((1 << 64) - 1, image.used + 1):
        image.put(at + 16, "<Q", start)
        with image.open() as filesystem, pytest.raises(InvalidFormat, match=f"start_block is {start}"):
            filesystem.read_bytes("/file")


def test_compressed_block(image: Image, source: Path) -> None:
    """Every byte of a block that is changed is noticed, by the checksum of zlib."""
    at = image.inode("/file")
    (start,) = struct.unpack_from("<Q", image.data, at + 16)
    (length,) = struct.unpack_from("<I", image.data, at + 56)
    for offset in range(start, start + length):
        image.data[offset] ^= 0xFF
        with image.open() as filesystem, pytest.raises(InvalidFormat):
            filesystem.read_bytes("/file")
        image.data[offset] ^= 0xFF
    with image.open() as filesystem:
        assert filesystem.read_bytes("/file") == (source / "file").read_bytes()


def test_fragment(image: Image) -> None:
    at = image.inode("/small")
    number, place = struct.unpack_from("<II", image.data, at + 44)
    image.put(at + 48, "<I", 8192)
    with image.open() as filesystem, pytest.raises(InvalidFormat, match="4 bytes at 8192 of a fragment"):
        filesystem.read_bytes("/small")
    image.put(at + 44, "<II", 1000, place)
    with image.open() as filesystem, pytest.raises(InvalidFormat, match="record 1000"):
        filesystem.read_bytes("/small")
    image.put(at + 44, "<II", number, place)
    with image.open() as filesystem:
        assert filesystem.read_bytes("/small") == b"tail"


def test_xattrs(image: Image) -> None:
    at = image.data.index(b"name\x05\0\0\0value") - 4
    for offset, form, value, kind, message in (
        (0, "<H", 7, UnsupportedFeature, "type 7"),
        (0, "<H", 0x100, InvalidFormat, "a reference of 5 bytes"),
        (8, "<I", 65537, InvalidFormat, "a value of 65537 bytes"),
        (2, "<H", 0xFFFF, InvalidFormat, "metadata"),
    ):
        kept = bytes(image.data[at : at + 12])
        image.put(at + offset, form, value)
        with image.open() as filesystem, pytest.raises(kind, match=message):
            filesystem.xattrs("/file")
        image.data[at : at + 12] = kept
    with image.open() as filesystem:
        assert filesystem.xattrs("/file") == {"user.name": b"value"}


def test_root_that_is_a_file(image: Image) -> None:
    with image.open() as filesystem:
        image.put(32, "<Q", filesystem.resolve("/file"))
    with pytest.raises(InvalidFormat, match="the root is no directory"):
        image.open()


def test_directory_inside_itself(image: Image) -> None:
    """An entry that leads to the root: an error, and the walk ends."""
    at = image.data.index(b"many", image.directories) - 8
    (start,) = struct.unpack_from("<I", image.data, image.directories + 2 + 4)
    assert start == 0 or image.root >> 16
    # The header's block of inodes is shared, so only the place in it changes.
    image.put(at, "<H", image.root & 0xFFFF)
    count, errors = read_everything(MemoryDevice(image.data))
    assert count >= 1 and errors


def test_mutants_of_tables(image: Image) -> None:
    places = [(0, 96)] * 2 + [(image.inodes, image.directories - image.inodes)]
    places += [(image.directories, image.fragments - image.directories)] * 2
    places += [(image.fragments - 40, 48), (image.xattrs - 200, 216)] * 2
    check_mutants(bytes(image.data), places, least_files=700)


def test_mutants_of_compressed_tables(make: Make, source: Path) -> None:
    data = make(source, "-comp", "zstd", "-b", "8192").read_bytes()
    (inodes,) = struct.unpack_from("<Q", data, 64)
    check_mutants(data, [(0, 96), (96, inodes - 96), (inodes, len(data) - inodes - 8)], least_files=700)
