"""Subvolumes and snapshots, beside the kernel's mount and ``btrfs subvolume list``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount
from btrfs_images import make, opened

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]


@pytest.fixture(scope="module")
def image(run: Run, mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subvolumes") / "image"
    make(run, path)
    with mount(path, "rw,loop") as top:
        run("btrfs", "subvolume", "create", top / "root")
        (top / "root" / "file").write_text("in root")
        (top / "root" / "deep" / "er").mkdir(parents=True)
        run("btrfs", "subvolume", "create", top / "root" / "deep" / "er" / "néstéd")
        (top / "root" / "deep" / "er" / "néstéd" / "file").write_text("nested")
        run("btrfs", "subvolume", "snapshot", "-r", top / "root", top / "snapshot")
        run("btrfs", "subvolume", "snapshot", top / "root", top / "root" / "writable")
        (top / "root" / "file").write_text("later")
        (top / "root" / "writable" / "file").unlink()
        run("btrfs", "subvolume", "create", top / "gone")
        run("btrfs", "subvolume", "delete", "--commit-after", top / "gone")
        (top / "root" / "deep").rename(top / "root" / "moved")
        os.sync()
    return path


def test_the_top_level_shows_all(mount: Mount, image: Path) -> None:
    with mount(image) as target, opened(image) as filesystem:
        ours, theirs = from_guestctl(filesystem), from_mount(target)
        empty = [path for path, values in theirs.items() if values[0] == 2]
        assert sorted(empty) == ["/root/writable/deep/er/néstéd", "/snapshot/deep/er/néstéd"]
        for path in empty:  # the kernel makes these up, with the time of the mount
            assert ours.pop(path)[:6] == theirs.pop(path)[:6]
        assert ours == theirs
        assert filesystem.listdir("/snapshot/deep/er/néstéd") == []
        assert not filesystem.exists("/snapshot/deep/er/néstéd/file")
        assert filesystem.xattrs("/snapshot/deep/er/néstéd") == {}
        assert filesystem.read_text("/root/moved/er/néstéd/file") == "nested"


def test_list(run: Run, mount: Mount, image: Path) -> None:
    with mount(image) as target:
        listing = run("btrfs", "subvolume", "list", "-puq", target)
        read_only = run("btrfs", "subvolume", "list", "-r", target)
    pattern = re.compile(r"ID (\d+) gen (\d+) parent (\d+) top level \d+ parent_uuid (\S+) +uuid (\S+) path (.*)")
    expected = {}
    for line in listing.splitlines():
        match = pattern.fullmatch(line)
        assert match, line
        number, generation, parent, parent_uuid, uuid, path = match.groups()
        expected[int(number)] = (int(generation), int(parent), None if parent_uuid == "-" else parent_uuid, uuid, path)
    with opened(image) as filesystem:
        ours = filesystem.subvolumes()
    assert {one.id: (one.generation, one.parent_id, one.parent_uuid, one.uuid, one.path) for one in ours} == expected
    assert [one.path for one in ours if one.read_only] == ["snapshot"] == re.findall("path (.*)", read_only)


@pytest.mark.parametrize("path", ["root", "root/moved/er/néstéd", "snapshot", "root/writable"])
def test_open_subvolume(mount: Mount, image: Path, path: str) -> None:
    with opened(image) as filesystem, mount(image, f"ro,loop,subvol={path}") as target:
        ours, theirs = from_guestctl(filesystem.open_subvolume(path)), from_mount(target)
        for name in [name for name, values in theirs.items() if values[0] == 2]:
            assert ours.pop(name)[:6] == theirs.pop(name)[:6]
        assert ours == theirs
        number = next(one.id for one in filesystem.subvolumes() if one.path == path)
        assert filesystem.open_subvolume(number).root == filesystem.open_subvolume("/" + path).root


def test_no_such_subvolume(image: Path) -> None:
    with opened(image) as filesystem:
        for name in ("gone", "root/file", 7, 99_999, -1):
            with pytest.raises(FileNotFoundError):
                filesystem.open_subvolume(name)
        assert filesystem.open_subvolume(5).root == filesystem.open_subvolume("/").root == filesystem.root


def test_default_subvolume(run: Run, mount: Mount, image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("cp", "--sparse=always", image, copy)
    with mount(copy, "rw,loop") as target:
        run("btrfs", "subvolume", "set-default", target / "root" / "moved" / "er" / "néstéd")
    with mount(copy) as target, opened(copy) as filesystem:
        assert from_guestctl(filesystem) == from_mount(target)
        assert filesystem.listdir("/") == ["file"]
        assert filesystem.open_subvolume(5).exists("/snapshot/file")
