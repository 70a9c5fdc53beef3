"""--sparsify: the same files, fewer bytes; free blocks are those the filesystem's own tools list."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest

from conftest import Run
from guestctl.block import FileDevice, MemoryDevice
from guestctl.converters import DiskConverter
from guestctl.converters.sparsify import SparsifiedDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk import DiskReader, FileSystem

MIB = 1 << 20


def _filled(path: Path, size: int) -> Path:
    """A file in which everything that a filesystem leaves alone is old data."""
    path.write_bytes(random.Random(0).randbytes(MIB) * (size // MIB))
    return path


def _tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"file{number}").write_bytes(bytes([number]) * number * 5000)
    return tree


@pytest.mark.parametrize(
    "options",
    [
        ["-t", "ext4", "-b", "1024"],
        ["-t", "ext4", "-b", "4096"],
        ["-t", "ext4", "-b", "4096", "-O", "^64bit"],
        ["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal,^flex_bg"],
        ["-t", "ext4", "-b", "1024", "-O", "uninit_bg,^metadata_csum"],
        ["-t", "ext3"],
        ["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"],
        ["-t", "ext2", "-b", "1024"],
        ["-t", "ext4", "-g", "1024", "-b", "1024"],
    ],
    ids=" ".join,
)
def test_free_blocks_are_those_of_dumpe2fs(tmp_path: Path, run: Run, options: list[str]) -> None:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    run("mke2fs", "-q", *options, "-d", _tree(tmp_path), image)
    text = run("dumpe2fs", image)
    block_size = int(re.findall(r"Block size: +(\d+)", text)[0])
    clusters = re.findall(r"Cluster size: +(\d+)", text)
    cluster_blocks = int(clusters[0]) // block_size if clusters else 1
    expected: set[int] = set()
    for group in re.split(r"\nGroup (?=\d+:)", text)[1:]:
        for piece in re.findall(r"Free blocks: (.*)", group)[0].split(", "):
            if piece:
                first, _, last = piece.partition("-")
                expected.update(range(int(first), int(last or first) + cluster_blocks))
    assert expected
    found: set[int] = set()
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for offset, length in filesystem.free_ranges():
            found.update(range(offset // block_size, (offset + length) // block_size))
    assert found == expected


def test_unclean_ext2_is_not_trusted(tmp_path: Path, run: Run) -> None:
    image = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext2", image, "8M")
    run("debugfs", "-w", "-R", "set_super_value state 0", image)
    with FileDevice.open(image) as device, pytest.raises(UnsupportedFeature, match="fsck"):
        FileSystem.detect(device).free_ranges()


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_fat(tmp_path: Path, run: Run, bits: str) -> None:
    image = _filled(tmp_path / "image", 48 * MIB if bits != "12" else 8 * MIB)
    run("mkfs.vfat", "-F", bits, *(["-s", "1"] if bits == "32" else []), image)
    tree = _tree(tmp_path)
    run("mcopy", "-s", "-i", image, tree, "::")
    run("mdel", "-i", image, "::tree/file39")
    run("fsck.vfat", "-n", image)
    sparse = tmp_path / "sparse"
    DiskConverter().convert(image, sparse, "raw", sparsify=True)
    run("fsck.vfat", "-n", sparse)
    assert sparse.stat().st_blocks * 512 < image.stat().st_size // 2
    copy = tmp_path / "copy"
    copy.mkdir()
    run("mcopy", "-s", "-i", sparse, "::tree", copy)
    (tree / "file39").unlink()
    run("diff", "-r", tree, copy / "tree")


def test_ext4_in_a_partition(tmp_path: Path, run: Run) -> None:
    disk = _filled(tmp_path / "disk", 64 * MIB)
    run("sgdisk", "-o", "-n", "1:2048:+32M", "-n", "2:0:0", disk)
    tree = _tree(tmp_path)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={MIB},nodiscard", "-d", tree, disk, "32M")
    sparse = tmp_path / "sparse.qcow2"
    result = DiskConverter().convert(disk, sparse, "qcow2", sparsify=True)
    assert result["output_size"] < 45 * MIB  # the second partition stays as it is
    part = tmp_path / "part"
    with DiskReader.open(sparse) as reader:
        part.write_bytes(reader.read(MIB, 32 * MIB))
        rest = reader.read(40 * MIB, 20 * MIB)
    assert rest == disk.read_bytes()[40 * MIB : 60 * MIB]
    run("e2fsck", "-fn", part)
    copy = tmp_path / "copy"
    copy.mkdir()
    run("debugfs", "-R", f"rdump / {copy}", part)
    shutil.rmtree(copy / "lost+found")
    run("diff", "-r", tree, copy)


def test_device() -> None:
    content = random.Random(1).randbytes(10_000)
    device = SparsifiedDevice(MemoryDevice(content), [(0, 10), (500, 600), (9990, 10)])
    expected = bytearray(content)
    expected[:10] = expected[9990:] = bytes(10)
    expected[500:1100] = bytes(600)
    assert bytes(device.read(0, 10_000)) == expected
    assert bytes(device.read(5, 1000)) == expected[5:1005]
