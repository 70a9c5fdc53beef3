"""Damage: bytes changed and the exact error they make, hostile structures, and random mutants."""

from __future__ import annotations

import random
import stat
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import pytest

from guestctl.block import BlockDevice, FileDevice, Overlay
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options
from guestctl.disk.filesystems.xfs import open_filesystem
from xfs_images import Item, make, set_attributes

Run = Callable[..., str]
BLOCK = 1024
IGNORE = Options(ignore_checksums=True)
CONTENT = b"".join(b"%07d\n" % number for number in range(2000))


class Image(NamedTuple):
    """A sound image and where things are in it, in bytes, as xfs_db says."""

    device: FileDevice
    v5: bool
    inodes: dict[str, int]  # path -> its inode
    blocks: dict[str, int]  # what -> a block of it


@pytest.fixture(scope="module")
def v4(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    yield from _make(run, tmp_path_factory.mktemp("v4"), "-m crc=0 -i size=256")


@pytest.fixture(scope="module")
def v5(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    yield from _make(run, tmp_path_factory.mktemp("v5"), "")


def _make(run: Run, directory: Path, arguments: str) -> Iterator[Image]:
    file, folder = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
    items = {"file": Item(file, 0, 0, CONTENT), "remote": Item(file, 0, 0, b"r"), "node": Item(file, 0, 0, b"n")}
    items["link"] = Item(stat.S_IFLNK | 0o777, 0, 0, "t" * 50)
    for name, count in (("short", 3), ("block", 20), ("leaf", 120), ("tree", 2400)):
        items[name] = Item(folder, 0, 0)
        for number in range(count):
            length = 30 if name != "short" else 3
            items[f"{name}/{number:03}{'n' * length}"] = Item(file, 0, 0, b"x" * (number % 2))
    image = make(run, directory, f"{arguments} -b size={BLOCK}", items)
    set_attributes(
        run,
        image,
        {
            "file": {"user.first": 3, "security.second": 5},
            "remote": {"user.first": 3, "user.large": 5000},
            "node": {"user.first": 3} | {f"user.{number:060}": 40 for number in range(60)},
        },
    )
    inodes = {
        path: _place(run, image, path, []) for path in ("", "file", "remote", "node", "link", "short", "block", "tree")
    }
    ends = {
        "block": ("block", ["dblock 0"]),
        "tree": ("tree", ["dblock 0"]),
        "tree map": ("tree", [f"addr u{'' if 'crc=0' in arguments else '3'}.bmbt.ptrs[1]"]),
        "leaf index": ("leaf", [f"dblock {(1 << 35) // BLOCK}"]),
        "tree index": ("tree", [f"dblock {(1 << 35) // BLOCK}"]),
        "attribute leaf": ("remote", ["ablock 0"]),
        "attribute value": ("remote", ["ablock 1"]),
        "attribute node": ("node", ["ablock 0"]),
    }
    blocks = {what: _place(run, image, path, commands) for what, (path, commands) in ends.items()}
    with FileDevice.open(image) as device:
        yield Image(device, "crc=0" not in arguments, inodes, blocks)


def _place(run: Run, image: Path, path: str, commands: list[str]) -> int:
    words = [word for command in (f"path /{path}", *commands, "daddr") for word in ("-c", command)]
    sector = int(run("xfs_db", "-r", *words, image).split()[-1])
    if commands:
        return sector * 512
    number = run("xfs_db", "-r", "-c", f"path /{path}", "-c", "inode", image).split()[-1]
    return int(run("xfs_db", "-r", "-c", f"convert ino {number} byte", image).split()[-1].strip("()"))


def _patched(image: Image, *patches: tuple[int, bytes]) -> Overlay:
    overlay = Overlay(image.device)
    for offset, content in patches:
        assert overlay.read(offset, len(content)) != content, "the patch changes nothing"
        overlay.write(offset, content)
    return overlay


def _sealed(image: Image, block: int, size: int, crc: int, *patches: tuple[int, bytes]) -> Overlay:
    """Patched inside a structure, whose checksum is right again."""
    overlay = _patched(image, *((block + offset, content) for offset, content in patches))
    data = bytearray(overlay.read(block, size))
    data[crc : crc + 4] = bytes(4)
    overlay.write(block + crc, google_crc32c.value(bytes(data)).to_bytes(4, "little"))
    return overlay


def _fails(action: Callable[[], Any], kind: type[InvalidFormat], structure: str, offset: int | None) -> InvalidFormat:
    with pytest.raises(InvalidFormat) as caught:
        action()
    assert (type(caught.value), caught.value.structure) == (kind, structure)
    assert offset is None or caught.value.offset == offset
    return caught.value


def _u16(value: int) -> bytes:
    return struct.pack(">H", value)


def _u32(value: int) -> bytes:
    return struct.pack(">I", value)


# Checksums and what blocks say of themselves: what is damaged fails alone.


def test_checksum_of_an_inode(v5: Image) -> None:
    offset = v5.inodes["file"]
    device = _patched(v5, (offset + 8, b"\x01"))
    filesystem = open_filesystem(device)
    _fails(lambda: filesystem.stat("/file"), ChecksumMismatch, "inode", offset)
    assert filesystem.read_bytes("/remote") == b"r"
    assert filesystem.damaged_count == 1 and len(filesystem.warnings) == 1
    errors: list[Any] = []
    assert "/remote" in [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
    assert [error.path for error in errors] == ["/file"]
    assert FileSystem.detect(device, options=IGNORE).read_bytes("/file") == CONTENT


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (152, b"\0\0\0\0\0\0\xff\xff", "di_ino is 65535"),
        (160, b"\0another\0", "another filesystem"),
        (2, _u16(0), "a deleted file"),
        (2, _u16(0o30644), "di_mode"),
        (4, b"\x02", "di_version is 2"),
        (5, b"\x05", "di_format 5"),
        (0, b"XX", "di_magic"),
        (56, b"\xff", "di_size"),
    ],
)
def test_inode(v5: Image, offset: int, content: bytes, message: str) -> None:
    place = v5.inodes["file"]
    filesystem = FileSystem.detect(_sealed(v5, place, 512, 100, (offset, content)))
    error = _fails(lambda: filesystem.stat("/file"), InvalidFormat, "inode", place)
    assert message in str(error)
    assert filesystem.read_bytes("/remote") == b"r"


BLOCKS: dict[str, tuple[str, int, int, Callable[[FileSystem[Any]], Any]]] = {
    # what -> (structure, size, crc, what reads it)
    "block": ("directory block", 4096, 4, lambda filesystem: filesystem.listdir("/block")),
    "tree": ("directory block", 4096, 4, lambda filesystem: filesystem.listdir("/tree")),
    "tree map": ("bmap B+tree block", BLOCK, 64, lambda filesystem: filesystem.listdir("/tree")),
    "attribute leaf": ("attribute leaf block", BLOCK, 12, lambda filesystem: filesystem.xattrs("/remote")),
    "attribute node": ("attribute leaf block", BLOCK, 12, lambda filesystem: filesystem.xattrs("/node")),
    "attribute value": ("attribute value block", BLOCK, 12, lambda filesystem: filesystem.xattrs("/remote")),
}
OWNERS = {4: (8, 24, 40), 64: (24, 40, None), 12: (16, 32, 48)}  # crc -> blkno, uuid, owner


@pytest.mark.parametrize("what", BLOCKS)
def test_what_blocks_say_of_themselves(v5: Image, what: str) -> None:
    structure, size, crc, read = BLOCKS[what]
    place = v5.blocks[what]
    flipped = bytes([v5.device.read(place + size - 30, 1)[0] ^ 1])
    broken = FileSystem.detect(_patched(v5, (place + size - 30, flipped)))
    _fails(lambda: read(broken), ChecksumMismatch, structure, place)
    assert broken.listdir("/short")
    blkno, uuid, owner = (40, 16, 32) if what == "attribute value" else OWNERS[crc]
    for offset, content, message in (
        (blkno, b"\0\0\0\0\0\x12\x34\x56", "belongs at sector 1193046"),
        (uuid, b"\0another\0filesys", "belongs to another filesystem"),
        (owner, b"\0\0\0\0\0\0\0\x05", "belongs to inode 5"),
    ):
        if offset is None:
            continue
        filesystem = FileSystem.detect(_sealed(v5, place, size, crc, (offset, content)))
        assert message in str(_fails(partial(read, filesystem), InvalidFormat, structure, place))


@pytest.mark.parametrize("what", ["leaf index", "tree index"])
def test_index_that_is_damaged(v5: Image, what: str) -> None:
    """The names are sound, and found without it."""
    filesystem = FileSystem.detect(_patched(v5, (v5.blocks[what] + 70, b"\xff\xff\xff\xff")))
    directory = what.split()[0]
    name = f"/{directory}/077{'n' * 30}"
    assert filesystem.stat(name).st_size == 1
    assert not filesystem.exists(f"/{directory}/no-such-name")


# Without checksums: every value that is trusted.


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (100, b"\xff" * 16, "extent of"),
        (108, b"\0" * 8, "extent of 0 blocks"),
        (104, b"\0\0\x7f\xff", "outside the filesystem"),
        (76, _u32(2), "expected one from"),
        (76, _u32(0xFFFFFFF), "extents in a fork"),
        (5, b"\x01", "di_format is 1"),
        (5, b"\x03", "bb_level"),
    ],
)
def test_extents(v4: Image, offset: int, content: bytes, message: str) -> None:
    place = v4.inodes["file"]
    filesystem = FileSystem.detect(_patched(v4, (place + offset, content)))
    with pytest.raises(InvalidFormat, match=message):
        filesystem.read_bytes("/file")
    assert filesystem.read_bytes("/remote") == b"r"


def test_more_extents_than_needed_overlap(v4: Image) -> None:
    place = v4.inodes["file"]
    extent = bytes(v4.device.read(place + 100, 16))
    filesystem = FileSystem.detect(_patched(v4, (place + 76, _u32(2)), (place + 116, extent)))
    with pytest.raises(InvalidFormat, match="expected one from"):
        filesystem.read_bytes("/file")


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"XXXX", "bb_magic"),
        (4, _u16(1), "bb_level is 1"),
        (6, _u16(0), "bb_numrecs 0"),
        (6, _u16(0xFFFF), "bb_numrecs 65535"),
        (24, b"\xff" * 16, "extent of"),
        (32, b"\xff\xff\xff\xff", "outside the filesystem"),
    ],
)
def test_tree_of_extents(v4: Image, offset: int, content: bytes, message: str) -> None:
    place = v4.blocks["tree map"]
    filesystem = FileSystem.detect(_patched(v4, (place + offset, content)))
    with pytest.raises(InvalidFormat, match=message):
        filesystem.listdir("/tree")


def test_tree_of_extents_that_holds_itself(v4: Image) -> None:
    place, inode = v4.blocks["tree map"], v4.inodes["tree"]
    forkoff = v4.device.read(inode + 82, 1)[0] * 8 or 156
    pointers = 100 + 4 + (forkoff - 4) // 16 * 8
    own = bytes(v4.device.read(inode + pointers, 8))
    maximum = (BLOCK - 24) // 16
    node = b"BMAP" + struct.pack(">HHQQ", 1, 1, 0, 0) + bytes(8)
    patches = [(inode + 100, _u16(2)), (place, node), (place + 24 + 8 * maximum, own)]
    filesystem = FileSystem.detect(_patched(v4, *patches))
    with pytest.raises(InvalidFormat, match="bb_level is 1"):
        filesystem.listdir("/tree")


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"XXXX", "magic is"),
        (16 + 8, b"\0", "namelen is 0"),
        (48 + 8, b"\xff", "has the name"),
        (48, b"\xff\xff\0\0", "length is 0"),
        (48, b"\xff\xff\0\x04", "length is 4"),
        (48, b"\xff\xff\xff\xf8", "length is"),
        (48 + 9, b"\0", "has the name"),
        (4088, _u32(0xFFFFFFF), "count is"),
    ],
)
def test_directory_block(v4: Image, offset: int, content: bytes, message: str) -> None:
    place = v4.blocks["block"]
    filesystem = FileSystem.detect(_patched(v4, (place + offset, content)))
    with pytest.raises(InvalidFormat, match=message) as caught:
        filesystem.listdir("/block")
    assert caught.value.structure == "directory block"
    assert place <= caught.value.offset < place + 4096


def test_directory_whose_one_block_is_damaged(v4: Image) -> None:
    filesystem = FileSystem.detect(_patched(v4, (v4.blocks["tree"], b"XXXX")))
    errors: list[Any] = []
    found = list(filesystem.find("/tree", onerror=errors.append))
    assert 2200 < len(found) < 2401
    assert [error.error.structure for error in errors] == ["directory block"]
    with pytest.raises(InvalidFormat):
        filesystem.listdir("/tree")


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (100, b"\xff"),
        (106, b"\0"),
        (106, b"\xff"),
        (109, b"\0"),
        (56, b"\0\0\0\0\0\0\0\x05"),
        (56, b"\0\0\0\0\0\0\x10\0"),
    ],
)
def test_short_directory(v4: Image, offset: int, content: bytes) -> None:
    filesystem = FileSystem.detect(_patched(v4, (v4.inodes["short"] + offset, content)))
    with pytest.raises(InvalidFormat) as caught:
        filesystem.listdir("/short")
    assert caught.value.structure == "short form directory"
    assert len(filesystem.listdir("/block")) == 20


def test_directory_of_one_block_many_times(v4: Image) -> None:
    """Two extents at the same place."""
    place = v4.inodes["block"]
    high, low = struct.unpack(">QQ", v4.device.read(place + 100, 16))
    count = low & 0x1FFFFF
    again = struct.pack(">QQ", high + (count << 9), low)
    size = struct.pack(">Q", 2 * count * BLOCK)
    patches = [(place + 76, _u32(2)), (place + 116, again), (place + 56, size)]
    filesystem = FileSystem.detect(_patched(v4, *patches))
    with pytest.raises(InvalidFormat, match="appears twice"):
        filesystem.listdir("/block")


def test_directory_of_gigabytes(v4: Image) -> None:
    filesystem = FileSystem.detect(_patched(v4, (v4.inodes["tree"] + 56, b"\0\0\0\x07")))
    with pytest.raises(InvalidFormat):
        filesystem.listdir("/tree")


def test_directory_that_holds_its_parent(v4: Image) -> None:
    root = bytes(v4.device.read(56, 8))
    place = v4.blocks["block"] + 48
    filesystem = FileSystem.detect(_patched(v4, (place, root)))
    errors: list[Any] = []
    assert "/file" in [path for path, _, _ in filesystem.find("/", onerror=errors.append)]
    assert len(errors) == 1 and errors[0].path.startswith("/block/")


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, _u32(0), "circles"),
        (8, b"XX", "magic"),
        (12, _u16(0xFFFF), "count is"),
        (32 + 4, _u16(0), "nameidx"),
        (32 + 4, _u16(0xFFFF), "nameidx"),
    ],
)
def test_attribute_leaf(v4: Image, offset: int, content: bytes, message: str) -> None:
    place = v4.blocks["attribute leaf"]
    if message == "circles":
        # The second leaf of the file with many follows itself.
        place = v4.blocks["attribute node"]
        node = bytes(v4.device.read(place, BLOCK))
        first = struct.unpack_from(">I", node, 20)[0]
        own = place + first * BLOCK
        assert v4.device.read(own + 8, 2) == b"\xfb\xee"
        filesystem = FileSystem.detect(_patched(v4, (own, _u32(first))))
        path = "/node"
    else:
        filesystem = FileSystem.detect(_patched(v4, (place + offset, content)))
        path = "/remote"
    with pytest.raises(InvalidFormat, match=message):
        filesystem.xattrs(path)
    assert filesystem.xattrs("/file") == {"user.first": b"vvv", "security.second": b"vvvvv"}


@pytest.mark.parametrize(
    ("offset", "content"), [(0, b"\xff\xff"), (2, b"\xff"), (4, b"\xff"), (4, b"\0"), (5, b"\xff")]
)
def test_short_attributes(v4: Image, offset: int, content: bytes) -> None:
    inode = v4.inodes["file"]
    place = inode + 100 + v4.device.read(inode + 82, 1)[0] * 8
    filesystem = FileSystem.detect(_patched(v4, (place + offset, content)))
    _fails(lambda: filesystem.xattrs("/file"), InvalidFormat, "short form attributes", None)
    assert filesystem.read_bytes("/file") == CONTENT


@pytest.mark.parametrize("forkoff", [20, 200, 255])
def test_fork_outside_the_inode(v4: Image, forkoff: int) -> None:
    filesystem = FileSystem.detect(_patched(v4, (v4.inodes["file"] + 82, bytes([forkoff]))))
    _fails(lambda: filesystem.xattrs("/file"), InvalidFormat, "inode", v4.inodes["file"])


@pytest.mark.parametrize("size", [0, 1025, 1 << 40, 200])
def test_link_of_impossible_length(v4: Image, size: int) -> None:
    filesystem = FileSystem.detect(_patched(v4, (v4.inodes["link"] + 56, struct.pack(">Q", size))))
    _fails(lambda: filesystem.readlink("/link"), InvalidFormat, "inode", v4.inodes["link"])


def test_inode_of_version_1(v4: Image) -> None:
    """Its links are counted in 16 bits, elsewhere."""
    place = v4.inodes["file"]
    filesystem = FileSystem.detect(_patched(v4, (place + 4, b"\x01"), (place + 6, _u16(3)), (place + 16, _u32(9))))
    assert filesystem.stat("/file").st_nlink == 3
    assert filesystem.stat("/file").st_birthtime_ns is None
    assert filesystem.read_bytes("/file") == CONTENT


def test_unwritten_extent(v4: Image) -> None:
    place = v4.inodes["file"]
    flagged = bytes([v4.device.read(place + 100, 1)[0] | 0x80])
    filesystem = FileSystem.detect(_patched(v4, (place + 100, flagged)))
    assert filesystem.read_bytes("/file") == bytes(len(CONTENT))


def test_file_on_the_realtime_device(v4: Image) -> None:
    filesystem = FileSystem.detect(_patched(v4, (v4.inodes["file"] + 90, _u16(1))))
    assert filesystem.stat("/file").st_size == len(CONTENT)
    with pytest.raises(UnsupportedFeature) as caught:
        filesystem.read_bytes("/file")
    assert caught.value.feature == "realtime"


def test_device_that_is_cut_off(v4: Image, tmp_path: Path) -> None:
    for size in (0, 100, 511, 512, 4096, 65536, 1 << 20, 170 << 20):
        path = tmp_path / "cut"
        with path.open("wb") as stream:
            stream.write(v4.device.read(0, min(size, 1 << 20)))
            stream.truncate(size)
        with FileDevice.open(path) as device, pytest.raises(GuestctlError):
            filesystem = FileSystem.detect(device)
            filesystem.read_bytes("/file")
            filesystem.listdir("/tree")


# Random mutants.


def look(device: BlockDevice, limit: int, options: Options) -> int:
    """Read everything there is, up to `limit` bytes a file; how many files there were, -1 if it cannot be opened.

    Anything but a typed error is a bug, and goes through.
    """
    count = -1
    try:
        filesystem = FileSystem.detect(device, options=options)
        count = 0
        for path, node, status in filesystem.find("/", onerror=lambda _: None):
            count += 1
            if count % 7 == 0 or count < 40:
                _look_at_file(filesystem, path, node, status, limit)
        filesystem.usage()
        list(filesystem.free_ranges())
    except GuestctlError:
        pass
    return count


def _look_at_file(filesystem: FileSystem[Any], path: str, node: Any, status: Any, limit: int) -> None:
    assert min(status.st_nlink, status.st_uid, status.st_gid, status.st_blocks, status.st_rdev) >= 0
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns, status.st_birthtime_ns or 0)
    assert max(times) < 1 << 64
    try:
        filesystem.node_xattrs(node)
        if status.is_symlink():
            filesystem.node_target(node)
        elif status.is_file():
            device = filesystem.node_data(node)
            for run in device.runs(0, min(device.size, limit)):
                if run.source is not None:
                    for _ in run.source.chunks(run.source_offset, run.length):
                        pass
        filesystem.lstat(path)
    except (GuestctlError, FileNotFoundError, NotADirectoryError):
        pass


def mutants(image: Image, seed: object, count: int) -> set[int]:
    """Bytes changed where the structures are: how many files there were in each mutant."""
    generator = random.Random(str(seed))
    places = [0, 512, 1024, *image.inodes.values(), *image.blocks.values()]
    counts = set()
    for _ in range(count):
        overlay = Overlay(image.device)
        for _ in range(generator.choice((1, 1, 2, 4))):
            place = generator.choice(places) + generator.choice((0, 0, 64, 100, 176)) + generator.randrange(120)
            value = generator.choice((b"\0", b"\xff", b"\x7f", b"\x80", bytes([generator.randrange(256)])))
            overlay.write(place, value * generator.choice((1, 1, 2, 4)))
        counts.add(look(overlay, 1 << 20, IGNORE if image.v5 else Options()))
    return counts


@pytest.mark.parametrize("kind", ["v4", "v5"])
def test_mutants(request: pytest.FixtureRequest, kind: str) -> None:
    assert len(mutants(request.getfixturevalue(kind), kind, 60)) > 3
