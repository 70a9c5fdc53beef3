"""Damaged filesystems: another copy, a typed error, or only the file concerned; never anything else."""

from __future__ import annotations

import os
import random
import re
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from google_crc32c import value as crc32c

from btrfs_images import make, opened
from guestctl.block import MemoryDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Options, WalkError
from guestctl.disk.filesystems.btrfs import open_filesystem

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
_SUPERBLOCKS = (64 << 10, 64 << 20)


def _fill(top: Path) -> None:
    for number in range(40):
        (top / f"file-{number}").write_bytes(b"content" * number * 30)
    (top / "long").write_bytes(b"0123456789abcde\n" * 30_000)
    os.symlink("long", top / "link")
    os.setxattr(top / "long", "user.name", b"value")
    (top / "folder").mkdir()
    (top / "folder" / "file").write_text("in a folder")
    os.sync()


@pytest.fixture(scope="module")
def images(run: Run, mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A filesystem with two copies of its metadata, one with one, and that with a log."""
    found = {}
    for name in ("dup", "single"):
        image = tmp_path_factory.mktemp("damage") / name
        make(run, image, f"-m {name} -n 4096", 112 << 20)
        with mount(image, "rw,loop,compress-force=zstd") as target:
            run("btrfs", "subvolume", "create", target / "subvolume")
            _fill(target)
        found[name] = image
    found["log"] = image.with_name("log")
    with mount(image, "rw,loop,commit=300") as target:
        os.sync()
        (target / "file-3").write_bytes(b"changed" * 2000)
        (target / "file-4").rename(target / "folder" / "renamed")
        (target / "file-5").unlink()
        os.link(target / "long", target / "folder" / "hard")
        (target / "new").write_text("new")
        for name in ("file-3", "folder/hard", "new", "folder"):
            fd = os.open(target / name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        run("cp", "--sparse=always", image, found["log"])
    with opened(found["log"]) as filesystem:
        assert filesystem.warnings == ["the log was replayed in memory"]
    return found


def _patched(image: Path, patches: dict[int, bytes], *, seal: bool = True) -> bytes:
    """The image with other bytes in its superblocks, whose checksums are made right again."""
    data = bytearray(image.read_bytes())
    for offset in _SUPERBLOCKS:
        for place, content in patches.items():
            data[offset + place : offset + place + len(content)] = content
        if seal:
            data[offset : offset + 4] = crc32c(bytes(data[offset + 32 : offset + 4096])).to_bytes(4, "little")
    return bytes(data)


def _tree_blocks(run: Run, image: Path) -> list[int]:
    """Logical addresses of the blocks of all trees."""
    text = run("btrfs", "inspect-internal", "dump-tree", image)
    return [int(number) for number in re.findall(r"^(?:leaf|node) (\d+) (?:level|items)", text, re.MULTILINE)]


def _physical(run: Run, image: Path, logical: int) -> list[int]:
    text = run("btrfs-map-logical", "-l", str(logical), image)
    return [int(number) for number in re.findall(r"physical (\d+)", text)]


def _places(data: bytearray, blocks: list[int]) -> list[int]:
    """Where these tree blocks lie, which bear their logical addresses: no tool maps those of a log."""
    fsid = data[_SUPERBLOCKS[0] + 32 : _SUPERBLOCKS[0] + 48]
    wanted = set(blocks)
    return [
        place
        for place in range(1 << 20, len(data), 4096)
        if data[place + 32 : place + 48] == fsid and int.from_bytes(data[place + 48 : place + 56], "little") in wanted
    ]


def test_the_other_copy_of_a_tree_block(run: Run, images: dict[str, Path]) -> None:
    data = bytearray(images["dup"].read_bytes())
    blocks = _tree_blocks(run, images["dup"])
    for logical in blocks:
        first, second = _physical(run, images["dup"], logical)
        assert data[first : first + 4096] == data[second : second + 4096]
        data[first + 200 : first + 1000] = os.urandom(800)
    with FileSystem.detect(MemoryDevice(bytes(data))) as filesystem, opened(images["dup"]) as sound:
        assert [path for path, _, _ in filesystem.find("/")] == [path for path, _, _ in sound.find("/")]
        assert filesystem.read_bytes("/long") == sound.read_bytes("/long")
        assert filesystem.damaged_count > 5  # type: ignore[attr-defined]
        assert len(filesystem.warnings) == 1 and "another copy was used" in filesystem.warnings[0]
        assert sound.damaged_count == 0


def test_a_damaged_leaf_fails_alone(run: Run, images: dict[str, Path]) -> None:
    with opened(images["single"]) as filesystem:
        paths = [path for path, _, _ in filesystem.find("/")]
    data = bytearray(images["single"].read_bytes())
    text = run("btrfs", "inspect-internal", "dump-tree", "-t", "5", images["single"])
    leaves = re.findall(r"^leaf (\d+) items", text, re.MULTILINE)
    (place,) = _physical(run, images["single"], int(leaves[-1]))
    data[place + 2000] ^= 1
    errors: list[WalkError] = []
    with FileSystem.detect(MemoryDevice(bytes(data))) as filesystem:
        found = [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
    assert errors and all(isinstance(error.error, ChecksumMismatch) for error in errors)
    assert len(paths) // 2 < len(found) < len(paths)
    with FileSystem.detect(MemoryDevice(bytes(data)), options=Options(ignore_checksums=True)) as filesystem:
        assert filesystem.exists("/long")


def test_damaged_compressed_data(run: Run, images: dict[str, Path]) -> None:
    data = bytearray(images["single"].read_bytes())
    text = run("btrfs", "inspect-internal", "dump-tree", "-t", "5", images["single"])
    extents = re.findall(r"extent data disk byte (\d+) nr (\d+)", text)
    logical = int(extents[-1][0])
    (place,) = _physical(run, images["single"], logical)[:1]
    data[place + 50] ^= 1
    with FileSystem.detect(MemoryDevice(bytes(data))) as filesystem:
        device = filesystem.device("/long")
        with pytest.raises(ChecksumMismatch) as caught:
            device.read(0, device.size)
        assert caught.value.structure == "data extent"
        assert filesystem.read_text("/folder/file") == "in a folder"


def test_superblocks(images: dict[str, Path]) -> None:
    data = bytearray(images["dup"].read_bytes())
    data[_SUPERBLOCKS[0] + 100] ^= 1
    with FileSystem.detect(MemoryDevice(bytes(data))) as filesystem:
        assert filesystem.exists("/long")
        (warning,) = filesystem.warnings
        assert warning.startswith("superblock at offset 0x10000: checksum is") and "mirror" in warning
    data[_SUPERBLOCKS[1] + 100] ^= 1
    with pytest.raises(ChecksumMismatch, match="superblock at offset 0x10000"):
        open_filesystem(MemoryDevice(bytes(data)))


@pytest.mark.parametrize(
    ("bit", "name"),
    [
        (12, "zoned"),
        (13, "extent_tree_v2"),
        (14, "raid_stripe_tree"),
        (15, "incompatible feature 0x8000"),
        (63, "incompatible feature 0x8000000000000000"),
    ],
)
def test_unknown_features(images: dict[str, Path], bit: int, name: str) -> None:
    data = images["dup"].read_bytes()
    (flags,) = struct.unpack_from("<Q", data, _SUPERBLOCKS[0] + 0xBC)
    patched = _patched(images["dup"], {0xBC: struct.pack("<Q", flags | 1 << bit)})
    with pytest.raises(UnsupportedFeature, match=name):
        FileSystem.detect(MemoryDevice(patched))


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (0x50, (1 << 60).to_bytes(8, "little")),  # root in no chunk
        (0x58, (1 << 60).to_bytes(8, "little")),  # chunk_root
        (0x90, (0).to_bytes(4, "little")),  # sectorsize
        (0x94, (5000).to_bytes(4, "little")),  # nodesize
        (0x94, (1 << 31).to_bytes(4, "little")),
        (0xA0, (4096).to_bytes(4, "little")),  # sys_chunk_array_size
        (0xA0, (20).to_bytes(4, "little")),
        (0xA0, (0).to_bytes(4, "little")),
        (0xC6, b"\x08"),  # root_level
        (0xC6, b"\x02"),
        (0x32B + 17 + 16, (1).to_bytes(8, "little")),  # stripe_len of the first chunk
        (0x32B + 17 + 44, (999).to_bytes(2, "little")),  # its num_stripes
        (0x48, (1).to_bytes(8, "little")),  # generation
    ],
)
def test_superblock_fields(images: dict[str, Path], place: int, content: bytes) -> None:
    with pytest.raises(InvalidFormat):
        FileSystem.detect(MemoryDevice(_patched(images["dup"], {place: content})))


def test_unknown_checksum(images: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedFeature, match="checksums of type 9"):
        FileSystem.detect(MemoryDevice(_patched(images["dup"], {0xC4: b"\x09\0"})))


@pytest.mark.parametrize("name", ["single", "log"])
def test_mutations(run: Run, images: dict[str, Path], name: str) -> None:
    """Bytes of tree blocks changed and their checksums made right again: a result or a typed error, soon."""
    seconds = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    chance = random.Random(int(os.environ.get("GUESTCTL_FUZZ_SEED", "0")))
    image = images[name]
    data = bytearray(image.read_bytes())
    places = _places(data, _tree_blocks(run, image))
    started = time.monotonic()
    rounds = read = 0
    while time.monotonic() - started < seconds:
        chosen = chance.sample(places, chance.choice((1, 1, 1, 2, 4)))
        saved = {place: bytes(data[place : place + 4096]) for place in chosen}
        for place in chosen:
            _mutate(data, place, chance)
        begun = time.monotonic()
        try:
            read += _read_everything(MemoryDevice(data))
        except GuestctlError:
            pass
        assert time.monotonic() - begun < 10, (rounds, chosen)
        for place, content in saved.items():
            data[place : place + 4096] = content
        rounds += 1
    assert rounds > 20 and read > rounds


def _mutate(data: bytearray, place: int, chance: random.Random) -> None:
    (count,) = struct.unpack_from("<I", data, place + 0x60)
    for _ in range(chance.choice((1, 1, 2, 8))):
        # Headers of items, the data of items, or anything.
        at = chance.choice(
            (
                chance.randrange(0x60, 0x65 + 33 * max(1, min(count, 100))),
                4095 - int(chance.random() ** 2 * 4000),
                chance.randrange(32, 4096),
            )
        )
        kind = chance.randrange(4)
        if kind == 0:
            data[place + at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place + at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            at = min(at, 4096 - 8)
            content = chance.choice((0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 4096)).to_bytes(8, "little")
            data[place + at : place + at + 8] = content
        else:
            other = chance.randrange(32, 4080)
            at = min(at, 4080)
            data[place + at : place + at + 16] = data[place + other : place + other + 16]
    data[place : place + 4] = crc32c(bytes(data[place + 32 : place + 4096])).to_bytes(4, "little")


def _read_everything(device: MemoryDevice) -> int:
    count = 0
    errors: list[WalkError] = []
    with FileSystem.detect(device) as filesystem:
        for _, node, status in filesystem.find("/", onerror=errors.append):
            count += 1
            try:
                filesystem.node_xattrs(node)
                assert status.st_blocks >= 0 and status.st_mtime_ns is not None and status.st_rdev >= 0
                if status.is_symlink():
                    filesystem.node_target(node)
                elif status.is_file():
                    content = filesystem.node_data(node)
                    for _ in content.buffers(0, min(content.size, 4 << 20)):
                        pass
            except GuestctlError:
                pass
        try:
            filesystem.usage()
            filesystem.subvolumes()
            filesystem.exists("/folder/file")
        except GuestctlError:
            pass
    return count
