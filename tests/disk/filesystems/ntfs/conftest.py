"""NTFS volumes made by mkntfs and filled through ntfs-3g."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

Run = Callable[..., str]
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]


@pytest.fixture
def make(run: Run, tmp_path: Path) -> Make:
    """A new volume of `size` bytes; further arguments are mkntfs's."""

    def _make(*arguments: str, size: int = 48 << 20, name: str = "image") -> Path:
        image = tmp_path / name
        with image.open("wb") as stream:
            stream.truncate(size)
        run("mkntfs", "-F", "-Q", "-q", *arguments, image)
        return image

    return _make


@pytest.fixture(scope="session")
def mount_ntfs(run: Run, tmp_path_factory: pytest.TempPathFactory) -> MountNtfs:
    """Mount a volume with ntfs-3g, read-only unless told otherwise; needs root and FUSE."""

    @contextmanager
    def _mount(image: Path, options: str = "ro", driver: str = "ntfs-3g") -> Iterator[Path]:
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("needs root")
        if not Path("/dev/fuse").exists():
            pytest.skip("needs FUSE")
        target = tmp_path_factory.mktemp("mount")
        run(driver, "-o", options, image, target)
        try:
            yield target
        finally:
            for _ in range(50):
                if os.system(f"umount {target} 2> /dev/null") == 0:
                    break
                time.sleep(0.1)
            # The driver writes on after umount returns: it is done when its lock of the image is gone.
            time.sleep(0.05)

    return _mount
