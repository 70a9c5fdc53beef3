"""What superblocks say, beside the tools that print it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guestctl.guestfs import GuestFS

Run = Callable[..., str]

_EXT = {
    "ext2": ("-t", "ext2", "-b", "1024"),
    "ext3": ("-t", "ext3", "-O", "^resize_inode", "-L", "three"),
    "ext4": ("-t", "ext4", "-O", "quota,encrypt,casefold,project", "-E", "stride=16,stripe_width=32"),
    "ext4-bigalloc": ("-t", "ext4", "-O", "bigalloc,meta_bg,^resize_inode,mmp", "-C", "16384"),
    "revision-0": ("-t", "ext2", "-r", "0", "-O", "none"),
}
# The user that owns reserved blocks has a name only where the tool runs; the rest is what few superblocks have.
_NOT_COMPARED = (
    "Reserved blocks uid",
    "Reserved blocks gid",
    "Character encoding",
    "MMP block number",
    "MMP update interval",
)


@contextmanager
def _opened(image: Path) -> Iterator[GuestFS]:
    with GuestFS(python_return_dict=True) as handle:
        handle.add_drive_opts(str(image), readonly=True, format="raw")
        handle.launch()
        yield handle


def _blank(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)
    return path


@pytest.mark.parametrize("options", _EXT.values(), ids=_EXT)
def test_ext_superblock_beside_tune2fs(run: Run, tmp_path: Path, options: tuple[str, ...], monkeypatch: Any) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("LC_ALL", "C")
    image = _blank(tmp_path / "image", 64 << 20)
    run("mke2fs", "-q", *options, image)
    run("tune2fs", "-c", "30", "-i", "37d", "-e", "remount-ro", "-o", "acl,journal_data", "-M", "/mnt/x", image)
    lines = (line.partition(":") for line in run("tune2fs", "-l", image).splitlines()[1:] if ":" in line)
    expected = {key: value.strip() for key, _, value in lines if key not in _NOT_COMPARED}
    with _opened(image) as handle:
        found = {key: value.strip() for key, value in handle.tune2fs_l("/dev/sda").items() if key not in _NOT_COMPARED}
    assert found == {
        key: "" if value == "<none>" or value == "<not available>" else value for key, value in expected.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-m", "crc=0", "-n", "version=ci"),
        ("-d", "su=64k,sw=2", "-i", "size=1024,maxpct=10", "-n", "size=8192", "-s", "size=4096"),
    ],
)
def test_xfs_geometry_beside_xfs_info(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    image = _blank(tmp_path / "image", 1 << 30)
    run("mkfs.xfs", "-q", *options, image)
    text = run("xfs_info", image)
    with _opened(image) as handle:
        found = handle.xfs_info("/dev/sda")
    for ours, pattern in {
        "inodesize": r"isize=(\d+)",
        "agcount": r"agcount=(\d+)",
        "agsize": r"agsize=(\d+)",
        "sectsize": r"sectsz=(\d+)",
        "attr": r"attr=(\d+)",
        "blocksize": r"data .*bsize=(\d+)",
        "datablocks": r"data .*blocks=(\d+)",
        "imaxpct": r"imaxpct=(\d+)",
        "sunit": r"sunit=(\d+) ",
        "swidth": r"swidth=(\d+)",
        "dirblocksize": r"naming .*bsize=(\d+)",
        "cimode": r"ascii-ci=(\d+)",
        "logblocks": r"log .*blocks=(\d+)",
        "logversion": r"log .*\n.*|version=(\d+)$",
        "lazycount": r"lazy-count=(\d+)",
        "rtextsize": r"extsz=(\d+)",
    }.items():
        match = re.search(pattern, text)
        assert match is not None, pattern
        if match[1] is not None:
            assert found[f"xfs_{ours}"] == int(match[1]), ours


def test_iso_descriptor_beside_isoinfo(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    image = tmp_path / "image.iso"
    words = ("-V", "VOLID", "-publisher", "PUB", "-p", "PREP", "-A", "APP", "-sysid", "SYS", "-volset", "SET")
    run("genisoimage", "-quiet", "-R", *words, "-o", image, tmp_path / "tree")
    text = run("isoinfo", "-d", "-i", image)
    with _opened(image) as handle:
        found = handle.isoinfo_device("/dev/sda")
        with pytest.raises(RuntimeError, match="Bad magic number in super-block"):
            handle.tune2fs_l("/dev/sda")
        with pytest.raises(RuntimeError, match="not an XFS filesystem"):
            handle.xfs_info("/dev/sda")
    outer = tmp_path / "outer.iso"
    run("genisoimage", "-quiet", "-R", "-o", outer, image)
    with _opened(outer) as handle:
        handle.mount_ro("/dev/sda", "/")
        assert handle.isoinfo("/image.iso") == found
    for line, key in (
        ("System id: (.*)", "iso_system_id"),
        ("Volume id: (.*)", "iso_volume_id"),
        ("Volume set id: (.*)", "iso_volume_set_id"),
        ("Publisher id: (.*)", "iso_publisher_id"),
        ("Data preparer id: (.*)", "iso_data_preparer_id"),
        ("Application id: (.*)", "iso_application_id"),
        ("Logical block size is: (.*)", "iso_logical_block_size"),
        ("Volume size is: (.*)", "iso_volume_space_size"),
    ):
        match = re.search(line, text)
        assert match is not None and str(found[key]) == match[1]
