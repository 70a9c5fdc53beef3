"""FAT volumes that mkfs.vfat and mtools make, and what mtools reads out of them."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.disk.filesystem import Options
from guestctl.disk.filesystems.fat import open_filesystem
from guestctl.disk.filesystems.fat.filesystem import FatFileSystem

Run = Callable[..., str]


class Volume:
    """An image file of a FAT volume."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self._run = run

    def mtool(self, tool: str, *arguments: str | os.PathLike[str]) -> str:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
        return self._run("env", "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLS_SKIP_CHECK=1", tool, "-i", self.path, *arguments)

    def put(self, *sources: Path, into: str = "/") -> None:
        """Copy files and trees into the volume, with their times."""
        self.mtool("mcopy", "-s", "-m", *sources, f"::{into}")

    def listed(self) -> set[str]:
        """Every path, as mdir lists it; without the slash at the end of directories."""
        return {line[2:].rstrip("/") for line in self.mtool("mdir", "-/", "-b").splitlines()}

    @contextmanager
    def open(self, options: Options = Options()) -> Iterator[FatFileSystem]:
        with FileDevice.open(self.path) as device:
            filesystem = open_filesystem(device, options)
            assert isinstance(filesystem, FatFileSystem)
            yield filesystem

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @property
    def geometry(self) -> tuple[int, int, int]:
        """From the BPB: bytes of a sector, offset of the first table, bytes of one table."""
        bpb = self.read(0, 64)
        sector, reserved, sectors16 = (struct.unpack_from("<H", bpb, offset)[0] for offset in (11, 14, 22))
        (sectors32,) = struct.unpack_from("<I", bpb, 36)
        return sector, reserved * sector, (sectors16 or sectors32) * sector

    @property
    def root_offset(self) -> int:
        """Of the root directory; for FAT32, of cluster 2."""
        _, table, table_bytes = self.geometry
        return table + self.read(16, 1)[0] * table_bytes

    def entry_offset(self, raw: bytes, start: int | None = None) -> int:
        """Of the directory entry with the 11 bytes `raw` as its name."""
        start = self.root_offset if start is None else start
        return start + self.read(start, 65536).index(raw)


@pytest.fixture
def make_volume(tmp_path: Path, run: Run) -> Callable[..., Volume]:
    """A volume of so many KiB, made with these options of mkfs.vfat."""

    def _make(*options: str, kilobytes: int = 1440) -> Volume:
        path = tmp_path / "volume.img"
        path.unlink(missing_ok=True)
        run("mkfs.vfat", *options, "-C", path, str(kilobytes))
        return Volume(path, run)

    return _make


@pytest.fixture
def opened() -> Callable[[bytes | bytearray], FatFileSystem]:
    """The volume in these bytes."""

    def _opened(data: bytes | bytearray) -> FatFileSystem:
        filesystem = open_filesystem(MemoryDevice(data), Options())
        assert isinstance(filesystem, FatFileSystem)
        return filesystem

    return _opened


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are awkward for FAT. mtools cannot write characters past U+FFFF; these are elsewhere."""
    top = tmp_path_factory.mktemp("tree")
    # Names: short ones in each of the case combinations, long ones, scripts, dots and spaces
    names = ["UPPER.TXT", "lower.txt", "lower.EXT", "UPPER.ext", "Mixed.Case", "noext", ".hidden", "two.dots.tar.gz"]
    names += ["thirteen char", "a name of 26 characters...", "x" * 255, "+,;=[].txt", "~tilde~1", "sp ace .t"]
    names += [
        "Äöü ß é.txt",
        "ελληνικά",
        "Привет мир.txt",
        "日本語.テキスト",
        "한국어",
        "עברית",
        "ไทย",
        "e\u0301 combining",
    ]
    for index, name in enumerate(names):
        (top / name).write_text(f"{index} {name}")
    # Sizes around the clusters that the volumes have
    for cluster in (512, 2048, 4096):
        for size in (cluster - 1, cluster, cluster + 1):
            (top / f"size {size}").write_bytes(os.urandom(size))
    (top / "empty").write_bytes(b"")
    (top / "one").write_bytes(b"1")
    (top / "large").write_bytes(os.urandom(300_000))
    # Directories: empty, deep, and with more entries than one cluster has
    (top / "empty directory").mkdir()
    deep = top
    for level in range(25):
        deep = deep / f"level {level}"
    deep.mkdir(parents=True)
    (deep / "bottom.txt").write_text("bottom")
    many = top / "many"
    many.mkdir()
    for index in range(150):
        (many / f"file number {index:04d} of many.dat").write_bytes(b"%d" % index)
    for index, path in enumerate(sorted(top.rglob("*"))):
        seconds = 315532800 + index * 7_919_993  # from 1980-01-01 on
        os.utime(path, (seconds, seconds))
    return top
