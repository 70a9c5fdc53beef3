"""What no kernel here mounts: trees that mkfs.xfs itself writes from a protofile, and attributes by xfs_db."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import FileDevice
from guestctl.disk import FileSystem
from guestctl.disk.filesystems.xfs.directory import hash_name
from xfs_images import Item, make, set_attributes

Run = Callable[..., str]

KINDS = {
    "v4": "-m crc=0",
    "v4-512-byte-blocks": "-m crc=0 -b size=512 -i size=256",
    "v4-1k-blocks": "-m crc=0 -b size=1024 -i size=256",
    "v4-64k-blocks": "-m crc=0 -b size=65536",
    "v4-no-file-types": "-m crc=0 -n ftype=0 -i size=256",
    "v4-large-directory-blocks": "-m crc=0 -b size=1024 -n size=16384",
    "v4-old-log-and-attributes": "-m crc=0 -l version=1,lazy-count=0 -i attr=1,size=256,projid32bit=0",
    "v4-large-inodes": "-m crc=0 -i size=2048",
    "v4-case-insensitive": "-m crc=0 -n version=ci",
    "v5-32k-blocks": "-b size=32768",
    "v5-64k-blocks": "-b size=65536",
    "v5-case-insensitive": "-n version=ci",
    "v5-4k-sectors": "-b size=4096 -s size=4096 -i size=1024",
}
CONTENT = b"".join(b"%07d\n" % number for number in range(40_000))


def _items(longest_link: int) -> dict[str, Item]:
    """Path -> item, a directory before what it holds."""
    items = {"sizes": Item(stat.S_IFDIR | 0o755, 0, 0)}
    for size in (0, 1, 511, 512, 513, 1024, 4095, 4096, 4097, 65535, 65536, 65537, 300_000):
        items[f"sizes/{size}"] = Item(stat.S_IFREG | 0o644, 1000, 70_000, CONTENT[:size])
    items["links"] = Item(stat.S_IFDIR | 0o2775, 5, 6)
    for length in (1, 100, 155, 156, 157, 336, 337, 455, 456, 457, 458, 800, 1000, 1023):
        if length > longest_link:
            break
        items[f"links/{length}"] = Item(stat.S_IFLNK | 0o777, 0, 0, ("/".join(["l" * 50] * 30))[:length])
    items["special"] = Item(stat.S_IFDIR | 0o700, 0, 0)
    items["special/char"] = Item(stat.S_IFCHR | 0o644, 1, 2, os.makedev(5, 1))
    items["special/block"] = Item(stat.S_IFBLK | 0o600, 3, 4, os.makedev(259, 70_000))
    items["special/fifo"] = Item(stat.S_IFIFO | 0o644, 0, 0)
    items["few"] = Item(stat.S_IFDIR | 0o755, 0, 0)
    for name in ("a", "b" * 255, "Ünïcödé", "日本語", "MiXeD"):
        items[f"few/{name}"] = Item(stat.S_IFREG | 0o4711, 0, 0, name.encode())
    # Files that take their blocks between those of the directory.
    for directory, count in (("block", 20), ("leaf", 150), ("node", 2500)):
        items[directory] = Item(stat.S_IFDIR | 0o755, 0, 0)
        for number in range(count):
            content = b"%d" % number if number % 3 == 0 else b""
            items[f"{directory}/{number:04}-{'n' * 60}"] = Item(stat.S_IFREG | 0o644, 0, 0, content)
    return items


@pytest.mark.parametrize("kind", KINDS)
def test_tree(run: Run, tmp_path: Path, kind: str) -> None:
    # Version 6.1 of mkfs.xfs leaves out the header of links in blocks of their own, and the kernel cannot follow them.
    items = _items(1023 if "crc=0" in KINDS[kind] else 300)
    image = make(run, tmp_path, KINDS[kind], items)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        found = {path[1:]: (node, status) for path, node, status in filesystem.find("/")}
        root = found.pop("")
        assert found.keys() == items.keys()
        assert root[1].st_nlink == 2 + sum("/" not in path and stat.S_ISDIR(i.mode) for path, i in items.items())
        for path, item in items.items():
            node, status = found[path]
            kind_of = stat.S_IFMT(item.mode)
            assert (status.st_mode, status.st_uid, status.st_gid) == (item.mode, item.uid, item.gid), path
            assert status.st_nlink == (2 if kind_of == stat.S_IFDIR else 1)
            assert abs(status.st_mtime - image.stat().st_mtime) < 600
            if kind_of == stat.S_IFREG:
                assert filesystem.read_bytes(f"/{path}") == item.value, path
            elif kind_of == stat.S_IFLNK:
                assert filesystem.node_target(node) == item.value
            elif kind_of != stat.S_IFDIR:
                assert status.st_rdev == (item.value or 0)
        numbers = _numbers(run, image, ("/", "/few", "/block", "/leaf", "/node"))
        assert {path: found[path][1].st_ino for path in numbers} == numbers
        assert filesystem.warnings == []
        if KINDS[kind] == "-m crc=0 -b size=512 -i size=256":
            assert getattr(filesystem.stat("/node"), "form") == 3  # noqa: B009 - a B+tree
        if "version=ci" in KINDS[kind]:
            assert filesystem.read_bytes("/FEW/mIxEd") == b"MiXeD"
            assert filesystem.exists("/NODE/0001-" + "N" * 60)
        else:
            assert not filesystem.exists("/few/mIxEd")
        assert not filesystem.exists("/node/0001-")


def _numbers(run: Run, image: Path, directories: tuple[str, ...]) -> dict[str, int]:
    """Path -> inode number, as xfs_db lists them."""
    commands = [word for path in directories for word in ("-c", f"ls {path}")]
    numbers = {}
    directory = ""
    for line in run("xfs_db", "-r", *commands, image).splitlines():
        if line.startswith("/"):
            directory = line.rstrip(":/").removeprefix("/")
            continue
        fields = line.split()
        if len(fields) >= 6 and fields[5] not in (".", ".."):
            numbers[f"{directory}/{fields[5]}".removeprefix("/")] = int(fields[1])
    assert len(numbers) > 2000
    return numbers


@pytest.mark.parametrize(
    "arguments",
    ["-m crc=0", "-m crc=0 -b size=1024 -i size=256", "-m crc=0 -b size=65536", "", "-b size=1024", "-b size=65536"],
)
def test_attributes(run: Run, tmp_path: Path, arguments: str) -> None:
    wanted: dict[str, dict[str, int]] = {
        "none": {},
        "short": {"user.first": 5, "trusted.b": 7, "security.c": 1},
        "leaf": {"user.first": 1} | {f"user.{number:020}": 40 for number in range(9)},
        "node": {"trusted.first": 1} | {f"trusted.{number:0100}": number + 1 for number in range(200)},
        "remote": {"user.first": 1, "user.large": 65536, "user.larger": 5000, "user.small": 3, "security.l": 9000},
    }
    items = {name: Item(stat.S_IFREG | 0o644, 0, 0, b"content") for name in wanted}
    image = make(run, tmp_path, arguments, items)
    set_attributes(run, image, wanted)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for file, attributes in wanted.items():
            expected = {name: b"v" * size for name, size in attributes.items()}
            assert filesystem.xattrs(f"/{file}") == expected, file
            assert filesystem.read_bytes(f"/{file}") == b"content"
        assert filesystem.warnings == []


def test_hash_is_that_of_xfs_db(run: Run, tmp_path: Path) -> None:
    image = make(run, tmp_path, "", {})
    names = ["a", "ab", "abc", "abcd", "abcde", "a-rather-long-name-with-a-hash", "z" * 255]
    commands = [word for name in names for word in ("-c", f"hash {name}")]
    found = [int(value, 16) for value in re.findall(r"0x[0-9a-f]+", run("xfs_db", "-r", *commands, image))]
    assert [hash_name(name.encode()) for name in names] == found
