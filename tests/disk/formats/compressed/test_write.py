"""Compressed raw disks that we write, as gzip, xz, zstd and Python read them."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import create_writer
from image_writing import write_image

Run = Callable[..., str]
MIB = 1 << 20
TOOLS = {"gz": ("gzip",), "xz": ("xz",), "zst": ("zstd", "-q")}


def _mixed() -> bytes:
    generator = random.Random(9)
    disk = bytearray(13 * MIB + 1536)
    disk[:100] = b"z" * 100
    disk[MIB : MIB + 700_000] = generator.randbytes(700_000)
    disk[9 * MIB : 9 * MIB + 5] = b"later"
    disk[-1:] = b"!"
    return bytes(disk)


CONTENTS = {
    "nothing": b"",
    "sector": b"\1" * 512,
    "zeros": bytes(70 * MIB + 512),
    "unit": random.Random(1).randbytes(4 * MIB),
    "mixed": _mixed(),
}


def unpack(run: Run, format: str, path: Path) -> bytes:
    run(TOOLS[format][0], "--version")
    run(*TOOLS[format], "-t", path)
    return subprocess.run([*TOOLS[format], "-dc", path], capture_output=True, check=True).stdout


@pytest.mark.parametrize("format", TOOLS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_content(run: Run, tmp_path: Path, format: str, kind: str) -> None:
    content = CONTENTS[kind]
    path = tmp_path / f"disk.{format}"
    write_image(path, format, content)
    assert hashlib.sha256(unpack(run, format, path)).digest() == hashlib.sha256(content).digest()
    if format == "gz":
        assert gzip.decompress(path.read_bytes()) == content
    elif format == "xz":
        assert lzma.decompress(path.read_bytes()) == content
    with DiskReader.open(path) as reader:
        assert reader.format == "raw"
        assert hashlib.sha256(reader.read(0, reader.size)).digest() == hashlib.sha256(content).digest()
        if format != "gz":
            stored = sum(run.length for run in reader.runs(0, reader.size) if run.source is not None)
            assert stored <= max(16 * MIB, 512)


@pytest.mark.parametrize(("format", "levels"), [("gz", range(4)), ("xz", (0, 1)), ("zst", (1, 5, 19))])
def test_levels(run: Run, tmp_path: Path, format: str, levels: tuple[int, ...]) -> None:
    content = CONTENTS["mixed"][: 3 * MIB]
    for level in levels:
        path = tmp_path / f"{level}.{format}"
        write_image(path, format, content, {"level": str(level)})
        assert unpack(run, format, path) == content
    with pytest.raises(ConversionError):
        write_image(tmp_path / "wrong", format, content, {"level": "77"})


def test_index(run: Run, tmp_path: Path) -> None:
    """xz and zstd list the blocks and frames from the indexes alone."""
    path = tmp_path / "disk.xz"
    write_image(path, "xz", CONTENTS["mixed"])
    totals = [line for line in run("xz", "--robot", "-l", path).splitlines() if line.startswith("totals")]
    assert totals[0].split("\t")[1:5] == ["1", "4", str(path.stat().st_size), str(len(CONTENTS["mixed"]))]
    path = tmp_path / "disk.zst"
    write_image(path, "zst", CONTENTS["mixed"])
    assert path.read_bytes()[-4:] == b"\xb1\xea\x92\x8f"
    assert run("zstd", "-l", path).splitlines()[1].split()[1] == "1"  # skippable frame


@pytest.mark.parametrize("format", ["xz", "zst"])
def test_3_tib(tmp_path: Path, format: str) -> None:
    path = tmp_path / "large"
    output = Output(path, sync=False)
    size = 3 << 40
    writer = create_writer(format, output, size)
    unit = b"data".ljust(writer.unit, b"\7")
    for start in (0, 1 << 40):
        packed = writer.pack(start, unit)
        assert packed is not None
        file, place = writer.place_packed(start, [len(packed)])
        file.write_at(place, packed)
    writer.finish()
    output.publish()
    assert path.stat().st_size < 600 << 20
    with DiskReader.open(path) as reader:
        assert reader.size == size
        assert reader.read_exact_at((1 << 40) - 2, 6) == b"\0\0data"
        assert reader.read_exact_at(size - 512, 512) == bytes(512)
        data = [(run.offset, run.length) for run in reader.runs(0, size) if run.source is not None]
        assert data == [(0, writer.unit), (1 << 40, writer.unit)]


def test_size_is_rounded_up_and_bz2_is_refused(tmp_path: Path) -> None:
    assert write_image(tmp_path / "a.gz", "gz", b"x" * 700).size == 1024
    with pytest.raises(ConversionError, match="bzip2"):
        write_image(tmp_path / "a.bz2", "bz2", b"x" * 512)


def test_without_isal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    write_image(tmp_path / "a.gz", "gz", CONTENTS["mixed"])
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == CONTENTS["mixed"]
