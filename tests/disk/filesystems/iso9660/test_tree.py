"""Trees in every form that genisoimage and xorriso have, beside their source and what libarchive reads."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import FileDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError
from iso_images import facts, facts_of_bsdtar, facts_of_tree, make

Run = Callable[..., str]

# name -> the program and its arguments
ROCK_RIDGE = {
    "deep-directories-moved": "genisoimage -quiet -R",
    "deep-directories-hidden": "genisoimage -quiet -R -hide-rr-moved",
    "deep-directories-kept": "genisoimage -quiet -R -D -l -allow-lowercase",
    "level-3": "genisoimage -quiet -R -D -iso-level 3",
    "xa-before-rock-ridge": "genisoimage -quiet -R -D -XA",
    "apple": "genisoimage -quiet -R -D -apple -no-mac-files",
    "xorriso": "xorriso -as mkisofs -quiet -R",
    "xorriso-joliet": "xorriso -as mkisofs -quiet -R -J -joliet-long",
    "xorriso-level-3": "xorriso -as mkisofs -quiet -R -iso-level 3",
    "xorriso-partition-offset": "xorriso -as mkisofs -quiet -R -partition_offset 16",
}
PLAIN = {
    "level-1": "genisoimage -quiet",
    "level-2": "genisoimage -quiet -l",
    "level-4": "genisoimage -quiet -iso-level 4",
    "no-versions": "genisoimage -quiet -N -d -l",
    "untranslated": "genisoimage -quiet -U",
    "xorriso": "xorriso -as mkisofs -quiet --norock",
    "joliet": "genisoimage -quiet -J",
    "joliet-ucs-1": "genisoimage -quiet -J -ucs-level 1",
    "joliet-long": "genisoimage -quiet -J -joliet-long",
    "joliet-xorriso": "xorriso -as mkisofs -quiet --norock -J -joliet-long",
}


def everything(filesystem: FileSystem[Any]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path, node, status in filesystem.find("/"):
        digest = None
        if status.is_symlink():
            digest = filesystem.node_target(node)
        elif status.is_file():
            device = filesystem.node_data(node)
            digest = hashlib.sha256(device.read(0, device.size)).hexdigest()
        found[path] = (*facts(status), digest)
    return found


@pytest.mark.root
@pytest.mark.parametrize("kind", ROCK_RIDGE)
def test_rock_ridge(run: Run, tree: Path, tmp_path: Path, kind: str) -> None:
    image = make(run, tmp_path / "image", ROCK_RIDGE[kind], tree)
    expected = facts_of_tree(tree)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = everything(filesystem)
        moved = {path for path in ours if path in ("/rr_moved", "/.rr_moved")}
        assert len(moved) == ("moved" in kind or "hidden" in kind)
        assert ours.keys() - moved == expected.keys()
        assert {path: (ours[path], expected[path]) for path in expected if ours[path] != expected[path]} == {}
        assert filesystem.warnings == []
        for path in list(expected)[::10]:
            assert filesystem.lstat(path).st_mode == expected[path][0]
            assert not filesystem.exists(path + "-")
        usage = filesystem.usage()
        assert usage.size == usage.used <= device.size


@pytest.mark.parametrize("kind", PLAIN)
def test_plain(run: Run, plain_tree: Path, tmp_path: Path, kind: str) -> None:
    """Names are Linux's for what libarchive shows as it is: without Joliet in lower case."""
    image = make(run, tmp_path / "image", PLAIN[kind], plain_tree)
    theirs = facts_of_bsdtar(image, run)
    joliet = kind.startswith("joliet")
    expected = theirs if joliet else {path.lower(): values for path, values in theirs.items()}
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.version == ("Joliet Extension" if joliet else None)
        ours = everything(filesystem)
        assert ours.keys() == expected.keys()
        contents = {facts[-1] for facts in facts_of_tree(plain_tree).values()}
        for path, (mode, uid, gid, seconds, own, digest) in ours.items():
            assert digest == (expected[path][1] or digest), path
            # libarchive takes the times of directories from their parents, Linux from themselves.
            assert stat.S_ISDIR(mode) or seconds == expected[path][0], path
            assert digest in contents
            assert (mode & 0o7777, uid, gid) == (0o555, 0, 0)
            assert stat.S_ISDIR(mode) or own[0] == 1
        name = "/readme.txt" if not joliet else "/Readme.txt"
        assert filesystem.exists(name)
        assert filesystem.exists("/README.TXT") == joliet
        assert not filesystem.exists("/Readme.tx")


def test_names_of_linux(run: Run, plain_tree: Path, tmp_path: Path) -> None:
    """Names as isoinfo shows them raw, with versions, translated by the rule of Linux's ``map=normal``."""
    image = make(run, tmp_path / "image", "genisoimage -quiet -l", plain_tree)
    raw = {line.rsplit("/", 1)[-1] for line in run("isoinfo", "-f", "-i", image).splitlines()}
    assert {"README.TXT;1", "NOEXT.;1", "A-LONG-NAME_WITH.DOTS;1"} & raw == {"README.TXT;1", "NOEXT.;1"}
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        names = set(filesystem.listdir("/"))
        assert {"readme.txt", "noext", "upper.txt"} <= names
        assert len(names) == len(os.listdir(plain_tree))


def test_large_directory(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(10_000):
        (source / f"file-{number}").touch()
    image = make(run, tmp_path / "image", "xorriso -as mkisofs -quiet -R", source)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert sorted(filesystem.listdir("/")) == sorted(os.listdir(source))
        assert filesystem.exists("/file-9999") and not filesystem.exists("/file-10000")


def test_link_that_genisoimage_cannot_write(run: Run, tmp_path: Path) -> None:
    """It writes a damaged entry, which isoinfo and we refuse; the files beside it can be read."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "long").symlink_to("/".join(["u" * 99] * 10))
    (source / "other").write_bytes(b"content")
    image = make(run, tmp_path / "image", "genisoimage -quiet -R", source)
    errors: list[WalkError] = []
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert sorted(filesystem.listdir("/")) == ["long", "other"]
        found = [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
        assert found == ["/", "/other"]
        assert [(error.path, type(error.error)) for error in errors] == [("/long", InvalidFormat)]
        assert filesystem.read_bytes("/other") == b"content"


def test_long_links_of_xorriso(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    targets = ["/", ".", "..", "../..", "/a", "./a", "a/./b", "/".join(["u" * 99] * 10), "v" * 255, "w/" * 300 + "w"]
    for number, target in enumerate(targets):
        (source / str(number)).symlink_to(target)
    image = make(run, tmp_path / "image", "xorriso -as mkisofs -quiet -R", source)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for number, target in enumerate(targets):
            assert filesystem.readlink(f"/{number}") == target
            assert filesystem.lstat(f"/{number}").st_size == len(target)


@pytest.mark.parametrize("version", [1, 2, "mkzftree"])
def test_zisofs(run: Run, tmp_path: Path, version: int | str) -> None:
    source, image = tmp_path / "source", tmp_path / "image"
    source.mkdir()
    contents = {
        "words": b"".join(b"%07d\n" % number for number in range(60_000)),
        "zeros": bytes(500_000),
        "zeros-between": b"begin" * 10_000 + bytes(300_000) + b"end" * 9000,
        "block": b"exactly " * 4096,
        "noise": os.urandom(100_000),
        "small": b"small",
        "empty": b"",
    }
    for name, content in contents.items():
        (source / name).write_bytes(content)
    if version == "mkzftree":
        run("mkzftree", source, tmp_path / "compressed")
        make(run, image, "genisoimage -quiet -R -z", tmp_path / "compressed")
    else:
        options = "version_2=on:block_size_v2=128k" if version == 2 else "version_2=off"
        filters = ("-set_filter_r", "--zisofs", "/", "--")
        run("xorriso", "-outdev", image, "-zisofs", options, "-map", source, "/", *filters, "-commit")
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert image.stat().st_size < 1_000_000
        for name, content in contents.items():
            assert filesystem.stat(f"/{name}").st_size == len(content)
            assert filesystem.read_bytes(f"/{name}") == content
        zeros = filesystem.device("/zeros")
        assert any(run.source is None for run in zeros.runs(0, zeros.size))


def test_files_of_several_extents(run: Run, tmp_path: Path) -> None:
    """Two files whose data and records lie one after the other, made one: libarchive reads it so too."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "AAA.TXT").write_bytes(b"first part" * 1024)
    (source / "AAB.TXT").write_bytes(b"second" * 1000)
    (source / "Z.TXT").write_bytes(b"other")
    image = make(run, tmp_path / "image", "genisoimage -quiet", source)
    data = bytearray(image.read_bytes())
    first, second = data.index(b"AAA.TXT;1"), data.index(b"AAB.TXT;1")
    data[first - 8] |= 0x80
    data[second : second + 9] = b"AAA.TXT;1"
    image.write_bytes(data)
    content = b"first part" * 1024 + b"second" * 1000
    theirs = facts_of_bsdtar(image, run)
    assert theirs["/AAA.TXT"][1] == hashlib.sha256(content).hexdigest()
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.listdir("/") == ["aaa.txt", "z.txt"]
        assert filesystem.stat("/aaa.txt").st_size == len(content)
        assert filesystem.read_bytes("/aaa.txt") == content


@pytest.mark.root
def test_device_numbers(run: Run, tmp_path: Path) -> None:
    """genisoimage writes them in two halves."""
    source = tmp_path / "source"
    source.mkdir()
    for number, (major, minor) in enumerate(((1, 3), (300, 70_000), (4095, 5), (0, 0))):
        os.mknod(source / str(number), 0o20600, os.makedev(major, minor))
    image = make(run, tmp_path / "image", "genisoimage -quiet -R", source)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for path in source.iterdir():
            assert filesystem.stat(f"/{path.name}").st_rdev == path.stat().st_rdev
