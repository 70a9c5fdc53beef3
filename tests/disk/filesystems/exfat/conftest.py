"""exFAT volumes made by mkfs.exfat and filled through exfat-fuse."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from awkward_tree import populate

Run = Callable[..., str]
Make = Callable[..., Path]
MountExfat = Callable[..., AbstractContextManager[Path]]


@contextmanager
def _loop_device(run: Run, image: Path, sector_size: int) -> Iterator[str]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices")
    device = run("losetup", "-f", "--show", "-b", str(sector_size), image).strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@pytest.fixture
def make(run: Run, tmp_path: Path) -> Make:
    """A new volume of `size` bytes; further arguments are those of mkfs.exfat."""

    def _make(*arguments: str, size: int = 64 << 20, sector_size: int = 512, name: str = "image") -> Path:
        image = tmp_path / name
        with image.open("wb") as stream:
            stream.truncate(size)
        if sector_size == 512:
            run("mkfs.exfat", *arguments, image)
        else:
            with _loop_device(run, image, sector_size) as device:
                run("mkfs.exfat", *arguments, device)
        return image

    return _make


@pytest.fixture(scope="session")
def mount_exfat(run: Run, tmp_path_factory: pytest.TempPathFactory) -> MountExfat:
    """Mount a volume with exfat-fuse, to which only block devices will do."""

    @contextmanager
    def _mount(image: Path, options: str = "rw", sector_size: int = 512) -> Iterator[Path]:
        if not Path("/dev/fuse").exists():
            pytest.skip("needs FUSE")
        target = tmp_path_factory.mktemp("mount")
        with _loop_device(run, image, sector_size) as device:
            run("mount.exfat-fuse", "-o", options, device, target)
            try:
                yield target
            finally:
                run("umount", target)
                for _ in range(100):  # the driver writes on after umount returns
                    users = [link for link in Path("/proc").glob("[0-9]*/fd/*") if _leads_to(link, device)]
                    if not users:
                        break
                    time.sleep(0.05)

    return _mount


def _leads_to(link: Path, device: str) -> bool:
    try:
        return os.readlink(link) == device
    except OSError:
        return False


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the awkward tree what exFAT can hold: directories and files, names of legal characters, times from 1980.

    And until 2099: exfat-fuse takes 2100 for a leap year.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    top = tmp_path_factory.mktemp("exfat") / "tree"
    top.mkdir()
    populate(top, 4096, large_values=False, many_files=1000)
    (top / "sparse" / "several-gib").unlink()
    for folder, _, files in os.walk(os.fsencode(top)):
        for name in files:
            path = os.path.join(folder, name)
            if not stat.S_ISREG(os.lstat(path).st_mode) or not _is_legal(name):
                os.unlink(path)
    for number in (0, 1, 2, 3, 6, 7):
        (top / "times" / str(number)).unlink()
    return top


def _is_legal(name: bytes) -> bool:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return False
    return not any(character in '"*/:<>?\\|' or character < " " for character in text)


def copy_tree(source: Path, target: Path) -> None:
    """All directories and files, and the times of files."""
    for folder, _, files in os.walk(source):
        there = target / Path(folder).relative_to(source)
        there.mkdir(exist_ok=True)
        for name in files:
            shutil.copyfile(Path(folder, name), there / name)
            status = os.stat(Path(folder, name))
            os.utime(there / name, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(scope="session")
def fill(tree: Path) -> Callable[[Path], None]:
    """Copy the tree into a mounted volume, with files of many runs of clusters."""

    def _fill(target: Path) -> None:
        copy_tree(tree, target)
        first, second = target / "fragmented", target / "FRAGMENTED too"
        with first.open("wb", buffering=0) as one, second.open("wb", buffering=0) as other:
            for number in range(60):
                one.write(b"%07d\n" % number * 1024)
                other.write(b"%07d \n" % number * 2048)
        (target / "short").write_bytes(b"x" * 30_000)
        os.truncate(target / "short", 10)
        for number in range(40):
            (target / f"hole-{number}").write_bytes(b"%d" % number * 5000)
        for number in range(0, 40, 2):
            (target / f"hole-{number}").unlink()
        (target / "in the holes").write_bytes(b"".join(b"%07d\n" % number for number in range(40_000)))

    return _fill
