"""An awkward tree in every form that mksquashfs has, beside the kernel's mount of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount
from conformance import check_device
from guestctl.block import FileDevice
from guestctl.disk import FileSystem

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
Make = Callable[..., Path]

# name -> arguments of mksquashfs
KINDS = {
    "default": "",
    "gzip-4k-blocks": "-b 4096 -Xwindow-size 9",
    "gzip-level-1": "-Xcompression-level 1 -no-exports",
    "lzo": "-comp lzo -Xcompression-level 1 -b 65536",
    "lzo-other-algorithm": "-comp lzo -Xalgorithm lzo1x_1_15 -b 1M",
    "xz": "-comp xz -b 256K -Xdict-size 50%",
    "lz4": "-comp lz4 -no-duplicates",
    "lz4-high": "-comp lz4 -Xhc -b 8192",
    "zstd": "-comp zstd -Xcompression-level 3",
    "zstd-1m-blocks": "-comp zstd -Xcompression-level 1 -b 1M -tailends",
    "nothing-compressed": "-noI -noD -noF -noX",
    "data-not-compressed": "-noD -comp zstd -Xcompression-level 1 -b 16384",
    "tables-not-compressed": "-noI -noX -comp lz4",
    "fragments-not-compressed": "-noF -comp lz4 -always-use-fragments",
    "no-fragments": "-no-fragments -comp lz4",
    "no-sparse": "-no-sparse -comp lz4",
    "no-xattrs": "-no-xattrs -comp lz4 -all-root",
}


@pytest.mark.parametrize("kind", KINDS)
def test_tree(mount: Mount, tree: Path, make: Make, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    image = make(tree, *KINDS[kind].split())
    if kind == "no-xattrs":  # what the kernel answers with an error
        monkeypatch.setattr("awkward_tree._listxattr", lambda path: [])
    with mount(image) as target:
        expected = from_mount(target)
        usage = os.statvfs(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = from_guestctl(filesystem)
        assert ours.keys() == expected.keys()
        assert {path: (ours[path], expected[path]) for path in expected if ours[path] != expected[path]} == {}
        assert filesystem.block_size == usage.f_bsize
        sizes = filesystem.usage()
        assert (sizes.size, sizes.used, sizes.available) == (usage.f_blocks * usage.f_frsize,) * 2 + (0,)
        assert (sizes.inodes, sizes.inodes_used) == (usage.f_files, usage.f_files)
        assert list(filesystem.free_ranges()) == []
        for path in list(expected)[::40]:
            assert filesystem.lstat(path).st_ino == expected[path][0]
            assert not filesystem.exists(path + "-")
        holes = filesystem.device("/blocks/holes")
        assert any(run.source is None for run in holes.runs(0, holes.size)) == (kind != "no-sparse")
        assert bool(filesystem.xattrs("/more-attributes/7")) == (kind != "no-xattrs")


def test_lzma(run: Run, mount: Mount, tree: Path, make: Make, tmp_path: Path) -> None:
    """No kernel reads it today: attributes are those of the same tree with gzip, contents those of the tree."""
    with mount(make(tree, "-b", "65536", name="gzip")) as target:
        expected = from_mount(target)
    with FileDevice.open(make(tree, "-b", "65536", "-comp", "lzma")) as device:
        assert bytes(device.read(20, 2)) == b"\2\0"
        with FileSystem.detect(device) as filesystem:
            assert from_guestctl(filesystem) == expected


def test_xz_filters(mount: Mount, tree: Path, make: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(tree / "blocks" / "program", source)
    os.setxattr(source, "user.name", b"value")
    image = make(source, "-comp", "xz", "-Xbcj", "x86,arm,armthumb,powerpc,sparc,ia64")
    with mount(image) as target:
        expected = from_mount(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected


def test_devices(tree: Path, make: Make) -> None:
    """Files read in pieces, from places where blocks, holes and fragments meet."""
    for arguments in (("-b", "4096"), ("-b", "131072", "-always-use-fragments"), ("-b", "65536", "-noD", "-noF")):
        with FileDevice.open(make(tree, *arguments)) as device, FileSystem.detect(device) as filesystem:
            for name in ("noise-and-words", "131073"):
                flat = (tree / "blocks" / name).read_bytes()
                check_device(filesystem.device(f"/blocks/{name}"), flat, rounds=40)


def test_large_directory(mount: Mount, make: Make, tmp_path: Path) -> None:
    """10,000 names are found through the index; those before, between and after them are not."""
    source = tmp_path / "source"
    (source / "many").mkdir(parents=True)
    names = [f"file-{number:05}-{'x' * (number % 200)}" for number in range(0, 30_000, 3)]
    for name in names:
        (source / "many" / name).touch()
    image = make(source)
    with mount(image) as target:
        inodes = {name: os.stat(target / "many" / name).st_ino for name in names[::7]}
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.listdir("/many") == sorted(names)
        for name in names[::7]:
            assert filesystem.stat(f"/many/{name}").st_ino == inodes[name]
        for number in (1, 2, 4, 10_000, 15_001, 29_998):
            assert not filesystem.exists(f"/many/file-{number:05}-{'x' * (number % 200)}")
        for name in ("", "a", "z", "file-", "file-29997"):
            assert not filesystem.exists(f"/many/{name}/x")


def test_file_of_many_blocks(make: Make, tmp_path: Path) -> None:
    """Its list of them is read in several windows, from any place."""
    source = tmp_path / "source"
    source.mkdir()
    size = (300 << 20) + 1234
    places = {0: b"first", (200 << 20) + 77: b"middle " * 3000, (64 << 20) - 3: b"edge", 300 << 20: b"last"}
    with (source / "file").open("wb") as stream:
        for place, content in places.items():
            stream.seek(place)
            stream.write(content)
        stream.truncate(size)
    image = make(source, "-b", "4K", "-comp", "lz4")
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        order = list(places)
        random.Random(1).shuffle(order)
        for place in order:
            file = filesystem.device("/file")
            assert file.size == size
            assert bytes(file.read(place, len(places[place]))) == places[place]
        data = sum(run.length for run in file.runs(0, size) if run.source is not None)
        assert data < 1 << 20
        assert filesystem.stat("/file").st_blocks < 2 << 11


def test_appended(run: Run, mount: Mount, tree: Path, make: Make, tmp_path: Path) -> None:
    """A second source added to an image: tables are written anew after the old ones."""
    image = make(tree / "names")
    run("mksquashfs", tree / "links", tree / "attributes", image, "-quiet", "-no-progress")
    with mount(image) as target:
        expected = from_mount(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert len(expected) > 20


def test_hashes_of_the_source(tree: Path, make: Make) -> None:
    image = make(tree, "-comp", "zstd", "-Xcompression-level", "1")
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for path in (tree / "blocks").iterdir():
            with filesystem.open(f"/blocks/{path.name}") as stream:
                ours = hashlib.file_digest(stream, "sha256").digest()
            assert ours == hashlib.sha256(path.read_bytes()).digest(), path
