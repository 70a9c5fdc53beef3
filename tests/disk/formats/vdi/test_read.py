"""VDIs that qemu-img made: bytes, info, map and check as it has them; and others, built by their fields."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from disk.formats.vdi.build import MIB, vdi
from guestctl.core.errors import GuestctlError, InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
FREE, ZERO = 0xFFFFFFFF, 0xFFFFFFFE


def qemu_json(run: Run, command: str, path: Path) -> Any:
    return json.loads(run("qemu-img", command, "-f", "vdi", "--output=json", path))


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


def their_map(run: Run, path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in entry.items() if key != "compressed"} for entry in qemu_json(run, "map", path)
    ]


@pytest.fixture(params=["off", "on"])
def image(request: pytest.FixtureRequest, run: Run, source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "disk.vdi"
    run("qemu-img", "convert", "-O", "vdi", "-o", f"static={request.param}", source, path)
    return path


def test_bytes(image: Path, flat: Flat, content: bytes) -> None:
    assert flat(image) == content
    with DiskReader.open(image) as reader:
        assert reader.format == "vdi"
        check_device(reader, content)
        assert list(reader.warnings) == []


def test_info_map_and_check(image: Path, run: Run) -> None:
    with DiskReader.open(image) as reader:
        assert reader.info() == qemu_json(run, "info", image)
        assert reader.check() == qemu_json(run, "check", image)
    assert our_map(image) == their_map(run, image)


@pytest.mark.parametrize("options", ["static=off", "static=on"])
@pytest.mark.parametrize("size", ["0", "512", "513", "1M", "1049088"])
def test_empty(run: Run, tmp_path: Path, options: str, size: str) -> None:
    path = tmp_path / "empty.vdi"
    run("qemu-img", "create", "-q", "-f", "vdi", "-o", options, path, size)
    with DiskReader.open(path) as reader:
        assert reader.info() == qemu_json(run, "info", path)
        assert not any(reader.read_exact_at(0, reader.size))
        assert all(found.source is None for found in reader.runs(0, reader.size)) or "on" in options
    assert our_map(path) == [entry for entry in their_map(run, path) if entry["length"]]


def test_3_tib(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.vdi"
    run("qemu-img", "create", "-q", "-f", "vdi", path, "3T")
    for offset in ("2T", "0", str((3 << 40) - 65536)):
        run("qemu-io", "-f", "vdi", "-c", f"write -P 7 {offset} 64k", path)
    with DiskReader.open(path) as reader:
        assert reader.info() == qemu_json(run, "info", path)
        assert reader.read_exact_at(reader.size - 65537, 65537) == b"\0" + b"\7" * 65536
        assert reader.read_exact_at((1 << 41) - 1, 3) == b"\0\7\7"
        assert reader.check() == qemu_json(run, "check", path)
    assert our_map(path) == their_map(run, path)


def test_past_4_gib(tmp_path: Path) -> None:
    """Blocks far out in the file."""
    path = tmp_path / "far.vdi"
    image = vdi(3 * MIB, [5000, FREE, 4999], fields={"cBlocks": 3})
    with path.open("wb") as file:
        file.write(image)
        for number, byte in ((5000, b"a"), (4999, b"b")):
            file.seek(1024 + number * MIB)
            file.write(byte * MIB)
    with DiskReader.open(path) as reader:
        check_device(reader, b"a" * MIB + bytes(MIB) + b"b" * MIB, rounds=50)
        assert [entry.offset for entry in reader.map()] == [1024 + 5000 * MIB, None, 1024 + 4999 * MIB]


@pytest.mark.parametrize("block_size", [512, 4096, 65536, 3 * 512, MIB, 2 * MIB])
@pytest.mark.parametrize("extra", [0, 512, 4096])
def test_block_sizes_and_extra_data(tmp_path: Path, block_size: int, extra: int) -> None:
    blocks = [bytes([65 + number]) * block_size for number in range(5)]
    entries = [2, 3, FREE, ZERO, ZERO, 0, 1, 4]
    flat = b"".join(bytes(block_size) if entry >= ZERO else blocks[entry] for entry in entries)[:-512] + bytes(512)
    path = tmp_path / "disk.vdi"
    path.write_bytes(vdi(8 * block_size - 512, entries, blocks, block_size=block_size, extra=extra))
    with DiskReader.open(path) as reader:
        check_device(reader, flat[:-512], rounds=60)
        assert reader.info()["cluster-size"] == block_size
        assert reader.check() == {"filename": str(path), "format": "vdi", "check-errors": 0}
        raw = path.read_bytes()
        for entry in reader.map():
            if entry.data:
                assert entry.offset is not None
                assert raw[entry.offset : entry.offset + entry.length] == flat[entry.start :][: entry.length]


def test_long_runs_are_one_extent(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    count = 20_000
    path.write_bytes(vdi(count * 512, range(count), block_size=512))
    os.truncate(path, path.stat().st_size + count * 512)
    with DiskReader.open(path) as reader:
        assert len(list(reader.map())) == 1
    path.write_bytes(vdi(count << 20, [FREE] * count))
    with DiskReader.open(path) as reader:
        assert len(list(reader.map())) == len(list(reader.runs(0, reader.size))) == 1


@pytest.mark.parametrize(
    ("changes", "corruptions"),
    [
        ([(0x200, 0)], 0),
        ([(0x200, 77)], 0),
        ([(0x200, 0), (0x208, 0), (0x20C, 77)], 0),
        ([(0x184, 5)], 0),
        ([(0x200, 0xFFFFFFFE)], 0),
        ([(0x200, 2), (0x184, 3)], 1),  # behind the end of the file
    ],
)
def test_check_of_damage(run: Run, tmp_path: Path, changes: list[tuple[int, int]], corruptions: int) -> None:
    """As qemu-img, and `corruptions` more."""
    path = tmp_path / "disk.vdi"
    run("qemu-img", "create", "-q", "-f", "vdi", path, "8M")
    run("qemu-io", "-f", "vdi", "-c", "write -P 1 1M 64k", "-c", "write -P 2 6M 64k", path)
    image = bytearray(path.read_bytes())
    for offset, value in changes:
        struct.pack_into("<I", image, offset, value)
    path.write_bytes(image)
    done = subprocess.run(["qemu-img", "check", "--output=json", path], capture_output=True, text=True)
    theirs = json.loads(done.stdout)
    with DiskReader.open(path) as reader:
        assert reader.check().get("corruptions", 0) == theirs.get("corruptions", 0) + corruptions


@pytest.mark.parametrize(
    ("options", "error", "where"),
    [
        ({"version": 0x00000001}, UnsupportedFeature, "VDI version 0.1"),
        ({"version": 0x00010000}, UnsupportedFeature, "VDI version 1.0"),
        ({"kind": 3}, UnsupportedFeature, "undo image"),
        ({"kind": 9}, UnsupportedFeature, "image type 9"),
        ({"header_bytes": 100}, InvalidFormat, "header (cbHeader)"),
        ({"fields": {"cBlocks": 0xFFFFFFFF}}, InvalidFormat, "header (offBlocks)"),
        ({"fields": {"offBlocks": 0xFFFFFFFF}}, InvalidFormat, "header (offBlocks)"),
        ({"fields": {"cbDisk": (1 << 64) - 1}}, InvalidFormat, "header (cbDisk)"),
        ({"fields": {"cBlocks": 1}}, InvalidFormat, "header (cbDisk)"),
        ({"fields": {"cbBlock": 0}}, InvalidFormat, "header (cbBlock)"),
        ({"fields": {"cbBlock": 511}}, InvalidFormat, "header (cbBlock)"),
        ({"fields": {"cbBlock": 1 << 31}}, InvalidFormat, "header (cbBlock)"),
        ({"fields": {"cbBlockExtra": 1 << 31}}, InvalidFormat, "header (cbBlockExtra)"),
        ({"fields": {"offData": 0xFFFFFFFF}}, InvalidFormat, "block map"),
        ({"entries": [0xFFFFFFFD, FREE]}, InvalidFormat, "block map"),
        ({"entries": [0, 1]}, InvalidFormat, "block map"),
        ({"kind": 4}, InvalidFormat, "header (uuidLinkage)"),
    ],
)
def test_damage(tmp_path: Path, options: dict[str, Any], error: type[GuestctlError], where: str) -> None:
    path = tmp_path / "disk.vdi"
    entries = options.pop("entries", [0, FREE])
    path.write_bytes(vdi(2 * MIB, entries, [b"x"], **options))
    with pytest.raises(error) as caught, DiskReader.open(path) as reader:
        reader.read(0, reader.size)
    if isinstance(caught.value, InvalidFormat):
        assert caught.value.structure == where
    elif isinstance(caught.value, UnsupportedFeature):
        assert caught.value.feature == where


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    whole = vdi(2 * MIB, [0, 1], [b"x", b"y"])
    for length in (0, 68, 100, 455, 512, 600, 1023, MIB, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidFormat), DiskReader.open(path, format="vdi") as reader:
            reader.read(0, reader.size)


def test_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    path.write_bytes(vdi(MIB, [FREE]))
    with pytest.raises(UnsupportedFeature):
        DiskReader.open(path, snapshot="one")


def child(folder: Path, name: str, entries: list[int], blocks: list[bytes], *, own: bytes, parent: bytes) -> Path:
    """A differencing image with UUIDs of one letter each; the modification UUID is the upper case."""
    path = folder / name
    uuids = [own * 16, own.upper() * 16, parent * 16, parent.upper() * 16]
    path.write_bytes(vdi(len(entries) * MIB, entries, blocks, kind=4 if parent != b"\0" else 1, uuids=uuids))
    return path


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Base below middle below top."""
    child(tmp_path, "base.vdi", [0, 1, FREE], [b"a" * MIB, b"b" * MIB], own=b"x", parent=b"\0")
    child(tmp_path, "middle.VDI", [FREE, 0, FREE, FREE], [b"c" * MIB], own=b"y", parent=b"x")
    return child(tmp_path, "top.vdi", [FREE, FREE, ZERO, 0], [b"d" * MIB], own=b"z", parent=b"y")


def test_chain(chain: Path) -> None:
    with DiskReader.open(chain) as reader:
        check_device(reader, b"a" * MIB + b"c" * MIB + bytes(MIB) + b"d" * MIB, rounds=80)
        assert [(entry.depth, entry.data) for entry in reader.map()] == [
            (2, True),
            (1, True),
            (0, False),
            (0, True),
        ]
        assert len(reader.files) == 3 and list(reader.warnings) == []
        assert reader.info()["backing-filename"] == str(chain.with_name("middle.VDI"))


def test_child_that_reaches_into_its_parent(chain: Path) -> None:
    """Zero blocks hide the parent's, free ones after its end are zeros."""
    path = child(chain.parent, "new.vdi", [ZERO, FREE, FREE, FREE, FREE], [], own=b"w", parent=b"y")
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == bytes(MIB) + b"c" * MIB + bytes(3 * MIB)


def test_parents_that_changed(chain: Path) -> None:
    """Of copies with the same UUID the one that was not written to; if there is none, a warning."""
    base = chain.with_name("base.vdi")
    changed = bytearray(base.read_bytes())
    changed[0x198 : 0x198 + 16] = b"?" * 16
    chain.with_name("a copy.vdi").write_bytes(changed)
    with DiskReader.open(chain) as reader:
        assert list(reader.warnings) == []
    base.unlink()
    with DiskReader.open(chain) as reader:
        assert reader.read_exact_at(0, 1) == b"a"
        (warning,) = reader.warnings
        assert "a copy.vdi was written after" in warning


def test_parent_elsewhere(chain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    moved = chain.rename(folder / "top.vdi")
    with pytest.raises(InvalidFormat, match="79797979-7979"):
        DiskReader.open(moved)
    with DiskReader.open(moved, metadata_only=True) as reader:
        assert reader.info()["virtual-size"] == 4 * MIB
    with DiskReader.open(moved, allow_dirs=[tmp_path]) as reader:
        assert reader.read_exact_at(0, 1) == b"a"


def test_loops(tmp_path: Path) -> None:
    path = child(tmp_path, "one.vdi", [FREE], [], own=b"x", parent=b"x")
    with pytest.raises(InvalidFormat):
        DiskReader.open(path)
    child(tmp_path, "two.vdi", [FREE], [], own=b"y", parent=b"x")
    path = child(tmp_path, "one.vdi", [FREE], [], own=b"x", parent=b"y")
    with pytest.raises(InvalidFormat):
        DiskReader.open(path)


def test_links_out_of_the_directory_are_not_followed(chain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    moved = chain.rename(folder / "top.vdi")
    (folder / "link.vdi").symlink_to(tmp_path / "middle.VDI")
    os.mkfifo(folder / "fifo.vdi")
    (folder / "directory.vdi").mkdir()
    with pytest.raises((InvalidFormat, LocationRefused)):
        DiskReader.open(moved)
