"""What was fsynced and not committed: a copy of the image of a mounted filesystem, beside the kernel's mount of it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount
from btrfs_images import make, opened
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import Options

pytestmark = pytest.mark.root
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]


def _sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _append(top: Path) -> None:
    with (top / "d/one").open("a") as stream:
        stream.write("more")
    _sync(top / "d/one")


def _new_file(top: Path) -> None:
    (top / "new").write_text("new")
    _sync(top / "new")


def _new_folder(top: Path) -> None:
    (top / "folder").mkdir()
    (top / "folder/file").write_bytes(bytes(5000) + b"end")
    _sync(top / "folder/file")


def _rename(top: Path) -> None:
    (top / "d/two").rename(top / "d/renamed")
    _sync(top / "d/renamed")


def _replace(top: Path) -> None:
    (top / "d/new").write_text("replaces two")
    (top / "d/new").rename(top / "d/two")
    _sync(top / "d/two")


def _replace_as_editors_do(top: Path) -> None:
    (top / "d/new").write_text("replaces two")
    _sync(top / "d/new")
    (top / "d/new").rename(top / "d/two")
    _sync(top / "d")


def _hard_links(top: Path) -> None:
    os.link(top / "keep", top / "d/second")
    _sync(top / "keep")
    (top / "hard").unlink()
    _sync(top / "keep")


def _names_in_a_directory(top: Path) -> None:
    for number in range(100, 200):
        (top / f"many/f{number}").unlink()
    for number in range(50):
        (top / f"many/g{number}").touch()
    (top / "many/link").symlink_to("target")
    os.mkfifo(top / "many/fifo")
    _sync(top / "many")


def _removed_directory(top: Path) -> None:
    (top / "e").rmdir()
    (top / "d/one").unlink()
    _sync(top, top / "d")


def _xattrs(top: Path) -> None:
    os.removexattr(top / "keep", "user.a")
    os.setxattr(top / "keep", "user.b", b"changed")
    os.setxattr(top / "keep", "user.c", b"added")
    _sync(top / "keep")


def _rewritten(top: Path) -> None:
    with (top / "big").open("r+b") as stream:
        for place in (40_960, 41_000, 123_456, 400_000):
            stream.seek(place)
            stream.write(os.urandom(9000))
    _sync(top / "big")


def _cut(top: Path) -> None:
    os.truncate(top / "cut", 5000)
    _sync(top / "cut")


def _holes(top: Path) -> None:
    subprocess.run(["fallocate", "-p", "-o", "8192", "-l", "40960", top / "holes"], check=True)
    subprocess.run(["fallocate", "-l", "1000000", top / "holes"], check=True)
    subprocess.run(["fallocate", "-n", "-l", "2000000", top / "holes"], check=True)
    _sync(top / "holes")


def _compressed(top: Path) -> None:
    (top / "compressed").write_bytes(b"0123456789" * 30_000)
    _sync(top / "compressed")


def _subvolumes(top: Path) -> None:
    (top / "new").write_text("new")
    (top / "subvolume/new").write_text("new, too")
    (top / "subvolume/old").write_text("changed")
    _sync(top / "new", top / "subvolume/new", top / "subvolume/old")


STEPS = (
    _append,
    _new_file,
    _new_folder,
    _rename,
    _replace,
    _replace_as_editors_do,
    _hard_links,
    _names_in_a_directory,
    _removed_directory,
    _xattrs,
    _rewritten,
    _cut,
    _holes,
    _compressed,
    _subvolumes,
)


def _prepare(run: Run, top: Path) -> None:
    for name in ("d", "e", "many"):
        (top / name).mkdir()
    run("btrfs", "subvolume", "create", top / "subvolume")
    (top / "subvolume/old").write_text("old")
    for number in range(300):
        (top / f"many/f{number}").touch()
    (top / "d/one").write_text("one")
    (top / "d/two").write_text("two")
    # A chunk with room for what comes: a new one would be a reason to commit.
    subprocess.run(["fallocate", "-l", "24M", top / "reserve"], check=True)
    os.sync()
    os.truncate(top / "reserve", 12 << 20)
    for name in ("big", "cut", "holes"):
        (top / name).write_bytes(os.urandom(300_000))
    (top / "keep").write_text("keep")
    os.setxattr(top / "keep", "user.a", b"1")
    os.setxattr(top / "keep", "user.b", b"2")
    os.link(top / "keep", top / "hard")
    os.sync()


def _compare(mount: Mount, image: Path) -> int:
    """Compare, and count the filesystem's warnings."""
    before = hashlib.sha256(image.read_bytes()).digest()
    with opened(image) as filesystem:
        ours = from_guestctl(filesystem)
        warnings = len(filesystem.warnings)
    assert hashlib.sha256(image.read_bytes()).digest() == before
    with mount(image, "rw,loop") as target:
        theirs = from_mount(target)
    assert {path: ours[path] for path in ours if ours[path] != theirs.get(path)} == {}
    assert ours == theirs
    return warnings


@pytest.mark.parametrize(
    ("step", "arguments"),
    [*((step, "") for step in STEPS), (_holes, "-O ^no-holes"), (_hard_links, "-n 4096 -O ^extref")],
)
def test_step(run: Run, mount: Mount, tmp_path: Path, step: Callable[[Path], None], arguments: str) -> None:
    image, copy = tmp_path / "image", tmp_path / "copy"
    make(run, image, arguments, 128 << 20)
    with mount(image, "rw,loop,commit=300,compress=zstd") as target:
        _prepare(run, target)
        step(target)
        run("cp", "--sparse=always", image, copy)
    warnings = _compare(mount, copy)
    # The kernel may commit instead of writing a log, where one would not do.
    assert warnings == 1 or step is _subvolumes


@pytest.mark.parametrize("seed", range(int(os.environ.get("GUESTCTL_BTRFS_LOG_SEEDS", "2"))))
def test_random(run: Run, mount: Mount, tmp_path: Path, seed: int) -> None:
    """Many changes, with one of the files they concern fsynced now and then; copies after each fsync."""
    chance = random.Random(seed)
    image = tmp_path / "image"
    make(run, image, chance.choice(("", "-O ^no-holes", "-n 4096")), 128 << 20)
    copies: list[Path] = []
    with mount(image, "rw,loop,commit=300," + chance.choice(("compress=lzo", "max_inline=0", "noatime"))) as target:
        _prepare(run, target)
        for number in range(60):
            with suppress(OSError):
                _change(target, chance)
            if chance.random() < 0.15:
                files = [path for path in target.rglob("*") if path.is_file() or path.is_dir()]
                _sync(chance.choice(files))
                if len(copies) < 4:
                    copies.append(tmp_path / f"copy-{number}")
                    run("cp", "--sparse=always", image, copies[-1])
    for copy in copies:
        _compare(mount, copy)


def _change(top: Path, chance: random.Random) -> None:
    folders = [top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())]
    files = [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
    folder, file = chance.choice(folders), chance.choice(files)
    name = folder / f"n{chance.randrange(30)}"
    match chance.randrange(10):
        case 0:
            name.write_bytes(chance.randbytes(chance.choice((0, 10, 3000, 5000, 50_000))))
        case 1:
            name.mkdir()
        case 2:
            file.unlink()
        case 3:
            file.rename(name)
        case 4:
            os.link(file, name)
        case 5:
            with file.open("r+b") as stream:
                stream.seek(chance.randrange(400_000))
                stream.write(chance.randbytes(chance.randrange(1, 20_000)))
        case 6:
            os.truncate(file, chance.randrange(300_000))
        case 7:
            os.setxattr(file, f"user.{chance.randrange(3)}", chance.randbytes(5))
        case 8:
            name.symlink_to("somewhere")
        case _:
            file.rename(chance.choice(files))


def test_a_damaged_log(run: Run, mount: Mount, tmp_path: Path) -> None:
    """Refused, and left out where checksums are to be ignored."""
    image, copy = tmp_path / "image", tmp_path / "copy"
    make(run, image, "-m single", 128 << 20)
    with mount(image, "rw,loop,commit=300") as target:
        _prepare(run, target)
        _new_file(target)
        run("cp", "--sparse=always", image, copy)
    data = bytearray(copy.read_bytes())
    (log_root,) = (
        int(line.split()[1])
        for line in run("btrfs", "inspect-internal", "dump-super", copy).splitlines()
        if line.startswith("log_root\t")
    )
    # A new chunk's metadata has the logical address of the log's root in its header.
    place = data.index(log_root.to_bytes(8, "little"), 1 << 20)
    data[place] ^= 0xFF
    copy.write_bytes(data)
    with pytest.raises(InvalidFormat), opened(copy):
        pass
    with opened(copy, options=Options(ignore_checksums=True)) as filesystem:
        assert filesystem.exists("/d/one") and not filesystem.exists("/new")
        assert filesystem.warnings[0].startswith("the log cannot be replayed")


def test_extent_over_those_of_several_leaves(run: Run, mount: Mount, tmp_path: Path) -> None:
    """Reading begins anywhere: also where the tree had a leaf of extents that one in the log has replaced."""
    image, copy = tmp_path / "image", tmp_path / "copy"
    make(run, image, "-n 4096", 128 << 20)
    content = random.Random(1).randbytes(700 * 8192)
    with mount(image, "rw,loop") as top:
        with (top / "file").open("wb") as stream:
            for offset in range(0, len(content), 8192):
                stream.seek(offset)
                stream.write(b"before" * 600)
        os.sync()
        with (top / "file").open("r+b") as stream:
            stream.write(content)
        _sync(top / "file")
        run("cp", "--sparse=always", image, copy)
    for offset in range(0, len(content), 300_000):
        with opened(copy) as filesystem:
            assert any("log" in warning for warning in filesystem.warnings)
            device = filesystem.device("/file")
            assert bytes(device.read(offset, 5000)) == content[offset : offset + 5000], offset
