"""Headers, extensions and names, without an image; what is unknown is refused by its name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.filenames import parse_reference
from guestctl.disk.formats.qcow2.header import Header, parse_extensions, parse_header
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
UNKNOWN_BIT = 40


def header_bytes(**changed: int) -> bytes:
    """A version 3 header of a 1 MiB disk, with some fields changed."""
    fields = {
        "version": 3,
        "backing_file_offset": 0,
        "backing_file_size": 0,
        "cluster_bits": 16,
        "size": 1 << 20,
        "crypt_method": 0,
        "l1_size": 1,
        "l1_table_offset": 0x30000,
        "refcount_table_offset": 0x10000,
        "refcount_table_clusters": 1,
        "nb_snapshots": 0,
        "snapshots_offset": 0,
        "incompatible_features": 0,
        "compatible_features": 0,
        "autoclear_features": 0,
        "refcount_order": 4,
        "header_length": 112,
    }
    compression = changed.pop("compression_type", 0)
    values = [*(fields | changed).values()]
    fixed = layout.HEADER_V2.pack(layout.MAGIC, *values[:12]) + layout.HEADER_V3.pack(*values[12:])
    return fixed + bytes([compression]) + bytes(7)


def test_fields() -> None:
    header = parse_header(header_bytes(size=1001, refcount_order=6, header_length=104))
    assert header.size == 512
    assert (header.cluster_size, header.refcount_order, header.l2_bits) == (65536, 6, 13)
    extended = parse_header(header_bytes(incompatible_features=16))
    assert extended.extended_l2 and extended.l2_bits == 12
    assert extended.l1_entries_for(1 << 40) == 4096


def test_version_2_ends_after_72_bytes() -> None:
    header = parse_header(header_bytes(version=2, incompatible_features=0xFF, refcount_order=99)[:72])
    assert (header.refcount_order, header.header_length, header.incompatible_features) == (4, 72, 0)


@pytest.mark.parametrize(
    ("changed", "offset"),
    [
        ({"cluster_bits": 8}, 20),
        ({"cluster_bits": 22}, 20),
        ({"cluster_bits": 0xFFFFFFFF}, 20),
        ({"cluster_bits": 13, "incompatible_features": 16}, 20),
        ({"size": 1 << 63}, 24),
        ({"refcount_order": 7}, 96),
        ({"header_length": 103}, 100),
        ({"header_length": 0xFFFFFFF8}, 100),
        ({"compression_type": 1}, 104),
        ({"incompatible_features": 8}, 104),
    ],
)
def test_fields_that_contradict_the_specification(changed: dict[str, int], offset: int) -> None:
    with pytest.raises(InvalidFormat) as caught:
        parse_header(header_bytes(**changed))
    assert (caught.value.structure, caught.value.offset) == ("header", offset)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"version": 1}, "version 1"),
        ({"version": 4}, "version 4"),
        ({"crypt_method": 3}, "crypt_method 3"),
        ({"compression_type": 2, "incompatible_features": 8}, "compression type 2"),
    ],
)
def test_fields_that_we_do_not_know(changed: dict[str, int], word: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        parse_header(header_bytes(**changed))
    assert caught.value.feature == word


@pytest.mark.parametrize("length", [0, 1, 71, 72, 103])
def test_truncated(length: int) -> None:
    with pytest.raises(InvalidFormat):
        parse_header(header_bytes()[:length])


def _extensions(*pairs: tuple[int, bytes], header: Header | None = None) -> Any:
    parts = [struct.pack(">II", kind, len(data)) + data.ljust(len(data) + 7 & ~7, b"\0") for kind, data in pairs]
    first = (header_bytes() + b"".join(parts)).ljust(65536, b"\0")
    return parse_extensions(memoryview(first), header or parse_header(first))


def test_extensions() -> None:
    found = _extensions(
        (0x12345678, b"unknown"),
        (layout.EXTENSION_BACKING_FORMAT, b"raw"),
        (layout.EXTENSION_DATA_FILE, "données.raw".encode()),
        (layout.EXTENSION_BITMAPS, struct.pack(">IIQQ", 2, 0, 80, 0x70000)),
        (layout.EXTENSION_FEATURE_NAMES, b"\0\5new thing".ljust(48, b"\0") + b"odd rest"),
    )
    assert (found.backing_format, found.data_file, found.backing_file) == ("raw", "données.raw", None)
    assert (found.bitmaps.nb_bitmaps, found.bitmaps.bitmap_directory_size) == (2, 80)
    assert found.feature_names == {(0, 5): "new thing"}


@pytest.mark.parametrize(
    ("kind", "data", "structure"),
    [
        (layout.EXTENSION_BACKING_FORMAT, b"x" * 16, "header extension"),
        (layout.EXTENSION_BITMAPS, b"x" * 23, "header extension"),
        (layout.EXTENSION_ENCRYPTION, b"x" * 17, "header extension"),
        (layout.EXTENSION_DATA_FILE, b"a\0b", "external data file name"),
        (layout.EXTENSION_DATA_FILE, b"a" * 1024, "external data file name"),
    ],
)
def test_damaged_extensions(kind: int, data: bytes, structure: str) -> None:
    with pytest.raises(InvalidFormat) as caught:
        _extensions((0x12345678, b"before"), (kind, data))
    assert caught.value.structure == structure
    assert caught.value.offset == 112 + 16


def test_extension_that_ends_nowhere() -> None:
    first = (header_bytes() + struct.pack(">II", 1, 0xFFFFFFFF)).ljust(65536, b"\0")
    with pytest.raises(InvalidFormat) as caught:
        parse_extensions(memoryview(first), parse_header(first))
    assert (caught.value.structure, caught.value.offset) == ("header extension", 112)


@pytest.mark.parametrize(
    ("offset", "length", "structure"),
    [(65530, 10, "header"), (1 << 60, 10, "header"), (512, 0xFFFFFFFF, "header"), (512, 1024, "backing file name")],
)
def test_backing_file_name_outside_its_place(offset: int, length: int, structure: str) -> None:
    first = header_bytes(backing_file_offset=offset, backing_file_size=length).ljust(65536, b"\0")
    with pytest.raises(InvalidFormat) as caught:
        parse_extensions(memoryview(first), parse_header(first))
    assert caught.value.structure == structure


def test_backing_file_name_with_a_zero_byte() -> None:
    first = header_bytes(backing_file_offset=512, backing_file_size=4).ljust(512, b"\0") + b"a\0b\0"
    with pytest.raises(InvalidFormat) as caught:
        parse_extensions(memoryview(first.ljust(65536, b"\0")), parse_header(first))
    assert (caught.value.structure, caught.value.offset) == ("backing file name", 512)


def test_unknown_incompatible_feature_is_named(tmp_path: Path, patch: Any) -> None:
    path = tmp_path / "future.qcow2"
    path.write_bytes(patch.with_((72, "Q", 1 << UNKNOWN_BIT | 1)))
    with pytest.raises(UnsupportedFeature) as caught:
        DiskReader.open(path)
    assert caught.value.feature == f"bit {UNKNOWN_BIT}"
    content = patch.with_((72, "Q", 1 << UNKNOWN_BIT | 1 << 41))
    # The name table's first entry, the dirty bit's, becomes that of the unknown bit.
    path.write_bytes(content.replace(b"\0\0dirty bit", bytes((0, UNKNOWN_BIT)) + b"time warp"))
    with pytest.raises(UnsupportedFeature, match="time warp, bit 41"):
        DiskReader.open(path)


def test_unknown_compatible_and_autoclear_features_are_ignored(tmp_path: Path, patch: Any) -> None:
    path = tmp_path / "future.qcow2"
    path.write_bytes(patch.with_((80, "Q", 1 << 63), (88, "Q", 1 << 63)))
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, 512)) == b"\5" * 512


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.img", None, ("a.img", None)),
        ("dir/a:b.img", "raw", ("dir/a:b.img", "raw")),
        ("file:a:b", "qcow2", ("a:b", "qcow2")),
        ("file:///x", None, ("///x", None)),
        ("a", "file", ("a", "raw")),
        ("a", "host_device", ("a", "raw")),
        ('json:{"driver":"vmdk","file":{"filename":"a"}}', None, ("a", "vmdk")),
        ('json:{"file.driver":"host_device","file.filename":"a"}', None, ("a", None)),
        ('json:{"driver":"vmdk","file.filename":"a"}', "raw", ("a", "raw")),
    ],
)
def test_references(name: str, format: str | None, expected: tuple[str, str | None]) -> None:
    assert parse_reference(name, format) == expected


def test_contradicting_reference() -> None:
    with pytest.raises(InvalidFormat):
        parse_reference('json:{"file":"x","file.filename":"y"}', None)
