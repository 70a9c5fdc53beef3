"""An awkward tree on volumes of many kinds, beside ntfs-3g's mount of them."""

from __future__ import annotations

import os
import random
import stat
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import NAMES, from_guestctl, from_mount
from guestctl.block import FileDevice
from guestctl.disk import FileSystem

pytestmark = pytest.mark.root
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]

CONTENT = b"".join(b"%07d\n" % number for number in range(60_000))
COMPRESSED = struct.pack("<I", 0x800)


def populate(top: Path, cluster_size: int, many_files: int) -> None:
    sizes = top / "sizes"
    sizes.mkdir()
    for size in (0, 1, 500, 700, 900, cluster_size - 1, cluster_size, cluster_size + 1, 13 * cluster_size + 5, 300_000):
        (sizes / str(size)).write_bytes(CONTENT[:size])
    sparse = top / "sparse"
    sparse.mkdir()
    for name, places, size in (
        ("holes-at-both-ends", (5 << 16,), (9 << 16) + 7),
        ("hole-in-the-middle", (0, 8 << 16), 9 << 16),
        ("all-hole", (), 1_000_000),
        ("large", (0, 20 << 20), (30 << 20) + 12345),
        ("many-runs", tuple(range(0, 1600 * cluster_size, 2 * cluster_size)) if cluster_size <= 4096 else (), 20 << 20),
    ):
        with (sparse / name).open("wb", buffering=0) as stream:
            for place in places:
                os.pwrite(stream.fileno(), CONTENT[:cluster_size], place)
            stream.truncate(size)
    fragmented = top / "fragmented"
    fragmented.mkdir()
    count = 1500 if cluster_size <= 4096 else 20
    with (fragmented / "a").open("wb", buffering=0) as one, (fragmented / "b").open("wb", buffering=0) as other:
        for number in range(count):
            os.pwrite(one.fileno(), CONTENT[number : number + cluster_size], number * cluster_size)
            os.pwrite(other.fileno(), CONTENT[number * 3 : number * 3 + cluster_size], number * cluster_size)
    links = top / "links"
    links.mkdir()
    for target in ("t", "some/where", "/absolute", "é日本🐧", "u" * 255, "../links/" + "v" * 700):
        (links / f"to-{len(target)}").symlink_to(target)
    (links / "first").write_bytes(b"linked")
    for number in range(5):
        os.link(links / "first", links / f"hard-{number}")
    special = top / "special"
    special.mkdir()
    os.mkfifo(special / "fifo")
    os.mknod(special / "socket", stat.S_IFSOCK | 0o600)
    for name, major, minor in (("old", 1, 3), ("new", 300, 70_000)):
        os.mknod(special / f"char-{name}", 0o640 | stat.S_IFCHR, os.makedev(major, minor))
        os.mknod(special / f"block-{name}", 0o640 | stat.S_IFBLK, os.makedev(major, minor))
    names = top / "names"
    names.mkdir()
    for name in NAMES:
        (names / name).write_text(name)
    for raw in (b"\xed\xa0\x80", b"x\xed\xb0\x80y", b"lower", b"LOWER", b"Lower", "ǆ".encode(), "Ǆ".encode()):
        with open(os.fsencode(names) + b"/" + raw, "wb") as stream:
            stream.write(raw)
    many = top / "many"
    many.mkdir()
    for number in range(many_files):
        os.close(os.open(many / f"File-{number * 7919 % many_files:05}", os.O_CREAT | os.O_WRONLY))
    for number in range(0, many_files, 7):
        (many / f"File-{number:05}").unlink()
    deep = top / "deep"
    deep.mkdir()
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    times = top / "times"
    times.mkdir()
    for number, seconds in enumerate((-(2**33), -(2**31), -1, 0, 1, 2**31, 2**32 + 5, 2**33)):
        path = times / str(number)
        path.touch()
        # The driver loses the fraction of a second before 1970.
        fraction = 987654300 if seconds >= 0 else 0
        os.utime(path, ns=(seconds * 10**9, seconds * 10**9 + fraction))
    streams = top / "streams"
    streams.mkdir()
    (streams / "file").write_bytes(b"content")
    os.setxattr(streams / "file", "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    os.setxattr(streams / "file", "user.large", CONTENT[:50_000])
    os.setxattr(streams, "user.of a directory", b"\0\xff")
    (streams / "many").touch()
    for number in range(60):
        os.setxattr(streams / "many", f"user.stream-{number}", b"%d" % number * 40)
    if cluster_size <= 4096:
        _populate_compressed(top / "compressed")


def _populate_compressed(compressed: Path) -> None:
    compressed.mkdir()
    os.setxattr(compressed, "system.ntfs_attrib", COMPRESSED)
    chance = random.Random(1)
    noise = chance.randbytes(200_000)
    words = b" ".join(chance.choice((b"the", b"quick", b"brown", b"fox", b"\0\0\0\0")) for _ in range(60_000))
    for name, data in {
        "empty": b"",
        "small": b"small",
        "text": CONTENT,
        "words": words,
        "zeros": bytes(300_000),
        "noise": noise,
        "mixed": CONTENT[:100_000] + noise[:150_000] + bytes(200_000) + words[:70_001],
        "same-byte": b"a" * 65_536,
        "unit-plus-one": words[:65_537],
    }.items():
        (compressed / name).write_bytes(data)
    with (compressed / "holes").open("wb", buffering=0) as stream:
        for place in (0, 1 << 20, (2 << 20) + 70_000):
            os.pwrite(stream.fileno(), words[:50_000], place)
        stream.truncate(3 << 20)


@pytest.mark.parametrize(
    ("arguments", "many_files"),
    [
        ("-c 512", 2000),
        ("-c 1024", 500),
        ("-c 2048", 500),
        ("-c 4096", 10_000),
        ("-c 4096 -s 4096", 500),
        ("-c 8192", 500),
        ("-c 65536", 2000),
        ("-c 262144", 100),
    ],
)
def test_tree(make: Make, mount_ntfs: MountNtfs, arguments: str, many_files: int) -> None:
    cluster_size = int(arguments.split()[1])
    image = make(*arguments.split(), size=(96 << 20) if cluster_size < 65536 else (256 << 20))
    with mount_ntfs(image, "rw") as target:
        populate(target, cluster_size, many_files)
    with mount_ntfs(image) as target:
        expected = from_mount(target)
        usage = os.statvfs(target)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = from_guestctl(filesystem)
        assert ours.keys() == expected.keys()
        for path, found in ours.items():
            assert found == expected[path], path
        assert filesystem.warnings == []
        figures = filesystem.usage()
        unit = usage.f_frsize
        assert (figures.size, figures.used) == (usage.f_blocks * unit, (usage.f_blocks - usage.f_bfree) * unit)
        assert figures.inodes == usage.f_files
        assert figures.inodes_used == usage.f_files - usage.f_ffree
        for path in expected:
            assert filesystem.node_stat(filesystem.resolve(path, follow=False)).st_ino == expected[path][0], path
        assert filesystem.exists("/MANY/file-00001")
        assert not filesystem.exists("/many/File-00000")
        assert filesystem.read_bytes("/names/LOWER") == b"LOWER"
        assert filesystem.exists("/$MFT") and "$MFT" not in filesystem.listdir("/")
