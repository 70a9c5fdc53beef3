"""A tree with everything that SquashFS can hold, and images of it by mksquashfs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from awkward_tree import populate

Run = Callable[..., str]
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The awkward tree, but for its file of several GiB, and what meets the ends of large blocks."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    top = tmp_path_factory.mktemp("squashfs") / "tree"
    top.mkdir()
    populate(top, 4096, large_values=False, many_files=1500)
    (top / "sparse" / "several-gib").unlink()
    blocks = top / "blocks"
    blocks.mkdir()
    contents = b"".join(b"%07d\n" % number for number in range(300_000))
    for block in (1 << 17, 1 << 20):
        for size in (block - 1, block, block + 1, 2 * block):
            (blocks / str(size)).write_bytes(contents[:size])
    (blocks / "noise").write_bytes(os.urandom(300_000))
    (blocks / "noise-and-words").write_bytes(os.urandom(150_000) + contents[:500_000] + os.urandom(77))
    (blocks / "program").write_bytes(Path(sys.executable).read_bytes()[:400_000])
    with (blocks / "holes").open("wb") as stream:
        for number in (3, 40, 41, 90):
            stream.seek(number << 17)
            stream.write(os.urandom(1 << 17) if number == 40 else b"words " * 30_000)
        stream.truncate((100 << 17) + 5)
    _set_more_attributes(top)
    return top


def _set_more_attributes(top: Path) -> None:
    folder = top / "more-attributes"
    folder.mkdir()
    for number in range(300):
        file = folder / f"{number}"
        file.touch()
        os.setxattr(file, "user.shared", b"the same value " * 100)
        os.setxattr(file, f"trusted.own-{number}", b"%d" % number)
    os.setxattr(folder, "user.on-a-directory", b"d" * 3000)
    os.setxattr(folder / "0", "user.empty", b"")
    os.symlink("/nowhere", folder / "link")
    os.setxattr(folder / "link", "trusted.on-a-link", b"value", follow_symlinks=False)
    for path in (top / "special").iterdir():
        os.setxattr(path, "trusted.on-a-device", b"value")


@pytest.fixture
def make(run: Run, tmp_path: Path) -> Make:
    """An image of `source`; further arguments are mksquashfs's."""

    def _make(source: Path, *arguments: str, name: str = "image") -> Path:
        image = tmp_path / name
        run("mksquashfs", source, image, "-quiet", "-no-progress", "-noappend", *arguments)
        return image

    return _make
