"""Bytes that are not what the specification says: a typed error that names the structure and its place."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
COPIED, COMPRESSED = 1 << 63, 1 << 62
OUTSIDE = 1 << 30


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "damaged.qcow2"
    path.write_bytes(content)
    return path


def read_all(reader: DiskReader) -> None:
    for _ in reader.chunks(0, reader.size):
        pass


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskReader.open(tmp_path / "missing", format="qcow2")
    with pytest.raises(IsADirectoryError):
        DiskReader.open(tmp_path, format="qcow2")


@pytest.mark.parametrize("content", [b"", b"QFI", b"QFI\xfb" + bytes(60), b"\0" * 4096])
def test_no_header(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidFormat) as caught:
        DiskReader.open(write(tmp_path, content), format="qcow2")
    assert (caught.value.structure, caught.value.offset) == ("header", 0)


@pytest.mark.parametrize("length", [80, 103, 4096, 0x30000, 0x30004])
def test_truncated_before_the_tables(tmp_path: Path, small_image: bytes, length: int) -> None:
    with pytest.raises(InvalidFormat):
        DiskReader.open(write(tmp_path, small_image[:length]))


@pytest.mark.parametrize(
    ("changes", "structure", "offset"),
    [
        ([(36, "I", 0)], "header", 36),  # l1_size
        ([(36, "I", 0xFFFFFFFF)], "L1 table", 0x30000),
        ([(36, "I", 1 << 22)], "L1 table", 0x30000),
        ([(40, "Q", 0x30200)], "L1 table", 0x30200),  # l1_table_offset
        ([(40, "Q", 1 << 40)], "L1 table", 1 << 40),
        ([(40, "Q", 0xFFFFFFFFFFFF0000)], "L1 table", 0xFFFFFFFFFFFF0000),
        ([(24, "Q", (1 << 63) - 512)], "header", 36),  # size
    ],
)
def test_l1_table(tmp_path: Path, patch: Any, changes: list[tuple[int, str, int]], structure: str, offset: int) -> None:
    with pytest.raises(InvalidFormat) as caught:
        DiskReader.open(write(tmp_path, patch.with_(*changes)))
    assert (caught.value.structure, caught.value.offset) == (structure, offset)


@pytest.mark.parametrize(
    ("changes", "structure", "offset"),
    [
        (lambda p: [(p.l1, "Q", COPIED | OUTSIDE)], "L2 table", lambda p: OUTSIDE),
        (lambda p: [(p.l1, "Q", COPIED | p.l2 + 512)], "L2 table", lambda p: p.l2 + 512),
        (lambda p: [(p.l1, "Q", 0x00FFFFFFFFFF0000)], "L2 table", lambda p: 0x00FFFFFFFFFF0000),
        (lambda p: [(p.l2 + 8, "Q", COPIED | OUTSIDE)], "data cluster", lambda p: OUTSIDE),
        (lambda p: [(p.l2 + 8, "Q", COPIED | 0x50200)], "L2 table", lambda p: p.l2 + 8),
        (lambda p: [(4, "I", 2), (p.l2 + 8, "Q", 1)], "L2 table", lambda p: p.l2 + 8),
        (lambda p: [(p.l2 + 64, "Q", COMPRESSED | OUTSIDE)], "compressed cluster", lambda p: OUTSIDE),
        (lambda p: [(p.l2 + 64, "Q", COMPRESSED | 0x50000)], "compressed cluster", lambda p: 0x50000),
        (lambda p: [(p.l2 + 64, "Q", (1 << 63) - 1)], "compressed cluster", lambda p: (1 << 54) - 1),
    ],
)
def test_l2_table(
    tmp_path: Path,
    patch: Any,
    changes: Callable[[Any], list[tuple[int, str, int]]],
    structure: str,
    offset: Callable[[Any], int],
) -> None:
    with DiskReader.open(write(tmp_path, patch.with_(*changes(patch)))) as reader:
        for _ in range(2):  # the second time the slice of the L2 table is at hand
            with pytest.raises(InvalidFormat) as caught:
                read_all(reader)
            assert (caught.value.structure, caught.value.offset) == (structure, offset(patch))


@pytest.mark.parametrize(
    ("entry", "bitmap", "readable"),
    [
        (None, 1 << 32 | 1, False),  # allocated and zero
        (0, 1, False),  # allocated nowhere
        (COPIED, 1, False),
        (0, 1 << 32, True),
        (None, 1 << 33 | 1, True),
    ],
)
def test_subclusters(run: Run, tmp_path: Path, entry: int | None, bitmap: int, readable: bool) -> None:
    path = tmp_path / "extended.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 128k", path)
    content = bytearray(path.read_bytes())
    (l1,) = struct.unpack_from(">Q", content, 40)
    l2 = struct.unpack_from(">Q", content, l1)[0] & ~COPIED
    if entry is not None:
        struct.pack_into(">Q", content, l2, entry)
    struct.pack_into(">Q", content, l2 + 8, bitmap)
    path.write_bytes(content)
    with DiskReader.open(path) as reader:
        if readable:
            target = tmp_path / "disk.raw"
            run("qemu-img", "convert", "-O", "raw", path, target)
            assert bytes(reader.read(0, reader.size)) == target.read_bytes()
            return
        with pytest.raises(InvalidFormat) as caught:
            reader.read(0, 512)
        assert (caught.value.structure, caught.value.offset) == ("L2 table", l2)
        assert bytes(reader.read(65536, 512)) == b"\5" * 512


def test_external_data_file_maps_one_to_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 128k", path)
    content = bytearray(path.read_bytes())
    (l1,) = struct.unpack_from(">Q", content, 40)
    l2 = struct.unpack_from(">Q", content, l1)[0] & ~COPIED
    for entry in (COPIED | 0x20000, COMPRESSED):
        struct.pack_into(">Q", content, l2 + 8, entry)
        path.write_bytes(content)
        with DiskReader.open(path) as reader:
            assert bytes(reader.read(0, 512)) == b"\5" * 512
            with pytest.raises(InvalidFormat) as caught:
                reader.read(65536, 512)
        assert (caught.value.structure, caught.value.offset) == ("L2 table", l2 + 8)


@pytest.mark.parametrize("changes", [(24, 0), (24, 8), (8, 1 << 60), (16, 1 << 60), (0, 0xFFFFFFFF)])
def test_bitmap_directory(run: Run, tmp_path: Path, changes: tuple[int, int]) -> None:
    path = tmp_path / "bitmaps.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-img", "bitmap", "--add", path, "one")
    content = bytearray(path.read_bytes())
    extension = content.index(bytes.fromhex("23852875")) + 8
    place, value = changes
    if place == 24:  # the entry in the directory: name_size and extra_data_size
        (directory,) = struct.unpack_from(">Q", content, extension + 16)
        struct.pack_into(">HI", content, directory + 18, 0xFFFF, value)
    else:
        struct.pack_into(">Q" if place else ">I", content, extension + place, value)
    path.write_bytes(content)
    with DiskReader.open(path) as reader:
        assert not any(reader.read(0, 512))
        with pytest.raises(InvalidFormat) as caught:
            reader.info()
    assert caught.value.structure == "bitmap directory"


def test_luks_header(tmp_path: Path, encrypted: Callable[[Path, str], None]) -> None:
    path = tmp_path / "encrypted.qcow2"
    encrypted(path, "luks")
    content = path.read_bytes()
    extension = content.index(bytes.fromhex("0537be77"))
    for offset in (1 << 60, 0x10000, len(content) - 100):
        changed = bytearray(content)
        struct.pack_into(">Q", changed, extension + 8, offset)
        with DiskReader.open(write(tmp_path, bytes(changed))) as reader, pytest.raises(InvalidFormat, match="LUKS"):
            reader.info()
    without = content.replace(content[extension : extension + 4], b"????")
    with DiskReader.open(write(tmp_path, without)) as reader, pytest.raises(InvalidFormat):
        reader.info()


def use(path: Path, source: random.Random) -> None:
    """All that a reader can be asked, as far as a second or two goes."""
    with DiskReader.open(path, snapshot=source.choice((None, None, "1"))) as reader:
        for call in (reader.info, reader.check, lambda: list(islice(reader.map(), 500))):
            try:
                call()
            except (GuestctlError, OSError):
                pass
        for _ in range(8):
            offset = source.randrange(max(1, min(reader.size, source.choice((2 << 20, 1 << 62)))))
            length = min(reader.size - offset, source.choice((512, 70_000, 1 << 20)))
            try:
                content = reader.read(offset, length)
                assert len(content) == length
                for run in islice(reader.runs(offset, reader.size - offset), 50):
                    assert run.length > 0
            except (GuestctlError, OSError):
                pass


@pytest.mark.parametrize(
    "options",
    [
        "cluster_size=512",
        "cluster_size=4k,compression_type=zstd",
        "cluster_size=64k,compat=0.10",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k,refcount_bits=64",
    ],
)
def test_mutations(run: Run, tmp_path: Path, options: str) -> None:
    """Headers and tables with some bytes changed: an answer or a typed error, and soon."""
    path = tmp_path / "original.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 100k", "-c", "write -c 512k 128k", "-c", "write 300k 1k", path)
    run("qemu-img", "snapshot", "-c", "one", path)
    if "0.10" not in options:
        run("qemu-img", "bitmap", "--add", path, "bitmap")
    original = path.read_bytes()
    cluster = 1 << struct.unpack_from(">I", original, 20)[0]
    # Clusters with metadata: few different bytes. Data is one byte over and over.
    tables = [
        start for start in range(0, len(original), cluster) if len(set(original[start : start + cluster])) not in (1,)
    ]
    source = random.Random(options)
    for _ in range(150):
        changed = bytearray(original)
        for _ in range(source.choice((1, 2, 6))):
            start = source.choice((0, 0, *tables))
            place = min(start + source.randrange(min(cluster, source.choice((112, 4096)))), len(original) - 8)
            width = source.choice((1, 1, 4, 8))
            value = source.choice((0, 0xFF, 0x7F, 1, source.randrange(256)))
            changed[place : place + width] = bytes([value]) * width
        if source.random() < 0.1:
            del changed[source.randrange(len(changed)) :]
        path.write_bytes(changed)
        began = time.perf_counter()
        try:
            use(path, source)
        except (GuestctlError, OSError):
            pass
        assert time.perf_counter() - began < 5
