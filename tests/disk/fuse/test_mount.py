"""Mounts of filesystems' trees, beside the kernel's own mounts of the same images."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from awkward_tree import from_mount, populate
from conftest import Mount, Run

pytestmark = pytest.mark.root
Mounted = Callable[..., AbstractContextManager[Path]]

_GUESTCTL = (sys.executable, "-m", "guestctl")
_MAKE = {
    "ext4": ("mke2fs", "-q", "-t", "ext4", "-b", "4096"),
    "xfs": ("mkfs.xfs", "-q"),
    "ntfs": ("mkntfs", "-F", "-Q", "-q"),
}


def _is_mounted(directory: Path) -> bool:
    return f" {directory} " in Path("/proc/self/mountinfo").read_text()


def _wait(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("waited in vain")


@pytest.fixture
def mounted(run: Run, tmp_path: Path) -> Mounted:
    """Mount with guestctl; further arguments are its options."""

    @contextmanager
    def _mounted(image: Path, *options: str) -> Iterator[Path]:
        if not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None:
            pytest.skip("needs FUSE and fusermount3")
        target = tmp_path / "fuse"
        target.mkdir(exist_ok=True)
        run(*_GUESTCTL, "mount", image, target, *options)
        try:
            yield target
        finally:
            run("fusermount3", "-u", target)

    return _mounted


def _image(run: Run, path: Path, kind: str) -> Path:
    with path.open("wb") as stream:
        stream.truncate(400 << 20)
    run(*_MAKE[kind], path)
    return path


def _archive(top: Path) -> str:
    """SHA-256 of what tar makes of a tree, files in the order of their names."""
    tar = ["tar", "-C", str(top), "--sort=name", "--format=posix", "--xattrs", "--numeric-owner"]
    # The kernel shows an ACL of XFS also in the form that it has on the disk.
    tar += ["--xattrs-include=*", "--xattrs-exclude=trusted.SGI_ACL_*"]
    # Access times differ by who has read what; the process's number is in the names of pax headers.
    tar += ["--pax-option=delete=atime,exthdr.name=%d/%f", "--exclude=several-gib", "-cf", "-", "."]
    with subprocess.Popen(tar, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        digest = hashlib.file_digest(process.stdout, "sha256").hexdigest()  # type: ignore[arg-type]
    assert process.returncode == 0
    return digest


def _without_raw_acls(tree: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {
        path: (*found, {name: value for name, value in xattrs.items() if not name.startswith("trusted.SGI_ACL_")})
        for path, (*found, xattrs) in tree.items()
    }


def _names(top: Path) -> list[tuple[bytes, int, int]]:
    """What a directory says of its entries before anyone looks at them."""
    return sorted(
        (os.path.relpath(entry.path, os.fsencode(top)), entry.inode(), entry.is_dir(follow_symlinks=False))
        for directory, _, _ in os.walk(os.fsencode(top))
        for entry in os.scandir(directory)
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_tar_equals_that_of_the_kernels_mount(
    run: Run, mount: Mount, mounted: Mounted, tmp_path: Path, kind: str
) -> None:
    image = _image(run, tmp_path / "image", kind)
    with mount(image, "loop") as top:
        populate(top, 4096, large_values=kind == "xfs", many_files=1500)
    with mount(image) as kernel, mounted(image) as ours:
        assert _archive(ours) == _archive(kernel)
        assert from_mount(ours) == _without_raw_acls(from_mount(kernel))
        assert _names(ours) == _names(kernel)
        theirs, us = os.statvfs(kernel), os.statvfs(ours)
        assert (us.f_blocks, us.f_bfree, us.f_files) == (theirs.f_blocks, theirs.f_bfree, theirs.f_files)
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(ours / "attributes" / "few", "user.none")
        with pytest.raises(OSError, match="Read-only"):
            (ours / "new").touch()
        with pytest.raises(FileNotFoundError):
            (ours / "none").stat()
        assert run("diff", "-r", kernel / "names", ours / "names") == ""
        sparse = (ours / "sparse" / "holes-at-both-ends").open("rb")
        with sparse:
            assert os.lseek(sparse.fileno(), 0, os.SEEK_DATA) == 5 * 4096
            assert os.lseek(sparse.fileno(), 5 * 4096, os.SEEK_HOLE) == 6 * 4096


def test_tar_of_ntfs(run: Run, mounted: Mounted, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    image = _image(run, tmp_path / "image", "ntfs")
    theirs = tmp_path / "ntfs-3g"
    theirs.mkdir()
    run("ntfs-3g", image, theirs)
    try:
        for number in range(300):
            (theirs / f"ünï {number}").write_bytes(b"%d\n" % number * number * 100)
        (theirs / "deep" / "er").mkdir(parents=True)
        os.link(theirs / "ünï 7", theirs / "deep" / "hard")
        (theirs / "deep" / "er" / "link").symlink_to("../hard")
    finally:
        run("umount", theirs)
    time.sleep(0.2)  # the driver writes on after umount returns
    with mounted(image) as ours:
        assert len(os.listdir(ours)) == 301
        assert (ours / "ünï 7").stat().st_ino == (ours / "deep" / "hard").stat().st_ino
        contents = {path.name: path.read_bytes() for path in ours.iterdir() if path.is_file()}
        assert contents == {f"ünï {number}": b"%d\n" % number * number * 100 for number in range(300)}
        assert (ours / "deep" / "er" / "link").read_bytes() == b"7\n" * 700


def test_rsync_grep_and_find(run: Run, mount: Mount, mounted: Mounted, tmp_path: Path) -> None:
    image = _image(run, tmp_path / "image", "ext4")
    with mount(image, "loop") as top:
        shutil.copytree(Path(__file__).parents[1], top / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        os.link(top / "tests" / "test_tar.py", top / "hard")
    with mount(image) as kernel, mounted(image) as ours:
        for command in ("grep -rc guestctl . | sort", "find . -printf '%p %s %i %n %T@\\n' | sort", "du -abl . | sort"):
            found = [
                subprocess.run(["sh", "-c", command], cwd=top, capture_output=True, check=True).stdout
                for top in (kernel, ours)
            ]
            assert found[0] == found[1] != b""
        copy = tmp_path / "copy"
        run("rsync", "-aH", f"{ours}/", copy)
        assert run("rsync", "-aHinc", "--delete", f"{kernel}/", copy) == ""


def test_inode_numbers_of_two_filesystems_differ(run: Run, mount: Mount, mounted: Mounted, tmp_path: Path) -> None:
    images = [_image(run, tmp_path / name, "ext4") for name in ("root", "home")]
    identifier = "11111111-2222-3333-4444-555555555555"
    run("tune2fs", "-U", identifier, images[1])
    for number, image in enumerate(images):
        with mount(image, "loop") as top:
            (top / "file").write_text(str(number))
            os.link(top / "file", top / "hard")
            if number == 0:
                for name in ("etc", "home", "bin", "usr", "var"):
                    (top / name).mkdir()
                (top / "etc" / "fstab").write_text(f"UUID={identifier} /home ext4 defaults 0 0\n")
                (top / "etc" / "os-release").write_text("ID=debian\n")
    with mounted(images[0], "-a", str(images[1])) as ours:
        copy = tmp_path / "copy"
        run("rsync", "-aH", f"{ours}/", copy)
        assert [(copy / name).read_text() for name in ("file", "hard", "home/file", "home/hard")] == [
            "0",
            "0",
            "1",
            "1",
        ]
        assert (copy / "home" / "file").stat().st_nlink == 2


def test_damage_is_eio(run: Run, mount: Mount, mounted: Mounted, tmp_path: Path) -> None:
    image = _image(run, tmp_path / "image", "ext4")
    with mount(image, "loop") as top:
        for name in ("whole", "damaged"):
            (top / name).mkdir()
            (top / name / "file").write_text(name)
        (top / "inode").write_text("lost")
        os.setxattr(top / "inode", "user.a", b"b")
    block = int(run("debugfs", "-R", "blocks /damaged", image).split()[0])
    place = run("debugfs", "-R", "imap /inode", image)
    inode_block, inode_offset = int(place.split("at block ")[1].split(",")[0]), int(place.split("0x")[1], 16)
    with image.open("r+b") as stream:
        stream.seek(block * 4096)
        stream.write(b"\xa5" * 4096)
        stream.seek(inode_block * 4096 + inode_offset + 40)
        stream.write(b"\xa5" * 60)
    with mount(image) as kernel, mounted(image) as ours:
        for top in (kernel, ours):
            assert (top / "whole" / "file").read_text() == "whole"
            assert {"whole", "damaged", "inode"} <= set(os.listdir(top))
            with pytest.raises(OSError, match=r"Structure needs cleaning|Bad message|Input/output error"):
                os.listdir(top / "damaged")
        for action in (lambda: os.listdir(ours / "damaged"), (ours / "inode").stat, (ours / "inode").read_bytes):
            with pytest.raises(OSError, match="Input/output error"):
                action()


# The life of a mount


@contextmanager
def _foreground(image: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    target.mkdir()
    argv = [*_GUESTCTL, "mount", "--foreground", str(image), str(target)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server:
        try:
            _wait(lambda: _is_mounted(target) or server.poll() is not None)
            yield server
        finally:
            server.kill()


@pytest.fixture
def small(run: Run, tmp_path: Path) -> Path:
    if not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None:
        pytest.skip("needs FUSE and fusermount3")
    return _image(run, tmp_path / "image", "ext4")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_unmount(small: Path, tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "target"
    with _foreground(small, target) as server:
        with os.scandir(target):  # it is in use
            server.send_signal(number)
            assert server.wait(10) == 0
        assert server.stderr is not None and server.stderr.read() == ""
        assert not _is_mounted(target)


def test_a_killed_server_leaves_no_mount(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with _foreground(small, target) as server:
        os.listdir(target)
        server.kill()
        _wait(lambda: not _is_mounted(target))


def test_the_end_of_the_parent_unmounts(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    shell = f"'{sys.executable}' -m guestctl mount --foreground '{small}' '{target}' & wait"
    with subprocess.Popen(["sh", "-c", shell]) as parent:
        _wait(lambda: _is_mounted(target))
        parent.kill()
    _wait(lambda: not _is_mounted(target))


def test_what_cannot_be_mounted(small: Path, tmp_path: Path) -> None:
    def fails(*words: str | Path) -> str:
        argv = [*_GUESTCTL, "mount", *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        assert done.returncode in (1, 2) and not done.stdout
        return done.stderr

    assert "does not exist" in fails(small, tmp_path / "none")
    assert "no device /dev/sdb" in fails(small, tmp_path, "--device", "/dev/sdb")
    assert "--raw shows every device" in fails(small, tmp_path, "--raw", "-m", "/dev/sda")
    assert not _is_mounted(tmp_path)
