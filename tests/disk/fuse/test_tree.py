"""A tree's operations as mfusepy calls them: names that no kernel takes, damage, and mutants of a filesystem."""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk import FileSystem
from guestctl.disk.fuse.tree import TreeOperations
from tree_filesystem import Node, TreeFileSystem, directory, file, link

_MAX_SECONDS = 5
_MAX_PATHS = 400
_ERRORS = {errno.EIO, errno.ENOENT, errno.ENODATA, errno.EINVAL, errno.ENOTDIR, errno.ENXIO}


class Broken(MemoryDevice):
    """Bytes of which the first 4096 can be read."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        if offset + length > 4096:
            raise InvalidFormat("bad block", structure="extent", offset=offset)
        return super().read(offset, length)


def _names(operations: TreeOperations, path: str) -> tuple[list[str], int]:
    """The names that a program gets, and the error that comes after them or 0."""
    handle = operations.opendir(path)
    names: list[str] = []
    try:
        while True:
            some = list(operations.readdir_with_offset(path, len(names), handle))[:3]
            if not some:
                return names, 0
            assert [place for _, _, place in some] == list(range(len(names) + 1, len(names) + 1 + len(some)))
            names += [name for name, _, _ in some]
    except OSError as error:
        return names, error.errno or -1
    finally:
        operations.releasedir(path, handle)


def _fails(action: Callable[..., object], *args: object) -> int:
    with pytest.raises(OSError) as caught:
        action(*args)
    return caught.value.errno or -1


def test_names_that_no_kernel_takes_are_damage() -> None:
    bad = ["", ".", "..", "a/b", "nul\0", "x" * 1025]
    entries: list[tuple[str, Node]] = [
        ("first", file(b"1")),
        *((name, file(b"")) for name in bad),
        ("last", file(b"2")),
    ]
    operations = TreeOperations(TreeFileSystem(directory(("bad", directory(*entries)), ("good", directory()))))
    assert _names(operations, "/bad") == ([".", "..", "first", "last"], errno.EIO)
    assert _names(operations, "/good") == ([".", ".."], 0)


def test_a_file_is_read_as_far_as_it_can() -> None:
    operations = TreeOperations(TreeFileSystem(directory(("file", file(Broken(b"y" * 10000))))))
    handle = operations.open("/file", os.O_RDONLY)
    assert operations.read("", 4096, 0, handle) == b"y" * 4096
    assert _fails(operations.read, "", 4096, 4096, handle) == errno.EIO
    assert operations.read("", 100, 10000, handle) == operations.read("", 100, 1 << 62, handle) == b""
    operations.release("", handle)


def test_errors_of_paths_and_attributes() -> None:
    tree = directory(("file", file(b"", xattrs={"user.a": b"1"})), ("link", link("file")))
    operations = TreeOperations(TreeFileSystem(tree))
    assert _fails(operations.getattr, "/none") == _fails(operations.getattr, "/link/none") == errno.ENOENT
    assert _fails(operations.getxattr, "/file", "user.b") == errno.ENODATA
    assert operations.listxattr("/file") == ["user.a"] and operations.getxattr("/file", "user.a") == b"1"
    assert operations.readlink("/link") == "file"


def test_paths_are_forgotten_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.disk.fuse.tree._MAX_CACHED_PATHS", 3)
    deep = file(b"deep")
    tree = directory(("a", directory(("b", directory(("c", deep))))), *((str(number), file()) for number in range(9)))
    operations = TreeOperations(TreeFileSystem(tree))
    for _ in range(3):
        assert len(_names(operations, "/")[0]) == 12
        assert operations.getattr("/a/b/c")["st_ino"] == id(deep)
        assert stat.S_ISDIR(operations.getattr("/a/b")["st_mode"])


def test_a_path_deeper_than_the_stack() -> None:
    tree = directory(("file", file(b"")))
    for _ in range(3000):
        tree = directory(("d", tree))
    operations = TreeOperations(TreeFileSystem(tree))
    assert stat.S_ISREG(operations.getattr("/d" * 3000 + "/file")["st_mode"])
    assert _names(operations, "/d" * 3000) == ([".", "..", "file"], 0)


def _use_all(operations: TreeOperations) -> None:
    """What find, cat and getfattr would do; every failure is one of `_ERRORS`."""

    def tried(action: Callable[..., Any], *args: object) -> Any:
        try:
            return action(*args)
        except OSError as error:
            assert error.errno in _ERRORS, error
            return None

    tried(operations.statfs, "/")
    pending = ["/"]
    for path in pending:
        mode = (tried(operations.getattr, path) or {}).get("st_mode", 0)
        for name in tried(operations.listxattr, path) or []:
            tried(operations.getxattr, path, name)
        if stat.S_ISLNK(mode):
            tried(operations.readlink, path)
        elif stat.S_ISREG(mode) and (handle := tried(operations.open, path, os.O_RDONLY)) is not None:
            for offset in (0, 1 << 16, 1 << 40):
                tried(operations.read, path, 1 << 17, offset, handle)
            tried(operations.lseek, path, 0, os.SEEK_DATA, handle) if hasattr(os, "SEEK_DATA") else None
            operations.release(path, handle)
        elif stat.S_ISDIR(mode) and len(pending) < _MAX_PATHS and path.count("/") < 50:
            names: tuple[list[str], int] = tried(_names, operations, path) or ([], 0)
            pending += [f"{path.rstrip('/')}/{name}" for name in names[0] if name not in (".", "..")]


def test_mutants(run: Run, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "many").mkdir(parents=True)
    for number in range(60):
        (top / "many" / f"a name of some length {number}").write_bytes(b"%d" % number * 100)
    (top / "large").write_bytes(os.urandom(300_000))
    (top / "link").symlink_to("x" * 200)
    image = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum,^has_journal", "-b", "1024", "-d", top, image, "2m")
    data = image.read_bytes()
    generator = random.Random(6)
    places = [place for place, byte in enumerate(data[: 1 << 20]) if byte]
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    opened = rounds = 0
    while time.monotonic() < end:
        mutant = bytearray(data)
        for _ in range(generator.randint(1, 6)):
            mutant[generator.choice(places)] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        rounds += 1
        started = time.monotonic()
        try:
            filesystem = FileSystem.detect(MemoryDevice(bytes(mutant)))
        except GuestctlError:
            continue
        opened += 1
        _use_all(TreeOperations(filesystem))
        assert time.monotonic() - started < _MAX_SECONDS
    assert opened > rounds / 2
