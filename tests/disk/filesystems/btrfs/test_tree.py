"""An awkward tree on many kinds of Btrfs, beside the kernel's mount of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount, populate
from btrfs_images import make, opened

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]

# name -> arguments of mkfs.btrfs, and options of the mount that fills it
KINDS = {
    "default": ("", ""),
    "mixed-4k": ("-M -n 4096 -s 4096", ""),
    "nodesize-64k": ("-n 65536", ""),
    "single": ("-m single -d single", ""),
    "xxhash": ("--csum xxhash", "compress-force=zstd"),
    "sha256": ("--csum sha256", "compress-force=zlib"),
    "blake2": ("--csum blake2", "compress-force=lzo"),
    "with-hole-items": ("-O ^no-holes", ""),
    "old": ("-O ^no-holes,^skinny-metadata,^extref -R ^free-space-tree -n 4096", "compress=lzo"),
    "no-checksums": ("", "nodatasum"),
    "no-inline": ("", "max_inline=0,compress-force=zstd:15"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tree(run: Run, mount: Mount, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    arguments, options = KINDS[kind]
    make(run, image, arguments)
    with mount(image, f"rw,loop,{options}".rstrip(",")) as target:
        populate(target, 4096, large_values=False, many_files=10_000 if kind == "default" else 500)
        _compressible(target)
    with mount(image) as target:
        expected = from_mount(target)
        usage = os.statvfs(target)
    with opened(image) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.warnings == []
        ours = filesystem.usage()
        assert ours.size == usage.f_blocks * usage.f_frsize
        # The kernel also counts a reserve that it keeps in memory: some hundred tree blocks.
        reserve = (usage.f_blocks - usage.f_bfree) * usage.f_frsize - ours.used
        assert 0 <= reserve <= 400 * 65536
        assert (ours.inodes, ours.inodes_used) == (0, 0)
        for path in ("/many/file-00000", "/many/file-00499", "/names/plain", "/deep" + "/d" * 100, "/names/日本語"):
            assert filesystem.exists(path) == (path in expected)
        assert not filesystem.exists("/many/file-")
        assert not filesystem.exists("/many/gone")
    image.unlink()


def _compressible(top: Path) -> None:
    """Files of many extents, shared and rewritten in their middles."""
    folder = top / "compressible"
    folder.mkdir()
    lines = b"".join(b"%015d\n" % number for number in range(60_000))
    (folder / "long").write_bytes(lines)
    (folder / "short").write_bytes(b"ab" * 900)
    (folder / "noise").write_bytes(os.urandom(200_000))
    os.sync()
    for name in ("long", "noise"):
        subprocess.run(["cp", "--reflink=always", folder / name, folder / f"{name}-reflink"], check=True)
        with (folder / f"{name}-reflink").open("r+b") as stream:
            stream.seek(70_001)
            stream.write(b"rewritten" * 1000)
    os.sync()
