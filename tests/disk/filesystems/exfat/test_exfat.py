"""Volumes in every form that mkfs.exfat has, filled through exfat-fuse, beside what that shows and what blkid says."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.exfat import layout
from guestctl.disk.filesystems.exfat.boot_region import boot_checksum

Run = Callable[..., str]
Make = Callable[..., Path]
MountExfat = Callable[..., AbstractContextManager[Path]]
Fill = Callable[[Path], None]

# name -> (arguments of mkfs.exfat, bytes of the volume, bytes of a sector)
KINDS = {
    "default": ("", 64 << 20, 512),
    "small-clusters": ("-c 512", 32 << 20, 512),
    "large-clusters": ("-c 64K", 256 << 20, 512),
    "packed-bitmap": ("--pack-bitmap -c 4096", 64 << 20, 512),
    "aligned": ("-b 4M", 64 << 20, 512),
    "1k-sectors": ("", 64 << 20, 1024),
    "2k-sectors": ("", 64 << 20, 2048),
    "4k-sectors": ("-c 8192", 64 << 20, 4096),
}


def _theirs(top: Path) -> dict[str, tuple[Any, ...]]:
    """By path: whether it is a directory, size, 512-byte units, times, hash; as exfat-fuse shows them."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[path[len(str(top)) :]] = (
                name in directories, status.st_size, status.st_blocks, status.st_mtime_ns, status.st_atime_ns,
            )  # fmt: skip
    for path, facts in found.items():
        digest = None if facts[0] else hashlib.sha256(Path(f"{top}{path}").read_bytes()).hexdigest()
        found[path] = (*facts, digest)
    return found


def _ours(filesystem: FileSystem[Any]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path, node, status in filesystem.find("/"):
        digest = None
        if status.is_file():
            data = filesystem.node_data(node)
            digest = hashlib.sha256(data.read(0, data.size)).hexdigest()
            assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o755, 1)
        found[path] = (
            status.is_dir(), status.st_size, status.st_blocks, status.st_mtime_ns, status.st_atime_ns, digest,
        )  # fmt: skip
    found.pop("/")
    return found


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_tree(run: Run, make: Make, mount_exfat: MountExfat, fill: Fill, kind: str) -> None:
    arguments, size, sector_size = KINDS[kind]
    image = make(*arguments.split(), "-L", "Größe 1", size=size, sector_size=sector_size)
    with mount_exfat(image, "rw,noatime", sector_size) as target:
        fill(target)
    with mount_exfat(image, "ro", sector_size) as target:
        expected = _theirs(target)
        usage = os.statvfs(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = _ours(filesystem)
        assert ours.keys() == expected.keys()
        assert {path: (ours[path], expected[path]) for path in expected if ours[path] != expected[path]} == {}
        assert filesystem.warnings == []
        assert (filesystem.label, filesystem.block_size) == ("Größe 1", usage.f_bsize)
        sizes = filesystem.usage()
        assert sizes.available == usage.f_bfree * usage.f_bsize
        assert sizes.size == usage.f_files * usage.f_frsize  # where exfat-fuse gives the clusters
        assert sum(length for _, length in filesystem.free_ranges()) == sizes.available
        for path in list(expected)[::40]:
            assert filesystem.stat(path.upper()).st_mtime_ns == expected[path][3]
            assert not filesystem.exists(path + "-")
        fragments = filesystem.device("/fragmented")
        runs = list(fragments.runs(0, fragments.size))
        assert len(runs) > 10 or "large" in kind
        check_device(filesystem.device("/in the holes"), b"".join(b"%07d\n" % n for n in range(40_000)), rounds=20)
        links = 2 + sum(facts[0] and path.count("/") == 1 for path, facts in expected.items())
        assert filesystem.stat("/").st_nlink == links


@pytest.mark.root
def test_large_directory(make: Make, mount_exfat: MountExfat) -> None:
    image = make()
    with mount_exfat(image) as target:
        (target / "many").mkdir()
        (target / "other").mkdir()
        for number in range(10_000):
            os.close(os.open(target / "many" / f"file {number}", os.O_CREAT | os.O_WRONLY))
            if number % 100 == 0:  # so that the directory grows here and there
                (target / "other" / f"{number}").write_bytes(b"x" * 5000)
        for number in range(0, 10_000, 7):
            (target / "many" / f"file {number}").unlink()
        names = sorted(os.listdir(target / "many"))
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert sorted(filesystem.listdir("/many")) == names
        assert filesystem.exists("/MANY/FILE 9999") and not filesystem.exists("/many/file 7")


def _compare(run: Run, image: Path) -> None:
    said = [run("blkid", "-p", "-o", "value", "-s", tag, image).rstrip("\n") or None for tag in _TAGS]
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity is not None
        assert [identity.type, identity.usage, identity.version, identity.label, identity.uuid] == said
        with FileSystem.detect(device) as filesystem:
            assert (filesystem.label, filesystem.uuid, filesystem.version) == (*identity[3:], identity.version)


_TAGS = ("TYPE", "USAGE", "VERSION", "LABEL", "UUID")


@pytest.mark.parametrize("label", ["", "PLAIN", "elevenchars", "Größe", "日本語", "🐧🐧🐧"])
def test_identity(run: Run, make: Make, label: str) -> None:
    arguments = ("-L", label) if label else ()
    _compare(run, make(*arguments, size=8 << 20))


def test_label_and_serial_by_other_tools(run: Run, make: Make) -> None:
    image = make("-L", "before", size=8 << 20)
    run("exfatlabel", image, "after")
    run("exfatlabel", "-i", image, "0x12ab0034")
    _compare(run, image)
    with FileDevice.open(image) as device:
        assert FileSystem.identify(device) == Identity("exfat", "filesystem", "1.0", "after", "12AB-0034")


def test_image_of_util_linux(shared: Path) -> None:
    folder = shared / "blkid" / "images-fs"
    expected = dict(line.split("=", 1) for line in (folder / "exfat.expected").read_text().splitlines())
    device = MemoryDevice(lzma.decompress((folder / "exfat.img.xz").read_bytes()))
    identity = FileSystem.identify(device)
    assert identity is not None and identity.label is not None
    assert (identity.type, identity.usage, identity.version, identity.label.replace(" ", "_"), identity.uuid) == (
        expected["ID_FS_TYPE"],
        expected["ID_FS_USAGE"],
        expected["ID_FS_VERSION"],
        expected["ID_FS_LABEL"],
        expected["ID_FS_UUID"],
    )
    with FileSystem.detect(device) as filesystem:
        assert filesystem.size == int(expected["ID_FS_FSSIZE"])
        assert list(filesystem.find("/"))


def test_usage_of_dump(run: Run, make: Make) -> None:
    """The counts of dump.exfat, on volumes whose clusters fill no whole byte of the bitmap."""
    for size in (8 << 20, (8 << 20) + 20480, 70 << 20):
        image = make(size=size)
        told = dict(re.findall(r"(?m)^([\w ]+):\s+(\d+)$", run("dump.exfat", image)))
        with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
            usage, unit = filesystem.usage(), int(told["Cluster size"])
            assert usage.size == int(told["Total Clusters"]) * unit
            assert usage.available == int(told["Free Clusters"]) * unit


def _volume(image: Path) -> tuple[bytearray, dict[str, int]]:
    """The bytes of a volume, and where things are in it."""
    data = bytearray(image.read_bytes())
    sector, cluster = 1 << data[108], 1 << data[108] + data[109]
    (heap,) = struct.unpack_from("<I", data, 88)
    (root,) = struct.unpack_from("<I", data, 96)
    return data, {"sector": sector, "root": heap * sector + (root - 2) * cluster}


def _seal(data: bytearray, sector: int, start: int = 0) -> None:
    """Give a boot region the checksum of its bytes."""
    total = boot_checksum(bytes(data[start : start + 11 * sector]))
    data[start + 11 * sector : start + 12 * sector] = struct.pack("<I", total) * (sector // 4)


@pytest.mark.parametrize("offset", [11, 72, 80, 84, 88, 92, 96, 108, 109, 120, 510])
def test_backup_boot_region(run: Run, make: Make, offset: int) -> None:
    """Any byte of the main one that is changed; fsck.exfat restores it from the backup too."""
    image = make("-L", "label", size=8 << 20)
    data, _ = _volume(image)
    data[offset] ^= 0x55
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert filesystem.label == "label"
        (warning,) = filesystem.warnings
        assert "the backup was used" in warning
        with pytest.raises(UnsupportedFeature):
            list(filesystem.free_ranges())


def test_refused(make: Make) -> None:
    for offset, value, message in ((105, 2, "exFAT 2.0"), (110, 2, "TexFAT")):
        data, places = _volume(make(size=8 << 20))
        data[offset] = value
        _seal(data, places["sector"])
        with pytest.raises(UnsupportedFeature, match=message):
            FileSystem.detect(MemoryDevice(data))
    data, places = _volume(make(size=8 << 20))
    free = next(at for at in range(places["root"], len(data), 32) if not data[at])
    data[free] = 0x86
    with FileSystem.detect(MemoryDevice(data)) as filesystem, pytest.raises(UnsupportedFeature, match="type 0x86"):
        filesystem.listdir("/")


def test_dirty(make: Make) -> None:
    data, _ = _volume(make(size=8 << 20))
    for flags, expected in ((2, ["not unmounted cleanly"]), (4, ["disk errors"]), (6, ["cleanly", "errors"]), (0, [])):
        data[106] = flags
        with FileSystem.detect(MemoryDevice(data)) as filesystem:
            assert len(filesystem.warnings) == len(expected)
            assert all(word in warning for word, warning in zip(expected, filesystem.warnings, strict=True))


@pytest.mark.root
def test_valid_data_length(run: Run, make: Make, mount_exfat: MountExfat) -> None:
    """What lies after it is zeros, whatever is on the disk; fsck.exfat takes the volume for sound."""
    image = make(size=8 << 20)
    content = b"".join(b"%07d\n" % number for number in range(3000))
    with mount_exfat(image) as target:
        (target / "file").write_bytes(content)
    data, places = _volume(image)
    at = data.index(bytes([layout.FILE]), places["root"])
    for valid in (0, 1, 4096, 5000, len(content)):
        struct.pack_into("<Q", data, at + 32 + 8, valid)
        _sum_set(data, at)
        image.write_bytes(data)
        run("fsck.exfat", "-n", image)
        with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
            flat = content[:valid].ljust(len(content), b"\0")
            check_device(filesystem.device("/file"), flat, rounds=20)
            assert filesystem.stat("/file").st_size == len(content)


def _sum_set(data: bytearray, at: int) -> None:
    """Give an entry set the checksum of its bytes."""
    entries = data[at : at + 32 * (1 + data[at + 1])]
    total = 0
    for place, byte in enumerate(entries):
        if place not in (2, 3):
            total = (total >> 1 | (total & 1) << 15) + byte & 0xFFFF
    struct.pack_into("<H", data, at + 2, total)


@pytest.mark.root
def test_times(run: Run, make: Make, mount_exfat: MountExfat) -> None:
    """Offsets from UTC in both directions, and hundredths of a second."""
    image = make(size=8 << 20)
    with mount_exfat(image) as target:
        (target / "file").touch()
        os.utime(target / "file", (1_600_000_000, 1_600_000_000))
    data, places = _volume(image)
    at = data.index(bytes([layout.FILE]), places["root"])
    for increment, offset, seconds in (
        (0, 0x80, 0),
        (150, 0x84, 1.5 - 3600),
        (199, 0xFC, 1.99 + 3600),
        (7, 0x04, 0.07),
    ):
        data[at + 21], data[at + 23] = increment, offset
        _sum_set(data, at)
        with FileSystem.detect(MemoryDevice(data)) as filesystem:
            assert filesystem.stat("/file").st_mtime_ns == 1_600_000_000 * 10**9 + round(seconds * 100) * 10**7


@pytest.mark.root
def test_read_only(make: Make, mount_exfat: MountExfat) -> None:
    image = make(size=8 << 20)
    with mount_exfat(image) as target:
        (target / "file").touch()
    data, places = _volume(image)
    at = data.index(bytes([layout.FILE]), places["root"])
    data[at + 4] |= layout.ATTR_READ_ONLY
    _sum_set(data, at)
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert stat.S_IMODE(filesystem.stat("/file").st_mode) == 0o555
