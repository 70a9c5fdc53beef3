"""UFS that makefs wrote, beside the tree it was made from; damage, and mutants."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from awkward_tree import from_guestctl, from_mount, populate
from conftest import Run
from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError
from mutants import check_mutants

SUPERBLOCK = 8192  # where makefs puts it
KINDS = {
    "ufs1-le": ("-B", "le", "-o", "version=1"),
    "ufs1-be": ("-B", "be", "-o", "version=1"),
    "ufs2-le": ("-B", "le", "-o", "version=2"),
    "ufs2-be": ("-B", "be", "-o", "version=2"),
    "ufs1-small": ("-o", "version=1,bsize=4096,fsize=512"),
    "ufs2-small": ("-o", "version=2,bsize=4096,fsize=512"),
    "ufs2-large": ("-o", "version=2,bsize=65536,fsize=8192"),
    "ufs2-whole": ("-o", "version=2,bsize=16384,fsize=16384"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The awkward tree, without what makefs does not write: sockets, and holes as holes."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    top = tmp_path_factory.mktemp("tree")
    populate(top, 4096, large_values=False, many_files=3000)
    (top / "special" / "socket").unlink()
    (top / "sparse" / "several-gib").unlink()
    for special in ("char-new", "block-new"):  # larger than the old numbers that makefs knows
        (top / "special" / special).unlink()
    # One level of tables with every block size, and with blocks of 4 KiB two.
    with (top / "tables").open("wb") as stream:
        for number in range(6 << 20 >> 3):
            stream.write(b"%08d" % number)
    return top


def _comparable(found: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Without what makefs does not keep: inode numbers, blocks, parts of seconds, attributes, sizes of directories."""
    comparable = {}
    for path, (_, mode, links, uid, gid, size, _, mtime, _, device, digest, _) in found.items():
        kind = stat.S_IFMT(mode)
        is_directory = kind == stat.S_IFDIR
        target = digest if kind != stat.S_IFREG else (size, digest)
        comparable[path] = (mode, None if is_directory else links, uid, gid, mtime // 10**9, device, target)
    return comparable


@pytest.fixture(scope="module")
def expected(tree: Path) -> dict[str, tuple[Any, ...]]:
    return _comparable(from_mount(tree))


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_tree(run: Run, tmp_path: Path, tree: Path, expected: dict[str, Any], kind: str) -> None:
    image = tmp_path / "image"
    run("makefs", "-t", "ffs", "-M", "48m", *KINDS[kind], image, tree)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        found = from_guestctl(filesystem)
        inodes = {entry[0] for entry in found.values()}
        found = _comparable(found)
        usage = filesystem.usage()
        free = list(filesystem.free_ranges())
        identity = FileSystem.identify(device)
        assert filesystem.warnings == []
        assert filesystem.exists("/names/日本語") and not filesystem.exists("/names/nothing")
    assert found.keys() == expected.keys()
    different = {path for path in expected if found[path] != expected[path]}
    # The first version counts seconds in 32 bits.
    assert different == ({"/times/5", "/times/6", "/times/7"} if kind.startswith("ufs1") else set())
    assert 0 < usage.used < usage.size
    assert usage.inodes_used == len(inodes)
    assert sum(length for _, length in free) == usage.size - usage.used
    assert identity is not None
    facts = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", image).splitlines())
    assert (identity.type, identity.version, identity.uuid, identity.label, identity.usage) == (
        facts["ID_FS_TYPE"],
        facts["ID_FS_VERSION"],
        facts["ID_FS_UUID"],
        facts.get("ID_FS_LABEL"),
        facts["ID_FS_USAGE"],
    )
    image.unlink()


@pytest.fixture(scope="module")
def small(run: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A little UFS2 with a file of several blocks, a file with tables, a directory and a link."""
    top = tmp_path_factory.mktemp("small") / "top"
    (top / "folder" / "below").mkdir(parents=True)
    (top / "folder" / "file").write_bytes(b"content" * 3000)
    (top / "large").write_bytes(b"%09d\n" * 1 + b"0123456789" * 60_000)
    (top / "link").symlink_to("folder/file")
    (top / "long").symlink_to("x" * 300)
    image = top.parent / "image"
    run("makefs", "-t", "ffs", "-o", "version=2,bsize=4096,fsize=512", image, top)
    return image.read_bytes()


def _patched(image: bytes, *places: tuple[int, bytes]) -> MemoryDevice:
    data = bytearray(image)
    for offset, content in places:
        data[offset : offset + len(content)] = content
    return MemoryDevice(data)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (48, 12345, "fs_bsize"),
        (52, 256, "fs_fsize"),
        (116, 7, "fs_nindir"),
        (120, 0, "fs_inopb"),
        (184, 0, "no cylinder groups"),
        (184, 17, "fs_ipg"),
        (188, 0, "no cylinder groups"),
        (16, -1, "fs_iblkno"),
    ],
)
def test_superblock(small: bytes, offset: int, value: int, message: str) -> None:
    device = _patched(small, (SUPERBLOCK + offset, struct.pack("<i", value)))
    with pytest.raises(InvalidFormat, match=message):
        FileSystem.detect(device)


def test_not_unmounted(small: bytes) -> None:
    with FileSystem.detect(_patched(small, (SUPERBLOCK + 209, b"\0"))) as filesystem:
        assert filesystem.warnings == ["the filesystem was not unmounted, and needs fsck"]
        assert filesystem.read_bytes("/folder/file") == b"content" * 3000


def test_times(small: bytes) -> None:
    """Fields of ``struct ufs2_dinode`` as dinode.h has them: seconds at 32, nanoseconds at 64 in another order."""
    with FileSystem.detect(MemoryDevice(small)) as filesystem:
        offset = filesystem.stat("/large").offset  # type: ignore[attr-defined]
    device = _patched(small, (offset + 32, struct.pack("<4q4i", 1, 2, 3, -4, 20, 10, 30, 40)))
    with FileSystem.detect(device) as filesystem:
        status = filesystem.stat("/large")
    second = 10**9
    assert (status.st_atime_ns, status.st_mtime_ns) == (second + 10, 2 * second + 20)
    assert (status.st_ctime_ns, status.st_birthtime_ns) == (3 * second + 30, -4 * second + 40)


def test_damaged_files_fail_alone(small: bytes) -> None:
    with FileSystem.detect(MemoryDevice(small)) as sound:
        inode = sound.stat("/large")
        offset, table = inode.offset, inode.addresses[12]  # type: ignore[attr-defined]
    address = struct.pack("<Q", 1 << 40)
    for place in (offset + 112 + 8, offset + 112 + 12 * 8, table * 512 + 16):
        with FileSystem.detect(_patched(small, (place, address))) as filesystem:
            with pytest.raises(InvalidFormat, match="outside"):
                filesystem.read_bytes("/large")
            assert filesystem.read_bytes("/folder/file") == b"content" * 3000
    for place, content, message in (
        (offset, b"\0\0", "not in use"),
        (offset + 2, b"\0\0", "0 links"),
        (offset + 16, b"\xff" * 8, "size"),
    ):
        errors: list[WalkError] = []
        with FileSystem.detect(_patched(small, (place, content))) as filesystem:
            paths = [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
            assert "/folder/file" in paths and "/large" not in paths
            assert message in str(errors[0].error)


def test_free_ranges(small: bytes) -> None:
    """What is free may be anything: the files stay what they were."""
    data = bytearray(small)
    with FileSystem.detect(MemoryDevice(small)) as filesystem:
        for offset, length in filesystem.free_ranges():
            data[offset : offset + length] = b"\xa5" * length
        expected = from_guestctl(filesystem)
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert from_guestctl(filesystem) == expected


def test_holes(small: bytes) -> None:
    with FileSystem.detect(MemoryDevice(small)) as sound:
        inode = sound.stat("/large")
        content = sound.read_bytes("/large")
        offset, table = inode.offset, inode.addresses[12]  # type: ignore[attr-defined]
    hole = bytes(8)
    with FileSystem.detect(_patched(small, (offset + 112 + 8, hole), (table * 512, hole))) as filesystem:
        zeros = bytes(4096)
        expected = content[:4096] + zeros + content[8192 : 12 * 4096] + zeros + content[13 * 4096 :]
        assert filesystem.read_bytes("/large") == expected
        runs = list(filesystem.device("/large").runs(0, len(content)))
        assert [run.offset for run in runs if run.source is None] == [4096, 12 * 4096]
    with FileSystem.detect(_patched(small, (offset + 112 + 12 * 8, hole))) as filesystem:
        assert filesystem.read_bytes("/large") == content[: 12 * 4096] + bytes(len(content) - 12 * 4096)


@pytest.mark.parametrize("length", [0, 1, 8192, 9000, 9600, 30000])
def test_truncated(small: bytes, length: int) -> None:
    with pytest.raises(GuestctlError):
        FileSystem.detect(MemoryDevice(small[:length])).listdir("/")


def test_mutations(small: bytes) -> None:
    used = [(place, 512) for place in range(SUPERBLOCK, len(small), 512) if any(small[place : place + 512])]
    with FileSystem.detect(MemoryDevice(small)) as filesystem:
        first = filesystem.stat("/").offset - 2 * 256  # type: ignore[attr-defined]
    check_mutants(small, [(SUPERBLOCK, 1376), (first, 256 * 10), *used[:40]], least_files=7)
