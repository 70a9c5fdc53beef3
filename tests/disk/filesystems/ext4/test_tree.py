"""An awkward tree on every kind of ext2, ext3 and ext4, beside the kernel's mount of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount, populate
from guestctl.block import FileDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Options

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]

# name -> arguments of mke2fs
KINDS = {
    "ext2-1k": "-t ext2 -b 1024",
    "ext2-4k-small-inodes": "-t ext2 -b 4096 -I 128",
    "ext2-no-filetype": "-t ext2 -b 2048 -O ^filetype,^dir_index",
    "ext3-1k": "-t ext3 -b 1024",
    "ext3-4k": "-t ext3 -b 4096 -I 128",
    "ext4-1k": "-t ext4 -b 1024",
    "ext4-2k": "-t ext4 -b 2048",
    "ext4-4k": "-t ext4 -b 4096",
    "ext4-no-extents": "-t ext4 -O ^extents,^64bit -b 4096",
    "ext4-no-checksums": "-t ext4 -O ^metadata_csum,uninit_bg -b 4096",
    "ext4-csum-seed": "-t ext4 -O metadata_csum_seed -b 4096",
    "ext4-meta-bg": "-t ext4 -O meta_bg,^resize_inode -b 1024",
    "ext4-no-flex-bg": "-t ext4 -O ^flex_bg -b 1024",
    "ext4-bigalloc": "-t ext4 -O bigalloc -C 65536 -b 4096 -N 20000",
    "ext4-inline-data": "-t ext4 -O inline_data -I 512 -b 4096",
    "ext4-inline-small": "-t ext4 -O inline_data -b 1024",
    "ext4-ea-inode": "-t ext4 -O ea_inode -b 4096",
    "ext4-large-dir": "-t ext4 -O large_dir -b 1024",
    "ext4-sparse-super2": "-t ext4 -O sparse_super2,^resize_inode -b 4096",
    "ext4-large-inodes": "-t ext4 -I 1024 -b 4096",
    "ext4-no-dir-index": "-t ext4 -O ^dir_index -b 1024",
    "ext4-no-huge-file": "-t ext4 -O ^huge_file,^dir_nlink -b 4096",
}


@pytest.mark.parametrize("kind", KINDS)
def test_tree(run: Run, mount: Mount, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    _make(run, image, KINDS[kind])
    block_size = int(KINDS[kind].split("-b ")[1].split()[0])
    with mount(image, "rw,loop,user_xattr,acl") as target:
        populate(target, block_size, large_values="ea_inode" in KINDS[kind])
    with mount(image) as target:
        expected = from_mount(target)
        usage = os.statvfs(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.warnings == []
        assert filesystem.type == kind[:4]
        ours = filesystem.usage()
        unit = usage.f_frsize
        assert (ours.size, ours.used) == (usage.f_blocks * unit, (usage.f_blocks - usage.f_bfree) * unit)
        assert (ours.inodes, ours.inodes_used) == (usage.f_files, usage.f_files - usage.f_ffree)
        for path in ("/many/file-00000", "/many/file-09999"[:13] + "99", "/names/plain", "/deep" + "/d" * 100):
            assert filesystem.exists(path) == (path in expected)
        assert not filesystem.exists("/many/file-")
        assert not filesystem.exists("/many/gone")
    shutil.rmtree(tmp_path)


def _make(run: Run, image: Path, arguments: str) -> None:
    with image.open("wb") as stream:
        stream.truncate(192 << 20)
    done = subprocess.run(["mke2fs", "-q", "-F", *arguments.split(), str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_made_by_mke2fs_itself(run: Run, mount: Mount, tmp_path: Path) -> None:
    """mke2fs -d writes the tree without a kernel."""
    source = tmp_path / "source"
    source.mkdir()
    populate(source, 1024, large_values=False)
    (source / "special" / "socket").unlink()
    shutil.rmtree(source / "sparse")
    image = tmp_path / "image"
    _make(run, image, f"-t ext4 -d {source}")
    with mount(image) as target:
        expected = from_mount(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected


@pytest.mark.parametrize("kind", ["ext3-1k", "ext4-1k", "ext4-4k", "ext4-no-checksums"])
def test_a_journal_that_was_not_replayed(run: Run, mount: Mount, tmp_path: Path, kind: str) -> None:
    """A copy of the image of a mounted filesystem, after fsync: what a mount of the copy shows."""
    image, copy = tmp_path / "image", tmp_path / "copy"
    _make(run, image, KINDS[kind])
    with mount(image, "rw,loop") as target:
        for number in range(300):
            (target / f"file-{number}").write_text(f"content {number}")
        for number in range(0, 300, 3):
            (target / f"file-{number}").unlink()
        (target / "directory").mkdir()
        (target / "directory" / "last").write_text("last")
        with (target / "directory" / "last").open("rb") as stream:
            os.fsync(stream.fileno())
        run("cp", "--sparse=always", image, copy)
    assert "needs_recovery" in run("dumpe2fs", "-h", copy)
    before = hashlib.sha256(copy.read_bytes()).digest()
    with FileDevice.open(copy) as device, FileSystem.detect(device) as filesystem:
        ours = from_guestctl(filesystem)
        assert any("journal replayed" in warning for warning in filesystem.warnings)
    assert hashlib.sha256(copy.read_bytes()).digest() == before
    with mount(copy, "rw,loop") as target:
        assert ours == from_mount(target)


def test_casefold(run: Run, tmp_path: Path) -> None:
    """This kernel may not mount it; debugfs writes names, which must be found whatever their case."""
    image = tmp_path / "image"
    _make(run, image, "-t ext4 -O casefold -E encoding=utf8 -b 4096")
    (tmp_path / "file").write_text("content")
    script = f"mkdir Folder\nwrite {tmp_path / 'file'} Folder/ÄRGER.TXT\nset_inode_field Folder flags 0x40080000\n"
    run("debugfs", "-w", "-f", "/dev/stdin", image, input=script)
    with FileDevice.open(image) as device, FileSystem.detect(device, options=Options(True)) as filesystem:
        assert filesystem.read_text("/Folder/ärger.txt") == "content"
        assert not filesystem.exists("/folder")


def test_fscrypt_is_listed_and_refused(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    _make(run, image, "-t ext4 -O encrypt -b 4096")
    (tmp_path / "file").write_text("ciphertext")
    script = (
        f"mkdir secret\nwrite {tmp_path / 'file'} secret/0123456789abcdef\n"
        "set_inode_field secret flags 0x80800\nset_inode_field secret/0123456789abcdef flags 0x80800\n"
    )
    run("debugfs", "-w", "-f", "/dev/stdin", image, input=script)
    with FileDevice.open(image) as device, FileSystem.detect(device, options=Options(True)) as filesystem:
        (name,) = filesystem.listdir("/secret")
        with pytest.raises(UnsupportedFeature, match="fscrypt"):
            filesystem.read_bytes(f"/secret/{name}")
        assert filesystem.stat(f"/secret/{name}").st_size == len("ciphertext")
