"""One value changed, one exact error; and mutants."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Options
from guestctl.disk.filesystems.exfat import layout
from mutants import check_mutants, read_everything

pytestmark = pytest.mark.root
Make = Callable[..., Path]
MountExfat = Callable[..., AbstractContextManager[Path]]
_NO_CHECKS = Options(ignore_checksums=True)


class Volume:
    """A volume with a contiguous file, one of two runs, and a directory."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        self.sector, self.cluster = 1 << self.data[108], 1 << self.data[108] + self.data[109]
        fat, _, heap, _, root = struct.unpack_from("<5I", self.data, 80)
        self.fat, self.heap = fat * self.sector, heap * self.sector
        self.root = self.at(root)

    def at(self, cluster: int) -> int:
        return int(self.heap + (cluster - 2) * self.cluster)

    def entry(self, name: str) -> int:
        """Where the set of `name` is, by its name entry."""
        found = self.data.index(b"\xc1\0" + name.encode("utf-16-le"), self.root) - 64
        assert self.data[found] == layout.FILE
        return found

    def put(self, at: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.data, at, *values)

    def open(self, options: Options = _NO_CHECKS) -> FileSystem[object]:
        return FileSystem.detect(MemoryDevice(self.data), options=options)


@pytest.fixture
def volume(make: Make, mount_exfat: MountExfat) -> Volume:
    path = make(size=8 << 20)
    with mount_exfat(path) as top:
        (top / "whole").write_bytes(b"whole" * 2000)
        with (top / "pieces").open("wb", buffering=0) as one, (top / "others").open("wb", buffering=0) as other:
            for number in range(4):
                one.write(b"%03d\n" % number * 1024)
                other.write(b"%03d \n" % number * 1024)
        (top / "folder").mkdir()
        for number in range(100):
            (top / "folder" / f"a name of more than one entry {number}").touch()
    return Volume(path)


def test_sound(volume: Volume) -> None:
    assert read_everything(MemoryDevice(volume.data)) == (105, [])


def test_entry_set_checksum(volume: Volume) -> None:
    """Every byte of a set that is changed, but those that make it another set or none."""
    at = volume.entry("whole")
    for place in range(at, at + 96):
        volume.data[place] ^= 0x10
        with volume.open(Options()) as filesystem:
            with pytest.raises((GuestctlError, FileNotFoundError)):
                filesystem.read_bytes("/whole")
                filesystem.listdir("/")
            assert filesystem.read_bytes("/pieces").startswith(b"000\n")
        volume.data[place] ^= 0x10
    volume.data[at + 32 + 24] ^= 1
    with volume.open(Options()) as filesystem:
        assert "whole" in filesystem.listdir("/")
        with pytest.raises(ChecksumMismatch) as caught:
            filesystem.stat("/whole")
        assert (caught.value.structure, caught.value.offset) == ("directory entry set", at)
    with volume.open() as filesystem:
        assert len(filesystem.read_bytes("/whole")) == 10_001


def test_name_hash(volume: Volume) -> None:
    at = volume.entry("whole")
    volume.data[at + 32 + 4] ^= 1
    with volume.open() as filesystem:
        assert filesystem.exists("/whole")
    entries = volume.data[at : at + 96]
    total = 0
    for byte in entries[:2] + entries[4:]:
        total = (total >> 1 | (total & 1) << 15) + byte & 0xFFFF
    volume.put(at + 2, "<H", total)
    with volume.open(Options()) as filesystem, pytest.raises(ChecksumMismatch, match="NameHash"):
        filesystem.exists("/whole")


def test_sets(volume: Volume) -> None:
    at = volume.entry("whole")
    for place, value, message in (
        (at + 1, 1, "1 secondary entries"),
        (at + 1, 19, "19 secondary entries"),
        (at + 32, 0xC1, "a set with 2 secondary"),
        (at + 32 + 3, 0, "a name of 0"),
        (at + 32 + 3, 16, "a name of 16 characters in 2"),
        (at + 64, 0xE0, "type 0xe0 in place of a name"),
        (at, 0x05, "belongs to no file"),
    ):
        kept, volume.data[place] = volume.data[place], value
        count, errors = read_everything(MemoryDevice(volume.data))
        assert count == 104
        assert any(message in str(error) for error in errors), message
        with volume.open() as filesystem, pytest.raises(InvalidFormat, match=message):
            filesystem.exists("/whole")
        volume.data[place] = kept


def test_streams(volume: Volume) -> None:
    at = volume.entry("whole") + 32
    for offset, form, value, message in (
        (8, "<Q", 10_001, "ValidDataLength is 10001"),
        (20, "<I", 1, "3 clusters from 1"),
        (20, "<I", 1 << 31, "3 clusters from"),
        (24, "<Q", 1 << 62, "clusters from"),
        (24, "<Q", 1 << 63, "DataLength is"),
    ):
        kept = bytes(volume.data[at : at + 32])
        volume.put(at + offset, form, value)
        with volume.open() as filesystem, pytest.raises(InvalidFormat, match=message):
            filesystem.read_bytes("/whole")
        volume.data[at : at + 32] = kept


def test_chains(volume: Volume) -> None:
    at = volume.entry("pieces") + 32
    assert not volume.data[at + 1] & layout.NO_FAT_CHAIN
    (first,) = struct.unpack_from("<I", volume.data, at + 20)
    place = volume.fat + 4 * first
    (following,) = struct.unpack_from("<I", volume.data, place)
    for value, message in (
        (first, "loops"),
        (0, "cluster 0 is not one of"),
        (1, "cluster 1 is not one of"),
        (0xFFFFFFF7, "cluster 4294967287 is not"),
        (0xFFFFFFFF, "ends 3 clusters early"),
    ):
        volume.put(place, "<I", value)
        with volume.open() as filesystem, pytest.raises(InvalidFormat, match=message) as caught:
            filesystem.read_bytes("/pieces")
        assert caught.value.structure == "file allocation table"
    volume.put(place, "<I", following)
    with volume.open() as filesystem:
        assert filesystem.read_bytes("/pieces") == b"".join(b"%03d\n" % number * 1024 for number in range(4))


def test_root_that_loops(volume: Volume) -> None:
    (root,) = struct.unpack_from("<I", volume.data, 96)
    volume.put(volume.fat + 4 * root, "<I", root)
    with pytest.raises(InvalidFormat, match="loops"):
        volume.open()


def test_directory_inside_itself(volume: Volume) -> None:
    at = volume.entry("folder") + 32
    (root,) = struct.unpack_from("<I", volume.data, 96)
    volume.put(at + 20, "<I", root)
    volume.put(at + 8, "<Q", volume.cluster)
    volume.put(at + 24, "<Q", volume.cluster)
    errors: list[str] = []
    with volume.open() as filesystem:
        paths = [path for path, _, _ in filesystem.find("/", onerror=lambda error: errors.append(str(error.error)))]
    assert len(paths) == 9
    assert any("a directory in two places" in error for error in errors)


def test_bitmap(volume: Volume) -> None:
    at = volume.data.index(bytes([layout.BITMAP]), volume.root)
    volume.put(at + 24, "<Q", 3)
    with volume.open() as filesystem, pytest.raises(InvalidFormat, match="no allocation bitmap"):
        filesystem.usage()


def test_upcase_table(volume: Volume) -> None:
    """A damaged one is replaced; that is said."""
    at = volume.data.index(bytes([layout.UPCASE]), volume.root)
    volume.data[at + 4] ^= 1
    with volume.open(Options()) as filesystem:
        assert filesystem.exists("/WHOLE")
        assert filesystem.warnings == ["the up-case table is damaged: names are compared by Unicode's"]


@pytest.mark.parametrize("size", [0, 11, 511, 512, 6143, 12_287])
def test_cut_off(volume: Volume, size: int) -> None:
    with pytest.raises(GuestctlError):
        FileSystem.detect(MemoryDevice(volume.data[:size]))


def test_mutants(volume: Volume) -> None:
    folder = volume.data.index(b"\xc1\0" + "a name".encode("utf-16-le"), volume.heap) - 64
    places = [(volume.fat, 256), (volume.root, 512), (volume.root, 512), (folder, 4000)]
    check_mutants(bytes(volume.data), [(0, 512), *places], least_files=105, share=0.4)


def test_mutants_without_checksums(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what the checksums keep out is looked at as well."""
    module = "guestctl.disk.filesystems.exfat.directory"
    monkeypatch.setattr(f"{module}.set_checksum", lambda entries: entries[2] | entries[3] << 8)
    folder = volume.data.index(b"\xc1\0" + "a name".encode("utf-16-le"), volume.heap) - 64
    places = [(volume.fat, 256), (volume.root, 512), (volume.root, 512), (folder, 4000)]
    check_mutants(bytes(volume.data), places, least_files=105, share=0.5)
