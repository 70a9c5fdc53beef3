"""Reparse points, streams, short names and compression, beside what ntfs-3g and its tools say."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount
from guestctl.block import FileDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystems.ntfs import NtfsFileSystem

pytestmark = pytest.mark.root
Run = Callable[..., str]
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]


def reparse(tag: int, data: bytes, guid: bytes = b"") -> bytes:
    return struct.pack("<IHH", tag, len(data), 0) + guid + data


def link(target: str, tag: int = 0xA0000003) -> bytes:
    """A junction, or a symbolic link, which says whether it is relative."""
    name = target.encode("utf-16-le")
    flags = struct.pack("<I", not target.startswith("\\??\\")) if tag == 0xA000000C else b""
    return reparse(tag, struct.pack("<4H", 0, len(name), len(name) + 2, 0) + flags + name + b"\0\0\0\0")


VOLUME = r"Volume{01234567-89ab-cdef-0123-456789abcdef}"
# name -> (is a directory, reparse point)
LINKS = {
    "junction": (True, link(r"\??\C:\Users\Me")),
    "junction-case": (True, link(r"\??\c:\users\ME")),
    "junction-missing": (True, link(r"\??\C:\nope\x")),
    "junction-drive": (True, link(r"\??\D:\Users\Me\dir")),
    "junction-root": (True, link("\\??\\C:\\")),
    "junction-volume": (True, link("\\??\\" + VOLUME + "\\")),
    "link": (False, link(r"..\..\Users\Me\file", 0xA000000C)),
    "link-case": (False, link(r"..\..\users\me\FILE", 0xA000000C)),
    "link-rooted": (False, link(r"\Users\Me\file", 0xA000000C)),
    "link-absolute": (False, link(r"\??\C:\Users\Me\file", 0xA000000C)),
    "link-missing": (False, link(r"\??\C:\nope", 0xA000000C)),
    "link-directory": (True, link(r"\??\C:\Users\Me", 0xA000000C)),
    "wsl": (False, reparse(0xA000001D, struct.pack("<I", 2) + "/mnt/é".encode())),
}
# What ntfs-3g shows as a link to "unsupported reparse tag": name -> (is a directory, reparse point, what it is here)
OTHERS = {
    "link-broken": (False, link(r"foo\bar", 0xA000000C), "foo/bar"),
    "link-share": (False, link(r"\??\UNC\server\share\x", 0xA000000C), "/.NTFS-3G/UNC/server/share/x"),
    "junction-volume-path": (True, link("\\??\\" + VOLUME + "\\Users"), f"/.NTFS-3G/{VOLUME}/Users"),
    "cloud-directory": (True, reparse(0x9000001A, b"x" * 32), None),
    "app": (False, reparse(0x8000001B, b"x" * 32), None),
    "third-party": (False, reparse(0x123, b"x" * 32, b"g" * 16), None),
    "deduplicated": (False, reparse(0x80000013, b"x" * 32), "deduplication"),
}


def _make_link(path: Path, is_directory: bool, value: bytes) -> None:
    if is_directory:
        path.mkdir()
    else:
        path.touch()
    os.setxattr(path, "system.ntfs_reparse_data", value)


def test_links(make: Make, mount_ntfs: MountNtfs) -> None:
    image = make("-c", "4096")
    with mount_ntfs(image, "rw") as target:
        (target / "Users" / "Me" / "dir").mkdir(parents=True)
        (target / "Users" / "Me" / "file").touch()
        (target / "a" / "b").mkdir(parents=True)
        for name, (is_directory, value) in LINKS.items():
            _make_link(target / "a" / "b" / name, is_directory, value)
    with mount_ntfs(image) as target:
        prefix = str(target)
        expected = from_mount(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = from_guestctl(filesystem)
        for path, found in ours.items():
            wanted = list(expected[path])
            if stat.S_ISLNK(wanted[1]) and wanted[10].startswith(prefix):
                wanted[10] = wanted[10][len(prefix) :]
                wanted[5] -= len(prefix)
            assert list(found[:11]) == wanted[:11], path
        assert ours.keys() == expected.keys()
        assert filesystem.exists("/a/b/junction/file")
        assert filesystem.exists("/A/B/LINK-CASE")


def test_reparse_points_that_ntfs_3g_does_not_follow(make: Make, mount_ntfs: MountNtfs) -> None:
    image = make("-c", "4096")
    with mount_ntfs(image, "rw") as target:
        for name, (is_directory, value, _) in OTHERS.items():
            _make_link(target / name, is_directory, value)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for name, (is_directory, _, what) in OTHERS.items():
            status = filesystem.lstat(f"/{name}")
            if what is None:
                assert (status.is_dir(), status.is_file()) == (is_directory, not is_directory)
            elif status.is_symlink():
                assert filesystem.readlink(f"/{name}") == what
                assert status.st_size == len(what)
            else:
                with pytest.raises(UnsupportedFeature, match="deduplicated"):
                    filesystem.read_bytes(f"/{name}")


def test_special_files_of_wsl(make: Make, mount_ntfs: MountNtfs) -> None:
    image = make("-c", "4096")
    with mount_ntfs(image, "rw,special_files=wsl") as target:
        os.mkfifo(target / "fifo")
        os.mknod(target / "socket", stat.S_IFSOCK | 0o600)
        os.mknod(target / "char", 0o640 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(target / "block", 0o640 | stat.S_IFBLK, os.makedev(300, 70_000))
        (target / "link").symlink_to("somewhere/é")
    with mount_ntfs(image) as target:
        expected = from_mount(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = from_guestctl(filesystem)
    for path, found in ours.items():
        assert found[:11] == expected[path][:11], path


def test_streams(run: Run, make: Make, mount_ntfs: MountNtfs) -> None:
    image = make("-c", "4096")
    large = os.urandom(200_000)
    with mount_ntfs(image, "rw,streams_interface=windows") as target:
        (target / "file").write_bytes(b"main")
        (target / "file:large").write_bytes(large)
        (target / "file:é").write_bytes(b"small")
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert isinstance(filesystem, NtfsFileSystem)
        node = filesystem.resolve("/file")
        assert sorted(filesystem.streams(node)) == ["large", "é"]
        stream = filesystem.node_stream(node, "large")
        assert bytes(stream.read(0, stream.size)) == large
        assert filesystem.xattrs("/file") == {"user.é": b"small"}
        assert filesystem.read_bytes("/file") == b"main"
        with pytest.raises(OSError):
            filesystem.node_stream(node, "other")


def test_short_names(make: Make, mount_ntfs: MountNtfs) -> None:
    image = make("-c", "4096")
    with mount_ntfs(image, "rw") as target:
        (target / "Program Files").mkdir()
        os.setxattr(target / "Program Files", "system.ntfs_dos_name", b"PROGRA~1")
        (target / "Program Files" / "A long name.txt").write_bytes(b"content")
        os.setxattr(target / "Program Files" / "A long name.txt", "system.ntfs_dos_name", b"ALONGN~1.TXT")
    with mount_ntfs(image) as target:
        expected = from_mount(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.read_bytes("/PROGRA~1/alongn~1.txt") == b"content"
        assert filesystem.listdir("/") == ["Program Files"]


def test_compressed_files_are_compressed(run: Run, make: Make, mount_ntfs: MountNtfs) -> None:
    """What test_tree compares is compressed indeed, and its compressed units are computed."""
    image = make("-c", "4096")
    with mount_ntfs(image, "rw") as target:
        (target / "d").mkdir()
        os.setxattr(target / "d", "system.ntfs_attrib", struct.pack("<I", 0x800))
        (target / "d" / "f").write_bytes(b"0123456789abcdef" * 30_000)
    assert "COMPRESSED" in run("ntfsinfo", "-F", "/d/f", image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.stat("/d/f").st_blocks < 400
        data = filesystem.device("/d/f")
        assert bytes(data.read(100_001, 300_000)) == (b"0123456789abcdef" * 30_000)[100_001:400_001]
        assert all(run.source is data for run in data.runs(0, 65536 * 7))


def test_encrypted_files_are_refused(make: Make, mount_ntfs: MountNtfs) -> None:
    """No tool here encrypts: the flag is set in the attribute of a plain file."""
    image = make("-c", "4096")
    with mount_ntfs(image, "rw") as target:
        (target / "secret").write_bytes(b"x" * 10_000)
    data = bytearray(image.read_bytes())
    record = data.index("secret".encode("utf-16-le")) & ~1023
    while data[record : record + 4] != b"FILE":
        record = data.index("secret".encode("utf-16-le"), record + 1024) & ~1023
    at = record + int.from_bytes(data[record + 20 : record + 22], "little")
    while int.from_bytes(data[at : at + 4], "little") != 0x80:
        at += int.from_bytes(data[at + 4 : at + 8], "little")
    data[at + 12 : at + 14] = b"\0\x40"
    image.write_bytes(data)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.stat("/secret").st_size == 10_000
        with pytest.raises(UnsupportedFeature, match="EFS"):
            filesystem.read_bytes("/secret")


def test_attribute_lists(run: Run, make: Make, mount_ntfs: MountNtfs) -> None:
    """Runs and streams in several records, as ntfsinfo tells them."""
    image = make("-c", "512")
    content = os.urandom(512)
    with mount_ntfs(image, "rw") as target:
        with (target / "runs").open("wb", buffering=0) as stream:
            for number in range(1000):
                os.pwrite(stream.fileno(), content, number * 1024)
        for number in range(100):
            (target / "streams").touch()
            os.setxattr(target / "streams", f"user.{number}", b"%d" % number * 20)
    with mount_ntfs(image) as target:
        expected = from_mount(target)
    for name in ("runs", "streams"):
        assert "$ATTRIBUTE_LIST" in run("ntfsinfo", "-F", f"/{name}", image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.read_bytes("/runs") == (content + bytes(512)) * 999 + content
        assert len(filesystem.xattrs("/streams")) == 100
