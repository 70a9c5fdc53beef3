"""Fixed and dynamic VHDs that qemu-img made: bytes, map and info as qemu-img has them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from disk.formats.vhd.build import footer, with_checksum
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
Flat = Callable[[Path], bytes]


def read(path: Path) -> bytes:
    with DiskReader.open(path) as reader:
        assert reader.format == "vpc"
        return reader.read_exact_at(0, reader.size)


def qemu_json(run: Run, command: str, path: Path) -> Any:
    return json.loads(run("qemu-img", command, "-f", "vpc", "--output=json", path))


def our_map(path: Path) -> list[dict[str, Any]]:
    """Our map under the keys of qemu-img, which gives `compressed` only in later versions."""
    entries = []
    with DiskReader.open(path) as reader:
        for entry in reader.map():
            fields: dict[str, Any] = {
                key: value for key, value in entry._asdict().items() if key not in ("filename", "compressed")
            }
            if entry.offset is None:
                del fields["offset"]
            entries.append(fields)
    return entries


@pytest.fixture(params=["dynamic", "fixed", "dynamic,force_size=on", "fixed,force_size=on"])
def image(request: pytest.FixtureRequest, run: Run, source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "disk.vhd"
    run("qemu-img", "convert", "-O", "vpc", "-o", f"subformat={request.param}", source, path)
    return path


def test_bytes(image: Path, flat: Flat, content: bytes) -> None:
    expected = flat(image)
    assert expected.startswith(content)
    with DiskReader.open(image) as reader:
        check_device(reader, expected)
        assert list(reader.warnings) == []
        assert "corruptions" not in reader.check()


def test_info_and_map(image: Path, run: Run) -> None:
    with DiskReader.open(image) as reader:
        assert reader.info() == qemu_json(run, "info", image)
    theirs = qemu_json(run, "map", image)
    for entry in theirs:
        entry.pop("compressed", None)
    assert our_map(image) == theirs


@pytest.mark.parametrize("options", ["subformat=dynamic", "subformat=fixed"])
@pytest.mark.parametrize("size", ["512", "1M", "34816", "2M", "127M"])
def test_empty(run: Run, tmp_path: Path, options: str, size: str) -> None:
    path = tmp_path / "empty.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", "-o", options, path, size)
    with DiskReader.open(path) as reader:
        assert reader.info() == qemu_json(run, "info", path)
        assert all(run.source is None for run in reader.runs(0, reader.size)) or "fixed" in options
        assert not any(reader.read_exact_at(0, min(reader.size, 1 << 20)))


def test_no_disk(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", path, "0")
    with DiskReader.open(path) as reader:
        assert reader.size == 0 and list(reader.map()) == [] and reader.read(0, 0) == b""


def test_close_to_2_tib(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", path, "2040G")
    for offset in ("0", "1T", "2190433255424"):
        run("qemu-io", "-f", "vpc", "-c", f"write -P 7 {offset} 64k", path)
    with DiskReader.open(path) as reader:
        assert reader.info() == qemu_json(run, "info", path)
        assert reader.read_exact_at(reader.size - 65537, 65537) == b"\0" + b"\7" * 65536
        assert reader.read_exact_at((1 << 40) - 1, 3) == b"\0\7\7"
        data = [entry for entry in reader.map() if entry.data]
    assert [entry.start for entry in data] == [0, 1 << 40, (2040 << 30) - (2 << 20)]
    assert our_map(path) == [
        {key: value for key, value in entry.items() if key != "compressed"} for entry in qemu_json(run, "map", path)
    ]


CREATORS = [b"vpc ", b"vs  ", b"vbox", b"qemu", b"abcd", b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"]


@pytest.mark.parametrize("creator", CREATORS)
@pytest.mark.parametrize("geometry", [(61, 4, 17), (65535, 16, 255)])
def test_size_as_the_creator_means_it(run: Run, tmp_path: Path, creator: bytes, geometry: tuple[int, int, int]) -> None:
    path = tmp_path / "fixed.vhd"
    size = 3 << 20
    path.write_bytes(bytes(size) + footer(size, 2, creator=creator, geometry=geometry))
    with DiskReader.open(path) as reader:
        assert reader.size == qemu_json(run, "info", path)["virtual-size"]


def test_511_byte_footer(tmp_path: Path) -> None:
    path = tmp_path / "old.vhd"
    path.write_bytes(b"\5" * 1024 + footer(1024, 2)[:511])
    assert read(path) == b"\5" * 1024


def test_raw_content_that_looks_like_a_vhd(tmp_path: Path) -> None:
    """The footer at the end decides, not what the disk holds."""
    path = tmp_path / "fixed.vhd"
    inner = footer(1 << 20, 3) + bytes(4096)
    path.write_bytes(inner + footer(len(inner), 2))
    assert read(path) == inner


def test_copy_of_the_footer(run: Run, tmp_path: Path, source: Path, content: bytes) -> None:
    path = tmp_path / "disk.vhd"
    run("qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", source, path)
    whole = path.read_bytes()
    damaged = {
        "checksum": whole[:-512] + bytes((*whole[-512:-450], whole[-450] ^ 1)) + whole[-449:],
        "missing": whole[:-512],
        "garbage": whole + b"garbage" * 100,
    }
    for image in damaged.values():
        path.write_bytes(image)
        assert read(path) == content
        with DiskReader.open(path) as reader:
            assert len(reader.warnings) == 1 and "footer" in reader.warnings[0]
            assert reader.check()["corruptions"] == 1
    path.write_bytes(b"conectix" + bytes(504) + whole[512:])
    assert read(path) == content


def test_damaged_footer_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhd"
    last = footer(1024, 2)
    path.write_bytes(bytes(1024) + last[:100] + b"\1" + last[101:])
    with pytest.raises(ChecksumMismatch) as caught:
        DiskReader.open(path)
    assert (caught.value.structure, caught.value.offset) == ("footer", 1024)


@pytest.fixture
def patched(run: Run, tmp_path: Path, source: Path) -> Callable[..., Path]:
    """A dynamic VHD with some of its bytes replaced and the checksums right."""
    path = tmp_path / "patched.vhd"
    run("qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", source, path)
    whole = path.read_bytes()

    def _patched(*changes: tuple[int, str, int]) -> Path:
        image = bytearray(whole)
        for offset, kind, value in changes:
            struct.pack_into(">" + kind, image, offset, value)
        image[:512] = image[-512:] = with_checksum(bytes(image[:512]), 64)
        image[512:1536] = with_checksum(bytes(image[512:1536]), 36)
        path.write_bytes(image)
        return path

    return _patched


@pytest.mark.parametrize(
    ("changes", "error", "where"),
    [
        ([(12, "I", 0x20000)], UnsupportedFeature, "VHD format version 2.0"),
        ([(60, "I", 5)], UnsupportedFeature, "disk type 5"),
        ([(16, "Q", 1 << 40)], InvalidFormat, "dynamic disk header"),
        ([(16, "Q", (1 << 64) - 1)], InvalidFormat, "dynamic disk header"),
        ([(48, "Q", 1 << 50)], InvalidFormat, "footer"),
        ([(48, "Q", 1 << 40)], InvalidFormat, "block allocation table"),
        ([(512, "Q", 0)], InvalidFormat, "dynamic disk header"),
        ([(512 + 24, "I", 0x20000)], UnsupportedFeature, "dynamic disk header version 2.0"),
        ([(512 + 16, "Q", 1 << 63)], InvalidFormat, "dynamic disk header"),
        ([(512 + 28, "I", 0xFFFFFFFF)], InvalidFormat, "dynamic disk header"),
        ([(512 + 28, "I", 1)], InvalidFormat, "block allocation table"),
        ([(512 + 32, "I", 0)], InvalidFormat, "dynamic disk header"),
        ([(512 + 32, "I", 3 << 20)], InvalidFormat, "dynamic disk header"),
        ([(1536, "I", 0)], InvalidFormat, "block allocation table"),
        ([(1536, "I", 0xFFFFFFFE)], InvalidFormat, "block allocation table"),
        ([(60, "I", 4)], InvalidFormat, "dynamic disk header"),  # differencing, and names no parent
    ],
)
def test_damage(
    patched: Callable[..., Path], changes: list[tuple[int, str, int]], error: type[GuestctlError], where: str
) -> None:
    with pytest.raises(error) as caught:
        read(patched(*changes))
    if isinstance(caught.value, InvalidFormat):
        assert caught.value.structure == where
    elif isinstance(caught.value, UnsupportedFeature):
        assert caught.value.feature == where


def test_wrong_header_checksum_is_a_warning(patched: Callable[..., Path], content: bytes) -> None:
    path = patched()
    image = bytearray(path.read_bytes())
    image[512 + 1000] ^= 1
    path.write_bytes(image)
    assert read(path) == content
    with DiskReader.open(path) as reader:
        assert "dynamic disk header" in reader.warnings[0]
        assert reader.check()["corruptions"] == 1


def test_check_finds_overlaps(patched: Callable[..., Path]) -> None:
    path = patched()
    first, last = struct.unpack_from(">I4xI", path.read_bytes(), 1536)
    for changes, corruptions in (
        ([(1536, "I", last)], 1),
        ([(1536 + 8, "I", first + 1)], 1),
        ([(1536, "I", 1)], 1),
        ([(1536, "I", 0x00FFFFFF)], 1),
        ([], 0),
    ):
        with DiskReader.open(patched(*changes)) as reader:
            assert reader.check().get("corruptions", 0) == corruptions, changes


def test_snapshot(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", path, "1M")
    with pytest.raises(UnsupportedFeature):
        DiskReader.open(path, snapshot="one")
