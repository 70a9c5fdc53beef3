"""Written images: read, compared, checked and described by qemu-img, and streams read from front to back."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import create_writer
from image_writing import write_image

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
SUBFORMATS = ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized")
SECTOR, GRAIN = 512, 65536


def check_with_qemu(run: Run, path: Path, content: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "expected.raw"
    raw.write_bytes(content + bytes(-len(content) % SECTOR))
    run("qemu-img", "compare", "-f", "vmdk", "-F", "raw", path, raw)
    result = json.loads(run("qemu-img", "check", "--output=json", path))
    assert result["check-errors"] == 0 and "corruptions" not in result
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, reader.size)) == raw.read_bytes()
        assert reader.check() == result
        assert not reader.warnings


def info(run: Run, path: Path) -> dict[str, Any]:
    """What qemu-img says, without what differs from run to run."""
    described: dict[str, Any] = json.loads(run("qemu-img", "info", "--output=json", path))
    del described["actual-size"]
    del described["format-specific"]["data"]["cid"]
    return described


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_filled_disk(run: Run, source: Path, tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "disk.vmdk"
    content = source.read_bytes()
    write_image(path, "vmdk", content, {"subformat": subformat})
    check_with_qemu(run, path, content, tmp_path)


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_described_as_those_of_qemu_img(run: Run, source: Path, tmp_path: Path, subformat: str) -> None:
    """The same names, descriptor and description as an image that qemu-img makes in the same place."""
    path = tmp_path / "disk.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={subformat}", source, path)
    theirs = info(run, path), descriptor_of(path), sorted(file.name for file in tmp_path.iterdir())
    for file in tmp_path.iterdir():
        file.unlink()
    write_image(path, "vmdk", source.read_bytes(), {"subformat": subformat})
    assert theirs == (info(run, path), descriptor_of(path), sorted(file.name for file in tmp_path.iterdir()))


def descriptor_of(path: Path) -> list[str]:
    """The descriptor's lines that do not differ from run to run."""
    content = path.read_bytes()
    start = content.index(b"# Disk DescriptorFile")
    text = content[start : start + 20 * SECTOR].partition(b"\0")[0].decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("CID=")]
    # qemu-img leaves out leading zeros.
    return [re.sub("^parentCID=0+", "parentCID=", line) for line in lines]


@pytest.mark.parametrize("subformat", SUBFORMATS)
@pytest.mark.parametrize("size", [1, 512, GRAIN - 512, GRAIN, GRAIN + 1, (32 << 20) + 512])
def test_sizes(run: Run, tmp_path: Path, flat: Flat, subformat: str, size: int) -> None:
    path = tmp_path / "disk.vmdk"
    content = bytearray(size)
    content[-1:] = b"z"
    write_image(path, "vmdk", bytes(content), {"subformat": subformat})
    assert flat(path) == bytes(content) + bytes(-size % SECTOR)
    run("qemu-img", "check", path)


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_empty_disk(run: Run, tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "disk.vmdk"
    write_image(path, "vmdk", bytes(40 << 20), {"subformat": subformat})
    check_with_qemu(run, path, bytes(40 << 20), tmp_path)
    assert sum(file.stat().st_blocks * 512 for file in tmp_path.glob("disk*")) < 100 << 10


def sparse(path: Path, size: int, pieces: dict[int, bytes], options: dict[str, str]) -> None:
    """An image of `size` bytes with these pieces, which begin at multiples of a grain."""
    output = Output(path)
    writer = create_writer("vmdk", output, size, options)
    offset = 0
    for start, piece in sorted(pieces.items()):
        writer.zero(offset, start - offset)
        offset = min(size, start + -(-len(piece) // GRAIN) * GRAIN)
        piece = piece.ljust(offset - start, b"\0")
        if writer.packs:
            grains = [writer.pack(start + at, piece[at : at + GRAIN]) or b"" for at in range(0, len(piece), GRAIN)]
            file, place = writer.place_packed(start, [len(grain) for grain in grains])
            file.write_all_at(place, grains)
            continue
        for placement in writer.place(start, len(piece)):
            at = placement.start - start
            placement.file.write_at(placement.offset, piece[at : at + placement.length])
    writer.finish()
    output.publish()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized", "monolithicFlat"])
def test_terabytes(run: Run, tmp_path: Path, subformat: str) -> None:
    path, size = tmp_path / "disk.vmdk", 3 << 40
    pieces = {1 << 40: b"a" * 100_000, (2 << 40) - GRAIN: b"b" * 200_000, size - GRAIN: b"c" * GRAIN}
    sparse(path, size, pieces, {"subformat": subformat})
    for start, piece in pieces.items():
        pattern = f"read -P {piece[0]} {start} {len(piece) & -SECTOR}"
        assert "Pattern verification failed" not in run("qemu-io", "-r", "-f", "vmdk", "-c", pattern, path)
    with DiskReader.open(path) as reader:
        assert reader.size == size
        for start, piece in pieces.items():
            assert bytes(reader.read(start, len(piece))) == piece
        assert sum(entry.length for entry in reader.map() if entry.data and not entry.zero) <= 7 * GRAIN


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_several_extents(run: Run, tmp_path: Path, subformat: str) -> None:
    path, size = tmp_path / "disk.vmdk", (5 << 30) + 512
    pieces = {
        0: b"first",
        (2 << 30) - 2 * GRAIN: random.Random(5).randbytes(5 * GRAIN),
        (4 << 30): b"third" * 1000,
        5 << 30: b"last".ljust(512, b"."),
    }
    sparse(path, size, pieces, {"subformat": subformat})
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(size)
        for start, piece in pieces.items():
            file.seek(start)
            file.write(piece)
    run("qemu-img", "compare", "-f", "vmdk", "-F", "raw", path, raw)
    assert len(list(tmp_path.glob("disk-?00[123].vmdk"))) == 3


def read_stream(content: bytes) -> tuple[int, dict[int, bytes]]:
    """A streamOptimized image read as the specification orders it, without its grain directory.

    Gives the capacity in sectors and the grains by the sector where they begin.
    """
    magic, version, flags, capacity, grain_sectors = struct.unpack_from("<4sIIQQ", content)
    directory, overhead = struct.unpack_from("<QQ", content, 56)
    assert (magic, version, flags) == (b"KDMV", 3, 0x30001)
    assert directory == 0xFFFFFFFFFFFFFFFF
    assert content[73:79] == b"\n \r\n\1\0"
    grains: dict[int, bytes] = {}
    tables: list[tuple[int, list[int]]] = []  # sector and entries
    places: dict[int, int] = {}
    order = []
    position = overhead * SECTOR
    while True:
        assert position % SECTOR == 0
        value, size, type = struct.unpack_from("<QII", content, position)
        if size:
            assert value > max(grains, default=-1)
            grains[value] = zlib.decompress(content[position + 12 : position + 12 + size])
            assert len(grains[value]) == grain_sectors * SECTOR
            places[value] = position // SECTOR
            end = position + 12 + size
            position = -(-end // SECTOR) * SECTOR
            assert not any(content[end:position])
            continue
        assert not any(content[position + 16 : position + SECTOR])
        order.append(type)
        data = content[position + SECTOR : position + SECTOR + value * SECTOR]
        if type == 1:
            assert value == 4
            tables.append((position // SECTOR + 1, list(struct.unpack("<512I", data))))
        elif type == 2:
            found = struct.unpack_from(f"<{-(-capacity // (512 * grain_sectors))}I", data)
            assert [entry for entry in found if entry] == [sector for sector, _ in tables]
            directory = position // SECTOR + 1
            entries = dict(tables)
            referred = [entry for sector in found for entry in (entries[sector] if sector else [0] * 512)]
            assert {n * grain_sectors: e for n, e in enumerate(referred) if e} == places
        elif type == 3:
            assert data[:56] + data[64:] == content[:56] + content[64:512]
            assert struct.unpack_from("<Q", data, 56) == (directory,)
        else:
            assert (type, value) == (0, 0)
            assert position + SECTOR == len(content)
            assert order == [1] * len(tables) + [2, 3, 0]
            return capacity, grains
        position += SECTOR + value * SECTOR


@pytest.mark.parametrize("size", [512, 5 << 20, (65 << 20) + 1024])
@pytest.mark.parametrize("batch", [1, 7, 2000])
def test_stream(tmp_path: Path, size: int, batch: int) -> None:
    generator = random.Random(size)
    content = bytearray(size)
    for _ in range(200):
        start = generator.randrange(size)
        piece = generator.choice((generator.randbytes(300), b"text" * 5000))[: size - start]
        content[start : start + len(piece)] = piece
    path = tmp_path / "stream.vmdk"
    write_image(path, "vmdk", bytes(content), {"subformat": "streamOptimized"}, batch=batch)
    capacity, grains = read_stream(path.read_bytes())
    assert capacity * SECTOR == size
    whole = bytearray(-(-size // GRAIN) * GRAIN)
    for sector, grain in grains.items():
        whole[sector * SECTOR : sector * SECTOR + GRAIN] = grain
    assert whole == content.ljust(len(whole), b"\0")


def test_incompressible_stream(run: Run, tmp_path: Path) -> None:
    content = random.Random(8).randbytes(3 << 20)
    path = tmp_path / "stream.vmdk"
    write_image(path, "vmdk", content, {"subformat": "streamOptimized"})
    check_with_qemu(run, path, content, tmp_path)
    assert path.stat().st_size < (3 << 20) * 1.01 + GRAIN + 5 * SECTOR
    assert b"".join(read_stream(path.read_bytes())[1].values()) == content


def test_neighbouring_grains_are_one_placement(tmp_path: Path) -> None:
    output = Output(tmp_path / "disk.vmdk")
    writer = create_writer("vmdk", output, 1 << 40)
    first, second = list(writer.place(0, 100 << 20)), list(writer.place(200 << 20, GRAIN))
    assert len(first) == len(second) == 1
    assert second[0].offset == first[0].offset + (100 << 20)
    output.discard()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"])
@pytest.mark.parametrize("zeroed_grain", ["on", "off"])
@pytest.mark.parametrize("parent", ["monolithicSparse", "streamOptimized"])
def test_delta(run: Run, source: Path, tmp_path: Path, subformat: str, zeroed_grain: str, parent: str) -> None:
    base, path = tmp_path / "base.vmdk", tmp_path / "top.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={parent}", source, base)
    content = bytearray(source.read_bytes())
    options = {"subformat": subformat, "backing_file": "base.vmdk", "zeroed_grain": zeroed_grain}
    output = Output(path)
    writer = create_writer("vmdk", output, len(content), options)
    content[2 * GRAIN : 5 * GRAIN] = bytes(3 * GRAIN)
    content[70 * GRAIN : 71 * GRAIN] = random.Random(1).randbytes(GRAIN)
    writer.zero(2 * GRAIN, 3 * GRAIN)
    new = bytes(content[70 * GRAIN : 71 * GRAIN])
    if writer.packs:
        packed = writer.pack(70 * GRAIN, new)
        assert packed is not None
        file, offset = writer.place_packed(70 * GRAIN, [len(packed)])
        file.write_at(offset, packed)
    else:
        (placement,) = writer.place(70 * GRAIN, GRAIN)
        placement.file.write_at(placement.offset, new)
    writer.finish()
    output.publish()
    check_with_qemu(run, path, bytes(content), tmp_path)
    described = info(run, path)
    assert described["backing-filename"] == "base.vmdk"
    with DiskReader.open(path) as reader, DiskReader.open(base) as below:
        parent_cid = reader.info()["format-specific"]["data"]["parent-cid"]
        assert parent_cid == below.info()["format-specific"]["data"]["cid"]
        (entry,) = [entry for entry in reader.map() if entry.start <= 2 * GRAIN < entry.start + entry.length]
        assert (entry.depth, entry.present) == (0, True)


def test_empty_delta(run: Run, source: Path, tmp_path: Path, flat: Flat) -> None:
    base, ours, theirs = tmp_path / "base.vmdk", tmp_path / "ours.vmdk", tmp_path / "theirs.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", source, base)
    output = Output(ours)
    create_writer(
        "vmdk", output, len(source.read_bytes()), {"backing_file": "base.vmdk", "backing_fmt": "vmdk"}
    ).finish()
    output.publish()
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", theirs)
    assert flat(ours) == source.read_bytes()
    ours.rename(tmp_path / "kept")
    assert descriptor_of(tmp_path / "kept") == [line.replace("theirs", "ours") for line in descriptor_of(theirs)]


@pytest.mark.parametrize(
    "options",
    [
        {"adapter_type": "lsilogic"},
        {"adapter_type": "buslogic", "hwversion": "13"},
        {"adapter_type": "legacyESX", "toolsversion": "10"},
        {"compat6": "on"},
        {"zeroed_grain": "on"},
    ],
)
def test_options(run: Run, tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "disk.vmdk"
    words = ",".join(f"{name}={value}" for name, value in options.items())
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", words, path, "700M")
    theirs, header = descriptor_of(path), path.read_bytes()[:512]
    path.unlink()
    sparse(path, 700 << 20, {}, options)
    assert descriptor_of(path) == theirs
    assert path.read_bytes()[:512] == header


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subformat": "thin"}, "subformat=thin"),
        ({"adapter_type": "nvme"}, "adapter_type=nvme"),
        ({"hwversion": '4"\nCID=1'}, "descriptor"),
        ({"toolsversion": "1\n2"}, "descriptor"),
        ({"toolsversion": "1" * 10_000}, "too long"),
        ({"hwversion": "4", "compat6": "on"}, "compat6"),
        ({"backing_file": "base.vmdk", "backing_fmt": "raw"}, "backing_fmt=raw"),
        ({"backing_file": "base.vmdk", "subformat": "monolithicFlat"}, "flat"),
        ({"zeroed_grain": "on", "subformat": "monolithicFlat"}, "zeroed_grain"),
        ({"cluster_size": "64k"}, "cluster_size"),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, str], words: str) -> None:
    output = Output(tmp_path / "disk.vmdk")
    with pytest.raises(ConversionError, match=words):
        create_writer("vmdk", output, 1 << 20, options)
    output.discard()
    assert not list(tmp_path.iterdir())


def test_refused_sizes_and_names(tmp_path: Path) -> None:
    for name, size in (("disk.vmdk", 0), ('quo"te.vmdk', 512), ("new\nline.vmdk", 512)):
        output = Output(tmp_path / name)
        with pytest.raises(ConversionError):
            create_writer("vmdk", output, size)
        output.discard()


@pytest.mark.parametrize("name", ["disk.img", "disk", "dïsk.x.vmdk"])
@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_names_of_extents(run: Run, tmp_path: Path, name: str, subformat: str) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", theirs / name, "3G")
    sparse(ours / name, 3 << 30, {}, {"subformat": subformat})
    assert sorted(file.name for file in ours.iterdir()) == sorted(file.name for file in theirs.iterdir())
    with DiskReader.open(ours / name) as reader:
        assert reader.size == 3 << 30
