"""One value changed, one exact error; and mutants."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError
from iso_images import make
from mutants import check_mutants, read_everything

Run = Callable[..., str]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("source")
    (top / "file.txt").write_bytes(b"content " * 1000)
    (top / "link").symlink_to("/target/" + "x" * 200)
    folder = top
    for level in range(10):
        folder = folder / f"d{level}"
        folder.mkdir()
        (folder / ("long " * 40)).write_bytes(b"%d" % level)
    (top / "many").mkdir()
    for number in range(100):
        (top / "many" / f"name-{number}").touch()
    return top


@pytest.fixture
def image(run: Run, source: Path, tmp_path: Path) -> bytearray:
    return bytearray(make(run, tmp_path / "image", "genisoimage -quiet -R", source).read_bytes())


def _record(image: bytearray, name: bytes) -> int:
    return image.index(name) - 33


def test_sound(image: bytearray) -> None:
    count, errors = read_everything(MemoryDevice(image))
    assert (count, errors) == (125, [])


def test_descriptor(image: bytearray) -> None:
    for at, form, value, kind, message in (
        (0x8000 + 128, "<H", 4096, InvalidFormat, "blocks of 4096 bytes"),
        (0x8000 + 128, "<H", 0, InvalidFormat, "blocks of 0 bytes"),
        (0x8000 + 80, "<I", 0, InvalidFormat, "a volume of no blocks"),
        (0x8000 + 156, "<B", 20, InvalidFormat, "20 bytes with a name of 1"),
        (0x8000 + 158, "<I", 1 << 31, InvalidFormat, "outside the device"),
        (0x8000 + 158, "<I", 0, InvalidFormat, "outside the device"),
        (0x8000 + 158, "<I", 1, InvalidFormat, "0 bytes with a name of 0"),
    ):
        kept = bytes(image[at : at + 4])
        struct.pack_into(form, image, at, value)
        with pytest.raises(kind, match=message):
            FileSystem.detect(MemoryDevice(image))
        image[at : at + 4] = kept


def test_volume_set(run: Run, source: Path, tmp_path: Path) -> None:
    image = bytearray(make(run, tmp_path / "image", "genisoimage -quiet", source / "many").read_bytes())
    struct.pack_into("<H", image, 0x8000 + 120, 2)
    with pytest.raises(UnsupportedFeature, match="a set of 2 volumes"):
        FileSystem.detect(MemoryDevice(image))


def test_record(image: bytearray) -> None:
    at = _record(image, b"FILE.TXT;1")
    for offset, form, value, message in (
        (0, "<B", 34, "34 bytes with a name of 10"),
        (32, "<B", 200, "with a name of 200"),
        (32, "<B", 0, "with a name of 0"),
    ):
        kept = bytes(image[at : at + 34])
        struct.pack_into(form, image, at + offset, value)
        with FileSystem.detect(MemoryDevice(image)) as filesystem:
            with pytest.raises(InvalidFormat, match=message) as caught:
                filesystem.listdir("/")
            assert caught.value.offset == at
            with pytest.raises(InvalidFormat, match=message):
                filesystem.exists("/many")
        image[at : at + 34] = kept


def test_file(image: bytearray) -> None:
    at = _record(image, b"FILE.TXT;1")
    for offset, form, value, kind, message in (
        (2, "<I", 1 << 30, InvalidFormat, "of a device of"),
        (10, "<I", 1 << 31, InvalidFormat, "of a device of"),
        (26, "<B", 1, UnsupportedFeature, "interleaved"),
        (25, "<B", 0x80, InvalidFormat, "without a last section"),
    ):
        kept = bytes(image[at : at + 34])
        struct.pack_into(form, image, at + offset, value)
        with FileSystem.detect(MemoryDevice(image)) as filesystem:
            with pytest.raises(kind, match=message):
                filesystem.read_bytes("/file.txt")
            assert len(filesystem.listdir("/many")) == 100
        image[at : at + 34] = kept


def test_mode(image: bytearray) -> None:
    at = image.index(b"PX", _record(image, b"FILE.TXT;1"))
    for mode in (0, 0o40755, 0o170644, 1 << 20):
        struct.pack_into("<I", image, at + 4, mode)
        with FileSystem.detect(MemoryDevice(image)) as filesystem, pytest.raises(InvalidFormat, match="mode"):
            filesystem.stat("/file.txt")


def test_continuation(image: bytearray) -> None:
    """The long names are continued elsewhere."""
    at = image.index(b"CE\x1c\x01", image.index(b"LONG"))
    block, skip, _ = struct.unpack_from("<I4xI4xI4x", image, at + 4)
    for offset, value, message in (
        (4, 1 << 30, "do not fit"),
        (20, 1 << 20, "a continuation of 1048576 bytes"),
    ):
        kept = bytes(image[at : at + 28])
        struct.pack_into("<I", image, at + offset, value)
        _, errors = read_everything(MemoryDevice(image))
        assert [message in str(error) for error in errors] == [True]
        image[at : at + 28] = kept
    # one that leads to itself
    target = block * 2048 + skip
    struct.pack_into("<I", image, at + 20, 28)
    image[target : target + 28] = image[at : at + 28]
    _, errors = read_everything(MemoryDevice(image))
    assert ["continued without an end" in str(error) for error in errors] == [True]


def test_directory_inside_itself(image: bytearray) -> None:
    (root,) = struct.unpack_from("<I", image, 0x8000 + 158)
    at = image.index(b"MANY", root * 2048) - 33
    struct.pack_into("<I", image, at + 2, root)
    count, errors = read_everything(MemoryDevice(image))
    assert count == 25
    assert "a directory in two places" in str(errors[0])


@pytest.mark.parametrize("options", ["-R", "-J", "-R -D -XA", ""])
def test_mutants(run: Run, source: Path, tmp_path: Path, options: str) -> None:
    flat = source if options else source / "many"
    image = make(run, tmp_path / "image", f"genisoimage -quiet {options}", flat).read_bytes()
    first = struct.unpack_from("<I", image, 0x8000 + 158)[0] * 2048
    places = [(0x8000, 300), (0x8000 + 130, 60), (0x8800, 300)] + [(first, 200)] * 2
    places += [(first, min(len(image) - first, 64 << 10) - 8)] * 8
    check_mutants(image, places, least_files=100, share=0.25)


def test_zisofs(run: Run, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    run("xorriso", "-outdev", path, "-map", source, "/", "-set_filter_r", "--zisofs", "/", "--", "-commit")
    image = path.read_bytes()
    at, entry = image.index(bytes.fromhex("37e45396c9dbd607")), image.index(b"ZF\x10\x01pz")
    for offset, form, value, message in (
        (entry + 6, "<B", 0, "a header of 0 bytes"),
        (entry + 7, "<B", 40, r"2\^40"),
        (entry + 8, "<I", 1 << 31, "too few"),
        (at, "<B", 0, "no magic"),
        (at + 16, "<I", 1 << 31, "block 0 from"),
        (at + 20, "<I", 30, "block 0"),
        (at + 30, "<I", 0xFFFFFFFF, "cannot be decompressed"),
    ):
        data = bytearray(image)
        struct.pack_into(form, data, offset, value)
        with FileSystem.detect(MemoryDevice(data)) as filesystem, pytest.raises(GuestctlError, match=message):
            filesystem.read_bytes("/file.txt")


def test_system_use_that_is_none(run: Run, source: Path, tmp_path: Path) -> None:
    """What stands in the root's area without SP is somebody else's."""
    image = bytearray(make(run, tmp_path / "image", "genisoimage -quiet -R", source / "many").read_bytes())
    (root,) = struct.unpack_from("<I", image, 0x8000 + 158)
    at = root * 2048 + 34
    assert image[at : at + 2] == b"SP"
    image[at : at + 4] = b"??\xff\x01"
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        assert "name_1.;1" not in filesystem.listdir("/") and "name_1" in filesystem.listdir("/")


def test_record_in_a_large_directory(run: Run, tmp_path: Path) -> None:
    """The names in other blocks are still there."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(100):
        (source / f"name-{number:02}").write_bytes(b"%d" % number)
    image = bytearray(make(run, tmp_path / "image", "genisoimage -quiet -R", source).read_bytes())
    image[_record(image, b"NAME_50.;1")] = 34
    errors: list[WalkError] = []
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        found = [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
        assert "/name-00" in found and "/name-99" in found and "/name-50" not in found
        assert [error.path for error in errors] == ["/"]
        assert filesystem.read_bytes("/name-99") == b"99"
