"""Features that need more than a tree to show: block sizes no kernel here mounts, fscrypt, and flags without effect."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import FileDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystems.ext4.directory import fold, nokey_name

Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]

FS_IOC_ADD_ENCRYPTION_KEY = 0xC0506617
FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613


def _source(directory: Path) -> Path:
    """A tree for mke2fs -d."""
    top = directory / "source"
    (top / "many").mkdir(parents=True)
    for number in range(400):
        (top / "many" / f"file-with-a-name-that-is-long-{number:03}").write_bytes(b"%d" % number)
    for size in (0, 1, 59, 60, 4095, 65535, 65536, 65537, 1_500_000):
        (top / str(size)).write_bytes((b"%09d\n" % size * (size // 10 + 1))[:size])
    with (top / "sparse").open("wb") as stream:
        for place in (3, 40, 41, 90):
            stream.seek(place * 65536)
            stream.write(b"%d" % place * 30_000)
        stream.truncate(100 * 65536 + 7)
    for length in (1, 59, 60, 61, 1000):
        (top / f"link-{length}").symlink_to("/".join("l" * 10 for _ in range(200))[:length])
    return top


@pytest.mark.parametrize("features", ["quota,project", "^metadata_csum,^64bit", "^extents,^64bit", "inline_data"])
@pytest.mark.parametrize("block_size", [1024, 8192, 16384, 32768, 65536])
def test_block_sizes(run: Run, tmp_path: Path, block_size: int, features: str) -> None:
    """mke2fs wrote what is in its source directory."""
    source = _source(tmp_path)
    if features == "inline_data":
        (source / "sparse").unlink()  # mke2fs 1.47.0 loses the hole at its end
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(block_size), "-O", features, "-d", source, image, "128M")
    # Empty blocks in a directory: one entry of 65536 bytes does not fit in 16 bits.
    run("debugfs", "-w", "-R", "expand_dir /many", image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.block_size == block_size
        found = {path[1:]: (node, status) for path, node, status in filesystem.find("/") if path != "/lost+found"}
        paths = list(source.rglob("*"))
        assert set(found) == {"", *(str(path.relative_to(source)) for path in paths)}
        for path in paths:
            node, ours = found[str(path.relative_to(source))]
            status = path.lstat()
            assert (ours.st_mode, ours.st_uid, ours.st_gid) == (status.st_mode, status.st_uid, status.st_gid)
            assert ours.st_mtime_ns // 10**9 == status.st_mtime_ns // 10**9
            if path.is_symlink():
                assert filesystem.node_target(node) == os.readlink(path)
            elif path.is_file():
                assert (ours.st_size, _content(filesystem, node)) == (status.st_size, path.read_bytes())
        assert filesystem.warnings == []


def _content(filesystem: FileSystem[Any], node: Any) -> bytes:
    device = filesystem.node_data(node)
    return bytes(device.read(0, device.size))


@pytest.mark.root
@pytest.mark.parametrize(
    "features",
    [
        "orphan_file",
        "mmp",
        "fast_commit",
        "stable_inodes",
        "verity",
        "^has_journal,^resize_inode,meta_bg,^flex_bg",
        "^sparse_super,^resize_inode",
        "bigalloc,inline_data,ea_inode,metadata_csum_seed,large_dir",
    ],
)
def test_features_without_effect(run: Run, mount: Mount, tmp_path: Path, features: str) -> None:
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, image, "64M")
    with mount(image, "rw,loop") as top:
        for number in range(20):
            (top / f"directory-{number}").mkdir()
            (top / f"directory-{number}" / "file").write_bytes(b"%d " % number * (number * 100))
    with mount(image) as top:
        expected = {f"/{path.relative_to(top)}": path.lstat() for path in top.rglob("*")}
        usage = os.statvfs(top)
        with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
            found = {path: status for path, _, status in filesystem.find("/") if path != "/"}
            assert set(found) == set(expected)
            for path, status in expected.items():
                ours = found[path]
                assert (ours.st_ino, ours.st_mode, ours.st_size, ours.st_mtime_ns, ours.st_blocks) == (
                    status.st_ino,
                    status.st_mode,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_blocks,
                )
            for number in range(20):
                path = f"/directory-{number}/file"
                assert filesystem.read_bytes(path) == (top / path[1:]).read_bytes()
            assert filesystem.usage().size == usage.f_blocks * usage.f_frsize
            assert filesystem.usage().used == (usage.f_blocks - usage.f_bfree) * usage.f_frsize


@pytest.mark.root
@pytest.mark.parametrize("features", ["encrypt", "encrypt,^dir_index"])
def test_fscrypt_without_key(run: Run, mount: Mount, tmp_path: Path, features: str) -> None:
    """Names are the kernel's, but for the hash that it puts in front where directories have hash trees."""
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, image, "32M")
    names = [
        *(f"file-{number}" for number in range(5)),
        *(letter * length for letter, length in zip("abcdef", (16, 17, 100, 149, 200, 255), strict=True)),
    ]
    with mount(image, "rw,loop") as top:
        _encrypt(top, top / "secret")
        for name in names:
            (top / "secret" / name).write_text(name)
        (top / "secret" / "link").symlink_to("file-1")
        (top / "plain").write_text("plain")
    with mount(image) as top:
        expected = {name: (top / "secret" / name).lstat() for name in os.listdir(top / "secret")}
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in filesystem.scandir("/secret")}
        assert len(found) == len(expected) == len(names) + 1
        if "dir_index" in features:
            assert set(found) == set(expected)
        by_ciphertext = {_decoded(name)[8:]: status for name, status in expected.items()}
        for name, ours in found.items():
            status = by_ciphertext[_decoded(name)[8:]]
            assert (ours.st_ino, ours.st_mode) == (status.st_ino, status.st_mode)
            refused = filesystem.readlink if ours.is_symlink() else filesystem.read_bytes
            with pytest.raises(UnsupportedFeature, match="fscrypt") as caught:
                refused(f"/secret/{name}")
            assert caught.value.feature == "fscrypt"
        assert filesystem.read_text("/plain") == "plain"


def _encrypt(top: Path, directory: Path) -> None:
    """An empty directory with an fscrypt policy (version 2) and a key that only this mount knows."""
    key = os.urandom(64)
    argument = bytearray(struct.pack("<II32xII32x", 2, 0, len(key), 0) + key)
    directory.mkdir()
    for place, request in ((top, FS_IOC_ADD_ENCRYPTION_KEY), (directory, FS_IOC_SET_ENCRYPTION_POLICY)):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            if request == FS_IOC_SET_ENCRYPTION_POLICY:
                argument = bytearray(struct.pack("<BBBBB3x16s", 2, 1, 4, 0, 0, argument[8:24]))
            fcntl.ioctl(descriptor, request, argument)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOPKG):
                pytest.skip("needs a kernel with fscrypt")
            raise
        finally:
            os.close(descriptor)


def _decoded(name: str) -> bytes:
    return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4))


def test_nokey_names_are_unique() -> None:
    """Names that differ only at their end differ."""
    names = [bytes([number]) * 16 for number in range(256)] + [bytes(200) + bytes([number]) for number in range(50)]
    shown = {nokey_name(name) for name in names}
    assert len(shown) == len(names)
    assert all(len(name) <= 255 and "/" not in name for name in shown)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README", "readme"),
        ("Straße", "STRASSE"),
        ("Ä", "a\u0308"),
        ("ﬁ", "FI"),
        ("soft\u00adhyphen", "softhyphen"),
        ("Σς", "σΣ"),
    ],
)
def test_names_that_are_equal_where_case_does_not_matter(one: str, other: str) -> None:
    assert fold(one) == fold(other)
    assert fold(one) != fold(other + "x")
