"""Devices as raw files, beside what qemu-img and the kernel make of the same image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import volume_images
from conftest import Mount, Run
from guestctl.block import MemoryDevice
from guestctl.disk.fuse.raw import RawOperations

pytestmark = pytest.mark.root
Mounted = Callable[..., AbstractContextManager[Path]]

_GUESTCTL = (sys.executable, "-m", "guestctl")


@pytest.fixture
def mounted(run: Run, tmp_path: Path) -> Mounted:
    @contextmanager
    def _mounted(image: Path, *options: str | Path) -> Iterator[Path]:
        if not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None:
            pytest.skip("needs FUSE and fusermount3")
        target = tmp_path / "fuse"
        target.mkdir(exist_ok=True)
        run(*_GUESTCTL, "mount", "--raw", image, target, *options)
        try:
            yield target
        finally:
            run("fusermount3", "-u", target)

    return _mounted


@pytest.fixture
def disk(run: Run, tmp_path: Path) -> Path:
    """A qcow2 image with an ext4 partition and an empty one; ``disk.raw`` beside it is what qemu-img reads."""
    raw = tmp_path / "made"
    with raw.open("wb") as stream:
        stream.truncate(80 << 20)
    run("sfdisk", "-q", raw, input="label: gpt\nstart=2048, size=100000\nstart=122880, size=3000\n")
    run("mke2fs", "-q", "-t", "ext4", "-E", f"offset={1 << 20}", raw, "50000k")
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    run("qemu-img", "convert", "-O", "raw", image, tmp_path / "disk.raw")
    return image


def test_files_of_a_disk(run: Run, disk: Path, mounted: Mounted, tmp_path: Path) -> None:
    content = (tmp_path / "disk.raw").read_bytes()
    with mounted(disk) as top:
        assert sorted(os.listdir(top)) == ["sda", "sda1", "sda2"]
        assert (top / "sda").stat().st_mode == 0o100444
        assert (top / "sda").read_bytes() == content
        assert (top / "sda1").read_bytes() == content[1 << 20 : (1 << 20) + 100000 * 512]
        assert (top / "sda2").stat().st_size == 3000 * 512
        with pytest.raises(OSError, match="Read-only"):
            (top / "sda").open("r+b")
        run("cp", "--sparse=auto", top / "sda", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
        assert (tmp_path / "copy").stat().st_blocks * 512 < len(content) // 4


def test_the_kernel_mounts_a_partition(disk: Path, mount: Mount, mounted: Mounted) -> None:
    with mounted(disk) as top, mount(top / "sda1") as files:
        assert os.listdir(files) == ["lost+found"]


def test_volumes(mounted: Mounted, tmp_path: Path) -> None:
    paths = [tmp_path / f"disk{number}" for number in range(3)]
    for path, content in zip(paths, volume_images.images("lvm-on-md"), strict=True):
        path.write_bytes(content)
    more = [word for path in paths[1:] for word in ("-a", path)]
    with mounted(paths[0], *more) as top:
        for device, expected in volume_images.reads("lvm-on-md")[0, 1, 2].items():
            file = top / device.removeprefix("/dev/")
            digest = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
            assert f"{file.stat().st_size} {digest}" == expected
        assert (top / "sdb").read_bytes() == paths[1].read_bytes()


def test_writes_go_to_the_overlay(run: Run, disk: Path, mount: Mount, mounted: Mounted, tmp_path: Path) -> None:
    before = disk.read_bytes()
    with mounted(disk, "--overlay", tmp_path / "overlay") as top:
        assert os.listdir(top) == ["sda"]
        with mount(top / "sda", f"loop,offset={1 << 20},sizelimit={100000 * 512}") as files:
            (files / "new").write_bytes(b"written" * 10000)
        with (top / "sda").open("r+b") as stream:
            stream.seek(60 << 20)
            stream.write(b"second partition")
        with pytest.raises(OSError, match="No space left"), (top / "sda").open("ab") as stream:
            stream.write(b"past the end")
        content = (top / "sda").read_bytes()
    assert disk.read_bytes() == before
    run("qemu-img", "check", tmp_path / "overlay")
    run("qemu-img", "convert", "-O", "raw", tmp_path / "overlay", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert content[60 << 20 :].startswith(b"second partition")
    run("e2fsck", "-fn", f"{tmp_path / 'copy'}?offset={1 << 20}")
    with mount(tmp_path / "copy", f"ro,loop,offset={1 << 20}") as files:
        assert (files / "new").read_bytes() == b"written" * 10000


def test_an_overlay_needs_raw(disk: Path, tmp_path: Path) -> None:
    argv = [*_GUESTCTL, "mount", str(disk), str(tmp_path), "--overlay", str(tmp_path / "overlay")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2 and "--overlay needs --raw" in done.stderr


def test_names_that_stand_in_each_others_way() -> None:
    device = MemoryDevice(bytes(512))
    names = ["/dev/sda", "/dev/sda/lv", "/dev/vg/lv", "/dev/vg"]
    operations = RawOperations(dict.fromkeys(names, device))
    assert operations.conflicts == ["/dev/sda/lv", "/dev/vg"]
    assert [name for name, _, _ in operations.listing("/").entries] == [".", "..", "sda", "vg"]
    assert [name for name, _, _ in operations.listing("/vg").entries] == [".", "..", "lv"]
