"""A volume of BeOS, of which util-linux has the first part, beside what Linux shows of it; damage, and mutants."""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.block.device import Buffer
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError
from guestctl.disk.filesystems.befs.directory import Tree
from mutants import check_mutants

_MOUNTED = Path(__file__).parents[3] / "data" / "mounted"
SUPERBLOCK, BLOCK = 512, 1024


@pytest.fixture(scope="module")
def image() -> bytes:
    return lzma.decompress((_MOUNTED / "befs.xz").read_bytes())


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lzma.decompress((_MOUNTED / "expected.json.xz").read_bytes()))["images"]["befs"]
    return found


def _patched(image: bytes | bytearray, offset: int, content: bytes) -> bytearray:
    data = bytearray(image)
    data[offset : offset + len(content)] = content
    return data


def test_tree(image: bytes, expected: dict[str, Any]) -> None:
    """What is there; Linux finds no inodes either where the image has none any more."""
    errors: list[WalkError] = []
    files = {}
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        for path, node, status in filesystem.find("/", onerror=errors.append):
            content = None
            if status.is_file():
                data = filesystem.node_data(node)
                content = hashlib.sha256(data.read(0, data.size)).hexdigest()
            elif status.is_symlink():
                content = filesystem.node_target(node)
            names = ("ino", "mode", "nlink", "uid", "gid", "size", "blocks", "atime_ns", "mtime_ns", "ctime_ns", "rdev")
            facts = {name: getattr(status, f"st_{name}") for name in names}
            files[path] = {**facts, "content": content, "xattrs": filesystem.node_xattrs(node)}
        usage = filesystem.usage()
        free = sum(length for _, length in filesystem.free_ranges())
    assert files.keys() == expected["files"].keys()
    assert {path: (files[path], facts) for path, facts in expected["files"].items() if files[path] != facts} == {}
    assert len(files) > 45 and sum(facts["content"] is not None for facts in files.values()) > 40
    assert errors and all(isinstance(error.error, InvalidFormat) for error in errors)
    assert not {error.path for error in errors} & {path for path in files if files[path]["mode"] >> 12 == 8}
    assert [usage.size, usage.used, usage.available] == expected["usage"]
    assert free == usage.available  # the count in the superblock


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (40, 512, "blocks of 512"),
        (44, 11, "shift 11"),
        (68, 0, "magic2"),
        (112, 0, "magic3"),
        (76, 40, "ag_shift 40"),
    ],
)
def test_superblock(image: bytes, offset: int, value: int, message: str) -> None:
    data = _patched(image, SUPERBLOCK + offset, struct.pack("<I", value))
    with pytest.raises(InvalidFormat, match=message):
        FileSystem.detect(MemoryDevice(data))
    identity = FileSystem.identify(MemoryDevice(data))
    assert identity is not None and identity.label == "befs_test"


def test_log(image: bytes) -> None:
    with pytest.raises(UnsupportedFeature, match="log"):
        FileSystem.detect(MemoryDevice(_patched(image, SUPERBLOCK + 104, struct.pack("<Q", 700))))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 0, "magic"),
        (24, 0, "flags"),
        (20, 0o060644, "mode"),
        (72, 1000, "outside the volume"),
        (76, 0, "have a place"),
        (212, 1 << 31, "bytes"),
    ],
)
def test_damaged_files_fail_alone(image: bytes, place: int, value: int, message: str) -> None:
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        offset = filesystem.stat("/COPYING").st_ino * BLOCK
        other = filesystem.read_bytes("/AUTHORS")
    with FileSystem.detect(MemoryDevice(_patched(image, offset + place, struct.pack("<I", value)))) as filesystem:
        with pytest.raises(InvalidFormat, match=message):
            filesystem.read_bytes("/COPYING")
        assert filesystem.read_bytes("/AUTHORS") == other


def test_indirect_runs(image: bytes) -> None:
    """The file of two runs, told by tables instead: block n of the image has n in it."""
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        offset = filesystem.stat("/COPYING").st_ino * BLOCK
        content = filesystem.read_bytes("/COPYING")
    runs = [struct.unpack_from("<IHH", image, offset + 72)]
    group, start, length = runs[0]
    parts = struct.pack("<IHH", group, start, 3), struct.pack("<IHH", group, start + 3, length - 3)
    indirect, double, table = 4000, 4001, 4002
    data = _patched(image, offset + 72, parts[0] + bytes(88))
    struct.pack_into("<qIHHqIHHq", data, offset + 168, 3 * BLOCK, 0, indirect, 1, 4 * BLOCK, 0, double, 1, 99 * BLOCK)
    data[indirect * BLOCK : (indirect + 1) * BLOCK] = struct.pack("<IHH", group, start + 3, 1).ljust(BLOCK, b"\0")
    data[double * BLOCK : (double + 1) * BLOCK] = struct.pack("<IHH", 0, table, 4).ljust(BLOCK, b"\0")
    last = struct.pack("<IHH", group, start + 4, length - 4)
    data[table * BLOCK : (table + 4) * BLOCK] = last.ljust(4 * BLOCK, b"\0")
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert filesystem.read_bytes("/COPYING") == content


class _Sparse(BlockDevice):
    """An image in zeros of some size, which counts what is read."""

    def __init__(self, image: bytes | bytearray, size: int) -> None:
        self._image = bytes(image)
        self.size = size
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        self.bytes_read += length
        return self._image[offset : offset + length].ljust(length, b"\0")


def test_tables_of_nothing(image: bytes) -> None:
    """What a double indirect run leads to is read as far as there are addresses in it."""
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        offset = filesystem.stat("/COPYING").st_ino * BLOCK
    double, blocks = 4001, 1 << 22
    data = _patched(image, offset + 72, bytes(96))
    struct.pack_into("<qIHHqIHHq", data, offset + 168, 0, 0, 0, 0, 0, 0, double, 1, 1 << 40)
    data[double * BLOCK : (double + 1) * BLOCK] = struct.pack("<IHH", 256, 0, 0xFFFF) * (BLOCK // 8)
    struct.pack_into("<Q", data, SUPERBLOCK + 48, blocks)
    device = _Sparse(data, blocks * BLOCK)
    with FileSystem.detect(device) as filesystem:
        with pytest.raises(InvalidFormat, match="of which 0 have a place"):
            filesystem.read_bytes("/COPYING")
        assert device.bytes_read < 32 << 20


def _node(order: str, right: int, overflow: int, entries: dict[bytes, int]) -> bytes:
    keys = b"".join(entries)
    data = struct.pack(order + "qqqHH", -1, right, overflow, len(entries), len(keys)) + keys
    data += bytes(-len(data) % 8)
    end = 0
    for key in entries:
        end += len(key)
        data += struct.pack(order + "H", end)
    return (data + b"".join(struct.pack(order + "q", value) for value in entries.values())).ljust(1024, b"\0")


@pytest.mark.parametrize("order", ["<", ">"])
def test_tree_of_two_levels(order: str) -> None:
    head = struct.pack(order + "IIIIqqq", 0x69F6C2E8, 1024, 2, 0, 1024, -1, 4096).ljust(1024, b"\0")
    root = _node(order, -1, 3072, {b"b": 2048})
    leaves = _node(order, 3072, -1, {b"a": 1, b"b": 2}), _node(order, -1, -1, {b"c": 3})
    found = list(Tree(head + root + b"".join(leaves), order, 0).entries())
    assert found == [(b"a", 1), (b"b", 2), (b"c", 3)]
    circle = head + root + _node(order, 2048, -1, {b"a": 1}) + leaves[1]
    with pytest.raises(InvalidFormat, match="circle"):
        list(Tree(circle, order, 0).entries())
    with pytest.raises(InvalidFormat, match="no node at 2056"):
        list(
            Tree(
                head
                + root[:8]
                + struct.pack(order + "q", 2056)
                + root[16:].replace(root[16:24], bytes([255] * 8))
                + leaves[0],
                order,
                0,
            ).entries()
        )
    with pytest.raises(InvalidFormat, match="levels"):
        list(Tree(head + _node(order, -1, 1024, {}), order, 0).entries())


def test_groups_that_do_not_fill_their_bitmaps(image: bytes) -> None:
    (shift,) = struct.unpack_from("<I", image, SUPERBLOCK + 76)
    data = _patched(image, SUPERBLOCK + 76, struct.pack("<I", shift - 1))
    struct.pack_into("<I", data, SUPERBLOCK + 116, 2 * struct.unpack_from("<I", image, SUPERBLOCK + 116)[0])
    with FileSystem.detect(MemoryDevice(data)) as filesystem, pytest.raises(UnsupportedFeature, match="do not fill"):
        next(filesystem.free_ranges())


@pytest.mark.parametrize("length", [0, 600, 4096, 100_000, 2639 * 1024])
def test_truncated(image: bytes, length: int) -> None:
    with pytest.raises(GuestctlError):
        FileSystem.detect(MemoryDevice(image[:length])).listdir("/")


def test_mutations(image: bytes) -> None:
    """Only directories and files that are there."""
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        root = filesystem.stat("/doc/C/gnomeicu/stylesheet-images").st_ino
    data = _patched(image, SUPERBLOCK + 116, struct.pack("<IHH", 0, root, 1))
    check_mutants(bytes(data), [(SUPERBLOCK, 132), (root * BLOCK, 16 * BLOCK)], least_files=10)
