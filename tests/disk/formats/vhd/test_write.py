"""VHDs that we write: read by qemu-img, and differencing ones by a reader of a few lines."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disk.formats.vhd.build import footer, with_checksum
from guestctl.block import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import ImageWriter, create_writer
from image_writing import write_image

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
BLOCK = 2 << 20


def create(path: Path, size: int, **options: str) -> None:
    output = Output(path, overwrite=True)
    try:
        create_writer("vpc", output, size, options).finish()
        output.publish()
    except BaseException:
        output.discard()
        raise


def footer_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-512, os.SEEK_END)
        return file.read(512)


def qemu_size(run: Run, path: Path) -> int:
    size: int = json.loads(run("qemu-img", "info", "-f", "vpc", "--output=json", path))["virtual-size"]
    return size


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("force_size", ["on", "off"])
@pytest.mark.parametrize("kind", ["mixed", "random", "zeros", "sector"])
def test_content(
    run: Run, tmp_path: Path, content: bytes, flat: Flat, subformat: str, force_size: str, kind: str
) -> None:
    content = {
        "mixed": content,
        "random": random.Random(3).randbytes((4 << 20) + 512),
        "zeros": bytes(5 << 20),
        "sector": b"\1" * 512,
    }[kind]
    path, raw = tmp_path / "disk.vhd", tmp_path / "source.raw"
    writer = write_image(path, "vpc", content, {"subformat": subformat, "force_size": force_size})
    assert flat(path) == content.ljust(writer.size, b"\0")
    raw.write_bytes(content)
    run("qemu-img", "compare", "-f", "raw", "-F", "vpc", raw, path)
    if force_size == "on":
        assert writer.size == len(content)
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == content.ljust(writer.size, b"\0")
        assert list(reader.warnings) == []
        assert "corruptions" not in reader.check()
    if subformat == "dynamic":
        check_layout(path.read_bytes(), writer)


def check_layout(image: bytes, writer: ImageWriter) -> None:
    """Both footers, the header's checksum, full bitmaps, and data that begins with a page of the host."""
    assert image[:512] == image[-512:] == with_checksum(image[:512], 64)
    assert image[512:1536] == with_checksum(image[512:1536], 36)
    count = -(-writer.size // BLOCK)
    entries = [entry for entry in struct.unpack_from(f">{count}I", image, 1536) if entry != 0xFFFFFFFF]
    for entry in entries:
        assert (entry + 1) % 8 == 0
        assert image[entry * 512 : entry * 512 + 512] == b"\xff" * 512
    assert len(image) == (entries[-1] * 512 + 512 + BLOCK if entries else 1536 + -(-count * 4 // 512) * 512) + 512


MIB = 1 << 20
SIZES = [
    *(512, 1000, MIB, 2 * MIB, 34816, 127 * MIB, 500 * MIB, 504 * MIB, 504 * MIB + 512, 1023 * MIB, 4000 * MIB),
    *(8064 * MIB, 32255 * MIB, 32256 * MIB, 65000 * MIB, 130000 * MIB, 136899993600 - 512, 136899993600),
    *(136899993600 + 512, 200 << 30, 2040 << 30),
]


@pytest.mark.parametrize("force_size", ["on", "off"])
def test_sizes_are_those_of_qemu(run: Run, tmp_path: Path, force_size: str) -> None:
    ours, theirs = tmp_path / "ours.vhd", tmp_path / "theirs.vhd"
    generator = random.Random(9)
    for size in (*SIZES, *(generator.randrange(1 << 33) for _ in range(10))):
        create(ours, size, force_size=force_size)
        run("qemu-img", "create", "-q", "-f", "vpc", "-o", f"force_size={force_size}", theirs, str(size))
        assert footer_of(ours)[40:64] == footer_of(theirs)[40:64], size  # sizes, geometry, type
        assert qemu_size(run, ours) == qemu_size(run, theirs)
        with DiskReader.open(ours) as reader:
            assert reader.size == qemu_size(run, ours)


def test_for_azure(tmp_path: Path, run: Run) -> None:
    """A fixed disk of whole MiB, with the footer behind it."""
    path = tmp_path / "azure.vhd"
    create(path, 30 * MIB, subformat="fixed", force_size="on")
    assert path.stat().st_size == 30 * MIB + 512
    assert qemu_size(run, path) == 30 * MIB


def test_holes_stay_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    content = bytearray(20 * MIB)
    content[5 * MIB] = 1
    write_image(path, "vpc", bytes(content))
    assert path.stat().st_blocks * 512 < MIB


def test_large(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "large.vhd"
    output = Output(path)
    writer = create_writer("vpc", output, 2040 << 30, {})
    for start in (0, 1 << 40, (2040 << 30) - 65536):
        for placement in writer.place(start, 65536):
            placement.file.write_at(placement.offset, b"\7" * 65536)
    writer.finish()
    output.publish()
    theirs = json.loads(run("qemu-img", "map", "-f", "vpc", "--output=json", path))
    assert [entry["start"] for entry in theirs if entry["data"]] == [0, 1 << 40, (2040 << 30) - BLOCK]
    run("qemu-io", "-r", "-f", "vpc", "-c", f"read -P 7 {(2040 << 30) - 65536} 64k", path)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((2040 << 30) + 1, {}, "at most"),
        ((2040 << 30) + 1, {"force_size": "on"}, "at most"),
        (MIB, {"subformat": "sparse"}, "subformat=sparse"),
        (MIB, {"block_size": "1M"}, "no option 'block_size'"),
        (MIB, {"subformat": "fixed", "backing_file": "parent.vhd"}, "exclude"),
        (MIB, {"backing_file": "parent.vhd", "backing_fmt": "qcow2"}, "qcow2"),
        (MIB, {"backing_file": "parent.vhd", "force_size": "on"}, "same size"),
        (4 * MIB, {"backing_file": "back\\slash.vhd"}, "backslash"),
    ],
)
def test_refusals(tmp_path: Path, size: int, options: dict[str, str], message: str) -> None:
    for name in ("parent.vhd", "back\\slash.vhd"):
        (tmp_path / name).write_bytes(bytes(4 * MIB) + footer(4 * MIB, 2))
    with pytest.raises(ConversionError, match=message):
        create(tmp_path / "new.vhd", size, **options)
    assert not (tmp_path / "new.vhd").exists()


def differencing_content(image: bytes, below: bytes) -> bytes:
    """The disk of a differencing VHD on `below`, read as the specification says."""
    assert image[:512] == image[-512:] == with_checksum(image[:512], 64)
    header = image[512:1536]
    assert header == with_checksum(header, 36)
    size, kind = struct.unpack_from(">Q", image, 48)[0], struct.unpack_from(">I", image, 60)[0]
    table_offset, _, count, block_size = struct.unpack_from(">QIII", header, 16)
    assert (kind, block_size) == (4, BLOCK)
    disk = bytearray(below.ljust(size, b"\0"))
    for block, entry in enumerate(struct.unpack_from(f">{count}I", image, table_offset)):
        if entry == 0xFFFFFFFF:
            continue
        bitmap = image[entry * 512 : entry * 512 + 512]
        for sector in range(4096):
            at = block * BLOCK + sector * 512
            if bitmap[sector // 8] & 0x80 >> sector % 8 and at < size:
                place = entry * 512 + 512 + sector * 512
                disk[at : at + 512] = image[place : place + 512]
    return bytes(disk)


def write_changes(path: Path, options: dict[str, str], content: bytes, below: bytes) -> None:
    """An image on a backing file, with the units that differ from it, as a conversion makes it."""
    output = Output(path)
    writer = create_writer("vpc", output, len(content), options)
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


@pytest.mark.parametrize("force_size", ["on", "off"])
@pytest.mark.parametrize("absolute", [False, True])
def test_differencing(tmp_path: Path, content: bytes, force_size: str, absolute: bool) -> None:
    parent, path = tmp_path / "the parent.vhd", tmp_path / "child.vhd"
    writer = write_image(parent, "vpc", content, {"force_size": force_size})
    below = content.ljust(writer.size, b"\0")
    changed = bytearray(below)
    changed[70_000:70_512] = b"\5" * 512
    changed[BLOCK + 7 * 65536 : BLOCK + 9 * 65536] = b"\6" * 131072
    changed[2 * BLOCK : 2 * BLOCK + 65536] = bytes(65536)
    changed[-512:] = b"\7" * 512
    options = {"backing_file": str(parent) if absolute else parent.name, "backing_fmt": "vpc", "force_size": force_size}
    write_changes(path, options, bytes(changed), below)
    image = path.read_bytes()
    assert differencing_content(image, below) == changed
    assert image[512 + 40 : 512 + 56] == footer_of(parent)[68:84]
    assert image[512 + 64 :].startswith("the parent.vhd".encode("utf-16-be") + b"\0\0")
    assert locators_of(image) == {
        b"W2ru": ".\\the parent.vhd",
        b"W2ku": str(parent).replace("/", "\\"),
    }
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == changed
        assert list(reader.warnings) == []
        assert reader.backing is not None and os.path.samefile(reader.backing.path, parent)
        assert sum(entry.length for entry in reader.map() if entry.depth == 0) <= 7 * 65536
        assert "corruptions" not in reader.check()


def locators_of(image: bytes) -> dict[bytes, str]:
    found = {}
    for number in range(8):
        code, space, length, _, offset = struct.unpack_from(">4sIIIQ", image, 512 + 576 + number * 24)
        if code != bytes(4):
            assert length <= space and offset % 512 == 0
            found[code] = image[offset : offset + length].decode("utf-16-le")
    return found


def test_empty_on_a_parent_elsewhere(tmp_path: Path) -> None:
    for name in ("base", "top"):
        (tmp_path / name).mkdir()
    write_image(tmp_path / "base" / "parent.vhd", "vpc", b"\1" * MIB, {"force_size": "on", "subformat": "fixed"})
    path = tmp_path / "top" / "child.vhd"
    create(path, MIB, backing_file="../base/parent.vhd")
    assert locators_of(path.read_bytes())[b"W2ru"] == "..\\base\\parent.vhd"
    with DiskReader.open(path, allow_dirs=[tmp_path]) as reader:
        assert reader.read_exact_at(0, MIB) == b"\1" * MIB
    grandchild = tmp_path / "top" / "grandchild.vhd"
    create(grandchild, MIB, backing_file="child.vhd")
    with DiskReader.open(grandchild, allow_dirs=[tmp_path]) as reader:
        assert reader.read_exact_at(0, MIB) == b"\1" * MIB
        info: dict[str, Any] = reader.info()
    assert info["backing-filename"] == "child.vhd"
