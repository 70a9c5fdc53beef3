"""Raw images against qemu-img."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from guestctl.core.errors import ConversionError, EndOfDevice
from guestctl.disk.reader import DiskReader
from image_writing import write_image

Run = Callable[..., str]
MIB = 1 << 20


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A hole, a megabyte of data, a hole, and data up to an odd end."""
    path = tmp_path / "sparse.raw"
    with path.open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"data" * (MIB // 4))
        file.seek(10 * MIB)
        file.write(b"x" * 1000)
    return path


def test_content(sparse: Path) -> None:
    flat = sparse.read_bytes()
    with DiskReader.open(sparse) as reader:
        assert reader.format == "raw"
        check_device(reader, flat + bytes(-len(flat) % 512))
        holes = [(run.offset, run.length) for run in reader.runs(0, reader.size) if run.source is None]
        assert holes[:2] == [(0, 3 * MIB), (4 * MIB, 6 * MIB)]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096])
def test_sizes(run: Run, tmp_path: Path, size: int) -> None:
    """qemu-img makes whole sectors of a file, with zeros at the end."""
    path, converted = tmp_path / "disk.raw", tmp_path / "converted.raw"
    path.write_bytes(b"\xaa" * size)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", path, converted)
    with DiskReader.open(path, format="raw") as reader:
        assert bytes(reader.read(0, reader.size)) == converted.read_bytes()
        with pytest.raises(EndOfDevice):
            reader.read(reader.size, 1)


def test_info(run: Run, sparse: Path) -> None:
    theirs = json.loads(run("qemu-img", "info", "-f", "raw", "--output=json", sparse))
    theirs.pop("children", None)
    theirs.pop("format-specific", None)  # the extent size hint of the file system, where it has one
    with DiskReader.open(sparse) as reader:
        assert reader.info() == theirs


def test_map(run: Run, sparse: Path) -> None:
    theirs = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", sparse))
    with DiskReader.open(sparse) as reader:
        ours = [(e.start, e.length, e.depth, e.present, e.zero, e.data, e.offset) for e in reader.map()]
    assert ours == [(e["start"], e["length"], 0, e["present"], e["zero"], e["data"], e["offset"]) for e in theirs]


@pytest.mark.parametrize("mode", ["off", "falloc", "full"])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4097, MIB + 3])
def test_written(run: Run, tmp_path: Path, mode: str, size: int) -> None:
    """The size, the content and what the host has of it, as of an image that qemu-img makes."""
    ours, theirs = tmp_path / "ours.raw", tmp_path / "theirs.raw"
    content = (bytes(70_000) + b"data" * 5000).ljust(size, b"\0")[:size]
    write_image(ours, "raw", content, {"preallocation": mode})
    run("qemu-img", "create", "-q", "-f", "raw", "-o", f"preallocation={mode}", theirs, str(size))
    assert ours.stat().st_size == theirs.stat().st_size
    assert ours.read_bytes() == content.ljust(-(-size // 512) * 512, b"\0")
    if mode != "off":
        assert os.stat(ours).st_blocks * 512 >= size


def test_written_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    write_image(path, "raw", bytes(8 * MIB) + b"\1" + bytes(8 * MIB - 1))
    assert os.stat(path).st_blocks * 512 <= MIB


def test_options_of_writing(tmp_path: Path) -> None:
    for options in ({"preallocation": "metadata"}, {"cluster_size": "4k"}):
        with pytest.raises(ConversionError):
            write_image(tmp_path / "disk.raw", "raw", b"", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 511, 4096, 5000, 65536, 200_000, 262_143, 262_144, 300_000])
def test_map_of_small_files(run: Run, tmp_path: Path, size: int) -> None:
    """Holes are found in files of any size."""
    path = tmp_path / "disk.raw"
    for position in (None, 0, size // 2, size - 1):
        with path.open("wb") as file:
            file.truncate(size)
            if position is not None:
                file.seek(position)
                file.write(b"x")
        theirs = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", path))
        with DiskReader.open(path, format="raw") as reader:
            ours = [(e.start, e.length, e.present, e.zero, e.data, e.offset) for e in reader.map()]
        assert ours == [(e["start"], e["length"], e["present"], e["zero"], e["data"], e["offset"]) for e in theirs]
