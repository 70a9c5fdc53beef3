"""Written VDIs as qemu-img reads and checks them."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import create_writer
from image_writing import write_image

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
MIB = 1 << 20
CONTENTS = {
    "nothing": b"",
    "sector": b"\1" * 512,
    "empty": bytes(3 * MIB),
    "empty-odd": bytes(3 * MIB + 512),
    "filled": random.Random(1).randbytes(2 * MIB + 1024),
    "last": bytes(4 * MIB - 512) + b"\1" * 512,
}


@pytest.mark.parametrize("static", ["off", "on"])
@pytest.mark.parametrize("kind", [*CONTENTS, "mixed"])
def test_content(run: Run, flat: Flat, content: bytes, tmp_path: Path, kind: str, static: str) -> None:
    expected = CONTENTS.get(kind, content)
    path = tmp_path / "disk.vdi"
    write_image(path, "vdi", expected, {"static": static})
    assert flat(path) == expected
    check = json.loads(run("qemu-img", "check", "--output=json", path))
    assert check == {"check-errors": 0, "filename": str(path), "format": "vdi"}
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == expected
        assert reader.check() == check
        assert reader.info() == json.loads(run("qemu-img", "info", "--output=json", path))
        if static == "on":
            assert path.stat().st_size >= len(expected)


def test_size_is_rounded_up(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    assert write_image(path, "vdi", b"x" * 700).size == 1024
    assert json.loads(run("qemu-img", "info", "--output=json", path))["virtual-size"] == 1024


def test_3_tib(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.vdi"
    output = Output(path)
    size = (3 << 40) + 512
    writer = create_writer("vdi", output, size)
    for start, length, byte in ((1 << 20, 65536, b"a"), (1 << 41, 131072, b"b"), (3 << 40, 512, b"c")):
        for placement in writer.place(start, length):
            placement.file.write_at(placement.offset, byte * placement.length)
        writer.zero(start + 131072, 1 << 30)
    writer.finish()
    output.publish()
    assert path.stat().st_blocks * 512 < 16 << 20
    run("qemu-img", "check", path)
    for start, pattern in ((1 << 20, "0x61"), (1 << 41, "0x62"), ((1 << 41) + 65536, "0x62")):
        assert "failed" not in run("qemu-io", "-f", "vdi", "-c", f"read -P {pattern} {start} 64k", path)
    entries = json.loads(run("qemu-img", "map", "--output=json", path))
    assert [entry["start"] for entry in entries if entry["data"]] == [1 << 20, 1 << 41, 3 << 40]
    with DiskReader.open(path) as reader:
        assert reader.size == size and reader.read_exact_at(3 << 40, 512) == b"c" * 512


@pytest.mark.parametrize("block_size", ["64k", "512k", "2M", "32M"])
def test_block_sizes(content: bytes, tmp_path: Path, block_size: str) -> None:
    """qemu-img reads none but the usual one."""
    path = tmp_path / "disk.vdi"
    write_image(path, "vdi", content, {"block_size": block_size})
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == content
        assert "corruptions" not in reader.check()


def test_ranges_in_one_block(run: Run, flat: Flat, tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    expected = bytearray(6 * MIB)
    for unit in (0, 3, 15, 16, 20, 31, 32, 33, 34, 63, 65, 95):
        expected[unit * 65536 : (unit + 1) * 65536] = bytes([unit + 1]) * 65536
    write_image(path, "vdi", bytes(expected))
    assert flat(path) == expected
    run("qemu-img", "check", path)


def test_differencing(content: bytes, tmp_path: Path) -> None:
    base, path = tmp_path / "base.vdi", tmp_path / "child.vdi"
    write_image(base, "vdi", content)
    output = Output(path)
    changed = bytearray(content) + bytes(2 * MIB - len(content) % MIB)
    changed[MIB : 2 * MIB] = b"\5" * MIB
    changed[4 * MIB : 5 * MIB] = bytes(MIB)
    changed[-MIB:] = b"\6" * MIB
    writer = create_writer("vdi", output, len(changed), {"backing_file": "base.vdi", "backing_fmt": "vdi"})
    assert writer.unit == MIB
    for start, length in ((MIB, MIB), (len(changed) - MIB, MIB)):
        for placement in writer.place(start, length):
            placement.file.write_at(placement.offset, memoryview(changed)[placement.start :][: placement.length])
        if start == MIB:
            writer.zero(4 * MIB, MIB)
    writer.finish()
    output.publish()
    with DiskReader.open(path) as reader:
        assert reader.backing is not None and reader.backing.path == str(base)
        assert list(reader.warnings) == []
        assert reader.read_exact_at(0, reader.size) == bytes(changed)
        zeros = [(entry.start, entry.length) for entry in reader.map() if not entry.data and not entry.depth]
        assert zeros[0] == (4 * MIB, MIB)
    fields, below = path.read_bytes(), base.read_bytes()
    assert int.from_bytes(fields[0x4C:0x50], "little") == 4
    assert fields[0x1A8:0x1C8] == below[0x188:0x1A8]  # linkage and parent's modification
    assert uuid.UUID(bytes_le=fields[0x188:0x198]).version == 4


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": "3M"},
        {"block_size": "4k"},
        {"static": "on", "backing_file": "base.vdi"},
        {"backing_file": "base.vdi", "backing_fmt": "qcow2"},
        {"no": "such"},
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConversionError):
        write_image(tmp_path / "disk.vdi", "vdi", bytes(MIB), options)
    assert list(tmp_path.iterdir()) == []


def test_too_large(tmp_path: Path) -> None:
    output = Output(tmp_path / "disk.vdi")
    with pytest.raises(ConversionError):
        create_writer("vdi", output, 1 << 50)
    output.discard()


def test_placing_again_finds_the_same_places(content: bytes, tmp_path: Path) -> None:
    """What a resumed conversion relies on."""
    places = []
    for name in ("one.vdi", "two.vdi"):
        output = Output(tmp_path / name)
        writer = create_writer("vdi", output, len(content))
        placed = [place for start in range(0, 4 * MIB, 3 * 65536) for place in writer.place(start, 65536)]
        places.append([(place.start, place.length, place.offset) for place in placed])
        output.discard()
    assert places[0] == places[1]
