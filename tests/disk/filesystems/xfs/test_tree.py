"""An awkward tree on every kind of XFS that this kernel mounts, beside the kernel's mount of it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from awkward_tree import from_guestctl, from_mount, populate
from guestctl.block import FileDevice
from guestctl.disk import FileSystem

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
Tree = dict[str, tuple[Any, ...]]

FICLONE = 0x40049409
# name -> (arguments of mkfs.xfs, files in one directory)
KINDS = {
    "default": ("", 10_000),
    "1k-blocks": ("-b size=1024", 10_000),
    "2k-blocks": ("-b size=2048 -m rmapbt=1", 500),
    "16k-blocks": ("-b size=16384 -n size=65536", 500),
    "large-directory-blocks": ("-n size=16384", 10_000),
    "1k-blocks-large-directory-blocks": ("-b size=1024 -n size=8192", 2000),
    "large-inodes": ("-i size=2048", 500),
    "1k-inodes-no-sparse": ("-i size=1024,sparse=0", 500),
    "no-bigtime": ("-m bigtime=0", 500),
    "large-extent-counters": ("-i nrext64=1 -m bigtime=1", 500),
    "reverse-mappings": ("-m rmapbt=1,reflink=1,inobtcount=1", 500),
    "oldest-v5": ("-m finobt=0,inobtcount=0,reflink=0,rmapbt=0,bigtime=0 -i sparse=0", 500),
    "many-groups": ("-d agcount=12", 500),
    "stripes": ("-d su=64k,sw=4", 500),
    "4k-sectors": ("-s size=4096", 500),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tree(run: Run, mount: Mount, tmp_path: Path, kind: str) -> None:
    arguments, many_files = KINDS[kind]
    image = _make(run, tmp_path, arguments)
    found = re.search(r"-b size=(\d+)", arguments)
    block_size = int(found[1]) if found else 4096
    _mount_or_skip(run, mount, image, block_size)
    with mount(image, "rw,loop") as target:
        populate(target, block_size, large_values=True, many_files=many_files)
        _populate_more(target, block_size)
    expected, usage = _expected(mount, image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = from_guestctl(filesystem)
        assert ours.keys() == expected.keys()
        assert [path for path in expected if ours[path] != expected[path]] == []
        assert filesystem.warnings == []
        sizes, unit = filesystem.usage(), usage.f_frsize
        assert (sizes.size, sizes.used) == (usage.f_blocks * unit, (usage.f_blocks - usage.f_bfree) * unit)
        assert sizes.available == usage.f_bavail * unit
        assert (sizes.inodes, sizes.inodes_used) == (usage.f_files, usage.f_files - usage.f_ffree)
        last = f"/many/file-{many_files - 1:05}"
        for path in ("/many/file-00000", last, "/many/file-00007", "/names/plain", "/deep" + "/d" * 100):
            assert filesystem.exists(path) == (path in expected)
        assert not filesystem.exists("/many/file-")
        assert not filesystem.exists("/many/gone")
        for path in list(expected)[:: max(1, len(expected) // 300)]:
            assert filesystem.lstat(path).st_ino == expected[path][0]
        formats = {_format(filesystem, path) for path in ("/fragmented", "/fragmented-too", "/extents")}
        if block_size <= 4096 and "-i size" not in arguments and "-n size" not in arguments:
            assert formats == {3}  # B+trees
    shutil.rmtree(tmp_path)


def _make(run: Run, directory: Path, arguments: str, size: int = 1 << 30) -> Path:
    image = directory / "image"
    with image.open("wb") as stream:
        stream.truncate(size)
    run("mkfs.xfs", "-q", *arguments.split(), image)
    return image


def _mount_or_skip(run: Run, mount: Mount, image: Path, block_size: int) -> None:
    """Blocks larger than pages need a recent kernel."""
    if block_size <= os.sysconf("SC_PAGE_SIZE"):
        return
    try:
        with mount(image):
            pass
    except AssertionError:
        pytest.skip(f"needs a kernel that mounts blocks of {block_size} bytes")


def _populate_more(top: Path, block_size: int) -> None:
    """What only XFS has forms for."""
    first, second = top / "fragmented", top / "fragmented-too"
    first.mkdir()
    second.mkdir()
    # Directories that grow block by block in turn with the files in them, and so have many extents.
    for number in range(1300):
        for directory in (first, second):
            file = os.open(directory / f"{number:0200}", os.O_CREAT | os.O_WRONLY)
            if number % 5 == 0:
                os.posix_fallocate(file, 0, block_size)
            os.close(file)
    for number in range(0, 300, 2):
        (second / f"{number:0200}").unlink()
    with (top / "extents").open("wb") as stream:
        for number in range(0, 6000, 2):
            stream.seek(number * block_size)
            stream.write(b"%08d" % number * (block_size // 8))
    deep = top / "attributes" / "deep"
    deep.touch()
    for number in range(450):
        os.setxattr(deep, f"user.{number:0{number % 240 + 3}}", b"%d" % number * (number % 90))
    for number in range(6):
        os.setxattr(deep, f"trusted.{number}", (b"%07d " % number) * 8000)
    os.setxattr(deep, "security.largest", b"%07d\n" * 8192)
    os.setxattr(deep, "user.empty", b"")
    os.setxattr(top / "attributes", "user.on-a-directory", b"d" * 3000)
    for length in (300, 500, 800, 967, 968, 969, 1001, 1023):
        (top / "links" / f"to-{length}").symlink_to("/".join(["w" * 99] * 11)[:length])
    source = top / "extents"
    with source.open("rb") as stream, (top / "shared").open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), FICLONE, stream.fileno())
        except OSError:
            return
        target.seek(100 * block_size)
        target.write(b"changed" * block_size)


def _expected(mount: Mount, image: Path) -> tuple[Tree, os.statvfs_result]:
    with mount(image) as target:
        return kernels(from_mount(target)), os.statvfs(target)


def kernels(tree: Tree) -> Tree:
    """Without the form in which ACLs are stored, which the kernel lists beside the usual one."""
    for *_, xattrs in tree.values():
        xattrs.pop("trusted.SGI_ACL_FILE", None)
        xattrs.pop("trusted.SGI_ACL_DEFAULT", None)
    return tree


def _format(filesystem: Any, path: str) -> int:
    return int(filesystem.stat(path).form)


def test_sparse_inodes(run: Run, mount: Mount, tmp_path: Path) -> None:
    """Chunks of inodes with holes, made where no free space is long enough for a whole chunk."""
    image = _make(run, tmp_path, "-i sparse=1", 320 << 20)
    with mount(image, "rw,loop") as top:
        filler = top / "filler"
        with filler.open("wb") as stream:
            free = os.statvfs(top).f_bfree * 4096
            os.posix_fallocate(stream.fileno(), 0, free - (4 << 20))
        # Half of a few MiB, in pieces too short for the 32 KiB of 64 inodes.
        for start in range(0, 12 << 20, 40960):
            run("fallocate", "-p", "-o", str(start), "-l", "20480", filler)
        with (top / "rest").open("wb") as stream:
            while os.statvfs(top).f_bfree > 1500:
                stream.write(bytes(1 << 18))
                stream.flush()
                os.fsync(stream.fileno())
        for number in range(1200):
            (top / f"file-{number}").touch()
    count = run("xfs_db", "-r", "-c", "sb 0", "-c", "print icount", image)
    assert int(count.split()[-1]) % 64, "no sparse chunk was made"
    expected, _ = _expected(mount, image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.warnings == []
