"""Damage: one byte and the exact error it makes, other people's damaged images, and random mutants."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.core.errors import ChecksumMismatch, DetectionError, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options
from guestctl.disk.filesystems.ext4 import open_filesystem
from guestctl.disk.stat import FileStat

Run = Callable[..., str]

BLOCK = 1024
SUPERBLOCK = 1024
IGNORE = Options(ignore_checksums=True)
# Everything that reading can come across, once.
CONTENT = b"".join(b"%07d\n" % number for number in range(4096))


class Image(NamedTuple):
    """A sound image and where things are in it, in bytes, as debugfs says."""

    data: bytes
    inodes: dict[str, int]  # path -> its inode
    blocks: dict[str, list[int]]  # path -> its blocks, those of its extent tree or block map among them
    xattr_block: int


@pytest.fixture(scope="module")
def with_checksums(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _make(run, tmp_path_factory.mktemp("image"), "-t ext4 -O ^flex_bg,^has_journal")


@pytest.fixture(scope="module")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _make(run, tmp_path_factory.mktemp("image"), "-t ext4 -O ^metadata_csum,^uninit_bg,^flex_bg,^has_journal")


@pytest.fixture(scope="module")
def ext2(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _make(run, tmp_path_factory.mktemp("image"), "-t ext2")


@pytest.fixture(scope="module")
def inline(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _make(run, tmp_path_factory.mktemp("image"), "-t ext4 -O inline_data,^metadata_csum,^has_journal")


def _make(run: Run, directory: Path, arguments: str) -> Image:
    tree = directory / "tree"
    (tree / "many").mkdir(parents=True)
    (tree / "few").mkdir()
    for number in range(200):
        (tree / "many" / f"a-rather-long-file-name-{number:03}").touch()
    (tree / "few" / "one").write_bytes(b"one")
    (tree / "few" / "two").write_bytes(b"two")
    (tree / "file").write_bytes(CONTENT)
    with (tree / "pieces").open("wb") as stream:
        for number in range(0, 60, 2):
            stream.seek(number * BLOCK)
            stream.write(CONTENT[:BLOCK])
    (tree / "short-link").symlink_to("file")
    (tree / "long-link").symlink_to("t" * 100)
    image = directory / "image"
    run("mke2fs", "-q", "-F", "-b", str(BLOCK), "-N", "512", *arguments.split(), "-d", tree, image, "4M")
    script = "".join(f"ea_set file user.attribute-{number} {'v' * 60}\n" for number in range(4))
    run("debugfs", "-w", "-f", "/dev/stdin", image, input=script)
    paths = ("", "file", "pieces", "few", "few/one", "many", "short-link", "long-link")
    return Image(
        image.read_bytes(),
        {path: _inode_offset(run, image, path) for path in paths},
        {path: [int(block) * BLOCK for block in _blocks(run, image, path)] for path in paths},
        int(re.findall(r"File ACL: (\d+)", run("debugfs", "-R", "stat /file", image))[0]) * BLOCK,
    )


def _inode_offset(run: Run, image: Path, path: str) -> int:
    text = run("debugfs", "-R", f"imap /{path}", image)
    block, offset = re.findall(r"located at block (\d+), offset 0x([0-9a-f]+)", text)[0]
    return int(block) * BLOCK + int(offset, 16)


def _blocks(run: Run, image: Path, path: str) -> list[str]:
    return run("debugfs", "-R", f"blocks /{path}", image).split() if path != "short-link" else []


def _patched(image: Image, *patches: tuple[int, bytes]) -> BlockDevice:
    data = bytearray(image.data)
    for offset, content in patches:
        assert data[offset : offset + len(content)] != content, "the patch changes nothing"
        data[offset : offset + len(content)] = content
    return MemoryDevice(data)


def _flipped(image: Image, offset: int) -> BlockDevice:
    return _patched(image, (offset, bytes([image.data[offset] ^ 0x40])))


def _u16(value: int) -> bytes:
    return struct.pack("<H", value)


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _fails(action: Callable[[], Any], kind: type[InvalidFormat], structure: str, offset: int) -> InvalidFormat:
    with pytest.raises(InvalidFormat) as caught:
        action()
    assert (type(caught.value), caught.value.structure, caught.value.offset) == (kind, structure, offset)
    return caught.value


# Checksums: what is damaged fails alone.


def test_checksum_of_superblock(with_checksums: Image) -> None:
    device = _flipped(with_checksums, SUPERBLOCK + 0x78)
    error = _fails(lambda: FileSystem.detect(device), ChecksumMismatch, "superblock", SUPERBLOCK)
    assert error.actual == struct.unpack_from("<I", with_checksums.data, SUPERBLOCK + 0x3FC)[0]
    assert FileSystem.detect(device, options=IGNORE).read_bytes("/few/one") == b"one"


def test_checksum_of_group_descriptor(with_checksums: Image) -> None:
    device = _flipped(with_checksums, 2 * BLOCK + 0xC)
    filesystem = FileSystem.detect(device)
    _fails(lambda: filesystem.stat("/file"), ChecksumMismatch, "block group descriptor", 2 * BLOCK)
    assert FileSystem.detect(device, options=IGNORE).read_bytes("/few/one") == b"one"


def test_checksum_of_inode(with_checksums: Image) -> None:
    offset = with_checksums.inodes["few/one"]
    device = _flipped(with_checksums, offset + 0x10)
    filesystem = FileSystem.detect(device)
    _fails(lambda: filesystem.stat("/few/one"), ChecksumMismatch, "inode", offset)
    _fails(lambda: filesystem.read_bytes("/few/one"), ChecksumMismatch, "inode", offset)
    assert filesystem.read_bytes("/few/two") == b"two"
    errors: list[Any] = []
    assert "/few/two" in [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
    assert [error.path for error in errors] == ["/few/one"]
    assert getattr(filesystem, "damaged_count") == 1  # noqa: B009 - ext4's alone
    assert len(filesystem.warnings) == 1 and f"{offset:#x}" in filesystem.warnings[0]
    assert FileSystem.detect(device, options=IGNORE).read_bytes("/few/one") == b"one"


def test_checksum_of_directory_block(with_checksums: Image) -> None:
    offset = with_checksums.blocks["few"][0]
    device = _flipped(with_checksums, offset + 500)
    filesystem = FileSystem.detect(device)
    _fails(lambda: filesystem.listdir("/few"), ChecksumMismatch, "directory block", offset)
    _fails(lambda: filesystem.exists("/few/one"), ChecksumMismatch, "directory block", offset)
    assert filesystem.read_bytes("/file") == CONTENT
    assert FileSystem.detect(device, options=IGNORE).listdir("/few") == ["one", "two"]


def test_one_block_of_a_directory(with_checksums: Image) -> None:
    """The names in the other blocks stay; a name that is not found could be in the damaged one."""
    sound = FileSystem.detect(_patched(with_checksums)).listdir("/many")
    offset = with_checksums.blocks["many"][3]
    filesystem = FileSystem.detect(_flipped(with_checksums, offset + 9))
    errors: list[Any] = []
    found = [path[6:] for path, _, _ in filesystem.find("/many", onerror=errors.append)][1:]
    assert len(sound) == 200 and 150 < len(found) < 200 and set(found) < set(sound)
    assert [(type(error.error), error.error.offset) for error in errors] == [(ChecksumMismatch, offset)]
    lost = min(set(sound) - set(found))
    assert filesystem.exists(f"/many/{found[-1]}")
    _fails(lambda: filesystem.exists(f"/many/{lost}"), ChecksumMismatch, "directory block", offset)


def test_checksum_of_hash_tree_root(run: Run, with_checksums: Image, tmp_path: Path) -> None:
    """A directory becomes a hash tree when e2fsck -D indexes it."""
    image = tmp_path / "image"
    image.write_bytes(with_checksums.data)
    done = subprocess.run(["e2fsck", "-fyD", str(image)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout
    offset = int(run("debugfs", "-R", "blocks /many", image).split()[0]) * BLOCK
    data = bytearray(image.read_bytes())
    assert len(FileSystem.detect(MemoryDevice(data)).listdir("/many")) == 200
    assert "Root node dump" in run("debugfs", "-R", "htree_dump /many", image)
    data[offset + 0x28] ^= 1
    filesystem = FileSystem.detect(MemoryDevice(data))
    _fails(lambda: filesystem.listdir("/many"), ChecksumMismatch, "directory block", offset)


def test_checksum_of_extent_node(with_checksums: Image) -> None:
    offset = _extent_node(with_checksums)
    filesystem = FileSystem.detect(_flipped(with_checksums, offset + 20))
    _fails(lambda: filesystem.read_bytes("/pieces"), ChecksumMismatch, "extent tree node", offset)
    assert filesystem.read_bytes("/file") == CONTENT


def test_checksum_of_attribute_block(with_checksums: Image) -> None:
    offset = with_checksums.xattr_block
    filesystem = FileSystem.detect(_flipped(with_checksums, offset + BLOCK - 4))
    _fails(lambda: filesystem.xattrs("/file"), ChecksumMismatch, "ext4_xattr_header", offset)
    assert filesystem.read_bytes("/file") == CONTENT


def test_checksum_of_16_bits(run: Run, tmp_path: Path) -> None:
    """gdt_csum: CRC-16 of the group descriptors."""
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg", image, "4M")
    data = bytearray(image.read_bytes())
    assert FileSystem.detect(MemoryDevice(data)).listdir() == ["lost+found"]
    data[2 * BLOCK + 0x10] ^= 1
    filesystem = FileSystem.detect(MemoryDevice(data))
    _fails(lambda: filesystem.stat("/"), ChecksumMismatch, "block group descriptor", 2 * BLOCK)


# The superblock.


def test_magic(plain: Image) -> None:
    device = _patched(plain, (SUPERBLOCK + 0x38, b"\x53\xee"))
    assert FileSystem.identify(device) is None
    with pytest.raises(DetectionError):
        FileSystem.detect(device)
    error = _fails(lambda: open_filesystem(device), InvalidFormat, "superblock", SUPERBLOCK)
    assert (error.expected, error.actual) == (0xEF53, 0xEE53)


@pytest.mark.parametrize(
    ("offset", "content", "field"),
    [
        (0x00, _u32(0), "s_inodes_count"),
        (0x00, _u32(0xFFFFFFFF), "s_inodes_count"),
        (0x04, _u32(0), "0 blocks"),
        (0x14, _u32(77), "from block 77"),
        (0x18, _u32(7), "s_log_block_size"),
        (0x18, _u32(0xFFFFFFFF), "s_log_block_size"),
        (0x20, _u32(0), "s_blocks_per_group"),
        (0x20, _u32(0xFFFFFFFF), "s_blocks_per_group"),
        (0x28, _u32(0), "s_inodes_per_group"),
        (0x28, _u32(0xFFFFFFFF), "s_inodes_per_group"),
        (0x58, _u16(0), "s_inode_size"),
        (0x58, _u16(100), "s_inode_size"),
        (0x58, _u16(0x8000), "s_inode_size"),
        (0xFE, _u16(0), "s_desc_size"),
        (0xFE, _u16(0xFFFF), "s_desc_size"),
        (0x150, _u32(0xFFFFFFFF), "blocks from"),
    ],
)
def test_superblock_field(plain: Image, offset: int, content: bytes, field: str) -> None:
    device = _patched(plain, (SUPERBLOCK + offset, content))
    error = _fails(lambda: FileSystem.detect(device), InvalidFormat, "superblock", SUPERBLOCK)
    assert field in str(error)


@pytest.mark.parametrize(
    ("bits", "name"),
    [(0x1, "compression"), (0x1000, "dirdata"), (0x20, "incompat 0x20"), (0x80000000, "incompat 0x80000000")],
)
def test_incompatible_feature_is_named(plain: Image, bits: int, name: str) -> None:
    (features,) = struct.unpack_from("<I", plain.data, SUPERBLOCK + 0x60)
    device = _patched(plain, (SUPERBLOCK + 0x60, _u32(features | bits)))
    with pytest.raises(UnsupportedFeature, match=name) as caught:
        FileSystem.detect(device)
    assert caught.value.feature == name


def test_unknown_read_only_feature_does_not_matter(plain: Image) -> None:
    device = _patched(plain, (SUPERBLOCK + 0x67, b"\x80"))
    assert FileSystem.detect(device).read_bytes("/few/one") == b"one"


def test_journal_elsewhere_must_be_replayed(plain: Image) -> None:
    (compat, incompat) = struct.unpack_from("<II", plain.data, SUPERBLOCK + 0x5C)
    device = _patched(plain, (SUPERBLOCK + 0x5C, struct.pack("<II", compat | 0x4, incompat | 0x4)))
    with pytest.raises(UnsupportedFeature, match="another device"):
        FileSystem.detect(device)


def test_device_that_ends_early(plain: Image) -> None:
    device = MemoryDevice(plain.data[: plain.blocks["file"][20]])
    filesystem = FileSystem.detect(device)
    assert "its device" in filesystem.warnings[0]
    with pytest.raises(InvalidFormat):
        filesystem.read_bytes("/file")
    assert FileSystem.identify(MemoryDevice(plain.data[:2000])) is None


# Inodes.


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0x00, _u16(0), "i_mode is 0o0"),
        (0x00, _u16(0xF1A4), "i_mode"),
        (0x1A, _u16(0), "a deleted file"),
        (0x6F, b"\x80", "i_size_high"),
        (0x80, _u16(0xFFFC), "i_extra_isize"),
        (0x80, _u16(30), "i_extra_isize"),
    ],
)
def test_inode_field(plain: Image, offset: int, content: bytes, message: str) -> None:
    inode = plain.inodes["few/one"]
    filesystem = FileSystem.detect(_patched(plain, (inode + offset, content)))
    error = _fails(lambda: filesystem.stat("/few/one"), InvalidFormat, "inode", inode)
    assert message in str(error)
    assert filesystem.read_bytes("/few/two") == b"two"


@pytest.mark.parametrize("path", ["short-link", "long-link"])
@pytest.mark.parametrize("size", [0, 4096, 0xFFFFFFFF])
def test_link_size(plain: Image, path: str, size: int) -> None:
    inode = plain.inodes[path]
    filesystem = FileSystem.detect(_patched(plain, (inode + 0x4, _u32(size))))
    _fails(lambda: filesystem.readlink(f"/{path}"), InvalidFormat, "inode", inode)


def test_link_with_nul(plain: Image) -> None:
    inode = plain.inodes["short-link"]
    filesystem = FileSystem.detect(_patched(plain, (inode + 0x29, b"\0")))
    _fails(lambda: filesystem.readlink("/short-link"), InvalidFormat, "inode", inode)


def test_inline_data_shorter_than_its_file(inline: Image) -> None:
    inode = inline.inodes["few/one"]
    filesystem = FileSystem.detect(_patched(inline, (inode + 0x4, _u32(1 << 30))))
    _fails(lambda: filesystem.read_bytes("/few/one"), InvalidFormat, "inode", inode)
    assert filesystem.read_bytes("/few/two") == b"two"


# Extent trees and block maps.


def _extent_node(image: Image) -> int:
    """The leaf that the only index of /pieces points to."""
    header = struct.unpack_from("<HHHHI", image.data, image.inodes["pieces"] + 0x28)
    assert header[:2] == (0xF30A, 1) and header[3] == 1
    return int(struct.unpack_from("<4xI", image.data, image.inodes["pieces"] + 0x34)[0]) * BLOCK


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0x28, b"\x0b", "eh_magic is 0xf30b"),
        (0x2A, _u16(5), "eh_entries is 5"),
        (0x2C, _u16(0xFFFF), "eh_max 65535"),
        (0x2E, _u16(6), "eh_depth is 6"),
        (0x38, _u16(0), "extent of 0 blocks"),
        (0x38, _u16(0x7FFF), "outside the filesystem"),
        (0x3A, _u16(0xFFFF), "outside the filesystem"),
        (0x3C, _u32(0), "outside the filesystem"),
        (0x3C, _u32(0xFFFFFFFF), "outside the filesystem"),
    ],
)
def test_extent_in_inode(plain: Image, offset: int, content: bytes, message: str) -> None:
    inode = plain.inodes["file"]
    filesystem = FileSystem.detect(_patched(plain, (inode + offset, content)))
    error = _fails(lambda: filesystem.read_bytes("/file"), InvalidFormat, "extent tree node", inode + 0x28)
    assert message in str(error)


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"\x0b", "eh_magic"),
        (2, _u16(0xFFFF), "eh_entries"),
        (6, _u16(1), "eh_depth is 1"),
        (12, _u32(1), "begins at block 1, but its parent says 0"),
        (24, _u32(0), "extent of 1 blocks at block 0, expected one from 1 on"),
        (28, _u16(0x8000), "extent of 32768 blocks"),
    ],
)
def test_extent_in_leaf(plain: Image, offset: int, content: bytes, message: str) -> None:
    node = _extent_node(plain)
    filesystem = FileSystem.detect(_patched(plain, (node + offset, content)))
    error = _fails(lambda: filesystem.read_bytes("/pieces"), InvalidFormat, "extent tree node", node)
    assert message in str(error)


def test_extent_tree_that_holds_itself(plain: Image) -> None:
    """The leaf becomes an index of one entry: itself."""
    inode, node = plain.inodes["pieces"], _extent_node(plain)
    index = struct.pack("<HHHHI", 0xF30A, 1, 84, 1, 0) + struct.pack("<IIHH", 0, node // BLOCK, 0, 0)
    filesystem = FileSystem.detect(_patched(plain, (inode + 0x2E, _u16(2)), (node, index)))
    error = _fails(lambda: filesystem.read_bytes("/pieces"), InvalidFormat, "extent tree node", node)
    assert "eh_depth is 1" in str(error)


@pytest.mark.parametrize(
    ("offset", "content", "structure", "where"),
    [
        (0x34, _u32(1), "extent tree node", None),
        (0x38, _u32(0xFFFFFFFF), "extent tree node", 0xFFFFFFFF * BLOCK),
        (0x38, _u32(0), "extent tree node", 0),
    ],
)
def test_extent_index(plain: Image, offset: int, content: bytes, structure: str, where: int | None) -> None:
    filesystem = FileSystem.detect(_patched(plain, (plain.inodes["pieces"] + offset, content)))
    expected = _extent_node(plain) if where is None else where
    _fails(lambda: filesystem.read_bytes("/pieces"), InvalidFormat, structure, expected)


def test_block_map(ext2: Image) -> None:
    inode = ext2.inodes["file"]
    direct = FileSystem.detect(_patched(ext2, (inode + 0x2C, _u32(0xFFFFFF))))
    _fails(lambda: direct.read_bytes("/file"), InvalidFormat, "block map", inode + 0x28)
    (pointer,) = struct.unpack_from("<I", ext2.data, inode + 0x28 + 12 * 4)
    indirect = FileSystem.detect(_patched(ext2, (pointer * BLOCK + 8, _u32(0xFFFFFF))))
    _fails(lambda: indirect.read_bytes("/file"), InvalidFormat, "block map", pointer * BLOCK)
    outside = FileSystem.detect(_patched(ext2, (inode + 0x28 + 12 * 4, _u32(0xFFFFFF))))
    _fails(lambda: outside.read_bytes("/file"), InvalidFormat, "block map", 0xFFFFFF * BLOCK)
    assert indirect.read_bytes("/few/one") == b"one"


def test_block_map_that_holds_itself(ext2: Image) -> None:
    """A loop of pointers is as deep as the map, and no deeper; its end is read as content."""
    inode = ext2.inodes["file"]
    (pointer,) = struct.unpack_from("<I", ext2.data, inode + 0x28 + 12 * 4)
    loop = struct.pack("<I", pointer) * (BLOCK // 4)
    device = _patched(ext2, (inode + 0x28 + 13 * 4, _u32(pointer) * 2), (pointer * BLOCK, loop), (inode + 7, b"\x03"))
    filesystem = FileSystem.detect(device)
    assert filesystem.device("/file").read(40 << 20, BLOCK) == loop


# Directories.


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (4, _u16(0)),
        (4, _u16(8)),
        (4, _u16(0xFFFF)),
        (4, _u16(14)),
        (4, _u16(2048)),
        (6, b"\xff"),
    ],
)
def test_directory_entry(plain: Image, offset: int, content: bytes) -> None:
    """The third entry, after ``.`` and ``..``; the error is where it lies."""
    entry = plain.blocks["few"][0] + 24
    filesystem = FileSystem.detect(_patched(plain, (entry + offset, content)))
    _fails(lambda: filesystem.listdir("/few"), InvalidFormat, "directory block", entry)


@pytest.mark.parametrize("content", [b"o\0e", b"\0ne"])
def test_name_with_nul(plain: Image, content: bytes) -> None:
    entry = plain.blocks["few"][0] + 24
    filesystem = FileSystem.detect(_patched(plain, (entry + 8, content)))
    _fails(lambda: filesystem.listdir("/few"), InvalidFormat, "directory block", entry)


@pytest.mark.parametrize("name", [b"o/e", b"../"])
def test_name_that_is_a_path(plain: Image, name: bytes) -> None:
    filesystem = FileSystem.detect(_patched(plain, (plain.blocks["few"][0] + 32, name)))
    errors: list[Any] = []
    assert [path for path, _, _ in filesystem.find("/few", onerror=errors.append)] == ["/few", "/few/two"]
    assert len(errors) == 1 and isinstance(errors[0].error, InvalidFormat)


@pytest.mark.parametrize("inode", [1, 5, 8, 513, 0xFFFFFFFF])
def test_name_of_no_file(plain: Image, inode: int) -> None:
    filesystem = FileSystem.detect(_patched(plain, (plain.blocks["few"][0] + 24, _u32(inode))))
    with pytest.raises(InvalidFormat) as caught:
        filesystem.stat("/few/one")
    assert caught.value.structure == "inode"
    assert filesystem.read_bytes("/few/two") == b"two"


def test_unused_entry_is_no_name(plain: Image) -> None:
    filesystem = FileSystem.detect(_patched(plain, (plain.blocks["few"][0] + 24, _u32(0))))
    assert filesystem.listdir("/few") == ["two"]
    assert not filesystem.exists("/few/one")


def test_directory_of_one_block_many_times(ext2: Image) -> None:
    inode = ext2.inodes["many"]
    (first,) = struct.unpack_from("<I", ext2.data, inode + 0x28)
    filesystem = FileSystem.detect(_patched(ext2, (inode + 0x2C, _u32(first))))
    _fails(lambda: filesystem.listdir("/many"), InvalidFormat, "directory block", first * BLOCK)


def test_directory_with_a_hole(ext2: Image) -> None:
    """The names around the hole are there, and the error says that some may be missing."""
    inode = ext2.inodes["many"]
    filesystem = FileSystem.detect(_patched(ext2, (inode + 0x30, _u32(0))))
    errors: list[Any] = []
    found = list(filesystem.find("/many", onerror=errors.append))
    assert 150 < len(found) < 201
    assert [(type(error.error), error.error.structure) for error in errors] == [(InvalidFormat, "directory block")]


def test_directory_of_terabytes(plain: Image) -> None:
    filesystem = FileSystem.detect(_patched(plain, (plain.inodes["few"] + 0x4, _u32(0xFFFFFFFF))))
    with pytest.raises(InvalidFormat):
        filesystem.listdir("/few")


def test_directory_that_holds_its_parent(plain: Image) -> None:
    root = struct.unpack_from("<I", plain.data, plain.blocks[""][0])[0]
    assert root == 2
    filesystem = FileSystem.detect(_patched(plain, (plain.blocks["few"][0] + 24, _u32(root))))
    errors: list[Any] = []
    assert "/few/one" in [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
    assert [error.path for error in errors] == ["/few/one"]


# Whole images.

_LOOKER = """
import json, resource, signal, sys, time
from guestctl.block import FileDevice
from tests.disk.filesystems.ext4.test_damage import look
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
for image in json.load(sys.stdin):
    start = time.process_time()
    with FileDevice.open(image) as device:
        found = look(device, sys.maxsize)
    # Of this program alone: ru_maxrss also has what the process was that started it.
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps([image, found, time.process_time() - start, peak]))
"""


def look(device: BlockDevice, limit: int) -> int:
    """Read everything there is, up to `limit` bytes a file; how many files there were, -1 if it cannot be opened.

    Anything but a typed error is a bug, and goes through.
    """
    count = -1
    for options in (Options(), IGNORE):
        try:
            filesystem = FileSystem.detect(device, options=options)
            count = 0
            for path, node, status in filesystem.find("/", onerror=lambda _: None):
                count += 1
                _look_at_file(filesystem, path, node, status, limit)
            filesystem.usage()
        except GuestctlError:
            pass
    return count


def _look_at_file(filesystem: FileSystem[Any], path: str, node: Any, status: FileStat, limit: int) -> None:
    assert min(status.st_nlink, status.st_uid, status.st_gid, status.st_blocks, status.st_rdev) >= 0
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns, status.st_birthtime_ns or 0)
    assert max(times) < 1 << 64
    try:
        filesystem.node_xattrs(node)
        if status.is_symlink():
            filesystem.node_target(node)
        elif status.is_file():
            _read(filesystem.node_data(node), limit)
        filesystem.lstat(path)
    except (GuestctlError, FileNotFoundError, NotADirectoryError):
        pass


def _read(device: BlockDevice, limit: int) -> None:
    for run in device.runs(0, min(device.size, limit)):
        if run.source is not None:
            for _ in run.source.chunks(run.source_offset, run.length):
                pass


@pytest.mark.long
def test_damaged_images_of_e2fsprogs(shared: Path, tmp_path: Path) -> None:
    """Each in a result or typed errors, within two seconds and 200 MB."""
    images = []
    for packed in sorted((shared / "ext-damaged").glob("*.gz")):
        images.append(str(tmp_path / packed.stem))
        with open(images[-1], "wb") as stream:
            stream.write(gzip.decompress(packed.read_bytes()))
    assert len(images) > 50
    root = Path(__file__).parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    argv = [sys.executable, "-c", _LOOKER]
    done = subprocess.run(argv, input=json.dumps(images), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result[0] for result in results] == images
    # Two looks each; those with 47,721 files take as long as that many sound files do.
    assert not [result for result in results if result[2] > max(2.0, 2 * 60e-6 * result[1])]
    assert max(result[3] for result in results) < 200 << 10
    assert sum(result[1] > 0 for result in results) > 45


@pytest.mark.parametrize("kind", ["plain", "with_checksums", "ext2", "inline"])
def test_mutants(request: pytest.FixtureRequest, kind: str) -> None:
    """Bytes changed where the structures are: superblock, descriptors, inodes, directories, trees."""
    image: Image = request.getfixturevalue(kind)
    generator = random.Random(kind)
    places = [SUPERBLOCK, 2 * BLOCK, *image.inodes.values(), image.xattr_block]
    places += [block for path in ("", "few", "many", "pieces", "long-link") for block in image.blocks[path]]
    data = bytearray(image.data)
    counts = set()
    for _ in range(120):
        undo = []
        for _ in range(generator.choice((1, 1, 2, 4))):
            place = generator.choice(places) + generator.choice((0, 0, 128)) + generator.randrange(160)
            value = generator.choice((b"\0", b"\xff", b"\x7f", b"\x80", bytes([generator.randrange(256)])))
            value *= generator.choice((1, 1, 2, 4))
            undo.append((place, bytes(data[place : place + len(value)])))
            data[place : place + len(value)] = value
        counts.add(look(MemoryDevice(data), 1 << 20))
        for place, old in reversed(undo):
            data[place : place + len(old)] = old
    assert data == image.data
    assert len(counts) > 3
