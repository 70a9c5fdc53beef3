"""VHDX files that we write: read and checked by qemu-img, and differencing ones by a reader of a few lines."""

from __future__ import annotations

import json
import random
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from disk.formats.vhdx.build import MIB, with_crc
from guestctl.block import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import create_writer
from image_writing import write_image

Run = Callable[..., str]
Flat = Callable[[Path], bytes]


def create(path: Path, size: int, **options: str) -> None:
    output = Output(path, overwrite=True)
    try:
        create_writer("vhdx", output, size, options).finish()
        output.publish()
    except BaseException:
        output.discard()
        raise


def check(run: Run, path: Path) -> None:
    run("qemu-img", "check", "-f", "vhdx", path)
    with DiskReader.open(path) as reader:
        assert list(reader.warnings) == []
        assert "corruptions" not in reader.check()


OPTIONS = [
    "",
    "subformat=fixed",
    "block_size=1M",
    "block_size=1M,block_state_zero=off",
    "block_size=2M,subformat=fixed,log_size=2M",
    "block_size=256M",
    "log_size=1500k",
]


def parse(options: str) -> dict[str, str]:
    return dict(option.split("=") for option in options.split(",") if option)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["mixed", "random", "zeros", "sector"])
def test_content(run: Run, tmp_path: Path, content: bytes, flat: Flat, options: str, kind: str) -> None:
    content = {
        "mixed": content,
        "random": random.Random(3).randbytes((2 << 20) + 512),
        "zeros": bytes(5 << 20),
        "sector": b"\1" * 512,
    }[kind]
    path, raw = tmp_path / "disk.vhdx", tmp_path / "source.raw"
    write_image(path, "vhdx", content, parse(options))
    raw.write_bytes(content)
    run("qemu-img", "compare", "-f", "raw", "-F", "vhdx", raw, path)
    check(run, path)
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == content
        assert reader.info() == json.loads(run("qemu-img", "info", "--output=json", path))


def test_sectors_of_4096_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk.vhdx"
    writer = write_image(path, "vhdx", content, {"logical_sector_size": "4096", "block_size": "1M"})
    assert writer.size == -(-len(content) // 4096) * 4096
    with DiskReader.open(path) as reader:
        assert reader.sector_size == 4096
        assert reader.read_exact_at(0, reader.size) == content.ljust(writer.size, b"\0")


@pytest.mark.parametrize("size", ["1000", "1M", "1G", "1073742336", "100G", "107374182912", "3T", "40T", "64T"])
def test_block_sizes_are_those_of_qemu(run: Run, tmp_path: Path, size: str) -> None:
    ours, theirs = tmp_path / "ours.vhdx", tmp_path / "theirs.vhdx"
    units = {"M": 20, "G": 30, "T": 40}
    create(ours, int(size[:-1]) << units[size[-1]] if size[-1] in units else int(size))
    run("qemu-img", "create", "-q", "-f", "vhdx", theirs, size)
    infos = [json.loads(run("qemu-img", "info", "--output=json", path)) for path in (ours, theirs)]
    assert [infos[0][key] for key in ("virtual-size", "cluster-size")] == [
        infos[1][key] for key in ("virtual-size", "cluster-size")
    ]
    check(run, ours)


def test_structures(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    write_image(path, "vhdx", b"\1" * MIB, {"block_size": "1M"})
    image = path.read_bytes()
    for offset, length in ((65536, 4096), (131072, 4096), (196608, 65536), (262144, 65536)):
        assert image[offset : offset + length] == with_crc(image[offset : offset + length])
    assert image[196608:262144] == image[262144:327680]
    assert image.startswith(b"vhdxfile" + "guestctl".encode("utf-16-le"))


def test_consecutive_blocks_are_one_placement(tmp_path: Path) -> None:
    output = Output(tmp_path / "disk.vhdx")
    writer = create_writer("vhdx", output, 64 << 30, {"block_size": "1M"})
    first = list(writer.place(0, 65536))
    second = list(writer.place(65536, 10 << 20))
    third = list(writer.place(5 << 30, 3 << 20))
    assert [len(first), len(second), len(third)] == [1, 1, 1]
    assert second[0].offset == first[0].offset + 65536
    assert third[0].offset == first[0].offset + (11 << 20)
    output.discard()


def test_large(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.vhdx"
    for size, options in ((3 << 40, {}), (64 << 40, {}), (3 << 40, {"block_size": "1M", "block_state_zero": "off"})):
        output = Output(path, overwrite=True)
        writer = create_writer("vhdx", output, size, options)
        places = (0, (4 << 30) - 65536, 4 << 30, (1 << 40) + (3 << 20), size - 65536)
        for start in places:
            for placement in writer.place(start, 65536):
                placement.file.write_at(placement.offset, b"\7" * 65536)
        writer.finish()
        output.publish()
        check(run, path)
        for start in places:
            run("qemu-io", "-r", "-f", "vhdx", "-c", f"read -P 7 {start} 64k", path)
            with DiskReader.open(path) as reader:
                assert reader.read_exact_at(start, 65536) == b"\7" * 65536


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((64 << 40) + 1, "", "at most"),
        (0, "", "no size"),
        (MIB, "block_size=3M", "power of two"),
        (MIB, "block_size=512k", "1M to 256M"),
        (MIB, "block_size=512M", "1M to 256M"),
        (MIB, "log_size=5G", "log_size"),
        (MIB, "logical_sector_size=1024", "512 or 4096"),
        (MIB, "subformat=flat", "subformat=flat"),
        (MIB, "force_size=on", "no option 'force_size'"),
        (MIB, "subformat=fixed,backing_file=parent.vhdx", "exclude"),
        (MIB, "backing_file=parent.vhdx,backing_fmt=raw", "not raw"),
        (MIB, "backing_file=parent.vhdx,logical_sector_size=4096", "parent's"),
    ],
)
def test_refusals(tmp_path: Path, size: int, options: str, message: str) -> None:
    create(tmp_path / "parent.vhdx", MIB)
    with pytest.raises(ConversionError, match=message):
        create(tmp_path / "new.vhdx", size, **parse(options))
    assert not (tmp_path / "new.vhdx").exists()


def differencing_content(image: bytes, below: bytes) -> bytes:
    """The disk of a differencing VHDX on `below`, read as the specification says; the regions in their usual places."""
    regions = dict(struct.unpack_from("<16sQ", image, 196608 + 16 + 32 * number) for number in range(2))
    bat = regions[uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le]
    metadata = regions[uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le]
    items = {}
    for number in range(struct.unpack_from("<H", image, metadata + 10)[0]):
        item, offset, length = struct.unpack_from("<16sII", image, metadata + 32 + 32 * number)
        items[uuid.UUID(bytes_le=item).hex[:8]] = image[metadata + offset : metadata + offset + length]
    block_size, flags = struct.unpack("<II", items["caa16737"])
    (size,), (sector_size,) = struct.unpack("<Q", items["2fa54224"]), struct.unpack("<I", items["8141bf1d"])
    assert flags == 2
    ratio = (1 << 23) * sector_size // block_size
    disk = bytearray(below.ljust(size, b"\0"))
    for block in range(-(-size // block_size)):
        entry = struct.unpack_from("<Q", image, bat + 8 * (block + block // ratio))[0]
        state, place = entry & 7, entry >> 20 << 20
        start, end = block * block_size, min(size, (block + 1) * block_size)
        if state == 2:
            disk[start:end] = bytes(end - start)
        elif state == 6:
            disk[start:end] = image[place : place + end - start]
        elif state == 7:
            chunk = block // ratio
            bitmap = struct.unpack_from("<Q", image, bat + 8 * (chunk * (ratio + 1) + ratio))[0]
            assert bitmap & 7 == 6
            for sector in range((end - start) // sector_size):
                bit = block % ratio * (block_size // sector_size) + sector
                if image[(bitmap >> 20 << 20) + bit // 8] >> bit % 8 & 1:
                    at = sector * sector_size
                    disk[start + at : start + at + sector_size] = image[place + at : place + at + sector_size]
        else:
            assert state == 0
    return bytes(disk)


def write_changes(path: Path, options: dict[str, str], content: bytes, below: bytes) -> None:
    """An image on a backing file, with the units that differ from it, as a conversion makes it."""
    output = Output(path)
    writer = create_writer("vhdx", output, len(content), options)
    for start in range(0, len(content), writer.unit):
        part = content[start : start + writer.unit]
        if part == below[start : start + writer.unit]:
            continue
        if not any(part):
            writer.zero(start, len(part))
            continue
        for placement in writer.place(start, len(part)):
            placement.file.write_at(placement.offset, part)
    writer.finish()
    output.publish()


@pytest.mark.parametrize("sector_size", ["512", "4096"])
def test_differencing(tmp_path: Path, content: bytes, sector_size: str) -> None:
    parent, path = tmp_path / "the parent.vhdx", tmp_path / "child.vhdx"
    below = content.ljust(6 * MIB - 4096, b"\0")
    write_image(parent, "vhdx", below, {"block_size": "1M", "logical_sector_size": sector_size})
    changed = bytearray(below)
    changed[70_000:70_512] = b"\5" * 512
    changed[MIB : 2 * MIB] = b"\6" * MIB  # a whole block
    changed[2 * MIB + 65536 : 2 * MIB + 3 * 65536] = b"\7" * 131072
    changed[3 * MIB : 3 * MIB + 65536] = bytes(65536)  # zeros alone in a block
    changed[4 * MIB : 5 * MIB] = bytes(MIB)  # a block of zeros
    changed[-4096:] = b"\7" * 4096
    options = {"backing_file": parent.name, "backing_fmt": "vhdx", "block_size": "1M"}
    write_changes(path, options, bytes(changed), below)
    assert differencing_content(path.read_bytes(), below) == changed
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == changed
        assert reader.sector_size == int(sector_size)
        assert reader.backing is not None
        assert "corruptions" not in reader.check()
        assert reader.info()["backing-filename"] == parent.name
        locator = reader.metadata.parent_locator  # type: ignore[attr-defined]
    assert locator == {
        "parent_linkage": "{" + str(uuid.UUID(bytes_le=parent.read_bytes()[131072 + 32 : 131072 + 48])) + "}",
        "relative_path": ".\\the parent.vhdx",
        "absolute_win32_path": str(parent).replace("/", "\\"),
    }


def test_empty_child_of_a_child(tmp_path: Path, content: bytes) -> None:
    write_image(tmp_path / "parent.vhdx", "vhdx", content)
    create(tmp_path / "child.vhdx", len(content), backing_file=str(tmp_path / "parent.vhdx"))
    create(tmp_path / "grandchild.vhdx", len(content) + MIB, backing_file="child.vhdx", block_size="256M")
    with DiskReader.open(tmp_path / "grandchild.vhdx") as reader:
        assert reader.read_exact_at(0, reader.size) == content + bytes(MIB)
        assert len(reader.files) == 3
