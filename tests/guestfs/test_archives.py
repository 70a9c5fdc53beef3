"""What is copied to the host: files, archives, mounts, beside what libguestfs makes of the same tree."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl import guestfs
from guestfs_calls import Answer, Both, call, differences

_FILES = ["/text/lines", "/text/empty", "/text/nul", "/sizes/300000", "/text", "/missing", "rel", "/special/socket"]
_RANGES = [(0, 0), (0, 5), (5, 20), (100, 1000), (190, 1), (191, 0), (1000, 0), (-1, 5), (0, -1)]
_DIRECTORIES = [
    "/text", "/special", "/glob", "/names", "/attributes", "/acls", "/bin", "/owners", "/times", "/looking", "/links",
    "/missing", "/text/lines",
]  # fmt: skip
_EXCLUDES = [["a*"], ["d1", "*z*"], ["d1/*"], ["in"], ["./a1", "[ab]1"], ["*/in"], [""]]
_BLOCKS = [(0, 0), (0, 1), (1, 3), (5, 2), (-1, 3), (15_000, 15_100), (16_383, 16_384)]
_CALLS = [
    call("download", "/text/lines", "@host/file"),
    call("mount_ro", "/dev/sda", "/"),
    *(call(name, path, "@host/file") for name in ("download", "base64_out") for path in _FILES),
    call("download", "/looking/absolute", "@host/file"),
    *(call("download_offset", "/text/lines", "@host/file", *which) for which in _RANGES),
    call("download_offset", "/dev/sda", "@host/file", 1024, 1024),
    call("download", "/text/lines", "/nonexistent/file"),
    *(call("compress_out", kind, "/sizes/300000", "@host/file") for kind in ("gzip", "bzip2", "xz", "compress", "bad")),
    *(
        call("compress_out", kind, "/text/lines", "@host/file", level=level)
        for kind in ("gzip", "bzip2", "xz")
        for level in (-1, 0, 1, 9, 10)
    ),
    call("compress_device_out", "gzip", "/dev/sdz", "@host/file"),
    *(call("download_inode", "/dev/sda", number, "@host/file") for number in (12, 13, 14, 20, -1, 0, 999_999)),
    *(call("download_blocks", "/dev/sda", *which, "@host/file") for which in _BLOCKS),
    *(call("download_blocks", "/dev/sda", *which, "@host/file", unallocated=True) for which in _BLOCKS),
    *(call("copy_out", path, "@host") for path in ("/text", "/glob", "/looking", "/links", "/missing", "/looking/dir")),
    *(call("copy_out", "/text/lines", directory) for directory in ("@host", "@host/none")),
    *(call("tar_out", path, "@host/file") for path in _DIRECTORIES),
    *(call("tar_out", "/attributes", "@host/file", **{kind: True}) for kind in ("xattrs", "selinux", "numericowner")),
    *(call("tar_out", "/text", "@host/file", compress=kind) for kind in ("gzip", "bzip2", "xz", "compress", "bad")),
    *(call("tar_out_opts", "/glob", "@host/file", excludes=excludes) for excludes in _EXCLUDES),
    call("tar_out", "/", "@host/file", excludes=["sparse", "many"]),
    *(call(name, "/text", "@host/file") for name in ("tgz_out", "txz_out")),
    *(call("cpio_out", path, "@host/file") for path in _DIRECTORIES),
    *(call("cpio_out", "/text", "@host/file", format=format) for format in ("newc", "crc", "odc")),
]


def _file(answer: Answer) -> bytes:
    return bytes.fromhex(answer["files"]["file"][2]) if "files" in answer else b""


def _unpacked(content: bytes) -> bytes:
    for magic, unpack in ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ", lzma.decompress)):
        if content.startswith(magic):
            return unpack(content)
    return content


def _same_content(theirs: Answer, ours: Answer) -> bool:
    return "files" in theirs and "files" in ours and _unpacked(_file(theirs)) == _unpacked(_file(ours))


def _members(content: bytes) -> dict[str, tuple[Any, ...]]:
    """What is in a tar archive. Of hard links, the first that was met has the content."""
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(_unpacked(content))) as archive:
        for one in archive:
            data = archive.extractfile(one) if one.isfile() or one.islnk() else None
            device = (one.devmajor, one.devminor) if one.isblk() or one.ischr() else None
            attributes = {
                key: value
                for key, value in one.pax_headers.items()
                if key.startswith("SCHILY.xattr.") and "posix_acl" not in key and not one.islnk()
            }
            what = (b"0" if one.islnk() else one.type, one.mode, one.uid, one.gid, int(one.mtime // 1), device)
            found[one.name] = (*what, one.linkname if one.issym() else None, data and data.read(), attributes)
    return found


def _same_tar(theirs: Answer, ours: Answer) -> bool:
    return "files" in theirs and "files" in ours and _members(_file(theirs)) == _members(_file(ours))


def _entries(content: bytes) -> tuple[int, dict[bytes, Any]]:
    """What is in a cpio archive, and how long it is. Any hard link may have the content."""
    found: dict[bytes, Any] = {}
    at = 0
    while at < len(content) and content[at : at + 5] == b"07070":
        numbers = [int(content[place : place + 8], 16) for place in range(at + 6, at + 110, 8)]
        data = (at + 110 + numbers[11] + 3) // 4 * 4
        name = content[at + 110 : at + 110 + numbers[11] - 1]
        linked = numbers[4] > 1 and numbers[1] & 0xF000 == 0x8000
        found[name] = numbers[:6] if linked else (numbers, content[data : data + numbers[6]])
        at = (data + numbers[6] + 3) // 4 * 4
    return len(content), found


def _same_cpio(theirs: Answer, ours: Answer) -> bool:
    return "files" in theirs and "files" in ours and _entries(_file(theirs)) == _entries(_file(ours))


_KNOWN: dict[str, Callable[[Answer, Answer], Any]] = {
    "compress_out": _same_content,
    "tar_out": _same_tar,
    "tar_out_opts": _same_tar,
    "tgz_out": _same_tar,
    "txz_out": _same_tar,
    "cpio_out": _same_cpio,
    # Directories and links have content too for libguestfs.
    "download_inode": lambda theirs, ours: "not a regular file" in ours.get("error", ""),
    # What goes wrong on the way says nothing else.
    "download": lambda theirs, ours: "file receive cancelled" in theirs.get("error", "") and "error" in ours,
    "base64_out": lambda theirs, ours: "file receive cancelled" in theirs.get("error", "") and "error" in ours,
}


@pytest.mark.long
@pytest.mark.root
def test_archives_beside_libguestfs(both_handles: Both, guest_drive: dict[str, Any]) -> None:
    answers = both_handles([guest_drive], _CALLS)
    assert not differences(answers, _CALLS, _KNOWN)
    assert sum("files" in theirs for theirs, _ in answers) > 50


@pytest.fixture
def image(run: Callable[..., str], tmp_path: Path) -> Path:
    """An ext4 filesystem that mke2fs filled."""
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    (top / "dir/file").write_bytes(b"content\n" * 1000)
    os.link(top / "dir/file", top / "dir/same")
    os.symlink("file", top / "dir/link")
    with (top / "sparse").open("wb") as stream:
        stream.seek(8 << 20)
        stream.write(b"end")
    path = tmp_path / "small.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", top, path, "16M")
    return path


@pytest.fixture
def handle(image: Path) -> guestfs.GuestFS:
    opened = guestfs.GuestFS()
    opened.add_drive_ro(str(image))
    opened.launch()
    opened.mount_ro("/dev/sda", "/")
    return opened


def test_archives_are_those_that_tar_and_cpio_read(handle: guestfs.GuestFS, tmp_path: Path) -> None:
    handle.tar_out("/dir", str(tmp_path / "a.tar"), compress="xz")
    handle.cpio_out("/dir", str(tmp_path / "a.cpio"), format="crc")
    for argv in (["tar", "-xJf", "../a.tar"], ["cpio", "-i", "-F", "../a.cpio", "--quiet"]):
        folder = tmp_path / argv[0]
        folder.mkdir()
        subprocess.run(argv, cwd=folder, check=True)
        assert (folder / "same").read_bytes() == b"content\n" * 1000
        assert os.path.samefile(folder / "same", folder / "file")
        assert os.readlink(folder / "link") == "file"


def test_no_image_is_written_over(handle: guestfs.GuestFS, image: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    (tmp_path / "alias").symlink_to(image)
    for target in (str(image), str(tmp_path / "alias")):
        for name, *args in (
            ("download", "/dir/file", target),
            ("base64_out", "/dir/file", target),
            ("compress_device_out", "gzip", "/dev/sda", target),
            ("tar_out", "/dir", target),
            ("cpio_out", "/dir", target),
            ("ls0", "/dir", target),
            ("find0", "/dir", target),
            ("checksums_out", "md5", "/dir", target),
        ):
            with pytest.raises(RuntimeError, match="is an image that is being read"):
                getattr(handle, name)(*args)
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_holes_stay_holes_and_pipes_get_all(handle: guestfs.GuestFS, tmp_path: Path) -> None:
    target = tmp_path / "sparse"
    positions: list[Any] = []
    handle.set_event_callback(lambda event, number, text, numbers: positions.append(numbers[2:]), 8)
    handle.download("/sparse", str(target))
    assert target.stat().st_size == (8 << 20) + 3
    assert target.stat().st_blocks * 512 < 1 << 20
    assert positions[-1] == [(8 << 20) + 3] * 2
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=handle.download, args=("/sparse", str(tmp_path / "pipe")))
    thread.start()
    assert (tmp_path / "pipe").read_bytes() == target.read_bytes() == bytes(8 << 20) + b"end"
    thread.join()


@pytest.mark.root
def test_a_mount_on_the_host(handle: guestfs.GuestFS, tmp_path: Path) -> None:
    pytest.importorskip("mfusepy")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    directory = tmp_path / "mnt"
    directory.mkdir()
    with pytest.raises(RuntimeError, match="mount-local"):
        handle.mount_local_run()
    handle.mount_local(str(directory))
    thread = threading.Thread(target=handle.mount_local_run)
    thread.start()
    try:
        while not os.path.ismount(directory) and thread.is_alive():
            time.sleep(0.05)
        assert sorted(os.listdir(directory / "dir")) == ["file", "link", "same"]
        assert (directory / "dir/link").read_bytes() == b"content\n" * 1000
        assert handle.ls("/dir") == ["file", "link", "same"]  # meanwhile
    finally:
        handle.umount_local(retry=True)
        thread.join(20)
    assert not thread.is_alive()
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):  # and not the end of the process
        os.write(writer, b"x")
    os.close(writer)
    with pytest.raises(RuntimeError, match="no filesystem is mounted"):
        handle.umount_local()
